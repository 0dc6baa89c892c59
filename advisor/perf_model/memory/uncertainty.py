"""How sure the memory model is of what is left for the KV cache."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from catalog.engines import find_engine

if TYPE_CHECKING:
    from catalog.schema import Gpu


ELSEWHERE_GIB = 0.5
"""Standard deviation of contexts, libraries and communication buffers on a GPU where nobody looked."""


UNMEASURED_SHARE = 0.02
"""The same of an engine that nobody looked into, as a share of the device."""


def spread_gib(engine: str, gpu: Gpu) -> float:
    """Standard deviation of ``Memory.slack_gib``.

    Raises:
        InputError: the engine is not known.

    """
    memory = find_engine(engine).memory
    if memory.spread_gib is None:
        return UNMEASURED_SHARE * gpu.memory_gib
    return memory.spread_gib if gpu.name in memory.measured_on else math.hypot(memory.spread_gib, ELSEWHERE_GIB)
