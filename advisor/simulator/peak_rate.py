"""The busiest part of a trace, as a question that a capacity plan answers: rate, lengths, and how uneven they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.simulator.arrivals import MOST_BURSTINESS, MOST_SPREAD, Arrivals
from catalog.errors import InputError
from catalog.schema import Workload, require_positive

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW_S = 60.0
FEWEST_GAPS = 10
"""Below that the spread of the gaps says nothing, and Poisson is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What came in the busiest window of a trace."""

    workload: Workload
    """Mean lengths over the whole trace, and the rate in the window, or over all of it where that is larger."""
    begin_s: float
    window_s: float
    """The whole trace, where that is shorter."""
    mean_rate: float
    """Over the whole trace."""
    spread: float
    """Coefficient of variation of the lengths: the larger of prompts' and outputs', and no more than a plan takes."""
    burstiness: float
    """Squared coefficient of variation of the gaps in the window, likewise."""


def trace_peak(traffic: Arrivals, window_s: float = WINDOW_S) -> Peak:
    """Find the window with most requests; it begins with one of them.

    Raises:
        InputError: the requests come in a closed loop, which has no times.

    """
    require_positive("window_s", window_s, whole=False)
    if traffic.concurrency:
        raise InputError("a closed loop has no busiest time; take a trace")
    window = min(window_s, traffic.duration_s)
    arrival = traffic.arrival_s
    ends = np.searchsorted(arrival, arrival + window, side="left")
    counts = ends - np.arange(len(arrival))
    first = int(np.argmax(counts))
    gaps = np.diff(arrival[first : ends[first]])
    mean = len(traffic) / traffic.duration_s
    lengths = (traffic.input_len, traffic.output_len)
    return Peak(
        workload=Workload(
            input_len=max(round(float(lengths[0].mean())), 1),
            output_len=max(round(float(lengths[1].mean())), 1),
            rate=max(float(counts[first]) / window, mean),  # windows of a short trace may cut it in two
        ),
        begin_s=float(arrival[first]),
        window_s=window,
        mean_rate=mean,
        spread=min(max(_variation(tokens) for tokens in lengths), MOST_SPREAD),
        burstiness=min(_variation(gaps) ** 2, MOST_BURSTINESS) if len(gaps) >= FEWEST_GAPS else 1.0,
    )


def _variation(values: NDArray[np.float64] | NDArray[np.int64]) -> float:
    """Return the coefficient of variation; 0 where all are 0."""
    mean = float(values.mean())
    variation = float(values.std()) / mean if mean > 0 else 0.0
    return variation if math.isfinite(variation) else 0.0
