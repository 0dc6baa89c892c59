"""Derivatives of log times by the parameters, as forward differences: one vectorised call for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalog.units import Array

STEP = 1e-3
"""Finite-difference step on the unbounded scale."""
LEAST = 1e-12
"""A time of 0, as that of an output token of a request that has but one, is taken for this, and never compared."""


def logarithm(times: Array) -> Array:
    """Return the logarithm of times."""
    return np.asarray(np.log(np.maximum(times, LEAST)))


def shifted(x: Array, which: NDArray[np.intp] | None = None) -> Array:
    """Return ``x`` and below it ``x`` one ``STEP`` further in each of its parameters, or in some, shape (1 + k, len(x))."""
    steps = STEP * np.eye(len(x))
    return np.vstack([x, x + (steps if which is None else steps[which])])


def log_slopes(times: Array, *, axis: int = 0) -> Array:
    """Return the derivatives of log times by the k parameters that ``shifted`` moved along ``axis``, which then has k rows."""
    logs = np.moveaxis(logarithm(times), axis, 0)
    return np.moveaxis((logs[1:] - logs[:1]) / STEP, 0, axis)
