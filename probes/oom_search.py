"""The largest batch that a deployment has memory for, found by trying."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

STEP = 16
"""The answer is exact to one part in so many of itself, or to one sequence."""

MOST = 1 << 20
"""No larger batch is tried."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where memory ends: both were tried."""

    largest: int
    """Batch that ran; 0 if not even one sequence did."""
    smallest: int | None
    """Batch that did not; None if the largest one that may be tried ran."""


def find_threshold(runs: Callable[[int], bool], start: int, *, most: int = MOST) -> Threshold:
    """Find the largest batch that ``runs``, to within ``smallest - largest <= max(1, largest // STEP)``, beginning at
    ``start``.

    Whatever is larger than a batch that does not run must not run either. From ``start``, which is a forecast, strides
    that double go to where the outcome changes; then bisection. Each batch is tried once.
    """
    ran, failed = 0, most + 1
    batch, stride = min(max(1, start), most), max(1, start // STEP)
    while failed - ran > (max(1, ran // STEP) if failed <= most else 1):
        if runs(batch):
            ran = batch
        else:
            failed = batch
        if failed > most:
            batch = min(ran + stride, most)
        elif ran == 0:
            batch = max(failed - stride, 1)
        else:
            batch = (ran + failed) // 2
        stride *= 2
    return Threshold(ran, failed if failed <= most else None)
