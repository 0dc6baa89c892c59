"""Where weights come from: random numbers that are the same on any number of GPUs, or a checkpoint."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from probes.checkpoint import Checkpoint, is_checkpoint

if TYPE_CHECKING:
    from catalog.schema import Model

SPREAD = 0.02
"""Standard deviation of random weights: the ``initializer_range`` of Llama and its kin."""

AT_ONCE = 1 << 24
"""Numbers made at once: their indices take eight bytes each."""


class Source(Protocol):
    """Gives parts of a model's tensors, by the names that Hugging Face checkpoints use."""

    def part(self, name: str, shape: tuple[int, ...], dim: int, begin: int, end: int) -> torch.Tensor:
        """Return rows ``begin`` to ``end`` of dimension ``dim`` of the tensor of that name, whose whole shape is
        ``shape``.

        Raises:
            InputError: there is no such tensor, or its shape is another.

        """
        ...


class RandomSource:
    """Random weights in which each number depends on its name and place only.

    Any slicing of a model thus has the same weights, on any device, and no process makes more than its part. Norms are 1.
    """

    def __init__(self, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.device = torch.device(device)

    def part(self, name: str, shape: tuple[int, ...], dim: int, begin: int, end: int) -> torch.Tensor:
        """See ``Source``; float32, uniform, of standard deviation ``SPREAD``."""
        wanted = (*shape[:dim], end - begin, *shape[dim + 1 :])
        if name.endswith("norm.weight"):
            return torch.ones(wanted, device=self.device)
        assert dim in (0, 1)
        assert len(shape) <= 2
        columns = math.prod(shape[1:])
        first, last = (begin, end) if dim == 1 else (0, columns)
        rows = range(begin, end) if dim == 0 else range(shape[0])
        salt = (zlib.crc32(name.encode()) << 31) ^ self.seed
        across = torch.arange(first, last, device=self.device)
        made = torch.empty(len(rows), last - first, device=self.device)
        step = max(1, AT_ONCE // max(1, last - first))
        for row in range(0, len(rows), step):
            down = torch.arange(rows[row], rows[min(row + step, len(rows)) - 1] + 1, device=self.device)
            made[row : row + step] = _uniform(down[:, None] * columns + across, salt)
        return made.mul_(SPREAD * math.sqrt(12)).view(wanted)


def _uniform(index: torch.Tensor, salt: int) -> torch.Tensor:
    """Return numbers from -1/2 to 1/2 by index: the finaliser of splitmix64 (Steele, Lea, Flood 2014) in wrapping
    int64.
    """
    mixed = index.add_(salt).mul_(-7046029254386353131)  # 0x9E3779B97F4A7C15
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):  # 0xBF58476D1CE4E5B9, 0x94D0...11EB
        mixed = (mixed ^ (mixed >> shift & (1 << 64 - shift) - 1)) * factor
    mixed = mixed ^ (mixed >> 31 & (1 << 33) - 1)
    return (mixed & (1 << 24) - 1).to(torch.float32).mul_(2.0**-24).sub_(0.5)


def source_of(model: Model, device: torch.device) -> Source:
    """Return the weights beside the ``config.json`` that a model was read from; without any, random ones."""
    folder = Path(model.source).parent
    if model.source.endswith(".json") and is_checkpoint(folder):
        return Checkpoint(folder)
    return RandomSource(device=device)
