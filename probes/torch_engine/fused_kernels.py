"""The element-wise parts of a layer, as PyTorch runs them or fused by its compiler."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable


def add_norm(
    added: torch.Tensor, stream: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``stream + added`` under RMSNorm (arXiv 1910.07467), and as it is; both (tokens, H)."""
    stream = stream + added
    return functional.rms_norm(stream, weight.shape, weight, eps), stream


def rotate(
    heads: torch.Tensor, weight: torch.Tensor | None, eps: float, cosine: torch.Tensor, sine: torch.Tensor
) -> torch.Tensor:
    """Turn queries or keys (rows, length, heads, d), under a norm where the model has one, by their positions' angles.

    ``cosine`` and ``sine`` are (length, 1, d / 2): the halves of a head are the two coordinates, as in GPT-NeoX.
    """
    if weight is not None:
        heads = functional.rms_norm(heads, weight.shape, weight, eps)
    x, y = heads.chunk(2, dim=-1)
    return torch.cat((x * cosine - y * sine, y * cosine + x * sine), dim=-1)


def place_heads(
    joined: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    turn: tuple[torch.Tensor, torch.Tensor],
    positions: torch.Tensor,
    cache: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Split queries, keys and values in one, (rows, length, h + 2 k, d): keys and values go into the cache, (rows,
    places, k, d) each, at ``positions`` (length,); the queries are returned, (rows, length, h, d).

    ``turn`` is the cosine and the sine, see ``rotate``, ``norms`` the weights of the queries' and keys' norms.
    """
    keys, values = cache
    kv_heads = keys.shape[2]
    q, k, v = joined.split((joined.shape[2] - 2 * kv_heads, kv_heads, kv_heads), dim=2)
    q_norm, k_norm = norms or (None, None)
    keys.index_copy_(1, positions, rotate(k, k_norm, eps, *turn))
    values.index_copy_(1, positions, v)
    return rotate(q, q_norm, eps, *turn)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Apply SwiGLU (arXiv 2002.05202): (tokens, 2 I) to (tokens, I)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKernels:
    """The functions above, or what they were compiled to."""

    add_norm: Callable[..., tuple[torch.Tensor, torch.Tensor]] = add_norm
    place_heads: Callable[..., torch.Tensor] = place_heads
    swiglu: Callable[..., torch.Tensor] = swiglu


VARIANTS = 32
"""Of a function that may be compiled: one token, one head and sizes that happen to be equal each make a variant."""


def fused_kernels(device: str) -> LayerKernels:
    """Return each operation as one kernel, by ``torch.compile`` or written in Triton for GPUs.

    The compiler makes one for the first number of tokens, and when it meets another one for any number: widths it keeps
    for known, which makes SwiGLU twice as fast as with everything left open.
    """
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)  # noqa: SLF001  its only name
    if device == "cuda" and has_triton():
        from probes.torch_engine.triton_kernels import place_heads as placed  # imports triton

        placing: Callable[..., torch.Tensor] = placed
    else:
        placing = torch.compile(place_heads, fullgraph=True)
    return LayerKernels(
        add_norm=torch.compile(add_norm, fullgraph=True),
        place_heads=placing,
        swiglu=torch.compile(swiglu, fullgraph=True),
    )


def has_triton() -> bool:
    """Return whether Triton is there, as it is with PyTorch's builds for CUDA."""
    return find_spec("triton") is not None
