"""What a user's own runs have taught: which parameters moved, how wrong predictions were and are, which runs disagree."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from advisor.calibration.fingerprint import Platform
from catalog.tables import construct

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterShift:
    """One parameter before and after, each with the ends of its 90% interval; in the units of ``parameters.PRIORS``."""

    name: str
    before: float
    before_low: float
    before_high: float
    after: float
    after_low: float
    after_high: float
    distance: float
    """How far it moved, in standard deviations of what was believed before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How well one quantity of the own runs is predicted; errors are means of the absolute ones, as shares."""

    metric: str
    """As ``advisor.calibration.intervals.scale_name`` has it: " PP" behind those of pipelines."""
    runs: int
    error_before: float
    error_left_out: float | None = None
    """Of predictions by fits that had not seen the run's configuration; None where there was but one."""
    error_after: float
    """In sample."""
    half_width_before: float
    """Median of half the 90% interval over the prediction, as a share; so below."""
    half_width_after: float
    held: float | None = None
    """Share of left-out measurements inside their 90% interval, as it was before ``widening``."""
    widening: float = 1.0
    """Factor on the interval's width that the left-out errors ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """A measurement that the others contradict."""

    run_id: str
    metric: str
    measured: float
    predicted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What the runs of one engine on one GPU say."""

    engine: str
    """As ``advisor.calibration.observations.engine_family`` names it."""
    gpu: str
    runs: int
    models: tuple[str, ...]
    platforms: tuple[Platform, ...]
    provenance_before: str
    """What an answer stood on before these runs."""
    moves: tuple[ParameterShift, ...]
    """The farthest first."""
    accuracy: tuple[Accuracy, ...]
    outliers: tuple[Outlier, ...]
    kernels: int = 0
    """Kernels and collectives timed alone that were fitted too."""

    def widening(self, metric: str) -> float:
        """Factor on the width of the intervals of a quantity."""
        return next((each.widening for each in self.accuracy if each.metric == metric), 1.0)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any], where: str) -> FitReport:
        """From what ``to_dict`` wrote.

        Raises:
            InputError: naming ``where`` and the field that is missing or of another type.
            KeyError, TypeError: it is no such mapping.

        """
        parts: dict[str, type] = {
            "platforms": Platform,
            "moves": ParameterShift,
            "accuracy": Accuracy,
            "outliers": Outlier,
        }
        plain: dict[str, Any] = {name: body[name] for name in ("engine", "gpu", "runs", "kernels", "provenance_before")}
        numbers = ("runs", "kernels")
        if not all(isinstance(plain[name], int if name in numbers else str) for name in plain):
            raise TypeError("text and numbers expected")
        made: dict[str, Any] = {
            name: tuple(construct(kind, row, where) for row in body[name]) for name, kind in parts.items()
        }
        return cls(**plain, **made, models=tuple(str(model) for model in body["models"]))
