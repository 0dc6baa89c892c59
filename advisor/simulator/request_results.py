"""One run of the scheduler's loop over some traffic, and what became of every request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from advisor.simulator.class_labels import ClassLabels
    from catalog.units import Array


METRICS = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")
COLUMNS = (
    "arrival_s",
    "input_len",
    "output_len",
    "ttft_ms",
    "tpot_ms",
    "e2e_ms",
    "itl_max_ms",
    "preemptions",
    "replica",
)
"""Of ``RequestResults.rows``."""

OF_REQUESTS = (
    *("arrival_s", "input_len", "output_len", "cached", "ttft_ms", "e2e_ms", "longest_itl_ms"),
    *("preemptions", "replica", "loaded", "counted"),
)
"""Arrays of ``RequestResults`` with a value for each request."""

BINS = 120
"""Points of the curves over time."""


class TokenTotals(NamedTuple):
    """Sums over requests with i tokens in, of which c hit the prefix cache, and o out."""

    requests: float
    given: float
    """i."""
    cached: float
    """c."""
    made: float
    """o."""
    contexts: float
    """Of the tokens that every decoded token sees: (o - 1) i + o^2 / 2."""
    pairs: float
    """Of query and key, those of cached queries left out: ((i + o)^2 - c^2) / 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestResults:
    """n requests, those that came; arrays of shape (n,) in the order of arrival unless said otherwise."""

    arrival_s: Array
    input_len: NDArray[np.int64]
    output_len: NDArray[np.int64]
    cached: NDArray[np.int64]
    """Prompt tokens that hit the prefix cache."""
    ttft_ms: Array
    e2e_ms: Array
    longest_itl_ms: Array
    preemptions: NDArray[np.int32]
    replica: NDArray[np.int16]
    loaded: NDArray[np.int64]
    """Of ``cached`` what came from each tier below the GPUs, (n, tiers)."""
    counted: NDArray[np.bool_]
    """What the answers are of: in a closed loop requests that ended after it had filled up and before its end."""
    classes: ClassLabels | None = None
    """What classes they are of; None: they are all alike."""
    gaps: NDArray[np.int64]
    """Histogram of the gaps between tokens of all requests, see ``advisor.simulator.loop_totals``."""
    bins: Array
    """Sums over parts of the time that requests come, and in the last row over what is left after, shape (BINS + 1, ...);
    see ``advisor.simulator.loop_totals.BIN_COLUMNS``."""
    bin_s: float
    adapter_loads: tuple[int, ...] = ()
    """Requests so far whose LoRA adapter had a slot, was loaded from CPU memory, and from disk; none without adapters."""
    steps: int
    end_s: float
    most_blocks: int
    log: Array
    """The first steps, columns ``advisor.simulator.loop_totals.STEP_COLUMNS``."""

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def tpot_ms(self) -> Array:
        """Return the mean time per output token after the first, in ms; NaN where there is only one."""
        after = self.output_len - 1.0
        return np.where(after > 0, (self.e2e_ms - self.ttft_ms) / np.maximum(after, 1.0), np.nan)

    @property
    def loads(self) -> TokenTotals:
        given, cached, made = (tokens.astype(float) for tokens in (self.input_len, self.cached, self.output_len))
        return TokenTotals(
            requests=float(len(self)),
            given=float(given.sum()),
            cached=float(cached.sum()),
            made=float(made.sum()),
            contexts=float(((made - 1.0) * given + made**2 / 2.0).sum()),
            pairs=float((((given + made) ** 2 - cached**2) / 2.0).sum()),
        )

    def of_class(self, number: int) -> RequestResults:
        """Return those of one class; what is not of single requests stays that of all."""
        assert self.classes is not None
        mine = self.classes.label == number
        chosen = {name: getattr(self, name)[mine] for name in OF_REQUESTS}
        return replace(self, **chosen, classes=self.classes.of(mine))

    @property
    def mean_lengths(self) -> tuple[float, float]:
        """Return the mean tokens in and out of the counted requests; of all where none is: those that a loop begins with are cut short."""
        chosen = self.counted if self.counted.any() else np.ones(len(self), dtype=bool)
        return float(self.input_len[chosen].mean()), float(self.output_len[chosen].mean())

    @property
    def hit_rate(self) -> float:
        """Return the share of the counted requests' prompt tokens that the prefix cache had; NaN of none."""
        given = float(self.input_len[self.counted].sum())
        return float(self.cached[self.counted].sum()) / given if given else float("nan")

    @property
    def tier_hit_rates(self) -> list[float]:
        """Return the share of the counted requests' prompt tokens that came from each tier below the GPUs, shape (tiers,)."""
        given = float(self.input_len[self.counted].sum())
        return [float(tokens) / given if given else float("nan") for tokens in self.loaded[self.counted].sum(axis=0)]

    @property
    def preempted(self) -> int:
        """Count the preemptions of all requests."""
        return int(self.preemptions.sum())

    def rows(self) -> Iterator[tuple[float | int, ...]]:
        """Iterate over the requests as ``COLUMNS``, to the microsecond."""
        columns = (
            np.round(self.arrival_s, 6),
            self.input_len,
            self.output_len,
            np.round(self.ttft_ms, 3),
            np.round(self.tpot_ms, 4),
            np.round(self.e2e_ms, 3),
            np.round(self.longest_itl_ms, 3),
            self.preemptions,
            self.replica,
        )
        return zip(*(column.tolist() for column in columns), strict=True)

    def values(self, metric: str) -> Array:
        """Return the counted requests' values of ``ttft_ms``, ``tpot_ms`` or ``e2e_ms``."""
        values: Array = getattr(self, metric)[self.counted]
        return values[~np.isnan(values)]

    def curve(self, metric: str, shares: Array) -> Array:
        """Return percentiles of one of ``METRICS``, shape as ``shares``; NaN where there is no value. Gaps between
        tokens are right to half a per cent.
        """
        if metric == "itl_ms":
            return gap_ms(quantiles(self.gaps, shares))
        values = self.values(metric)
        return np.asarray(np.percentile(values, shares)) if len(values) else np.full(np.shape(shares), np.nan)

    def percentile(self, metric: str, percentile: float) -> float:
        """Return one percentile of a metric, in ms."""
        return float(self.curve(metric, np.array([percentile]))[0])

    def mean(self, metric: str) -> float:
        if metric == "itl_ms":
            return mean_gap_ms(self.gaps)
        values = self.values(metric)
        return float(values.mean()) if len(values) else float("nan")

    def good(self, limits: Mapping[str, float]) -> float:
        """Return the share of the counted requests that keep every limit, where they have classes of its own; a request with
        one token has no TPOT and keeps any.
        """
        good = self.counted.copy()
        everyone = np.ones(len(self), dtype=bool)
        for among, of_group in [(everyone, limits)] if self.classes is None else self.classes.limits():
            for name, limit in of_group.items():
                values = getattr(self, name)
                good &= ~among | np.isnan(values) | (values <= limit)
        counted = int(self.counted.sum())
        return float(good.sum() / counted) if counted else float("nan")

    def completed(self, begin_s: float, end_s: float) -> int:
        """Count the requests that ended in that time."""
        ends = self.arrival_s + self.e2e_ms * 1e-3
        return int(((ends >= begin_s) & (ends <= end_s)).sum())


def quantiles(counts: NDArray[np.int64], shares: Array) -> Array:
    """Return places in a histogram below which those percentages are; NaN where there is nothing in it."""
    come = np.cumsum(counts)
    if not come[-1]:
        return np.full(np.shape(shares), np.nan)
    return np.asarray(np.searchsorted(come, np.asarray(shares) / 100.0 * come[-1]), dtype=float)


def gap_ms(place: Array | NDArray[np.int64]) -> Array:
    """Return the middle of a bin of gaps between tokens."""
    from advisor.simulator.loop_totals import GAPS_PER_E, LEAST_GAP_S  # brings numba

    return np.asarray(1e3 * LEAST_GAP_S * np.exp((place + 0.5) / GAPS_PER_E))


def mean_gap_ms(counts: NDArray[np.int64]) -> float:
    """Return the mean gap between tokens; NaN where there is none."""
    total = counts.sum()
    return float((counts * gap_ms(np.arange(len(counts)))).sum() / total) if total else float("nan")
