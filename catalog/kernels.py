"""Times of single kernels and of collectives, measured alone at the shapes that models' shards have.

Shipped as CSV; the probes write one JSON object a line, with the same names (``probes.microbench.kernel_times``,
``probes.microbench.collective_times``). A row with "error" instead of a time is passed over.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from annotated_types import Interval

from catalog.borders import checked, checked_text
from catalog.errors import InputError
from catalog.jsonl_store import json_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DATA = Path(__file__).parent / "data" / "kernels"
Size = Annotated[int, Interval(ge=1, le=10**15)]
"""Rows, columns, heads, GPUs or bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedKernel:
    """What every time has."""

    gpu: str
    op: str
    us: Annotated[float, Interval(gt=0, le=1e12)]
    """Median over replays of a CUDA graph of calls, per call, microseconds; or over calls without one."""
    graph: Literal["graph", "eager"] = "graph"
    """"eager": the time to launch it may be in it."""
    spread: Annotated[float, Interval(ge=0, le=1e12)] | None = None
    """Relative standard deviation over the replays."""
    fingerprint: str = ""
    source: str = ""
    """Whose time it is, where it is not this project's, and under what licence."""
    licence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel(TimedKernel):
    """One matrix product [m, k] x [k, n] on one GPU: "gemm"."""

    m: Size
    k: Size
    n: Size
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTime(TimedKernel):
    """``query`` new tokens of each of ``batch`` sequences that have ``context`` in all, causal: "attention"."""

    batch: Size
    query: Size
    context: Size
    heads: Size
    kv_heads: Size
    head_dim: Size = 128
    dtype: str
    fused: bool | None = None
    """A kernel written for decoding, or PyTorch's own; None where there is no choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsTime(TimedKernel):
    """``m`` tokens to ``top`` of ``experts`` each, ``n`` columns of an expert on this GPU, a model ``k`` wide; both
    products and the activation between them: "experts".
    """

    m: Size
    n: Size
    k: Size
    experts: Size
    top: Size
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementTime(TimedKernel):
    """Element by element, ``m`` tokens: sum and RMSNorm, ``n`` wide, "norm"; from 2 ``n`` columns to ``n``, "swiglu"."""

    m: Size
    n: Size
    dtype: str
    fused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeTime(TimedKernel):
    """Queries and keys turned by their positions' angles, keys and values written to a cache: "rope"."""

    batch: Size
    query: Size
    context: Size
    heads: Size
    kv_heads: Size
    head_dim: int
    dtype: str
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
    """"nccl", "gloo", "symm" (PyTorch's symmetric memory) or "vllm-custom"."""


KINDS: dict[str, type[TimedKernel]] = {
    "gemm": Kernel,
    "attention": AttentionTime,
    "experts": ExpertsTime,
    "norm": ElementTime,
    "swiglu": ElementTime,
    "rope": RopeTime,
    **dict.fromkeys(("h2d", "d2h", "copy"), CopyTime),
    **dict.fromkeys(("allreduce", "allgather", "reducescatter", "alltoall", "sendrecv"), Collective),
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
        return tuple(read(_kind(row, where), row, where) for where, row in rows if "error" not in row)
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
            yield where, {name: text for name, text in cells.items() if text}
