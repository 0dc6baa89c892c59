"""What becomes of any number of requests, in memory that does not grow with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from advisor.simulator.request_results import TokenTotals, gap_ms, mean_gap_ms, quantiles
from catalog.schema import LATENCIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from advisor.simulator.request_results import RequestResults
    from catalog.units import Array

LEAST_MS = 1e-3
"""Lower end of the histograms of latencies."""
PER_E = 1000.0
"""Bins for each factor e, so that the middle of one is within 0.05% of all in it."""
SIZE = 30_000
"""Bins: up to 10^10 ms, which is four months."""
NOTHING = TokenTotals(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(kw_only=True)
class StreamingStatistics:
    """Requests of an open loop, added piece by piece; answers what ``RequestResults`` does, but of single requests nothing.

    Means and shares are exact, percentiles to 0.05% (those of gaps between tokens to half a per cent, as there).
    """

    limits: Mapping[str, float]
    """Of which ``good`` is asked."""
    duration_s: float
    loads: TokenTotals = NOTHING
    preempted: int = 0
    histograms: dict[str, NDArray[np.int64]] = field(
        default_factory=lambda: {name: np.zeros(SIZE, np.int64) for name in LATENCIES}, repr=False
    )
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LATENCIES, 0.0))
    kept: int = 0
    """Requests that keep every limit."""
    in_time: int = 0
    """That ended while requests came."""
    gaps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64), repr=False)
    bins: Array = field(default_factory=lambda: np.zeros((1, 1)), repr=False)
    bin_s: float = 0.0
    steps: int = 0
    end_s: float = 0.0
    most_blocks: int = 0

    def __len__(self) -> int:
        return int(self.loads.requests)

    @property
    def mean_lengths(self) -> tuple[float, float]:
        """Return the mean tokens in and out of the requests."""
        return self.loads.given / self.loads.requests, self.loads.made / self.loads.requests

    @property
    def hit_rate(self) -> float:
        """Return the share of the prompts' tokens that the prefix cache had; NaN of no requests."""
        return self.loads.cached / self.loads.given if self.loads.given else float("nan")

    def add(self, part: RequestResults) -> None:
        """Add more requests, and what the loop says of all up to now."""
        self.loads = TokenTotals(*(had + new for had, new in zip(self.loads, part.loads, strict=True)))
        self.preempted += part.preempted
        for name in LATENCIES:
            values = part.values(name)
            place = np.log(np.maximum(values, LEAST_MS) / LEAST_MS) * PER_E
            self.histograms[name] += np.bincount(np.clip(place, 0, SIZE - 1).astype(np.int64), minlength=SIZE)
            self.sums[name] += float(values.sum())
        self.kept += round(part.good(self.limits) * len(part)) if len(part) else 0
        self.in_time += part.completed(0.0, self.duration_s)
        self.gaps, self.bins, self.bin_s = part.gaps, part.bins, part.bin_s
        self.steps, self.end_s, self.most_blocks = part.steps, part.end_s, part.most_blocks

    def curve(self, metric: str, shares: Array) -> Array:
        """Return percentiles of a metric, shape as ``shares``; NaN where there is no value."""
        if metric == "itl_ms":
            return gap_ms(quantiles(self.gaps, shares))
        return LEAST_MS * np.exp((quantiles(self.histograms[metric], shares) + 0.5) / PER_E)

    def percentile(self, metric: str, percentile: float) -> float:
        """Return one percentile of a metric, in ms."""
        return float(self.curve(metric, np.array([percentile]))[0])

    def mean(self, metric: str) -> float:
        if metric == "itl_ms":
            return mean_gap_ms(self.gaps)
        number = int(self.histograms[metric].sum())
        return self.sums[metric] / number if number else float("nan")

    def good(self, limits: Mapping[str, float]) -> float:
        """Return the share of the requests that keep every limit."""
        assert limits == self.limits
        return self.kept / len(self) if len(self) else float("nan")

    def completed(self, begin_s: float, end_s: float) -> int:
        """Count the requests that ended while they came."""
        assert (begin_s, end_s) == (0.0, self.duration_s)
        return self.in_time
