"""Collective cases: which collectives are timed, over how many GPUs, on how many bytes; the most telling first. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

KIB = (64, 1024, 8, 16384, 256, 65536, 2, 262144, 16, 32, 128, 512, 2048, 4096, 8192)
"""Sizes in KiB, the most telling first."""

OPS = ("allreduce", "sendrecv", "allgather", "reducescatter", "alltoall")
"""In a row's spelling; the first ones are what tensor and pipeline parallelism send."""

SUMS_GROUPS = (2, 4, 8)
SUMS_BYTES = 8 << 20
"""For how many GPUs, and up to how many bytes, the engine has sums of its own (``probes.torch_engine.symmetric_memory``)."""

EAGER_BEHIND = 6
OP_BEHIND = 3
"""Turns that a collective is behind the one before it, and all of them eagerly behind those in CUDA graphs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveCase:
    """One collective.

    allreduce       of ``bytes`` on each GPU
    allgather       of a ``group``-th of ``bytes`` of each, to ``bytes`` on each
    reducescatter   of ``bytes`` on each, to a ``group``-th of it
    alltoall        of ``bytes`` on each, a ``group``-th to every other
    sendrecv        of ``bytes`` from one GPU to another, one way
    """

    op: str
    group: int
    bytes: int
    impl: str
    """"nccl", "gloo", or "symm": the engine's own sums over GPUs that read each other's memory."""
    graph: str
    """"graph" or "eager"."""

    def row(self) -> dict[str, Any]:
        return asdict(self)


def collective_cases(world: int, impls: Sequence[str], *, graphs: bool) -> tuple[CollectiveCase, ...]:
    """List the cases of groups of 2, 4, ... of ``world`` processes, and of all of them."""
    turns: dict[CollectiveCase, int] = {}
    groups = [size for size in (2**power for power in range(1, 17)) if size < world]
    ways = (("graph", 0), ("eager", EAGER_BEHIND)) if graphs else (("eager", 0),)
    for (order, op), impl, (graph, behind) in product(enumerate(OPS), impls, ways):
        for group, (turn, kib) in product([2] if op == "sendrecv" else [*groups, world], enumerate(KIB)):
            case = CollectiveCase(op=op, group=group, bytes=1024 * kib, impl=impl, graph=graph)
            if impl != "symm" or (op == "allreduce" and group in SUMS_GROUPS and case.bytes <= SUMS_BYTES):
                turns[case] = turn + OP_BEHIND * order + behind
    return tuple(sorted(turns, key=turns.__getitem__))
