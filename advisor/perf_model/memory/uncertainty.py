"""How sure the memory model is of what is left for the KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from catalog.engines import find_engine, releases_apart
from catalog.gpus import find_gpu

if TYPE_CHECKING:
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.memory.parts import Memory
    from catalog.schema import Gpu
    from catalog.units import Array


ELSEWHERE_GIB = 0.5
"""Standard deviation of contexts, libraries and communication buffers on a GPU where nobody looked."""

UNMEASURED_SHARE = 0.02
"""The same of an engine that nobody looked into, as a share of the device."""

RELEASE_GIB = 0.21
"""The same of one release 0.x to the next; those of several add up as independent steps. By the rules of vLLM 0.24, 15 loads of
0.33 on H200 (``benchmarks/measured``) had 0.63 GiB (root mean square) less or more for the cache than was said."""

FOUR_BIT_SHARE = 0.025
"""The same of weights in 4 bits, as a share of them: 1.3 to 2.6% of AWQ and MXFP4 on H200 (same loads) were not accounted for."""

FOUR_BIT_ELSEWHERE = 0.1
"""The same on other GPUs of a compute capability where somebody looked: kernels pad MXFP4 experts by 5 to 11%."""

FOUR_BIT_UNSEEN = 0.3
"""The same on GPUs of others, whose kernels are others and may hold weights in another format: a load of MXFP4 experts on B200 had
22% fewer tokens than were said."""


def spread_gib(engine: str, gpu: Gpu, layout: DeploymentArrays, room: Memory) -> Array:
    """Standard deviation of ``Memory.slack_gib``, shape (n,): it grows with the distance in release, GPU and format from what was
    compared with the engine's own reports.

    Raises:
        InputError: the engine is not known.

    """
    kind = find_engine(engine)
    alike = {find_gpu(name).value.compute_capability for name in kind.memory.measured_on}
    memory, here = kind.memory, gpu.name in kind.memory.measured_on
    four_bit = np.where(layout.weight_bytes < 1.0, room.weights_gib, 0.0)
    share = FOUR_BIT_SHARE if here else FOUR_BIT_ELSEWHERE if gpu.compute_capability in alike else FOUR_BIT_UNSEEN
    if memory.spread_gib is None:
        known = UNMEASURED_SHARE * gpu.memory_gib
    else:
        apart = releases_apart(kind.version, memory.measured_release)
        known = np.hypot(memory.spread_gib, RELEASE_GIB * np.sqrt(apart))
        known = known if here else np.hypot(known, ELSEWHERE_GIB)
    return np.hypot(known, share * four_bit)
