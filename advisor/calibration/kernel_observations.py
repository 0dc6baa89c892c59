"""Kernels and collectives that were timed alone, as evidence: what they say of the parameters, no run of a model can mix up.

Each is predicted by the same functions that add up to the time of a step, from a model of one layer that does nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from advisor.perf_model.collectives import collective_ms
from advisor.perf_model.deployment_arrays import DeploymentArrays, kernel_format
from advisor.perf_model.forward_pass import decode_pass, prefill_pass
from advisor.perf_model.operators import Product, attention_work, causal_pairs, expert_products, routed_bytes
from advisor.perf_model.parameters import NAMES
from advisor.perf_model.roofline import attention_cost, product_cost
from catalog.engines.expert_kernels import has_untuned_experts
from catalog.gpus import find_gpu
from catalog.kernels import (
    AttentionTime,
    Collective,
    ExpertsTime,
    Kernel,
    of_kind,
    read_kernels,
    shipped_attention,
    shipped_collectives,
    shipped_experts,
    shipped_kernels,
    shipped_torch,
)
from catalog.parts import Experts
from catalog.schema import Cluster, Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from advisor.perf_model.parameters import Parameters
    from catalog.kernels import TimedKernel
    from catalog.units import Array

K = TypeVar("K", bound="TimedKernel")

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

SHORT_SUMS = {"vllm": "vllm-custom", "torch": "symm"}
"""How engines sum short messages; NCCL's times of those say nothing of them."""

SHORT_BYTES = 8 * 2**20
"""Up to so large a message they do (vLLM's ``custom_all_reduce`` max_size)."""

RING_BYTES = 16 * 2**20
"""From this size on NCCL's sums are of the regime that the model of time calls long; between are neither."""

PLAIN = Model(
    name="one layer",
    model_type="llama",
    hidden_size=4096,
    num_hidden_layers=1,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    intermediate_size=4096,
    vocab_size=32000,
    max_position_embeddings=2**20,
)


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
    """Return what times of this project's probes say: of the PyTorch engine, and of vLLM where it uses the same libraries."""
    times = tuple(times)
    shared = [timed for timed in times if isinstance(timed, (Kernel, Collective))]
    return (*evidence_of(times, "torch"), *evidence_of(shared, "vllm"))


def evidence_of(times: Iterable[TimedKernel], engine: str) -> tuple[KernelObservations, ...]:
    """Group kernel times by GPU, kind and model shape. What an engine does not use (element-wise kernels, copies, NCCL's sums of
    short messages) is left out.
    """
    times = tuple(times)
    products = _by(of_kind(Kernel, times), lambda timed: timed.gpu)
    experts = _by(of_kind(ExpertsTime, times), lambda timed: (timed.gpu, timed.n, timed.k, timed.experts, timed.top))
    used = [timed for timed in of_kind(AttentionTime, times) if timed.fused is not False]
    attention = _by(used, lambda timed: (timed.gpu, timed.heads, timed.kv_heads, timed.head_dim, timed.query == 1))
    sums = _by(
        [timed for timed in of_kind(Collective, times) if _is_informative(timed, engine)], lambda timed: timed.gpu
    )
    return (
        *(_products(timed, engine) for timed in products),
        *(_experts(timed, engine) for timed in experts),
        *(_attention(timed, engine) for timed in attention),
        *(_sums(timed, engine) for timed in sums),
    )


def _by(times: Iterable[K], key: Callable[[K], object]) -> list[list[K]]:
    groups: dict[object, list[K]] = defaultdict(list)
    for time in times:
        groups[key(time)].append(time)
    return list(groups.values())


def _kernels(times: list[K], engine: str, run: Callable[[Parameters], Array], *prefixes: str) -> KernelObservations:
    """Return times that depend on the parameters whose names begin with one of ``prefixes``."""
    cluster = Cluster(gpu=find_gpu(times[0].gpu).value, gpus_per_node=1)
    names = tuple(name for name in NAMES if name.startswith(prefixes))
    return KernelObservations(engine=engine, cluster=cluster, measured=_measured(times), run=run, names=names)


def _measured(times: Sequence[TimedKernel]) -> Array:
    return np.array([[time.us * 1e-3 for time in times]])


def _products(times: list[Kernel], engine: str) -> KernelObservations:
    gpu = find_gpu(times[0].gpu).value
    m, k, n = (np.array([getattr(time, name) for time in times], dtype=float) for name in ("m", "k", "n"))
    layout = DeploymentArrays.of_formats([time.dtype for time in times], gpu)
    product = Product(name="gemm", m=m, k=k, n=n, layers=1.0, weights=k * n, flops=2.0 * m * k * n, kind="dense")
    return _kernels(
        times,
        engine,
        lambda parameters: product_cost(product, layout, gpu, parameters).total_ms,
        "gemm_",
        "narrow8_",
        "narrow4_",
    )


def _experts(times: list[ExpertsTime], engine: str) -> KernelObservations:
    """Return both products of one layer and what is moved between them."""
    first, gpu = times[0], find_gpu(times[0].gpu).value
    model = replace(PLAIN, hidden_size=first.k)
    layout = DeploymentArrays.of_formats([time.dtype for time in times], gpu)
    default = has_untuned_experts(engine, gpu, kernel_format(first.dtype, model), first.experts, first.n)
    layout = replace(layout, untuned=np.full(len(layout), float(default)))
    tokens = np.array([time.m for time in times], dtype=float)
    experts = Experts(num_experts=first.experts, num_experts_per_tok=first.top, width=first.n)
    products = [product for product in expert_products(model, experts, layout, tokens) if product.kind == "expert"]
    moved = tokens * routed_bytes(experts, first.k, layout)

    def run(parameters: Parameters) -> Array:
        costs = [product_cost(product, layout, gpu, parameters).total_ms for product in products]
        traffic = moved * parameters.elementwise_traffic / (gpu.memory_bandwidth_gbps * 1e6)
        return sum(costs, traffic)

    return _kernels(times, engine, run, "expert", "untuned_", "elementwise_traffic")


def _attention(times: list[AttentionTime], engine: str) -> KernelObservations:
    first, gpu = times[0], find_gpu(times[0].gpu).value
    model = replace(PLAIN, num_attention_heads=first.heads, num_key_value_heads=first.kv_heads, head_dim=first.head_dim)
    layout = DeploymentArrays.of_formats([time.dtype for time in times], gpu)
    batch, query, context = (
        np.array([getattr(time, name) for time in times], dtype=float) for name in ("batch", "query", "context")
    )
    if first.query == 1:
        step = decode_pass(model, batch, context)
    else:
        pairs = batch * (causal_pairs(context) - causal_pairs(context - query))
        step = prefill_pass(batch * query, batch, pairs, pairs)
    work = attention_work(model, layout, step)
    return _kernels(
        times,
        engine,
        lambda parameters: attention_cost(work, layout, gpu, parameters).total_ms,
        *("kv_", "attention_", "gemm_sharpness"),
    )


def _is_informative(time: Collective, engine: str) -> bool:
    if time.op != "allreduce" or time.graph != "graph":
        return False
    if time.impl == SHORT_SUMS.get(engine):
        return time.bytes <= SHORT_BYTES
    return time.impl == "nccl" and time.bytes >= RING_BYTES


def _sums(times: list[Collective], engine: str) -> KernelObservations:
    gpus = max(time.group for time in times)
    cluster = Cluster(gpu=find_gpu(times[0].gpu).value, gpus_per_node=gpus)
    size, group = (np.array([getattr(time, name) for time in times], dtype=float) for name in ("bytes", "group"))

    def run(parameters: Parameters) -> Array:
        return collective_ms("all_reduce", size, group, cluster, parameters)

    return KernelObservations(engine=engine, cluster=cluster, measured=_measured(times), run=run, spread=SUMS_NOISE)
