"""Collectives to be timed, in one of the processes that make them together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from probes.microbench.timing import time_together
from probes.torch_engine.links import gather

if TYPE_CHECKING:
    from collections.abc import Callable

    from probes.microbench.collective_cases import CollectiveCase
    from probes.microbench.timing import Timing

SMALL_BYTES = 8 << 20
SMALL_CALLS, LARGE_CALLS = 20, 5
"""Calls in a row, of up to and above ``SMALL_BYTES``."""

REPEATS = 7
CPU_CALLS = CPU_REPEATS = 3


class UnavailableError(RuntimeError):
    """These processes cannot have an implementation; the message says why."""


class Groups:
    """The groups of the first processes of a world, made when they are first needed, by all processes at once."""

    def __init__(self, rank: int, device: torch.device) -> None:
        """Set up the groups; ``torch.distributed`` must be initialised."""
        self.rank, self.device = rank, device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._groups: dict[int, Any] = {}
        self._sums: dict[int, Any] = {}

    def time(self, case: CollectiveCase) -> Timing | None:
        """Time the case; None in a process that has no part in it.

        Every process must be asked at the same time.

        Raises:
            UnavailableError: on every process that has a part, if the case's implementation cannot be had.
            RuntimeError: whatever goes wrong.

        """
        if case.group not in self._groups:
            self._groups[case.group] = distributed.new_group(list(range(case.group)))
        if self.rank >= case.group:
            return None
        cuda = self.device.type == "cuda"
        calls = (SMALL_CALLS if case.bytes <= SMALL_BYTES else LARGE_CALLS) if cuda else CPU_CALLS
        call = self._call(case)
        return time_together(
            lambda _: call(), calls, self.device, graph=case.graph == "graph", repeats=REPEATS if cuda else CPU_REPEATS
        )

    def _call(self, case: CollectiveCase) -> Callable[[], object]:
        group, size = self._groups[case.group], case.group
        whole = torch.zeros(case.bytes // self.dtype.itemsize, dtype=self.dtype, device=self.device)
        part = torch.zeros(whole.numel() // size, dtype=self.dtype, device=self.device)
        divided = whole[: part.numel() * size]  # a group of three leaves something over
        if case.impl == "symm":
            return self._sum(whole, size)
        if case.op == "allreduce":
            return lambda: distributed.all_reduce(whole, group=group)
        if case.op == "allgather":
            return lambda: gather(divided, part, group=group)
        if case.op == "reducescatter":
            # torch 2.13 gave the function another name, and warns of the old one
            scatter = getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor
            return lambda: scatter(part, divided, group=group)
        if case.op == "alltoall":
            other = torch.zeros_like(divided)
            return lambda: distributed.all_to_all_single(other, divided, group=group)
        assert case.op == "sendrecv"
        return self._hop(whole, group)

    def _hop(self, tensor: torch.Tensor, group: Any) -> Callable[[], object]:
        """Return calls that go there or back in turn: each is one way, and each process waits for the one before."""
        peer, way = 1 - self.rank, self.rank

        def hop() -> None:
            nonlocal way
            (distributed.recv if way else distributed.send)(tensor, peer, group=group)
            way = 1 - way

        return hop

    def _sum(self, tensor: torch.Tensor, size: int) -> Callable[[], object]:
        from probes.torch_engine.symmetric_memory import symmetric_sums  # for one implementation of several

        if size not in self._sums:
            self._sums[size] = symmetric_sums(self._groups[size], self.dtype, self.device)
        sums = self._sums[size]
        if sums is None:
            raise UnavailableError("these GPUs cannot read each other's memory")
        if not sums.takes(tensor):
            raise UnavailableError("too large for sums in the others' memory")
        return lambda: sums.sum(tensor)
