"""The element-wise parts of a layer, as PyTorch runs them or fused by its compiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable


def add_norm(
    added: torch.Tensor, stream: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``stream + added`` under RMSNorm (arXiv 1910.07467), and as it is; both (tokens, H)."""
    stream = stream + added
    return functional.rms_norm(stream, weight.shape, weight, eps), stream


def rotate(
    heads: torch.Tensor, weight: torch.Tensor | None, eps: float, cosine: torch.Tensor, sine: torch.Tensor
) -> torch.Tensor:
    """Queries or keys (tokens, heads, d), under a norm where the model has one, turned by their positions' angles.

    ``cosine`` and ``sine`` are (tokens, 1, d / 2): the halves of a head are the two coordinates, as in GPT-NeoX.
    """
    if weight is not None:
        heads = functional.rms_norm(heads, weight.shape, weight, eps)
    x, y = heads.chunk(2, dim=-1)
    return torch.cat((x * cosine - y * sine, y * cosine + x * sine), dim=-1)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """SwiGLU (arXiv 2002.05202): (tokens, 2 I) to (tokens, I)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """The functions above, or what they were compiled to."""

    add_norm: Callable[..., tuple[torch.Tensor, torch.Tensor]] = add_norm
    rotate: Callable[..., torch.Tensor] = rotate
    swiglu: Callable[..., torch.Tensor] = swiglu


VARIANTS = 32
"""Of a function that may be compiled: one token, one head and sizes that happen to be equal each make a variant."""


def fused_kernels() -> Kernels:
    """Each of them as one GPU kernel, by ``torch.compile``, for any number of tokens."""
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)  # noqa: SLF001  its only name
    return Kernels(
        add_norm=torch.compile(add_norm, dynamic=True, fullgraph=True),
        rotate=torch.compile(rotate, dynamic=True, fullgraph=True),
        swiglu=torch.compile(swiglu, dynamic=True, fullgraph=True),
    )
