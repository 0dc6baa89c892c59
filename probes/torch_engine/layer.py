"""The weights of one transformer layer on one device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWeights:
    """Of ``h`` query and ``k`` KV heads of this process, ``d`` wide, in a model ``H`` wide."""

    norm: torch.Tensor
    """(H,)"""
    qkv: torch.Tensor
    """((h + 2 k) d, H)"""
    qkv_bias: torch.Tensor | None
    qk_norms: tuple[torch.Tensor, torch.Tensor] | None
    """Each (d,)."""
    out: torch.Tensor
    """(H, h d)"""
    out_bias: torch.Tensor | None
    """(H,), whole on every process: it is added once, after the all-reduce."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseWeights:
    """A feed-forward block, of which this process has ``I`` columns."""

    norm: torch.Tensor
    gate_up: torch.Tensor
    """(2 I, H)"""
    gate_up_bias: torch.Tensor | None
    down: torch.Tensor
    """(H, I)"""
    down_bias: torch.Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertWeights:
    """``E`` routed feed-forward blocks, of each of which this process has ``I`` columns."""

    norm: torch.Tensor
    router: torch.Tensor
    """(E, H), whole on every process."""
    gate_up: torch.Tensor
    """(E, 2 I, H)"""
    down: torch.Tensor
    """(E, H, I)"""


Layer: TypeAlias = tuple[AttentionWeights, DenseWeights | ExpertWeights]
