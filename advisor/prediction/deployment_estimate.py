"""What to expect of one deployment: latency, throughput, memory, cost, with intervals and where the numbers come from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from advisor.calibration.intervals import LEVEL
from advisor.prediction.inputs import BARE_ESTIMATE, plain, plain_fields
from advisor.prediction.prediction import PARTS_OF_E2E, TIME_METRICS, interval_ends, upper_within
from advisor.prediction.presentation import Presented
from catalog.errors import InputError, Note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.calibration.intervals import Regime
    from advisor.calibration.surrogate import IntervalScale
    from advisor.prediction.speculation import Speculation
    from catalog.schema import Cluster, Deployment, Model, Price, Slo

ENERGY = "energy_j_per_token"
CLIENT_TTFT = "client_ttft_ms"
SOMETIMES = (CLIENT_TTFT, "hit_rate", "tier_hit_rates")
"""What some regimes and questions have, and others not."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Estimate(Presented):
    """What to expect of one deployment under one workload.

    Times are None where the weights do not fit, for then nothing runs.
    """

    SCHEMA: ClassVar[str] = "estimate/1"
    __repr__ = Presented.__str__

    model: Model
    cluster: Cluster
    deployment: Deployment
    regime: Regime
    batch: int
    """Sequences at once per replica, as asked; ``running`` says how many the engine can really run."""
    input_len: int
    output_len: int
    prefill_ms: float | None
    ttft_ms: float | None
    tpot_ms: float | None
    e2e_ms: float | None
    output_tok_s: float | None
    output_tok_s_per_gpu: float | None
    """Over the GPUs used, not those at hand."""
    running: int
    kv_capacity_tokens: int
    """Of one replica."""
    kv_capacity_ends: tuple[int, int]
    """The fewest and the most it may be, with a probability of 90%."""
    max_concurrency: int
    """Requests of this length that one replica's KV cache holds at once."""
    fits: bool
    fits_probability: float
    """That memory is left for at least one such request."""
    batch_fits_probability: float
    """That the whole batch is in the cache at once."""
    memory: Mapping[str, float]
    """GiB on the fullest GPU by part: weights, activations, engine, kv_cache, reserved, and the device's total."""
    bottleneck: str
    """What most of a request's time goes to: compute, memory, communication or overhead."""
    breakdown: Mapping[str, Any]
    """Milliseconds: ``causes`` of a whole request, and by operator and cause of ``prefill`` and one ``decode`` step."""
    turning_batch: float
    """Sequences per replica at which decode turns from memory- to compute-bound."""
    products: Sequence[Mapping[str, Any]]
    """Every matrix product with its shape, work and bound."""
    energy_j_per_token: float | None
    """Of all GPUs used, for an output token; None for GPUs and weight formats of which no run measured its energy."""
    usd_per_mtok: float | None
    """Dollars for a million output tokens; None without a price."""
    price: Price | None
    provenance: Literal["measured", "calibrated", "transferred", "analytic"]
    notes: tuple[Note, ...]
    sigmas: Mapping[str, float] = field(repr=False)
    """Standard deviation of each metric's logarithm."""
    scales: Mapping[str, IntervalScale] = field(repr=False)
    floors: Mapping[str, float] = field(repr=False)
    """Physical bounds of the metrics: the least a time, the most a throughput can be."""
    corrected_by: int = 0
    """Runs of this model near this configuration, which corrected what the model of time says of it."""
    client_ttft_ms: float | None = None
    """Mean to the first token that a benchmark client reports of a batch kept in flight, its first burst included; None of other batches.
    ``ttft_ms`` is that of the steady state."""
    hit_rate: float | None = None
    """Share of the prompts' tokens that the prefix cache has, where what prompts have in common was asked about,"""
    tier_hit_rates: Mapping[str, float] | None = None
    """and of that the share of each tier below the GPUs, by its name; None without."""
    speculation: Speculation | None = None
    """What speculative decoding does at this batch, where it was asked for; the times above are without, but where ``deployment`` has
    ``drafting``."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """Times that a run of exactly this configuration measured: they are the answer (``provenance`` "measured"), or
    contradict what is predicted, which a note says."""

    def interval(self, metric: str, level: float = LEVEL) -> tuple[float, float]:
        """Return lower and upper end within which the metric is expected with probability ``level``.

        Raises:
            InputError: a metric that has no interval, a level outside 0.5 to 0.98, or a deployment that does not run.

        """
        per_gpu = metric == "output_tok_s_per_gpu"
        name = "output_tok_s" if per_gpu else metric
        if name not in self.sigmas:
            known = ", ".join([*TIME_METRICS, "output_tok_s_per_gpu", ENERGY])
            raise InputError(f"there is no interval for {metric!r}; metrics that have one: {known}")
        value = getattr(self, metric)
        if value is None:
            why = (
                "none was measured"
                if metric == ENERGY and self.fits
                else f"{self.model.name} does not fit in {self.cluster}"
            )
            raise InputError(f"{metric} has no interval because {why}")
        factor = math.exp(self.scales[name].quantile(level) * self.sigmas[name])
        bound = self.floors[name] / (self.deployment.num_gpus if per_gpu else 1)
        low, high = interval_ends(metric, value, factor, bound)
        if metric in PARTS_OF_E2E and self.e2e_ms is not None:
            high = upper_within(value, high, self.e2e_ms, self.interval("e2e_ms", level)[1])
        return float(low), float(high)

    def upper(self, metric: str, confidence: float) -> float:
        """Return the value that a time keeps below with probability ``confidence``; 0.5: the estimate itself.

        Raises:
            InputError: as ``interval``.

        """
        return (
            float(getattr(self, metric))
            if confidence == BARE_ESTIMATE
            else self.interval(metric, 2.0 * confidence - 1.0)[1]
        )

    def keeps(self, slo: Slo) -> float | None:
        """Return the probability that the least certain limit is kept, from 0.01 to 0.99; None without limits or times.

        They hold for means: of the steady state where this is one.
        """
        probabilities = []
        for metric, limit in slo.limits.items():
            value, sigma = getattr(self, metric), self.sigmas[metric]
            if value is None:
                return None
            apart = math.log(limit / value) if value > 0 else math.inf
            level = self.scales[metric].level(abs(apart) / sigma if sigma > 0 else math.inf)
            probabilities.append(0.5 + math.copysign(level, apart) / 2.0)
        return min(probabilities, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types, with 90% intervals beside the metrics."""
        body = plain_fields(
            self, "sigmas", "scales", "floors", "model", "cluster", "measured", "speculation", *SOMETIMES
        )
        if self.measured:
            body["measured"] = plain(self.measured)
        body |= {name: value for name in SOMETIMES if (value := getattr(self, name)) is not None}
        if self.speculation is not None:
            body["speculation"] = plain(self.speculation)
        intervals = {}
        if self.output_tok_s is not None:
            some = [name for name in (ENERGY, CLIENT_TTFT) if getattr(self, name) is not None]
            intervals = {name: list(self.interval(name)) for name in [*TIME_METRICS, "output_tok_s_per_gpu", *some]}
        return {
            **self.header(),
            "model": self.model.name,
            "cluster": str(self.cluster),
            **body,
            "gpus_used": self.deployment.num_gpus,
            "interval_level": LEVEL,
            "intervals": intervals,
        }
