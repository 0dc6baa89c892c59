"""What processes of a model say to each other: collectives within a stage, messages between stages, every byte counted."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import distributed

from probes.torch_engine.symmetric_memory import symmetric_sums

if TYPE_CHECKING:
    from catalog.engines.torch_layout import ProcessLayout

Way = Literal["forward", "back"]
AHEAD = 4
"""Activations that a stage may have sent and the next one not yet taken; more would only fill memory."""


def gather(parts: torch.Tensor, own: torch.Tensor, group: Any = None) -> None:
    """Fill ``parts`` with every process's ``own``, below one another."""
    # torch 2.13 gave the function another name, and warns of the old one
    function = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    function(parts, own, group=group)


class LinkTraffic:
    """Calls and payload bytes of one process, by operation: "all_reduce", "one_shot", "all_gather", "forward", "back";
    and "host", copies from the host's memory, which are not sent to anybody.

    The payload is what the process hands in: its whole tensor for an all-reduce (in one shot or not), its own part for an
    all-gather, the message for a send.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.payload: Counter[str] = Counter()

    def count(self, operation: str, tensor: torch.Tensor) -> None:
        self.calls[operation] += 1
        self.payload[operation] += tensor.numel() * tensor.element_size()

    def copy(self) -> LinkTraffic:
        copied = LinkTraffic()
        copied.add(self)
        return copied

    def add(self, other: LinkTraffic) -> None:
        self.calls.update(other.calls)
        self.payload.update(other.payload)

    def restore(self, earlier: LinkTraffic) -> None:
        """Forget what was counted after ``earlier``, a copy made then."""
        self.calls, self.payload = Counter(earlier.calls), Counter(earlier.payload)

    def since(self, earlier: LinkTraffic) -> LinkTraffic:
        """Return what was counted after ``earlier``, a copy made then."""
        passed = LinkTraffic()
        passed.calls = self.calls - earlier.calls
        passed.payload = self.payload - earlier.payload
        return passed

    def sent_bytes(self, tp: int) -> float:
        """Return bytes that leave this process if collectives go round a ring, the least there can be (Patarasuk and
        Yuan, 2009): 2 (n - 1) / n of an all-reduce, n - 1 times its part of an all-gather; and as often all of it where
        every other process reads it in one shot.
        """
        ring = 2 * (tp - 1) / tp * self.payload["all_reduce"]
        whole = (tp - 1) * (self.payload["all_gather"] + self.payload["one_shot"])
        return ring + whole + self.payload["forward"] + self.payload["back"]


class Links:
    """The connections of one process in a layout; with one process, nothing is sent and nothing counted.

    ``torch.distributed`` must be initialised if there are more, and every process must make its links at the same time.
    """

    def __init__(
        self, layout: ProcessLayout, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        """Set up the links; sums of small tensors of ``dtype`` take a short way between GPUs, if ``device`` is one."""
        self.layout = layout
        self.traffic = LinkTraffic()
        self._stage: Any = None
        self._chains: dict[Way, Any] = {}
        self._unfinished: dict[Way, deque[tuple[Any, torch.Tensor]]] = {"forward": deque(), "back": deque()}
        tp, pp = layout.tp, layout.pp
        # every process takes part in the making of every group, in the same order
        for stage in range(pp if tp > 1 else 0):
            group = distributed.new_group(list(range(stage * tp, (stage + 1) * tp)))
            if stage == layout.stage:
                self._stage = group
        # once all processes have all groups, since what follows waits for the others of the stage
        device = torch.device(device)
        self._sums = symmetric_sums(self._stage, dtype, device) if self._stage and device.type == "cuda" else None
        for tp_rank in range(tp if pp > 1 else 0):
            # tokens go back on connections of their own: on the same ones they would wait for activations under way
            for way in ("forward", "back"):
                group = distributed.new_group([stage * tp + tp_rank for stage in range(pp)])
                if tp_rank == layout.tp_rank:
                    self._chains[way] = group  # type: ignore[index]  # the literals above

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over the stage's processes; ``tensor`` itself may come to hold it."""
        if self._stage is None:
            return tensor
        if self._sums is None or not self._sums.takes(tensor):
            self.traffic.count("all_reduce", tensor)
            distributed.all_reduce(tensor, group=self._stage)
            return tensor
        self.traffic.count("one_shot" if self._sums.in_one_shot(tensor) else "all_reduce", tensor)
        return self._sums.sum(tensor)

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the parts of all the stage's processes, side by side in the last of two dimensions."""
        if self._stage is None:
            return tensor
        self.traffic.count("all_gather", tensor)
        rows, columns = tensor.shape
        parts = tensor.new_empty(self.layout.tp * rows, columns)
        gather(parts, tensor.contiguous(), group=self._stage)
        return parts.view(self.layout.tp, rows, columns).transpose(0, 1).reshape(rows, self.layout.tp * columns)

    def send(self, tensor: torch.Tensor, way: Way) -> None:
        """Hand a tensor to the next stage, or from the last one back to the first, without waiting for it to be taken."""
        tensor = tensor.contiguous()
        self.traffic.count(way, tensor)
        peer = (self.layout.stage + 1) % self.layout.pp * self.layout.tp + self.layout.tp_rank
        work = distributed.isend(tensor, peer, group=self._chains[way])
        sent = self._unfinished[way]
        sent.append((work, tensor))  # it must live until it has left
        # a stage never waits for room on the way back, so the next one is always able to take
        while way == "forward" and len(sent) > AHEAD:
            sent.popleft()[0].wait()

    def receive(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, way: Way) -> torch.Tensor:
        """Receive the next tensor from the stage before, or on the first one from the last."""
        tensor = torch.empty(shape, dtype=dtype, device=device)
        peer = (self.layout.stage - 1) % self.layout.pp * self.layout.tp + self.layout.tp_rank
        work = distributed.irecv(tensor, peer, group=self._chains[way])
        assert work is not None
        work.wait()
        return tensor

    def settle(self) -> None:
        """Wait until everything sent has been taken."""
        for sent in self._unfinished.values():
            while sent:
                sent.popleft()[0].wait()
