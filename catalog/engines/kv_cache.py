"""How engines account for GPU memory: what a memory model has to reproduce.

vLLM 0.24 (paths inside its ``vllm`` package):

- Budget: ``ceil(total memory x gpu_memory_utilization)``; the engine refuses to start when less than that is free
  (v1/worker/utils.py ``request_memory``). "Total" is what ``cudaMemGetInfo`` says.
- KV cache = budget - weights - activation peak - growth of memory outside torch - CUDA graphs
  (v1/worker/gpu_worker.py ``determine_available_memory``). The first snapshot is taken *after* the CUDA context and
  NCCL exist (``init_device``), so both live outside the budget, in the share that gpu_memory_utilization leaves free;
  only what is allocated outside torch later (attention workspaces, cuBLAS, custom all-reduce) is subtracted.
- Activation peak: one forward pass of ``max_num_batched_tokens`` tokens spread over ``min(max_num_seqs, tokens)``
  requests without KV cache, so attention allocates little, and on the last stage a sampling step of as many rows:
  logits in the model's format, whole vocabulary on every GPU after a gather, then a float32 copy and the copies that
  top-k/top-p makes. The two do not overlap; the larger counts. (gpu_model_runner.py ``profile_run``, ``_dummy_run``,
  ``_dummy_sampler_run``; v1/sample/sampler.py.) ``profile_rows`` gives the rows.
- CUDA graphs: an estimate of theirs is subtracted by default (VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=1): the first
  capture plus the second's size for each further one, at least 1 MiB each. Model types in ``Engine.v2_runner`` run on
  the second model runner, whose estimate is 0 (v1/worker/gpu/model_runner.py ``profile_cudagraph_memory``), and so do
  AMD GPUs: there graphs, too, come out of the free share. ``reserves_graphs`` tells which; ``graph_sizes`` how many.
  Both piecewise graphs (every size) and full decode graphs (sizes up to max_num_seqs) are captured, sharing one pool.
- Weights: embedding on the first stage, head on the last, both padded to 64 rows and sliced by tp; a tied head is held
  by the first and the last stage (two copies if pp > 1). Layers per stage: ``pipeline_layers``. KV heads are copied
  where tp exceeds them (``kv_heads_per_gpu``); MLA's latent is whole on every GPU of a tensor-parallel group. With
  dp > 1 in one server and experts not spread, experts are *sliced over tp x dp* (layers/fused_moe/config.py), which is
  why replicas of MoE models are started as servers of their own.
- Blocks: ``num_blocks = KV bytes // page bytes // pools`` per GPU, then the least over all GPUs (core/kv_cache_utils.py
  ``get_kv_cache_configs``); one block is never used (the null block). Page bytes are
  ``2 x block_size x kv_heads_per_gpu x head_dim x bytes``, or ``block_size x (kv_lora_rank + qk_rope_head_dim) x bytes``
  for MLA. ``pools`` is the number of layers on the GPU, or fewer where windowed layers share (``kv_groups``).
- It logs ``KV tokens = int(num_blocks / blocks of one request of max_model_len x max_model_len)`` and that ratio as
  the maximum concurrency. Start fails if one request of max_model_len does not fit. A request is admitted when the
  blocks of its whole prompt are free (``scheduler_reserve_full_isl``); no watermark.

vLLM 0.33 prepares two steps at once, so a windowed layer keeps two chunks beside its window; what else differs is in
``advisor.perf_model.memory.recent_release``.

SGLang 0.5.23: weights + KV = ``mem_fraction_static`` x what is free before loading; its default leaves ``static_reserve_gib`` for activations
and graphs (arg_groups/memory_hook.py). A gpu_memory_utilization that is stated is this share, as users of SGLang state it; the
command passes ``static_fraction``. TensorRT-LLM, LMDeploy: KV = gpu_memory_utilization x what is free after weights and activations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from catalog.engines.registry import minor_release
from catalog.errors import InputError
from catalog.models.stack import stack

if TYPE_CHECKING:
    from catalog.engines.registry import Engine
    from catalog.schema import Deployment, Gpu, Model
    from catalog.units import Array


def profile_rows(max_num_seqs: int, max_num_batched_tokens: int) -> int:
    """Return rows of logits that vLLM sizes its sampler for (v1/worker/gpu_model_runner.py ``_dummy_run``)."""
    return min(max_num_seqs, max_num_batched_tokens)


def graph_sizes(engine: Engine, gpu: Gpu, deployment: Deployment) -> tuple[int, ...]:
    """Return batch sizes of a resolved deployment that CUDA graphs are captured for, ascending; none without them."""
    assert deployment.max_num_seqs is not None
    assert deployment.max_num_batched_tokens is not None
    row = engine.batch_defaults(gpu, deployment.engine_version)
    most = row.max_graph_size_tp4 if deployment.tp >= 4 else row.max_graph_size
    if not deployment.has_graphs or not most:
        return ()
    memory, tokens = engine.memory, deployment.max_num_batched_tokens
    most = min(memory.graph_tokens_a_sequence * deployment.max_num_seqs, most)
    most = min(most, tokens) if memory.graphs_within_budget else most
    sizes = {size for bounds in memory.graph_sizes for size in range(*bounds)}
    if memory.captures_cap or most == tokens:
        sizes.add(most)
    if 0 < memory.captures_seqs_from_minor <= minor_release(deployment.engine_version or engine.version):
        sizes.add(deployment.max_num_seqs)
    return tuple(sorted(size for size in sizes if size <= most))


def reserves_graphs(engine: Engine, model: Model, gpu: Gpu, *, sequence_parallel: bool = False) -> bool:
    """Return whether memory for CUDA graphs is set aside before the KV cache is sized.

    Sequence parallelism falls back to the first model runner (config/vllm.py
    ``_get_v2_model_runner_unsupported_features``).
    """
    on_first_runner = sequence_parallel or model.model_type not in engine.v2_runner
    return gpu.vendor in engine.memory.reserves_graphs_on and on_first_runner


@dataclass(frozen=True, slots=True, kw_only=True)
class KvGroups:
    """How vLLM's KV cache manager groups the layers of a model (core/kv_cache_utils.py).

    A block of one group holds ``block_size`` tokens of up to ``size`` layers; blocks of all groups come from one pool
    whose block takes ``size`` pages. Groups that are not full waste the rest.
    """

    size: int
    """Layers in a group, over all pipeline stages."""
    full: int
    """Groups of layers that attend to everything."""
    windowed: int
    """Groups of layers that attend to a window."""
    window: int
    states: int = 0
    """Groups of layers with a state, of which a request takes one block each."""

    @property
    def number(self) -> int:
        """Return groups of all kinds."""
        return self.full + self.windowed + self.states


@lru_cache(maxsize=2048)
def kv_groups(model: Model) -> KvGroups:
    """Return the groups of ``model``: one, unless layers of several kinds mix.

    ``_get_kv_cache_groups_uniform_page_size``: groups are as large as the rarest kind of layer, or as the commonest where
    that has less than half as many again. Layers that share another's cache or have none are in no group.
    """
    full = windowed = states = 0
    for count, layer in stack(model).counts:
        for part in layer.mixers:
            if part.state_bytes:
                states += count
            elif part.cached[0] or part.index_bytes:
                full, windowed = (full, windowed + count) if part.window else (full + count, windowed)
    counts = sorted(number for number in (full, windowed, states) if number)
    if not counts:
        return KvGroups(size=model.num_hidden_layers, full=0, windowed=0, window=1)
    size = counts[-1] if counts[-1] < 1.5 * counts[0] else counts[0]
    return KvGroups(
        size=size,
        full=math.ceil(full / size),
        windowed=math.ceil(windowed / size),
        window=model.sliding_window if windowed else 1,
        states=math.ceil(states / size),
    )


CONTEXT_GIB, CONTEXT_TP_GIB = 0.67, 1.9
"""What is in use before SGLang loads: on one H200 (``benchmarks/measured``, ``free_before_gb``), and in a tensor-parallel group, by
a log of Qwen3-235B-A22B-FP8 on four H100s at 0.93 (vllm-project/vllm#21348: 367,404 tokens)."""


LEAST_STATIC_SHARE = 0.05
"""Below this share no command of SGLang is written: its weights and cache would have next to nothing."""


def static_gib(share: Array, memory_gib: float, tp: Array) -> Array:
    """Return what SGLang's weights and KV cache have together: a share of what is free before loading, shape (n,)."""
    import numpy as np

    return np.asarray(share * (memory_gib - np.where(tp > 1, CONTEXT_TP_GIB, CONTEXT_GIB)))


def static_reserve_gib(
    engine: Engine, model: Model, gpu: Gpu, *, tp: Array, pp: Array, tokens: Array, seqs: Array, graphs: Array
) -> Array:
    """Return what SGLang keeps free of weights and KV cache: activations, graphs, metadata (memory_hook.py); GiB, shape (n,).

    Its arithmetic is in MiB: 512, 1.5 a token of a prefill chunk (2048 at the least), 1024 for eight GPUs a replica,
    2 for each sequence of the largest decode graph, 8 for each prefill graph (1.5 GiB in all for MLA); 10 GiB at the
    least on GPUs above 60 GiB.
    """
    import numpy as np

    row = engine.batch_defaults(gpu)
    largest = np.minimum(np.where(tp >= 4, row.max_graph_size_tp4, row.max_graph_size), seqs)
    prefill = np.array([len(prefill_graphs(int(most))) for most in tokens], dtype=float)
    mib = 512 + 1.5 * np.maximum(tokens, 2048) + tp * pp / 8 * 1024
    captured = (graphs > 0) & (largest > 0)
    mib = mib + np.where(captured, 2 * largest + (1536 if model.attention == "mla" else 8 * prefill), 0.0)
    return np.asarray(np.maximum(mib, 10 * 1024 if gpu.memory_gib > 60 else 0.0) / 1024)


def static_share(
    engine: Engine,
    model: Model,
    gpu: Gpu,
    *,
    utilization: Array,
    tp: Array,
    pp: Array,
    tokens: Array,
    seqs: Array,
    graphs: Array,
) -> Array:
    """Return ``mem_fraction_static``, the share of a GPU's memory for weights and KV cache, shape (n,).

    Where ``utilization`` is NaN or 1 it is SGLang's own: all but what it keeps free. One that is stated is this share itself.
    """
    import numpy as np

    own = ~(utilization < 1.0)
    reserve = static_reserve_gib(engine, model, gpu, tp=tp, pp=pp, tokens=tokens, seqs=seqs, graphs=graphs)
    return np.asarray(np.round(np.where(own, 1.0 - reserve / gpu.memory_gib, utilization), 3))


@lru_cache(maxsize=256)
def prefill_graphs(most: int) -> list[int]:
    steps = [(4, 33, 4), (48, 257, 16), (288, 513, 32), (576, 1025, 64), (1280, 4097, 256), (4608, most + 1, 512)]
    return [size for first, last, step in steps for size in range(first, last, step) if size <= most]


def static_fraction(deployment: Deployment, engine: Engine, model: Model, gpu: Gpu) -> float:
    """Return ``mem_fraction_static`` of one resolved deployment.

    Raises:
        InputError: it leaves no room for weights.

    """
    share = own_static_share(deployment, engine, model, gpu)
    if share < LEAST_STATIC_SHARE:
        raise InputError(
            f"gpu_memory_utilization {deployment.gpu_memory_utilization:g} leaves no room for weights on {gpu.name} "
            f"beside max_num_batched_tokens {deployment.max_num_batched_tokens}; raise one or lower the other"
        )
    return share


def own_static_share(deployment: Deployment, engine: Engine, model: Model, gpu: Gpu) -> float:
    """Return ``static_share`` of one deployment in which nothing but the share is open."""
    import numpy as np

    one = {
        "tp": deployment.tp,
        "pp": deployment.pp,
        "tokens": deployment.max_num_batched_tokens,
        "seqs": deployment.max_num_seqs,
    }
    arrays = {name: np.array([float(value or 0)]) for name, value in one.items()}
    utilization = np.array([deployment.gpu_memory_utilization], dtype=float)  # NaN of None
    graphs = np.array([float(deployment.has_graphs)])
    return float(static_share(engine, model, gpu, utilization=utilization, graphs=graphs, **arrays)[0])
