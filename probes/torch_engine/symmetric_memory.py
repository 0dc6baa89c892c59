"""Sums over GPUs that read each other's memory: for small tensors several times faster than NCCL's all-reduce.

PyTorch's symmetric memory. One shot: every GPU reads all others' tensors and adds them up; two shots: each adds up its
part, then reads the others'. Neither uses NVLink's multicast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

ONE_SHOT = {2: 1 << 20, 4: 1 << 19, 8: 1 << 18}
"""Most bytes of a sum in one shot by number of GPUs; beyond, two shots move less. Of 2 and 4 as measured on H200s."""

TWO_SHOTS = 1 << 23
"""Most bytes of a sum in two shots; beyond, NCCL is as fast."""

ALIGNED = 16
"""The kernels read so many bytes at a time, in two shots on each GPU's part."""


class SymmetricSums:
    """Sums over the processes of a group, each with a GPU of its own in one machine."""

    def __init__(self, group: Any, dtype: torch.dtype, device: torch.device) -> None:
        """Set up the sums; every process of the group must make one at the same time.

        Raises:
            RuntimeError: this PyTorch or these GPUs cannot do it.

        """
        from torch.distributed import _symmetric_memory as symmetric  # not in every PyTorch

        self.size = distributed.get_world_size(group)
        self._name = group.group_name
        self._buffer = symmetric.empty(TWO_SHOTS // dtype.itemsize, dtype=dtype, device=device)
        symmetric.rendezvous(self._buffer, self._name)
        self._operators = torch.ops.symm_mem

    def takes(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor is small enough, and divides into what the kernels read at a time."""
        size = tensor.numel() * tensor.element_size()
        return tensor.dtype == self._buffer.dtype and size <= TWO_SHOTS and size % (ALIGNED * self.size) == 0

    def in_one_shot(self, tensor: torch.Tensor) -> bool:
        return tensor.numel() * tensor.element_size() <= ONE_SHOT.get(self.size, 0)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum every process's tensor in a new one."""
        flat = tensor.reshape(-1)
        buffer = self._buffer[: flat.numel()]
        if self.in_one_shot(tensor):
            summed = self._operators.one_shot_all_reduce_copy(buffer, flat, "sum", self._name)
        else:
            buffer.copy_(flat)
            summed = self._operators.two_shot_all_reduce_out(buffer, "sum", self._name, torch.empty_like(flat))
        assert isinstance(summed, torch.Tensor)
        return summed.view(tensor.shape)


def symmetric_sums(group: Any, dtype: torch.dtype, device: torch.device) -> SymmetricSums | None:
    """Set up sums for a group; None if one of its processes cannot have them."""
    sums: SymmetricSums | None = None
    if can_read_each_other(group, device):
        try:
            sums = SymmetricSums(group, dtype, device)
            sums.sum(torch.zeros(ALIGNED * sums.size, dtype=dtype, device=device))
        except (RuntimeError, ImportError, AttributeError) as error:
            print(f"no symmetric memory, NCCL alone: {str(error).splitlines()[0]}", flush=True)
            sums = None
    able = torch.tensor(int(sums is not None), device=device)
    distributed.all_reduce(able, distributed.ReduceOp.MIN, group=group)
    return sums if able.item() else None


def can_read_each_other(group: Any, device: torch.device) -> bool:
    """Return whether the group's GPUs are all in this machine and connected."""
    size = distributed.get_world_size(group)
    if device.type != "cuda" or size not in ONE_SHOT or torch.cuda.device_count() < size:
        return False
    own = torch.tensor([device.index], device=device)
    indices = [torch.empty_like(own) for _ in range(size)]
    distributed.all_gather(indices, own, group=group)
    others = {int(index) for index in indices} - {device.index}
    return len(others) == size - 1 and all(torch.cuda.can_device_access_peer(device, other) for other in others)
