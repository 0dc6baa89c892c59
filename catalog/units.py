"""Units and the types of numbers that every package shares; each stands here once."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

KIB = 2**10
MIB = 2**20
GIB = 2**30
"""Bytes of a kibibyte, a mebibyte and a gibibyte."""

HOUR_S, DAY_S = 3600.0, 86_400.0
"""Seconds of an hour and of a day."""
HOURS_OF_A_MILLION_SECONDS = 1e6 / HOUR_S

Numbers = TypeVar("Numbers", "float", "Array")


def usd_per_mtok(usd_per_gpu_hour: float, tok_s_per_gpu: Numbers) -> Numbers:
    """Return the dollars for a million tokens at so many tokens a second and GPU."""
    return usd_per_gpu_hour * HOURS_OF_A_MILLION_SECONDS / tok_s_per_gpu
