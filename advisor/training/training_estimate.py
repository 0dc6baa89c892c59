"""What to expect of training with one layout: step time, throughput, utilisation, memory, with intervals and their source."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

from advisor.calibration.intervals import LEVEL
from advisor.prediction.inputs import plain_fields
from advisor.prediction.presentation import header
from catalog.errors import InputError, Note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.training.budget import TrainingBudget
    from catalog.schema import Cluster, Model, Price
    from catalog.training import TrainingLayout

SCHEMA, SEARCH_SCHEMA = "training/1", "training-layouts/1"
FASTER_IS_MORE = frozenset({"tokens_s", "tokens_s_per_gpu", "tflops_per_gpu", "mfu"})
METRICS = ("step_s", "tokens_s", "tokens_s_per_gpu", "tflops_per_gpu", "mfu", "memory_gib")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingEstimate:
    """What to expect of training one model with one layout."""

    model: Model
    cluster: Cluster
    framework: str
    precision: str
    schedule: str
    lora_rank: int
    offload: bool
    layout: TrainingLayout
    batch: int
    """Sequences of one step, over all replicas."""
    sequence_length: int
    step_s: float
    tokens_s: float
    tokens_s_per_gpu: float
    tflops_per_gpu: float
    """Model operations a second: what is recomputed is not counted, causal masks save nothing."""
    mfu: float
    """Those over the peak of the precision, 0 to 1."""
    memory: Mapping[str, float]
    """GiB on the fullest GPU by part, the device's total, and the sum of the parts as ``used``."""
    memory_span: tuple[float, float]
    """GiB that the fullest GPU takes with 90%: without any fragmentation, and with the most that was seen of it."""
    fits: bool
    breakdown: Mapping[str, float]
    """Seconds of a step by part."""
    causes: Mapping[str, float]
    """Seconds of a step by cause: compute, memory, communication, and overhead with the bubbles in it."""
    floor_s: float
    """Seconds that no implementation of this layout can go below."""
    budget: TrainingBudget | None
    """What a number of tokens takes, where one was stated."""
    price: Price | None
    provenance: Literal["calibrated", "transferred", "analytic"]
    notes: tuple[Note, ...]
    sigma: float = field(repr=False)
    """Standard deviation of the logarithm of the step time."""
    quantile: float = field(repr=False)
    """Such deviations on either side that hold 90%."""

    @property
    def memory_gib(self) -> float:
        """GiB that the fullest GPU takes."""
        return self.memory["used"]

    def interval(self, metric: str = "step_s", level: float = LEVEL) -> tuple[float, float]:
        """Return the lower and upper end within which the metric is expected with probability ``level``.

        Raises:
            InputError: a metric that has no interval, or a level outside 0.5 to 0.98.

        """
        if metric not in METRICS:
            raise InputError(f"there is no interval for {metric!r:.60}; metrics that have one: {', '.join(METRICS)}")
        if not 0.5 <= level <= 0.98:
            raise InputError(f"level is {level:g}; it must be from 0.5 to 0.98")
        normal = NormalDist()
        wider = normal.inv_cdf(0.5 + level / 2.0) / normal.inv_cdf(0.5 + LEVEL / 2.0)
        value = float(getattr(self, metric))
        if metric == "memory_gib":
            least, most = (value * (end / value) ** wider for end in self.memory_span)
            return least, most
        factor = exp(self.quantile * self.sigma * wider)
        fastest = max(1.0 / factor, min(self.floor_s / self.step_s, 1.0))
        if metric in FASTER_IS_MORE:
            return value / factor, value / fastest
        return value * fastest, value * factor

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types, with 90% intervals beside the metrics."""
        return {
            **header(SCHEMA),
            "model": self.model.name,
            "cluster": str(self.cluster),
            "gpus_used": self.layout.num_gpus,
            **plain_fields(self, "sigma", "quantile", "memory_span", "model", "cluster", "notes"),
            "notes": [note.text for note in self.notes],
            "interval_level": LEVEL,
            "intervals": {name: list(self.interval(name)) for name in METRICS},
        }

    def row(self) -> dict[str, Any]:
        """Return the estimate as one flat row."""
        low, high = self.interval("step_s")
        least, most = self.interval("memory_gib")
        return {
            "model": self.model.name,
            "cluster": str(self.cluster),
            "framework": self.framework,
            "precision": self.precision,
            **plain_fields(self.layout),
            "batch": self.batch,
            "sequence_length": self.sequence_length,
            **{name: getattr(self, name) for name in METRICS},
            "step_s_low": low,
            "step_s_high": high,
            "memory_gib_low": least,
            "memory_gib_high": most,
            "fits": self.fits,
            "days": self.budget.days if self.budget else None,
            "usd": self.budget.usd if self.budget else None,
            "provenance": self.provenance,
        }

    def to_frame(self) -> Any:
        """Return one row as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame([self.row()])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecommendation:
    """The fastest layouts of a training task."""

    best: TrainingEstimate | None
    """None where nothing fits."""
    candidates: Sequence[TrainingEstimate]
    """The fastest ones that fit, the best first and those that fit with any fragmentation before others; where none fits, the one that
    lacks least memory."""
    evaluated: int
    fitting: int
    relaxations: tuple[str, ...]
    """What would fit where nothing does, in numbers."""
    notes: tuple[Note, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {
            **header(SEARCH_SCHEMA),
            "best": self.best.to_dict() if self.best else None,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "evaluated": self.evaluated,
            "fitting": self.fitting,
            "relaxations": list(self.relaxations),
            "notes": [note.text for note in self.notes],
        }

    def to_frame(self) -> Any:
        """Return one row a candidate as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame([candidate.row() for candidate in self.candidates])
