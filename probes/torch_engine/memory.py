"""GPU memory of the processes of a model: whether a batch fits, agreed on together, and what takes how much.

Processes that talk to one another must run out of memory together: one that fails alone leaves the others waiting for it
in the middle of a collective. So whatever may fail is first done without talking, and then they agree.
"""

from __future__ import annotations

import gc
import math
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed

from catalog.engines.torch_layout import ProcessLayout
from catalog.units import GIB
from probes.static_benchmark import OutOfMemory
from probes.torch_engine.graphs import StepGraph
from probes.torch_engine.kv_cache import Cache, CacheMemory
from probes.torch_engine.links import Links
from probes.torch_engine.pipeline import even_parts
from probes.torch_engine.transformer import TokenStep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from probes.torch_engine.pipeline import Pipeline
    from probes.torch_engine.transformer import Transformer

T = TypeVar("T")
SIGNS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "failure 2 'out of memory'")
"""What CUDA (recording graphs), cuBLAS (handles) and NCCL (buffers) say when they run out of memory."""

HOST_SIGN = "DefaultCPUAllocator: can't allocate memory"
"""What PyTorch says when the host's memory runs out: that of the engine only where it runs on the CPU."""

UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def together(work: Callable[[], T], device: torch.device, *, alone: bool, what: str) -> T:
    """Do ``work``, in which processes do not talk, on each of them at the same time.

    Raises:
        OutOfMemory: on every process, if one of them had not enough memory; what the work took is given back.
            ``what`` says in the message what it was that did not fit.

    """
    done: T | None = None
    needed = 0.0
    try:
        done = work()
    except RuntimeError as error:
        if not ran_out(error, device):
            raise
        needed = needed_bytes(str(error), device)
    if not alone:
        most = torch.tensor(needed, dtype=torch.float64)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        needed = float(most)
    if needed:
        done = None
        if device.type == "cuda":  # a recording that was broken off may have left its own stream the current one
            torch.cuda.set_stream(torch.cuda.default_stream(device))
        give_back(device)
        needed_gib = needed / GIB if math.isfinite(needed) else None
        raise OutOfMemory(
            f"out of GPU memory: {what}" + (f", {needed_gib:.1f} GiB" if needed_gib else ""), needed_gib=needed_gib
        )
    return done  # type: ignore[return-value]  # None only where the work returns None


def ran_out(error: BaseException, device: torch.device) -> bool:
    """Return whether an error is, or hides, one of too little memory on the device: not only PyTorch's allocator runs
    out of it.
    """
    signs = SIGNS if device.type == "cuda" else (*SIGNS, HOST_SIGN)
    is_shortage = isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)
    return is_shortage or (error.__context__ is not None and ran_out(error.__context__, device))


def needed_bytes(message: str, device: torch.device) -> float:
    """Return the bytes a GPU would have in use if the allocation had not failed that ``message`` tells of; infinite if
    it does not.
    """
    request = re.search(r"allocate ([\d.]+) (bytes|KiB|MiB|GiB)", message)
    if device.type != "cuda" or not request:
        return math.inf
    free, total = torch.cuda.mem_get_info(device)
    elsewhere = total - free - torch.cuda.memory_reserved(device)
    return elsewhere + torch.cuda.memory_allocated(device) + float(request[1]) * UNITS[request[2]]


def give_back(device: torch.device) -> None:
    """Return to the GPU what nothing refers to any more."""
    gc.collect()  # frames of a failure may be in cycles
    if device.type == "cuda":
        torch.cuda.empty_cache()


class MutedLinks(Links):
    """Links that say nothing, and take the memory that others do: for work on which processes have yet to agree."""

    def __init__(self, layout: ProcessLayout) -> None:
        super().__init__(ProcessLayout(tp=1, stages=(layout.layers,), rank=0))
        self._parts = layout.tp

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return as many copies as there are parts."""
        rows, columns = tensor.shape
        parts = tensor.expand(self._parts, rows, columns).contiguous()
        return parts.transpose(0, 1).reshape(rows, self._parts * columns)


@contextmanager
def muted(transformer: Transformer) -> Iterator[None]:
    """Let the transformer compute as if it were connected, while no other process hears of it."""
    links, transformer.links = transformer.links, MutedLinks(transformer.layout)
    try:
        yield
    finally:
        transformer.links = links


def rehearse(pipeline: Pipeline, batch: int, input_len: int) -> None:
    """Take all the memory that a batch needs at once: its largest prefill micro-batch and one decode step of each of its
    groups, recorded if the pipeline's are. The cache is the pipeline's own; what was recorded is forgotten.

    Raises:
        torch.OutOfMemoryError: it is too much for this process.

    """
    with torch.inference_mode(), muted(pipeline.transformer):
        _rehearse(pipeline, pipeline.transformer, batch, input_len)


def _rehearse(pipeline: Pipeline, transformer: Transformer, batch: int, input_len: int) -> None:
    device, layout = transformer.device, transformer.layout
    pipeline.use(pipeline.memory)
    cache = pipeline.memory.divided(batch, pipeline.positions)
    groups = even_parts(batch, min(layout.pp, batch))
    rows = min(max(1, pipeline.prefill_tokens // input_len), len(groups[0]))
    step = TokenStep(positions=torch.arange(input_len, device=device), context=input_len)
    transformer.forward(_entering(transformer, rows, input_len), step, cache.rows(0, rows))
    pool = torch.cuda.graph_pool_handle() if pipeline.graphs else None
    tensors: list[Any] = []
    for group in groups:
        own = cache.rows(group.start, group.stop)
        entering = _entering(transformer, len(group), 1)
        if pipeline.graphs:
            tensors.append(StepGraph(transformer, own, entering, input_len, pool))
        else:
            step = TokenStep(positions=torch.full((1,), input_len, device=device), context=input_len + 1)
            tensors.append(transformer.forward(entering, step, own))
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _entering(transformer: Transformer, rows: int, length: int) -> torch.Tensor:
    if transformer.layout.is_first:
        return torch.zeros(rows, length, dtype=torch.int64, device=transformer.device)
    shape = (rows, length, transformer.model.hidden_size)
    return torch.zeros(shape, dtype=transformer.dtype, device=transformer.device)


def cache_memory(transformer: Transformer, tokens: int, *, layers: int | None = None) -> CacheMemory:
    """Return room for the keys and values of so many tokens, of this process's layers or of so many."""
    return CacheMemory(
        layers=len(transformer.layout.layers) if layers is None else layers,
        tokens=tokens,
        kv_heads=transformer.kv_heads,
        head_dim=transformer.model.head_dim,
        dtype=transformer.dtype,
        device=transformer.device,
    )


def prefill_bytes(transformer: Transformer, length: int, most_tokens: int) -> int:
    """Measure the bytes a prefill micro-batch of ``most_tokens`` takes on a GPU beside the weights, or one prompt of
    ``length`` tokens if it has more; with one layer's cache for all.
    """
    device, layers = transformer.device, len(transformer.layout.layers)
    rows = max(1, most_tokens // length)
    before = torch.cuda.memory_allocated(device)
    memory = cache_memory(transformer, rows * length, layers=1).divided(rows, length)
    cache = Cache(memory.tensor.expand(layers, *memory.tensor.shape[1:]))
    cache_bytes = torch.cuda.memory_allocated(device) - before
    torch.cuda.reset_peak_memory_stats(device)
    step = TokenStep(positions=torch.arange(length, device=device), context=length)
    with torch.inference_mode(), muted(transformer):
        transformer.forward(_entering(transformer, rows, length), step, cache)
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device) - before - cache_bytes)


PARTS = (
    *("total_gib", "context_gib", "requested_gib", "weights_gib", "peak_activation_gib", "non_torch_gib", "graph_gib"),
    *("kv_gib", "used_gib", "reserved_gib", "free_gib"),
)
"""Memory of one GPU by part, named as in ``probes.vllm_engine.static.MEMORY_COLUMNS`` where they mean the same.

``context_gib`` was in use before there were weights (CUDA context), ``non_torch_gib`` is what came on top of it outside
of PyTorch's allocator (NCCL, libraries' workspaces), ``requested_gib`` is ``gpu_memory_utilization`` of the total,
``peak_activation_gib`` the most that the allocator has handed out besides weights, KV and graphs, ``graph_gib`` what
belongs to recorded steps, ``reserved_gib`` all that the allocator holds, ``used_gib`` what is in use on the whole GPU."""


def memory_parts(
    device: torch.device, *, context: float, share: float, weight_bytes: int, kv_bytes: int
) -> dict[str, float]:
    """Return GiB of each of ``PARTS``, as it stands; on a CPU of weights and KV only, and 0 else.

    ``context`` is what was in use at first, bytes, and ``share`` the ``gpu_memory_utilization``.
    """
    parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    parts |= {"weights_gib": weight_bytes, "kv_gib": kv_bytes}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        pools = [pool for pool in torch.cuda.memory_snapshot() if tuple(pool.get("segment_pool_id", (0, 0))) != (0, 0)]
        graphs = sum(pool["total_size"] for pool in pools if pool.get("device", device.index) == device.index)
        peak = torch.cuda.max_memory_allocated(device)
        in_graphs = sum(pool["allocated_size"] for pool in pools)
        parts |= {
            "total_gib": total,
            "context_gib": context,
            "requested_gib": share * total,
            "peak_activation_gib": max(0, peak - weight_bytes - kv_bytes - in_graphs),
            "non_torch_gib": total - free - reserved - context,
            "graph_gib": graphs,
            "used_gib": total - free,
            "reserved_gib": reserved,
            "free_gib": free,
        }
    return {name: round(size / GIB, 6) for name, size in parts.items()}
