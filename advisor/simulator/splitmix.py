"""Numbers that look random and belong to what they are counted for. Importing this module imports numba; nothing but a simulation does."""

from __future__ import annotations

import numpy as np

from advisor.simulator.compilation import compiled

NUMBERS = 2.0**31
"""How many numbers ``splitmix`` returns: 0 up to below this one."""


@compiled
def splitmix(number: int) -> int:
    """Return a random-looking number of 31 bits for each number (SplitMix64, Steele et al., OOPSLA 2014)."""
    z = np.uint64(number + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int(np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(33)))
