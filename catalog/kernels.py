"""Times of single kernels and of collectives, measured alone at the shapes that models' shards have.

Shipped as CSV; the probes write one JSON object a line, with the same names (``probes.microbench.kernel_times``,
``probes.microbench.collective_times``). A row with "error" instead of a time is passed over.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from catalog.errors import InputError
from catalog.jsonl_store import json_rows
from catalog.schema import require_positive
from catalog.tables import construct, describe, field_types

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DATA = Path(__file__).parent / "data" / "kernels"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedKernel:
    """What every time has."""

    gpu: str
    op: str
    us: float
    """Median over replays of a CUDA graph of calls, per call, microseconds; or over calls without one."""
    graph: Literal["graph", "eager"] = "graph"
    """"eager": the time to launch it may be in it."""
    spread: float | None = None
    """Relative standard deviation over the replays."""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel(TimedKernel):
    """One matrix product [m, k] x [k, n] on one GPU: "gemm"."""

    m: int
    k: int
    n: int
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTime(TimedKernel):
    """``query`` new tokens of each of ``batch`` sequences that have ``context`` in all, causal: "attention"."""

    batch: int
    query: int
    context: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    dtype: str
    fused: bool | None = None
    """A kernel written for decoding, or PyTorch's own; None where there is no choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsTime(TimedKernel):
    """``m`` tokens to ``top`` of ``experts`` each, ``n`` columns of an expert on this GPU, a model ``k`` wide; both
    products and the activation between them: "experts".
    """

    m: int
    n: int
    k: int
    experts: int
    top: int
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementTime(TimedKernel):
    """Element by element, ``m`` tokens: sum and RMSNorm, ``n`` wide, "norm"; from 2 ``n`` columns to ``n``, "swiglu"."""

    m: int
    n: int
    dtype: str
    fused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeTime(TimedKernel):
    """Queries and keys turned by their positions' angles, keys and values written to a cache: "rope"."""

    batch: int
    query: int
    context: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    fused: bool
    normed: bool
    """Queries and keys have norms, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyTime(TimedKernel):
    """``bytes`` from pinned memory to the GPU, "h2d", back, "d2h", or within it, "copy"."""

    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective(TimedKernel):
    """One of "allreduce", "allgather", "reducescatter", "alltoall" and "sendrecv" (one way) among ``group`` GPUs."""

    group: int
    bytes: int
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
    """The matrix products that come with the package."""
    return of_kind(Kernel, _shipped("gemm"))


def shipped_attention() -> tuple[AttentionTime, ...]:
    """Of vLLM, on a paged cache."""
    return of_kind(AttentionTime, _shipped("attention"))


def shipped_experts() -> tuple[ExpertsTime, ...]:
    """Of vLLM."""
    return of_kind(ExpertsTime, _shipped("experts"))


def shipped_collectives() -> tuple[Collective, ...]:
    """NCCL's and vLLM's own sums."""
    return of_kind(Collective, _shipped("collectives"))


@cache
def shipped_torch() -> tuple[TimedKernel, ...]:
    """All that was timed of the plain PyTorch engine, sums among several GPUs too."""
    return tuple(time for path in sorted(DATA.glob("*_torch-*.jsonl")) for time in read_kernels(path))


def of_kind(kind: type[K], times: Iterable[TimedKernel]) -> tuple[K, ...]:
    """Those of one kind, as in ``of_kind(Collective, read_kernels(path))``."""
    return tuple(time for time in times if isinstance(time, kind))


def read_kernels(path: str | Path) -> tuple[TimedKernel, ...]:
    """The times in a CSV file (``.csv``) or in what a probe wrote (anything else), of whatever kinds.

    Raises:
        InputError: it cannot be read; or, with the line's number, an unknown kind or column, a missing or impossible
            value.

    """
    path = Path(path)
    rows = _csv_rows(path) if path.suffix.casefold() == ".csv" else json_rows(path)
    try:
        return tuple(_timed(row, where) for where, row in rows if "error" not in row)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text") from error


@cache
def _shipped(name: str) -> tuple[TimedKernel, ...]:
    return tuple(time for path in sorted(DATA.glob(f"*_{name}.csv")) for time in read_kernels(path))


def _timed(row: Mapping[str, Any], where: str) -> TimedKernel:
    timed = construct(_kind(row, where), row, where)
    require_positive(f"{where}: us", timed.us, whole=False)
    return timed


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
            hints = field_types(_kind(cells, where))  # type: ignore[arg-type]  # mypy takes it for unhashable
            yield where, {name: _cell(name, text, hints.get(name), where) for name, text in cells.items() if text}


def _cell(name: str, text: str, hint: Any, where: str) -> Any:
    """In the type of its field; a column that is no field stays text, and is refused by name."""
    if hint not in (int, float) and hint != float | None:
        return text
    try:
        return int(text) if hint is int else float(text)
    except ValueError:
        raise InputError(f"{where}: {name} is {text!r:.40}; it must be {describe(hint)}") from None
