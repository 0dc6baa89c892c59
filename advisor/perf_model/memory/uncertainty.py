"""How sure the memory model is of what is left for the KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from catalog.engines import find_engine, minor_release

if TYPE_CHECKING:
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.memory.parts import Memory
    from catalog.engines.registry import Engine
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

FOUR_BIT_ELSEWHERE = 0.06
"""The same on other NVIDIA GPUs that expand 4 bits in the same kernels (Marlin, Triton): a load of MXFP4 experts on four A100s
(vllm-project, vLLM 0.10.1) had weights within 0.1% and tokens 3.4% fewer than are said, 0.09 of the weights over 14 releases."""

FOUR_BIT_UNSEEN = 0.3
"""The same on GPUs that compute in 4 bits, and on AMD's, whose kernels are others and may hold weights in another format: a load of
MXFP4 experts on B200 had 15% fewer tokens than are said."""


def spread_gib(engine: str, gpu: Gpu, layout: DeploymentArrays, room: Memory) -> Array:
    """Return the standard deviation of ``Memory.slack_gib``, shape (n,): it grows with the distance in release, GPU and
    format from what was compared with the engine's own reports.

    Raises:
        InputError: the engine is not known.

    """
    kind = find_engine(engine)
    memory, here = kind.memory, gpu.name in kind.memory.measured_on
    four_bit = np.where(layout.weight_bytes < 1.0, room.weights_gib, 0.0)
    expands = gpu.vendor == "nvidia" and not gpu.fp4_tflops
    share = FOUR_BIT_SHARE if here else FOUR_BIT_ELSEWHERE if expands else FOUR_BIT_UNSEEN
    if memory.spread_gib is None:
        return np.hypot(UNMEASURED_SHARE * gpu.memory_gib, share * four_bit)
    known = np.hypot(memory.spread_gib, RELEASE_GIB * np.sqrt(_releases_away(layout, kind)))
    known = known if here else np.hypot(known, ELSEWHERE_GIB)
    return np.hypot(known, share * four_bit)


def _releases_away(layout: DeploymentArrays, kind: Engine) -> Array:
    """Count the minor releases to the nearest that was compared with the engine's own reports, shape (n,)."""
    asked = np.where(layout.release > 0, layout.release, minor_release(kind.version))
    away = [np.abs(asked - minor_release(version)) for version in kind.memory.measured_releases]
    return np.min(away, axis=0) if away else 0.0 * asked
