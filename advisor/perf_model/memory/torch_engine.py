"""GPU memory of the plain PyTorch engine (``probes.torch_engine.engine``).

KV is one tensor: what ``gpu_memory_utilization`` of the GPU leaves beside weights, gaps between them, the longest prompt
and what lies outside PyTorch's allocator, but no more than ``max_num_seqs`` sequences of ``max_model_len`` tokens; the
fullest GPU decides. What comes later (recorded steps, further cuBLAS workspaces, activations under way between stages)
must find room in the share that is left free. Weights are random ones: a checkpoint's leave fewer gaps.

The few sizes that are no arithmetic were measured on H200s with Llama-2-7B and Llama-3.1-8B (driver 580, CUDA 13.0,
PyTorch 2.11; ``catalog/data/memory/torch-2.11.0_h200.csv``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES
from advisor.perf_model.memory.caching_allocator import SMALL_SEGMENT, OutOfDeviceMemoryError
from advisor.perf_model.memory.parts import Memory
from advisor.perf_model.memory.torch_allocations import Stage, loaded, run, stages
from catalog.engines import find_engine
from catalog.units import GIB, MIB
from probes.torch_engine.model_settings import MODEL_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from catalog.schema import Cluster, Deployment, Gpu, Model

CONTEXT_GIB = 0.5145
"""CUDA's context."""
OUTSIDE_GIB = {"alone": 0.163, "tp": 1.051, "pp": 0.221, "both": 1.109}
"""Outside the allocator when KV is sized: kernels' code; NCCL's and the symmetric memory's buffers of a tensor-parallel
group; connections between stages are made later. "both" is their sum."""
RUNNING_GIB = {"alone": 0.232, "tp": 0.998, "pp": 1.333, "both": 1.816}
"""The same once batches have run."""
AHEAD = 4
"""Activations that a stage has sent and the next one not taken (``probes.torch_engine.links``)."""
STREAMS = 32
"""Streams that PyTorch gives out, in turn (c10/cuda/CUDAStream.cpp)."""
STEP = 16
"""The largest batch is looked for to one part in so many (``probes.oom_search``)."""
AGREEMENT = 8
"""Sequences whose logits are compared with the reference's before anything is timed (``probes.reference``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Memory in use on the fullest GPU while a batch runs, GiB."""

    activations_gib: float
    """Most that the allocator has handed out besides weights, KV and recorded steps."""
    graphs_gib: float
    """Of recorded steps."""
    total_gib: float


MOST_WALKED = 128
"""Layers of a stage whose every tensor is placed; the deepest model of the catalog has 126."""


def is_run(model: Model) -> bool:
    """Return whether the plain PyTorch engine runs a model (``probes.torch_engine.model_settings.check_runs``)."""
    some_windows = 0 < model.num_windowed_layers < model.num_hidden_layers
    return model.model_type in MODEL_TYPES and not model.quantization and not some_windows


def workspace_bytes(gpu: Gpu) -> int:
    """Return what cuBLAS has for each stream (aten/src/ATen/cuda/CublasHandlePool.cpp): 32 MiB on Hopper and
    data-centre Blackwell, else 8 MiB and 128 KiB.
    """
    return 32 * MIB if gpu.compute_capability in {"9.0", "10.0", "10.3"} else 8 * MIB + (MIB >> 3)


def spread(tp: float, pp: float) -> str:
    """Return the key of ``OUTSIDE_GIB``."""
    if pp > 1:
        return "both" if tp > 1 else "pp"
    return "tp" if tp > 1 else "alone"


def stages_of(model: Model, gpu: Gpu, *, tp: int, pp: int, **rest: float) -> tuple[Stage, ...]:
    """Return the parts of a replica's first tensor-parallel rank, one a stage; ``rest`` as the fields of ``Stage``."""
    split = stages(model, tp, pp)
    return tuple(
        Stage(
            model=model,
            tp=tp,
            layers=layers,
            is_first=number == 0,
            is_last=number == pp - 1,
            workspace=workspace_bytes(gpu),
            itemsize=int(rest["itemsize"]),
            offload=float(rest["offload"]),
            positions=int(rest["positions"]),
            compiled=bool(rest["compiled"]),
        )
        for number, layers in enumerate(split)
    )


@lru_cache(maxsize=4096)
def _gaps(stage: Stage) -> int:
    """Return bytes that the allocator holds after loading beyond the weights.

    Layers are alike, and so is what each leaves: of a stage with more than anybody has built, the first are walked through.
    """
    if (like := stage.from_the_start) != stage:
        return _gaps(like)
    more = len(stage.layers) - MOST_WALKED
    if more <= 0:
        return loaded(stage).reserved - stage.weight_bytes()
    few, many = (replace(stage, layers=stage.layers[:count]) for count in (MOST_WALKED // 2, MOST_WALKED))
    gap = (_gaps(many) - _gaps(few)) / (MOST_WALKED - MOST_WALKED // 2)
    return _gaps(many) + round(more * gap)


def torch_memory(model: Model, cluster: Cluster, layout: DeploymentArrays) -> Memory:
    """Return ``advisor.perf_model.memory.dispatch.memory`` for the engine "torch" and a model that it runs."""
    device, gpu = cluster.gpu.memory_gib, cluster.gpu
    columns = ("tp", "pp", "weight_bytes", "offload", "max_model_len", "compiled", "max_num_batched_tokens")
    table = np.stack([getattr(layout, name) for name in columns], axis=1)
    table = np.column_stack([table, layout.kv_bytes, layout.memory_share(find_engine("torch"))])
    unique, which = np.unique(table, axis=0, return_inverse=True)
    fullest = np.array([_fullest(model, gpu, *map(float, row)) for row in unique])[which.reshape(-1)]
    weights, activations, outside, kv, per_token, body = fullest.T
    most = layout.max_num_seqs * layout.max_model_len
    tokens = np.minimum(np.floor(np.maximum(kv, 0.0) * GIB / per_token), most)
    slack = kv
    kv = np.minimum(np.maximum(kv, 0.0), tokens * per_token / GIB)
    return Memory(
        weights_gib=weights,
        activations_gib=activations,
        engine_gib=outside,
        kv_gib=kv,
        slack_gib=slack,
        reserved_gib=np.maximum(device - weights - activations - outside - kv, 0.0),
        kv_bytes_per_token=per_token,
        kv_capacity_tokens=tokens,
        kv_blocks=tokens,
        block_tokens=np.ones_like(tokens),
        window_chunks=np.ones_like(tokens),
        layer_weight_bytes=body,
        fits=tokens >= 2.0,  # a prompt of one token, and the one after it
    )


def _fullest(
    model: Model,
    gpu: Gpu,
    tp: float,
    pp: float,
    weight: float,
    offload: float,
    positions: float,
    compiled: float,
    batched: float,
    kv_bytes: float,
    share: float,
) -> tuple[float, ...]:
    """Account for the stage that holds the fewest tokens: weights, activations, outside, KV (GiB), bytes a token; then the bytes
    of the layers of the stage that has most, offloaded ones included.
    """
    rest = {"offload": offload, "positions": positions, "compiled": compiled}
    itemsize = 4 if weight > ACTIVATION_BYTES else int(ACTIVATION_BYTES)
    worst: tuple[float, ...] = ()
    body, least = 0.0, np.inf
    for stage in stages_of(model, gpu, tp=int(tp), pp=int(pp), itemsize=itemsize, **rest):
        tokens = int(max(1.0, batched // positions) * positions)
        weights = stage.weight_bytes() * weight / itemsize / GIB
        activations = (stage.pass_bytes(tokens) + stage.workspace) / GIB
        outside = CONTEXT_GIB + OUTSIDE_GIB[spread(tp, pp)] + _gaps(stage) / GIB
        kv = share * gpu.memory_gib - weights - activations - outside
        per_token = stage.token_bytes * kv_bytes / itemsize
        body = max(body, sum(stage.sizes().values()) * weight / itemsize)
        if kv / per_token < least:
            least, worst = kv / per_token, (weights, activations, outside, kv, per_token)
    return (*worst, body)


def streams_used(deployment: Deployment, shapes: Iterable[tuple[int, int]], *, agreement: bool = True) -> list[int]:
    """Count the streams on which decode steps have been recorded, each with a cuBLAS workspace that stays, once each of the
    ``shapes``, (batch, input_len), that one engine runs in turn has been prepared (``TorchEngine.prepare``).

    A step is recorded when another batch's was last; on several GPUs also to try a batch's memory.
    """
    if not deployment.has_graphs:
        return [0 for _ in shapes]
    alone, pp = deployment.tp * deployment.pp == 1, deployment.pp
    count = min(pp, AGREEMENT) if agreement else 0
    recorded = AGREEMENT if agreement else 0
    tried: list[tuple[int, int]] = []
    streams = []
    for batch, length in shapes:
        groups = min(pp, batch)
        if not alone and not any(batch <= more and length <= longer for more, longer in tried):
            count, recorded = count + groups, 0
            tried.append((batch, length))
        if batch != recorded:
            count, recorded = count + groups, batch
        streams.append(min(count, STREAMS))
    return streams


def memory_use(
    model: Model,
    gpu: Gpu,
    deployment: Deployment,
    batch: int,
    input_len: int,
    *,
    kv_tokens: int,
    streams: int,
    limit_gib: float = float("inf"),
) -> list[MemoryUse]:
    """Return memory of each stage's GPU while ``batch`` prompts of ``input_len`` tokens run in a resolved deployment.

    ``streams`` as ``streams_used`` counts them.

    Raises:
        OutOfDeviceMemoryError: a GPU of ``limit_gib`` has not so much.

    """
    assert deployment.max_model_len
    assert deployment.max_num_batched_tokens
    pp, kind = deployment.pp, spread(deployment.tp, deployment.pp)
    groups = min(pp, batch)
    group = -(-batch // groups)
    rows = min(max(1, deployment.max_num_batched_tokens // input_len), group)
    longer = batch % groups
    passes = longer * -(-group // rows) + (groups - longer) * -(-(batch // groups) // rows)
    itemsize = 4 if deployment.dtype == "float32" else int(ACTIVATION_BYTES)
    uses = []
    for stage in stages_of(
        model,
        gpu,
        tp=deployment.tp,
        pp=pp,
        itemsize=itemsize,
        offload=deployment.offload,
        positions=deployment.max_model_len,
        compiled=deployment.compiled,
    ):
        tokens = rows * input_len
        graphs = _graph_bytes(stage, group) * groups + stage.workspace if deployment.has_graphs else 0
        allocator = loaded(stage).copy()
        allocator.limit = (limit_gib - CONTEXT_GIB - RUNNING_GIB[kind]) * GIB - graphs
        allocator.take(kv_tokens * stage.token_bytes)
        sent = min(AHEAD, max(0, passes - 1)) if not stage.is_last else 0
        state = tokens * model.hidden_size * itemsize
        for _ in range(sent):
            allocator.take(state)
        run(allocator, stage, tokens, workspaces=streams)
        tables = stage.positions * model.head_dim * itemsize
        # the logits of the micro-batch before are let go only when the next ones are there
        logits = rows * model.vocab_size * itemsize * (stage.is_last and group > rows)
        allocator.take(logits)
        activations = stage.pass_bytes(tokens) + tables + sent * state + logits + (1 + streams) * stage.workspace
        total = CONTEXT_GIB + RUNNING_GIB[kind] + (allocator.reserved + graphs) / GIB
        uses.append(MemoryUse(activations_gib=activations / GIB, graphs_gib=graphs / GIB, total_gib=total))
    return uses


def _graph_bytes(stage: Stage, rows: int) -> int:
    """Return the bytes of one recorded step: a small segment, and logits on the last stage (own ones, all processes', put in order)."""
    if not stage.is_last:
        return SMALL_SEGMENT
    logits = rows * stage.model.vocab_size * stage.itemsize
    copies = [logits // stage.tp, logits, logits] if stage.tp > 1 else [logits]
    return SMALL_SEGMENT + sum(size for size in copies if size > MIB)


def largest_batch(model: Model, gpu: Gpu, deployment: Deployment, input_len: int, output_len: int) -> int:
    """Return the largest batch that runs with all of a GPU's memory, KV for just its tokens (``TorchEngine.take``); 0
    if none does. Of a resolved deployment.
    """

    def runs(batch: int) -> bool:
        streams = streams_used(deployment, [(batch, input_len)], agreement=False)[0]
        try:
            memory_use(
                model,
                gpu,
                deployment,
                batch,
                input_len,
                kv_tokens=batch * (input_len + output_len),
                streams=streams,
                limit_gib=gpu.memory_gib,
            )
        except OutOfDeviceMemoryError:
            return False
        return True

    ran, failed = 0, 1
    while runs(failed):
        ran, failed = failed, 2 * failed
    while failed - ran > 1:
        middle = (ran + failed) // 2
        ran, failed = (middle, failed) if runs(middle) else (ran, middle)
    return ran
