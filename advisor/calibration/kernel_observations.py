"""Kernels and collectives that were timed alone, as evidence: what they say of the parameters, no run of a model can mix up.

Each is predicted by the same functions that add up to the time of a step, from a model of one layer that does nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.kernel_predictions import predictions
from advisor.calibration.shared_offsets import SERVER_SIGMA
from advisor.perf_model.parameters import NAMES
from catalog.gpus import find_gpu
from catalog.kernels import (
    AttentionTime,
    Collective,
    Kernel,
    read_kernels,
    shipped_attention,
    shipped_collectives,
    shipped_experts,
    shipped_kernels,
    shipped_torch,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from advisor.perf_model.parameters import Parameters
    from catalog.kernels import TimedKernel
    from catalog.schema import Cluster
    from catalog.units import Array

NOISE = 0.1
"""Standard deviation of the log residuals of single kernels that the fit expects; their errors are alike from shape to
shape."""

OTHERS_NOISE = 0.15
"""The same for kernels that others timed, beside what all of one kind on a GPU share (``SharedOffsets``): on an H200 their products take
0.91 to 1.06 times ours, 80% of 312; their clocks were not locked, and how their caches were filled is known from their code alone."""

SUMS_NOISE = 0.4
"""The same for sums among GPUs, which in a step also wait for the slowest of them."""

CUBLAS = ("vllm", "torch")
"""Engines whose matrix products are cuBLAS's, so that one measurement of a product is of both."""

SHORT_SUMS = {
    "vllm": "vllm-custom",
    "torch": "symm",
    "sglang": "sglang-custom",
    "tensorrt-llm": "tensorrt-llm-custom",
}
"""How engines sum short messages; NCCL's times of those say nothing of them."""

SHORT_BYTES = 8 * 2**20
"""Up to so large a message they do (vLLM's ``custom_all_reduce`` max_size)."""

RING_BYTES = 16 * 2**20
"""From this size on NCCL's sums are of the regime that the model of time calls long; between are neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelObservations:
    """m kernels of one kind that ``engine`` uses, timed alone on one kind of GPU; one quantity, milliseconds."""

    engine: str
    cluster: Cluster
    measured: Array
    """Shape (1, m)."""
    run: Callable[[Parameters], Array]
    """Their times in milliseconds, shape (m,), or (s, m) for s values of the parameters."""
    names: tuple[str, ...] = NAMES
    """Parameters that the times depend on."""
    spread: float = NOISE
    """Of the log residuals."""
    alike: bool = False
    """Whether their errors share an offset, as those of a session that others timed do: then many say no more than few."""

    @property
    def release(self) -> int:
        return 0

    @property
    def server(self) -> NDArray[np.intp]:
        return np.full(self.measured.shape[1], 0 if self.alike else -1)

    @property
    def dependencies(self) -> NDArray[np.intp]:
        """Return places of the parameters of this kind of kernel in ``NAMES``."""
        return np.array([NAMES.index(name) for name in self.names], dtype=np.intp)

    @property
    def noise(self) -> Array:
        return np.full(self.measured.shape, self.spread)

    @property
    def used(self) -> NDArray[np.bool_]:
        return np.ones(self.measured.shape, dtype=bool)

    def predict(self, parameters: Parameters) -> Array:
        return self.run(parameters)[None]


def shipped_evidence() -> tuple[KernelObservations, ...]:
    """Return what the kernel times that ship say of the engines whose kernels they are."""
    of_vllm = evidence_of((*shipped_attention(), *shipped_experts(), *shipped_collectives()), "vllm")
    of_torch = evidence_of([timed for timed in shipped_torch() if not isinstance(timed, Kernel)], "torch")
    products = [timed for engine in CUBLAS for timed in evidence_of(shipped_kernels(), engine)]
    return (*of_vllm, *of_torch, *products)


def evidence_with(published: Path | None) -> tuple[KernelObservations, ...]:
    """Return ``shipped_evidence`` and what kernels say that others timed as they run: products of 16 bits that read their weights from
    memory, and sums over NVSwitch, on GPUs that this project did not time; ``published``: folder of published benchmarks.
    """
    if published is None:
        return shipped_evidence()
    own = {timed.gpu for timed in shipped_kernels()}
    files = sorted((published / "kernels").glob("*.csv"))
    times = [timed for path in files for timed in read_kernels(path) if timed.gpu not in own]
    others = (
        replace(group, spread=max(group.spread, OTHERS_NOISE), alike=True) for group in evidence_of(times, "vllm")
    )
    return (*shipped_evidence(), *others)


def own_evidence(times: Iterable[TimedKernel]) -> tuple[KernelObservations, ...]:
    """Return what the times of a user's files say: those of this project's probes of the PyTorch engine, and of vLLM where it uses the
    same libraries; those that others timed (with ``source``) of the engine whose kernels they are.
    """
    times = tuple(times)
    own = [replace(timed, engine="") for timed in times if not timed.source and timed.engine in ("", "torch")]
    shared = [timed for timed in own if isinstance(timed, (Kernel, Collective))]
    evidence = [*evidence_of(own, "torch"), *evidence_of(shared, "vllm")]
    others = [timed for timed in times if timed.source or timed.engine not in ("", "torch")]
    engines = dict.fromkeys(timed.engine or "vllm" for timed in others)
    evidence += [_as_one_session(group) for engine in engines for group in evidence_of(others, engine)]
    return tuple(evidence)


def _as_one_session(group: KernelObservations) -> KernelObservations:
    """Return times that others took with the noise of as many independent ones that say no more of their mean: with an offset of
    standard deviation s that all share and n of each, sqrt(n^2 + m s^2).
    """
    noise = max(group.spread, OTHERS_NOISE)
    return replace(group, spread=float(np.hypot(noise, np.sqrt(group.measured.size) * SERVER_SIGMA)))


def evidence_of(times: Iterable[TimedKernel], engine: str) -> tuple[KernelObservations, ...]:
    """Group kernel times by GPU, kind and model shape. What an engine does not use (element-wise kernels, copies, NCCL's sums of
    short messages, other engines' kernels) is left out, and of what others timed what was not timed as it runs.
    """
    used = [timed for timed in times if _is_informative(timed, engine)]
    return tuple(
        KernelObservations(
            engine=engine,
            cluster=predicted.cluster,
            measured=np.array([[time.us * 1e-3 for time in predicted.times]]),
            run=predicted.run,
            names=predicted.names,
            spread=SUMS_NOISE if isinstance(predicted.times[0], Collective) else NOISE,
        )
        for predicted in predictions(used, engine)
    )


def _is_informative(time: TimedKernel, engine: str) -> bool:
    if time.engine not in ("", engine):
        return False
    if time.engine and (time.graph != "graph" or time.cache == "warm"):  # launching is in it, or memory is not
        return False
    if isinstance(time, AttentionTime):
        return time.fused is not False
    return not isinstance(time, Collective) or _is_informative_sum(time, engine)


def _is_informative_sum(time: Collective, engine: str) -> bool:
    if time.op != "allreduce" or time.graph != "graph":
        return False
    if time.source and find_gpu(time.gpu).value.topology != "nvswitch":  # of hosts that say nothing of others
        return False
    if time.impl == SHORT_SUMS.get(engine):
        return time.bytes <= SHORT_BYTES
    return time.impl == "nccl" and time.bytes >= RING_BYTES
