"""Units and the types of numbers that every package shares; each stands here once."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

KIB = 2**10
MIB = 2**20
GIB = 2**30
"""Bytes of a kibibyte, a mebibyte and a gibibyte."""
