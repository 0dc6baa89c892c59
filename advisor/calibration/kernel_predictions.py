"""Kernels and collectives timed alone, predicted by the operators that add up to the time of a whole step."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from advisor.perf_model.collectives import collective_ms
from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES, DeploymentArrays, kernel_format
from advisor.perf_model.forward_pass import prefill_pass
from advisor.perf_model.operators import (
    KERNELS_PER_EXPERT_LAYER,
    ForwardPass,
    Product,
    attention_of,
    causal_pairs,
    expert_products,
    matrix_product,
    routed_bytes,
)
from advisor.perf_model.parameters import NAMES
from advisor.perf_model.roofline import attention_cost, product_cost
from advisor.perf_model.routing import Routing, balanced_routing, power_law_routing, uniform_routing
from catalog.engines.expert_kernels import has_untuned_experts
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.kernels import (
    AttentionModuleTime,
    AttentionTime,
    Collective,
    ExpertsTime,
    Kernel,
    LatentAttentionTime,
    of_kind,
)
from catalog.mixers import Attention, LatentAttention
from catalog.models.find import find_model
from catalog.models.stack import stack
from catalog.parts import Experts
from catalog.schema import BITS, Cluster, Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from advisor.perf_model.parameters import Parameters
    from catalog.kernels import TimedKernel
    from catalog.schema import Gpu
    from catalog.units import Array

    Step = AttentionTime | LatentAttentionTime | AttentionModuleTime
    Weighted = Kernel | ExpertsTime

K = TypeVar("K", bound="TimedKernel")

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

COLLECTIVES = {
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "reducescatter": "reduce_scatter",
    "alltoall": "all_to_all",
}
"""Our names of collectives that are predicted, by those of nccl-tests."""
OF_COLLECTIVES = ("collective_us", "link", "ring_us", "ring_link")

MODULE_KERNELS = 4.0
"""Kernels of an attention module beside its products and attention: norms of queries and of what is cached, rotary embedding, and the
writing of the cache (vLLM's ``MultiHeadLatentAttentionWrapper``)."""
TUNED_BY_TABLE = ("", "vllm_fused_moe")
"""Names of vLLM's expert kernels whose tile sizes come from tables, beside those with "triton" in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPrediction:
    """m kernels of one kind and the function that predicts them."""

    times: Sequence[TimedKernel]
    cluster: Cluster
    run: Callable[[Parameters], Array]
    """Their times in milliseconds, shape (m,), or (s, m) for s values of the parameters."""
    names: tuple[str, ...]
    """Parameters that the times depend on."""


def predictions(times: Iterable[TimedKernel], engine: str) -> Iterator[KernelPrediction]:
    """Group times by GPU, kind and shape of the model, with what predicts each group. Kernels that no operator is alone (element by
    element, copies, ``catalog.kernels.PartTime``, sends) are left out.

    Raises:
        InputError: a GPU or model that is not known, or a module that the model does not have.

    """
    times = tuple(times)
    for products in _by(of_kind(Kernel, times), lambda timed: timed.gpu):
        yield _products(products)
    for experts in _by(
        of_kind(ExpertsTime, times), lambda timed: (timed.gpu, timed.n, timed.k, timed.experts, timed.top, timed.gated)
    ):
        yield _experts(experts, engine)
    for attention in _by(
        of_kind(AttentionTime, times),
        lambda timed: (timed.gpu, timed.heads, timed.kv_heads, timed.head_dim, timed.window, timed.query == 1),
    ):
        yield _attention(attention)
    for latent in _by(
        of_kind(LatentAttentionTime, times),
        lambda timed: (timed.gpu, timed.heads, timed.kv_rank, timed.rope_dim, timed.nope_dim, timed.query == 1),
    ):
        yield _latent(latent)
    for module in _by(
        of_kind(AttentionModuleTime, times),
        lambda timed: (timed.gpu, timed.op, timed.model, timed.heads, timed.query == 1),
    ):
        yield _module(module)
    known = [timed for timed in of_kind(Collective, times) if timed.op in COLLECTIVES]
    for sums in _by(known, lambda timed: (timed.gpu, timed.op)):
        yield _collectives(sums)


def _by(times: Iterable[K], key: Callable[[K], object]) -> list[list[K]]:
    groups: dict[object, list[K]] = defaultdict(list)
    for time in times:
        groups[key(time)].append(time)
    return list(groups.values())


def _predicted(times: Sequence[TimedKernel], run: Callable[[Parameters], Array], *prefixes: str) -> KernelPrediction:
    """Return times of one GPU, which depend on the parameters whose names begin with one of ``prefixes``."""
    cluster = Cluster(gpu=find_gpu(times[0].gpu).value, gpus_per_node=1)
    names = tuple(name for name in NAMES if name.startswith(prefixes))
    return KernelPrediction(times=times, cluster=cluster, run=run, names=names)


def _column(times: Sequence[TimedKernel], name: str) -> Array:
    return np.array([getattr(time, name) for time in times], dtype=float)


def _layout(times: Sequence[Weighted], gpu: Gpu) -> DeploymentArrays:
    layout = DeploymentArrays.of_formats([time.dtype for time in times], gpu)
    return replace(layout, block_scales=_column(times, "block_scales"))


def _beside(kernels: Array, moved_bytes: Array, gpu: Gpu) -> Callable[[Parameters], Array | float]:
    """Return what small kernels beside a timed one add, of none of them nothing."""
    if not (kernels.any() or moved_bytes.any()):
        return lambda _: 0.0
    ideal = moved_bytes / (gpu.memory_bandwidth_gbps * 1e6)
    return lambda parameters: kernels * parameters.kernel_us * 1e-3 + ideal * parameters.elementwise_traffic


def _narrow(times: Sequence[Weighted], *, four: tuple[str, ...], eight: tuple[str, ...]) -> tuple[str, ...]:
    """Return the prefixes of parameters of the narrow formats among the weights."""
    bits = {BITS[time.dtype] for time in times}
    return (*(four if min(bits) < 8 else ()), *(eight if 8 in bits else ()))


def _products(times: list[Kernel]) -> KernelPrediction:
    gpu = find_gpu(times[0].gpu).value
    layout = _layout(times, gpu)
    m, k, n = (_column(times, name) for name in ("m", "k", "n"))
    product = Product(name="gemm", m=m, k=k, n=n, layers=1.0, weights=k * n, flops=2.0 * m * k * n, kind="dense")
    converts = _column(times, "converts")
    beside = _beside(converts, converts * m * k * (ACTIVATION_BYTES + layout.weight_bytes), gpu)
    return _predicted(
        times,
        lambda parameters: product_cost(product, layout, gpu, parameters).total_ms + beside(parameters),
        "gemm_",
        *_narrow(times, four=("narrow4_", "native4_"), eight=("narrow8_", "block8_")),
        *(("kernel_us", "elementwise_traffic") if converts.any() else ()),
    )


def _experts(times: list[ExpertsTime], engine: str) -> KernelPrediction:
    """Return both products of one layer and what is moved between them."""
    first, gpu = times[0], find_gpu(times[0].gpu).value
    model = replace(PLAIN, hidden_size=first.k)
    ep, tokens = _column(times, "ep"), _column(times, "m")
    layout = replace(_layout(times, gpu), ep=ep, untuned=np.array([_untuned(time, engine, gpu) for time in times]))
    experts = Experts(num_experts=first.experts, num_experts_per_tok=first.top, width=first.n, gated=first.gated)
    own = tokens / ep  # replicas that share experts bring equal parts
    routing = _routing(times, experts, tokens)
    products = [
        product for product in expert_products(model, experts, layout, own, routing=routing) if product.kind == "expert"
    ]
    moved = own * routed_bytes(experts, first.k, layout)
    sorts = _column(times, "sorts")
    small = _beside(sorts * KERNELS_PER_EXPERT_LAYER, moved, gpu)

    def run(parameters: Parameters) -> Array:
        costs = [product_cost(product, layout, gpu, parameters).total_ms for product in products]
        return sum(costs, np.asarray(small(parameters)))

    narrow = _narrow(times, four=("native_expert4_",), eight=("block8_",))
    kernel = ("kernel_us",) if sorts.any() else ()
    return _predicted(times, run, "expert", "untuned_", "elementwise_traffic", *narrow, *kernel)


def _untuned(time: ExpertsTime, engine: str, gpu: Gpu) -> float:
    """Return 1.0 where default tile sizes were used, which vLLM's Triton kernels do without a table."""
    if not (time.kernel in TUNED_BY_TABLE or "triton" in time.kernel.casefold()):
        return 0.0
    weights = kernel_format(time.dtype, replace(PLAIN, block_scales=time.block_scales))
    return float(has_untuned_experts(engine, gpu, weights, time.experts // time.ep, time.n))


def _routing(times: Sequence[ExpertsTime], experts: Experts, tokens: Array) -> Routing:
    """Return where the tokens of each time went."""
    ep = _column(times, "ep")
    kinds = np.array([time.routing for time in times])
    touched, busiest = np.ones_like(tokens), np.ones_like(tokens)
    for kind in dict.fromkeys(kinds.tolist()):
        rows = kinds == kind
        if kind == "uniform":
            routing = uniform_routing(experts, tokens[rows], ep[rows])
        elif kind == "balanced":
            routing = balanced_routing(experts, tokens[rows])
        elif kind == "power_law":
            routing = power_law_routing(experts, tokens[rows], ep[rows], _column(times, "exponent")[rows])
        else:
            given = [time for time in times if time.routing == "given"]
            routing = Routing(touched=_column(given, "touched"), busiest=_column(given, "busiest"))
        touched[rows], busiest[rows] = routing.touched, routing.busiest
    return Routing(touched=touched, busiest=busiest)


def _pass(times: Sequence[Step], window: int = 0) -> ForwardPass:
    """Return the step of attention timed alone: decoding where each sequence has one new token, else prefill."""
    batch, query, context = (_column(times, name) for name in ("batch", "query", "context"))
    if times[0].query == 1:
        zero = np.zeros_like(batch)
        return ForwardPass(
            tokens=batch,
            sequences=batch,
            decodes=batch,
            context=context,
            windowed_context=np.minimum(context, float(window) if window else np.inf),
            pairs=zero,
            windowed_pairs=zero,
        )
    pairs, windowed = (
        batch * (causal_pairs(context, seen) - causal_pairs(context - query, seen)) for seen in (0.0, float(window))
    )
    return prefill_pass(batch * query, batch, pairs, windowed)


def _cached_layout(times: Sequence[Step], gpu: Gpu) -> DeploymentArrays:
    layout = DeploymentArrays.of_formats([time.dtype for time in times], gpu)
    # What attention multiplies in, whatever the weights.
    half = DeploymentArrays.of_formats(["bfloat16"], gpu).half_flops
    return replace(layout, kv_bytes=_kv_bytes(times), half_flops=half + 0.0 * layout.tp)


def _kv_bytes(times: Sequence[Step]) -> Array:
    return np.array([BITS[time.kv_dtype] / 8.0 for time in times])


OF_ATTENTION = ("kv_", "attention_", "gemm_sharpness")


def _narrow_kv(layout: DeploymentArrays) -> tuple[str, ...]:
    return ("narrow_kv_memory",) if (layout.kv_bytes < ACTIVATION_BYTES).any() else ()


def _attention(times: list[AttentionTime]) -> KernelPrediction:
    first, gpu = times[0], find_gpu(times[0].gpu).value
    layout, step = _cached_layout(times, gpu), _pass(times, first.window)
    mixer = Attention(
        heads=first.heads,
        kv_heads=first.kv_heads,
        head_dim=first.head_dim,
        value_dim=first.head_dim,
        window=first.window,
    )
    work = attention_of([(1.0, mixer)], layout, step)
    caches = _column(times, "caches")
    written = caches * step.tokens * mixer.cached[0] * (ACTIVATION_BYTES + layout.kv_bytes)
    beside = _beside(caches, written, gpu)
    return _predicted(
        times,
        lambda parameters: attention_cost(work, layout, gpu, parameters).total_ms + beside(parameters),
        *OF_ATTENTION,
        *_narrow_kv(layout),
        *(("kernel_us", "elementwise_traffic") if caches.any() else ()),
    )


def _latent(times: list[LatentAttentionTime]) -> KernelPrediction:
    first, gpu = times[0], find_gpu(times[0].gpu).value
    layout = _cached_layout(times, gpu)
    mixer = LatentAttention(
        heads=first.heads,
        q_lora_rank=0,
        kv_lora_rank=first.kv_rank,
        nope_dim=first.nope_dim,
        rope_dim=first.rope_dim,
        value_dim=first.value_dim,
    )
    work = attention_of([(1.0, mixer)], layout, _pass(times))
    return _predicted(
        times,
        lambda parameters: attention_cost(work, layout, gpu, parameters).total_ms,
        *(*OF_ATTENTION, "latent_memory", "latent_compute"),
    )


def _module(times: list[AttentionModuleTime]) -> KernelPrediction:
    """Return attention of one layer with its projections and the small kernels between them."""
    first, gpu = times[0], find_gpu(times[0].gpu).value
    model = find_model(first.model).value
    mixer, plain = _mixer_of(first, model), replace(model, formats=(), quantization=None)  # formats are the rows'
    columns = {"dtype": [time.dtype for time in times], "kv_dtype": [time.kv_dtype for time in times]}
    layout = DeploymentArrays.from_columns(columns, plain, gpu)
    layout = replace(layout, block_scales=_column(times, "block_scales"))
    step = _pass(times, mixer.window)
    work = attention_of([(1.0, mixer)], layout, step)
    products = [
        matrix_product(plain, "attention", matrix, layout.tp, step.tokens, 1.0)
        for matrix in mixer.matrices(model.hidden_size)
    ]
    queries, keys = mixer.rotary
    numbers = (queries + keys[0]) / layout.tp
    beside = _beside(np.full(len(times), MODULE_KERNELS), step.tokens * 2.0 * ACTIVATION_BYTES * numbers, gpu)

    def run(parameters: Parameters) -> Array:
        costs = [product_cost(product, layout, gpu, parameters).total_ms for product in products]
        return sum(costs, attention_cost(work, layout, gpu, parameters).total_ms + beside(parameters))

    prefixes = (*OF_ATTENTION, "narrow", "native4_", "block8_", "latent_memory", "latent_compute", "gemm_")
    return _predicted(times, run, *prefixes, "kernel_us", "elementwise_traffic")


def _mixer_of(time: AttentionModuleTime, model: Model) -> Attention | LatentAttention:
    """Return the attention of a model that a module is of, with the heads that one GPU has."""
    for layer in stack(model).kinds:
        for part in layer.mixers:
            if not isinstance(part, (Attention, LatentAttention)):
                continue
            if part.latent == (time.op != "msa_module") and bool(part.index) == (time.op != "mla_module"):
                share = time.heads / part.heads
                own = replace(part, heads=time.heads, gate=round(part.gate * share))
                if isinstance(own, LatentAttention):
                    return own
                return replace(own, kv_heads=max(round(own.kv_heads * share), 1))
    raise InputError(f"{model.name} has no layer that {time.op} could be of")


def _collectives(times: list[Collective]) -> KernelPrediction:
    gpus = max(time.group for time in times)
    cluster = Cluster(gpu=find_gpu(times[0].gpu).value, gpus_per_node=gpus)
    size, group = _column(times, "bytes"), _column(times, "group")

    def run(parameters: Parameters) -> Array:
        return collective_ms(COLLECTIVES[times[0].op], size, group, cluster, parameters)

    return KernelPrediction(times=times, cluster=cluster, run=run, names=OF_COLLECTIVES)
