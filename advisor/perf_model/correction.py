"""By how much measured runs nearby correct the times of the phases, and how sure they are of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalog.units import Array

PHASES = ("prefill_ms", "tpot_ms")
"""What a static batch tells: each is the time of one phase alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What the runs nearby say of n configurations."""

    factors: Array
    """On the times of each of ``PHASES``, shape (2, n)."""
    left: Array
    """Share of the residual's variance that they leave, shape (2, n); 1: they say nothing."""
    near: Array
    """How many there are, shape (n,)."""

    def take(self, rows: NDArray[Any]) -> Correction:
        return Correction(factors=self.factors[:, rows], left=self.left[:, rows], near=self.near[rows])

    def left_of(self, metric: str, prefill_share: Array) -> Array:
        """Return the share of the variance of a static metric's residual that is left, shape (n,).

        A whole batch consists of both phases, ``prefill_share`` of it prefill; their errors are taken to be alike.
        """
        prefill, decode = self.left
        if metric in ("prefill_ms", "ttft_ms"):
            return np.asarray(prefill)
        if metric == "tpot_ms":
            return np.asarray(decode)
        return np.asarray((prefill_share * np.sqrt(prefill) + (1.0 - prefill_share) * np.sqrt(decode)) ** 2)
