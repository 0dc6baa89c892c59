"""How sure the memory model is of what is left for the KV cache."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catalog.schema import Gpu


SPREAD_GIB = {"vllm": 0.25, "torch": 0.07}
"""Standard deviation of what is left for KV, of engines whose memory was compared with their own reports: on one H200 to four,
0.13 GiB for 41 loads of vLLM 0.24 and up to 0.45 for eleven servers (``catalog/data/memory``, ``exports``), 0.05 for 32 loads of
the PyTorch engine."""


MEASURED_ON = ("H200-SXM",)


ELSEWHERE_GIB = 0.5
"""The same of contexts, libraries and communication buffers on a GPU where nobody looked."""


UNMEASURED_SHARE = 0.02
"""The same of an engine that nobody looked into, as a share of the device."""


def spread_gib(engine: str, gpu: Gpu) -> float:
    """Standard deviation of ``Memory.slack_gib``."""
    if engine not in SPREAD_GIB:
        return UNMEASURED_SHARE * gpu.memory_gib
    return SPREAD_GIB[engine] if gpu.name in MEASURED_ON else math.hypot(SPREAD_GIB[engine], ELSEWHERE_GIB)
