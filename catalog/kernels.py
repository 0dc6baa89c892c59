"""Times of single kernels and of collectives, measured alone at the shapes that models' shards have.

Shipped as CSV; the probes write one JSON object a line, with the same names (``probes.microbench.kernel_times``,
``probes.microbench.collective_times``). A row with "error" instead of a time is passed over. A table with a column ``time_us`` is one of
those that others publish (``catalog.published_kernels``).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from annotated_types import Interval

from catalog.borders import checked, checked_text
from catalog.engines.registry import all_engines
from catalog.errors import InputError
from catalog.jsonl_store import json_rows
from catalog.published_kernels import MODULES, PUBLISHED_TIME, WITH_PHASE, of_published

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DATA = Path(__file__).parent / "data" / "kernels"
Size = Annotated[int, Interval(ge=1, le=10**15)]
"""Rows, columns, heads, GPUs or bytes."""
Format = Literal["float32", "bfloat16", "float16", "fp8", "int8", "int4", "mxfp4", "nvfp4"]
"""Of numbers: a key of ``catalog.schema.BITS``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedKernel:
    """What every time has."""

    gpu: str
    op: str
    us: Annotated[float, Interval(gt=0, le=1e12)]
    """Median over replays of a CUDA graph of calls, per call, microseconds; or over calls without one."""
    graph: Literal["graph", "eager", "unknown"] = "graph"
    """"eager": the time to launch it may be in it."""
    spread: Annotated[float, Interval(ge=0, le=1e12)] | None = None
    """Relative standard deviation over the replays."""
    fingerprint: str = ""
    engine: str = ""
    """Whose kernel it is; empty: of PyTorch's or of the engines' that this project timed."""
    engine_version: str = ""
    kernel: str = ""
    """Its name in the engine."""
    cache: Literal["", "cold", "warm"] = ""
    """"warm": what replays read again fits into the level 2 cache, so that it may not come from memory; empty: it was kept from that."""
    source: str = ""
    """Whose time it is, where it is not this project's, and under what licence."""
    licence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel(TimedKernel):
    """One matrix product [m, k] x [k, n] on one GPU: "gemm"."""

    m: Size
    k: Size
    n: Size
    dtype: Format
    """Of the weights."""
    block_scales: bool = False
    """A square block of the weights has one scale."""
    converts: bool = False
    """A kernel that brings the input into 8 or 4 bits is in the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTime(TimedKernel):
    """``query`` new tokens of each of ``batch`` sequences that have ``context`` in all, causal: "attention"."""

    batch: Size
    query: Size
    context: Size
    heads: Size
    kv_heads: Size
    head_dim: Size = 128
    dtype: Format
    kv_dtype: Format = "bfloat16"
    window: Annotated[int, Interval(ge=0, le=10**9)] = 0
    """Tokens that one attends to at the most; 0: all."""
    fused: bool | None = None
    """A kernel written for decoding, or PyTorch's own; None where there is no choice."""
    caches: bool = False
    """A kernel that writes the new keys and values into the cache is in the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttentionTime(TimedKernel):
    """The same of multi-head latent attention, without its projections: "mla". ``heads`` are those on this GPU."""

    batch: Size
    query: Size
    context: Size
    heads: Size
    dtype: Format
    kv_dtype: Format = "bfloat16"
    kv_rank: Size = 512
    """Width of the vector that is cached a token (DeepSeek-V2 and V3), ..."""
    rope_dim: Size = 64
    """...beside so many numbers that are turned by positions."""
    nope_dim: Size = 128
    value_dim: Size = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionModuleTime(TimedKernel):
    """Attention of one layer of ``model`` with its projections: latent attention, "mla_module", and attention that an indexer makes
    sparse, "dsa_module" and "msa_module". ``heads`` are those on this GPU.
    """

    model: str
    batch: Size
    query: Size
    context: Size
    heads: Size
    dtype: Format
    block_scales: bool = False
    kv_dtype: Format = "bfloat16"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsTime(TimedKernel):
    """``m`` tokens to ``top`` of ``experts`` each, ``n`` columns of an expert on this GPU, a model ``k`` wide; both
    products and the activation between them: "experts". Of all experts a GPU has one in ``ep``.
    """

    m: Size
    """Tokens of this GPU, or of all ``ep`` where they share experts."""
    n: Size
    k: Size
    experts: Size
    top: Size
    tp: Size = 1
    """Over how many GPUs experts are sliced: ``n`` says it, too."""
    ep: Size = 1
    dtype: Format
    block_scales: bool = False
    gated: bool = True
    """Gate, up and down projections rather than up and down alone."""
    routing: Literal["uniform", "balanced", "power_law", "given"] = "uniform"
    """How tokens choose: drawn evenly; dealt out; loads of experts with a density like x^-``exponent``; or as ``touched`` says."""
    exponent: Annotated[float, Interval(ge=0, le=10)] = 1.0
    touched: Annotated[float, Interval(gt=0, le=10**6)] | None = None
    """Experts, on all GPUs together, that get a token, where routing is "given"."""
    busiest: Annotated[float, Interval(ge=1, le=10**6)] = 1.0
    """Load of this GPU over the mean, where routing is "given"."""
    sorts: bool = False
    """Top-k, the sort by expert and the sum are in the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementTime(TimedKernel):
    """Element by element, ``m`` tokens: sum and RMSNorm, ``n`` wide, "norm"; from 2 ``n`` columns to ``n``, "swiglu"."""

    m: Size
    n: Size
    dtype: Format
    fused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeTime(TimedKernel):
    """Queries and keys turned by their positions' angles, keys and values written to a cache: "rope"."""

    batch: Size
    query: Size
    context: Size
    heads: Size
    kv_heads: Size
    head_dim: Size
    dtype: Format
    fused: bool
    normed: bool
    """Queries and keys have norms, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyTime(TimedKernel):
    """``bytes`` from pinned memory to the GPU, "h2d", back, "d2h", or within it, "copy"."""

    bytes: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective(TimedKernel):
    """One of "allreduce", "allgather", "reducescatter", "alltoall" and "sendrecv" (one way) among ``group`` GPUs."""

    group: Size
    bytes: Size
    """The whole buffer: the larger one of what goes in and what comes out on one GPU."""
    impl: str
    """"nccl", "gloo", "symm" (PyTorch's symmetric memory), or an engine's own: "vllm-custom", "sglang-custom", "tensorrt-llm-custom"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTime(TimedKernel):
    """A kernel that the model of time has within another operator, which is read and predicted by nothing: steps of linear attention
    ("gdn", "kda", "mamba2"), the exchange of tokens among GPUs with experts ("expert_exchange"), a tensor to 8 bits ("quantise").
    """

    model: str = ""
    dtype: str = ""
    m: Size | None = None
    k: Size | None = None
    n: Size | None = None
    batch: Size | None = None
    query: Size | None = None
    context: Size | None = None
    heads: Size | None = None
    head_dim: Size | None = None
    experts: Size | None = None
    top: Size | None = None
    ep: Size | None = None
    group: Size | None = None
    bytes: Size | None = None
    impl: str = ""
    phase: str = ""


PARTS = (*WITH_PHASE, "quantise")
KINDS: dict[str, type[TimedKernel]] = {
    "gemm": Kernel,
    "attention": AttentionTime,
    "mla": LatentAttentionTime,
    **dict.fromkeys(MODULES, AttentionModuleTime),
    "experts": ExpertsTime,
    "norm": ElementTime,
    "swiglu": ElementTime,
    "rope": RopeTime,
    **dict.fromkeys(("h2d", "d2h", "copy"), CopyTime),
    **dict.fromkeys(("allreduce", "allgather", "reducescatter", "alltoall", "sendrecv"), Collective),
    **dict.fromkeys(PARTS, PartTime),
}

K = TypeVar("K", bound=TimedKernel)


def shipped_kernels() -> tuple[Kernel, ...]:
    """Return the matrix products that come with the package."""
    return of_kind(Kernel, _shipped("gemm"))


def shipped_attention() -> tuple[AttentionTime, ...]:
    """Return the times of vLLM's attention, on a paged cache."""
    return of_kind(AttentionTime, _shipped("attention"))


def shipped_experts() -> tuple[ExpertsTime, ...]:
    """Return the times of vLLM's kernels of experts."""
    return of_kind(ExpertsTime, _shipped("experts"))


def shipped_collectives() -> tuple[Collective, ...]:
    """Return NCCL's and vLLM's own sums."""
    return of_kind(Collective, _shipped("collectives"))


@cache
def shipped_torch() -> tuple[TimedKernel, ...]:
    """Return all that was timed of the plain PyTorch engine, sums among several GPUs too."""
    return tuple(time for path in sorted(DATA.glob("*_torch-*.jsonl")) for time in read_kernels(path))


def of_kind(kind: type[K], times: Iterable[TimedKernel]) -> tuple[K, ...]:
    """Return those of one kind, as in ``of_kind(Collective, read_kernels(path))``."""
    return tuple(time for time in times if isinstance(time, kind))


def read_kernels(path: str | Path) -> tuple[TimedKernel, ...]:
    """Return the times in a CSV file (``.csv``) or in what a probe wrote (anything else), of whatever kinds.

    Raises:
        InputError: it cannot be read; or, with the line's number, an unknown kind or column, a missing or impossible
            value.

    """
    path = Path(path)
    of_cells = path.suffix.casefold() == ".csv"
    rows, read = (_csv_rows(path), checked_text) if of_cells else (json_rows(path), checked)
    try:
        return tuple(
            _consistent(read(_kind(row, where), row, where), where) for where, row in rows if "error" not in row
        )
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text") from error


@cache
def _shipped(name: str) -> tuple[TimedKernel, ...]:
    return tuple(time for path in sorted(DATA.glob(f"*_{name}.csv")) for time in read_kernels(path))


def _kind(row: Mapping[str, Any], where: str) -> type[TimedKernel]:
    op = row.get("op")
    if not isinstance(op, str) or op not in KINDS:
        raise InputError(f"{where}: op is {op!r:.40}; it must be one of {', '.join(KINDS)}")
    return KINDS[op]


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        for cells in reader:
            where = f"{path} line {reader.line_num}"
            if None in cells or None in cells.values():
                raise InputError(f"{where} has not as many cells as its header")
            row = {name: text for name, text in cells.items() if text}
            yield where, of_published(row, where) if PUBLISHED_TIME in cells else row


def _consistent(time: K, where: str) -> K:
    """Return a time whose numbers can be together.

    Raises:
        InputError: naming the columns that cannot.

    """
    known = (*(engine.name for engine in all_engines()), "")
    if time.engine not in known:
        raise InputError(f"{where}: engine is {time.engine!r:.40}; it must be one of {', '.join(known[:-1])}")
    match time:
        case AttentionTime() | LatentAttentionTime() | AttentionModuleTime() if time.query > time.context:
            problem = f"query is {time.query}, more than context, {time.context}, which counts the new tokens"
        case AttentionTime() if time.heads % time.kv_heads:
            problem = f"heads is {time.heads}, which is no multiple of kv_heads, {time.kv_heads}"
        case ExpertsTime() if time.top > time.experts:
            problem = f"top is {time.top}, more than experts, {time.experts}"
        case ExpertsTime() if time.experts % time.ep:
            problem = f"experts is {time.experts}, which is no multiple of ep, {time.ep}"
        case ExpertsTime() if time.routing == "given" and time.touched is None:
            problem = "touched is missing, which routing 'given' asks for"
        case ExpertsTime() if time.touched is not None and time.touched > min(time.experts, time.m * time.top):
            problem = f"touched is {time.touched}, more than experts, {time.experts}, or than m tokens choose, {time.m * time.top}"
        case Collective() if time.group < 2:
            problem = f"group is {time.group}; it must be at least 2 GPUs"
        case _:
            return time
    raise InputError(f"{where}: {problem}")
