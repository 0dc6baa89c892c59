"""Kernels to be timed, as the plain-PyTorch engine calls them (see ``probes.torch_engine.transformer``), on operands of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from probes.microbench.timing import operand_sets
from probes.torch_engine.fused_kernels import LayerKernels, fused_kernels

if TYPE_CHECKING:
    from collections.abc import Callable

    from probes.microbench.kernel_shapes import Shape
    from probes.microbench.timing import Call

SETS = 64
"""Most sets of operands: kernels of few bytes are timed often enough."""

LARGE_TOKENS = 1024
LARGE_SETS = 4
"""Steps of more tokens take long and do not depend on what is in the cache."""

EPS = 1e-6
SCALE = 0.02
"""Of random weights."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A kernel and the operands it has in memory."""

    call: Call
    calls: int
    """Sets of operands."""
    recordable: bool = True
    """Whether the engine has it in CUDA graphs; copies to and from the host it has not."""


class KernelBench:
    """Makes kernels ready to be timed on one device, with one set of fused kernels for each width."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._plain = LayerKernels()
        self._fused: LayerKernels | None = None
        self._fused_for: tuple[str, int, str] | None = None
        self._makers: dict[str, Callable[[Shape], Prepared]] = {
            "gemm": self._gemm,
            "experts": self._experts,
            "attention": self._attention,
            "norm": self._norm,
            "swiglu": self._swiglu,
            "rope": self._rope,
            "copy": self._copy,
            "h2d": self._copy,
            "d2h": self._copy,
        }

    def prepare(self, shape: Shape) -> Prepared:
        """Raise ``torch.OutOfMemoryError``, or another ``RuntimeError``, for what cannot be had here."""
        return self._makers[shape.op](shape)

    def _gemm(self, shape: Shape) -> Prepared:
        sets = self._sets(shape, shape.n * shape.k, shape.m)
        x, weights = self._random(shape, shape.m, shape.k), self._random(shape, sets, shape.n, shape.k)
        weights.mul_(SCALE)
        return Prepared(lambda i: functional.linear(x, weights[i]), sets)

    def _experts(self, shape: Shape) -> Prepared:
        """Prepare both products and SwiGLU between them, of tokens that are already sorted by expert, spread at random."""
        sets = self._sets(shape, 3 * shape.experts * shape.n * shape.k, shape.m, least=2, most=8)
        into = [self._random(shape, shape.experts, 2 * shape.n, shape.k).mul_(SCALE) for _ in range(sets)]
        down = [self._random(shape, shape.experts, shape.k, shape.n).mul_(SCALE) for _ in range(sets)]
        x = self._random(shape, shape.m * shape.top, shape.k)
        ends = _expert_ends(shape.m, shape.experts, shape.top).to(self.device)

        def call(i: int) -> torch.Tensor:
            inner = self._plain.swiglu(functional.grouped_mm(x, into[i].mT, offs=ends))
            return functional.grouped_mm(inner, down[i].mT, offs=ends)

        return Prepared(call, sets)

    def _attention(self, shape: Shape) -> Prepared:
        place = shape.batch * shape.context * shape.kv_heads * shape.head_dim
        sets = self._sets(shape, 2 * place, shape.batch * shape.query)
        cache = self._random(shape, sets, 2, shape.batch, shape.context, shape.kv_heads, shape.head_dim)
        q = self._random(shape, shape.batch, shape.query, shape.heads, shape.head_dim)
        if shape.query > 1:
            return Prepared(lambda i: _attend_prompt(q, cache[i]), sets)
        if not shape.fused:
            return Prepared(lambda i: _attend_cache(q, cache[i]), sets)
        from probes.torch_engine.triton_kernels import attend_used  # imports triton

        used = torch.full((shape.batch,), shape.context, dtype=torch.int32, device=self.device)
        return Prepared(lambda i: attend_used(q[:, 0], cache[i, 0], cache[i, 1], used, 0), sets)

    def _norm(self, shape: Shape) -> Prepared:
        sets = self._sets(shape, 2 * shape.m * shape.n, shape.m)
        added, stream = (self._random(shape, sets, shape.m, shape.n) for _ in range(2))
        weight = self._random(shape, shape.n)
        norm = self._kernels(shape).add_norm
        self._compile(
            shape, lambda tokens: norm(*(self._random(shape, tokens, shape.n) for _ in range(2)), weight, EPS)
        )
        return Prepared(lambda i: norm(added[i], stream[i], weight, EPS), sets)

    def _swiglu(self, shape: Shape) -> Prepared:
        sets = self._sets(shape, 2 * shape.m * shape.n, shape.m)
        joined = self._random(shape, sets, shape.m, 2 * shape.n)
        swiglu = self._kernels(shape).swiglu
        self._compile(shape, lambda tokens: swiglu(self._random(shape, tokens, 2 * shape.n)))
        return Prepared(lambda i: swiglu(joined[i]), sets)

    def _rope(self, shape: Shape) -> Prepared:
        heads, kv_heads, width = shape.heads, shape.kv_heads, shape.head_dim
        tokens = shape.batch * shape.query
        sets = self._sets(shape, tokens * (heads + 2 * kv_heads) * width, tokens)
        joined = self._random(shape, sets, shape.batch, shape.query, heads + 2 * kv_heads, width)
        norms = (self._random(shape, width), self._random(shape, width)) if shape.normed else None
        turn = self._random(shape, shape.query, 1, width // 2), self._random(shape, shape.query, 1, width // 2)
        positions = torch.arange(shape.context - shape.query, shape.context, device=self.device)
        cache = self._random(shape, 2, shape.batch, shape.context, kv_heads, width)
        place = self._kernels(shape).place_heads
        return Prepared(lambda i: place(joined[i], norms, EPS, turn, positions, (cache[0], cache[1])), sets)

    def _copy(self, shape: Shape) -> Prepared:
        sets = operand_sets(2 * shape.bytes, self.device, least=LARGE_SETS, most=SETS)
        there = torch.zeros(sets, shape.bytes, dtype=torch.uint8, device=self.device)
        copy = shape.op == "copy"
        if copy:
            other = torch.zeros_like(there)
        else:
            other = torch.zeros(shape.bytes, dtype=torch.uint8, pin_memory=self.device.type == "cuda").expand(sets, -1)
        source, target = (there, other) if shape.op == "d2h" else (other, there)
        return Prepared(lambda i: target[i].copy_(source[i], non_blocking=True), sets, recordable=copy)

    def _kernels(self, shape: Shape) -> LayerKernels:
        """Return fused kernels compiled for one width: the compiler leaves open what it has seen to vary."""
        if not shape.fused:
            return self._plain
        wanted = (shape.op, shape.n, shape.dtype)
        if self._fused is None or self._fused_for != wanted:
            torch.compiler.reset()
            self._fused, self._fused_for = fused_kernels(self.device.type), wanted
        return self._fused

    def _compile(self, shape: Shape, call: Callable[[int], object]) -> None:
        """Let the compiler see two numbers of tokens, so that what is timed is what the engine has for any number."""
        if shape.fused and shape.m > 1:
            for tokens in (3, 5):
                call(tokens)

    def _sets(self, shape: Shape, elements: int, tokens: int, *, least: int = LARGE_SETS, most: int = SETS) -> int:
        nbytes = elements * _dtype(shape).itemsize
        return operand_sets(nbytes, self.device, least=least, most=most if tokens <= LARGE_TOKENS else least)

    def _random(self, shape: Shape, *sizes: int) -> torch.Tensor:
        return torch.empty(sizes, dtype=_dtype(shape), device=self.device).normal_()


def _dtype(shape: Shape) -> torch.dtype:
    dtype = getattr(torch, shape.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _attend_prompt(q: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
    """Attend with queries (rows, length, h, d) over keys and values (2, rows, length, k, d), causal."""
    k, v = (tensor.transpose(1, 2) for tensor in cache)
    return functional.scaled_dot_product_attention(
        q.transpose(1, 2), k, v, is_causal=True, enable_gqa=q.shape[2] > k.shape[1]
    )


def _attend_cache(q: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
    """Attend with one query (rows, 1, h, d) a sequence over keys and values (2, rows, context, k, d)."""
    k, v = (tensor.transpose(1, 2) for tensor in cache)
    rows, kv_heads = k.shape[:2]
    # the query heads that share a KV head read it once, as if they were queries at several positions
    return functional.scaled_dot_product_attention(q.view(rows, kv_heads, -1, q.shape[-1]), k, v)


def _expert_ends(tokens: int, experts: int, top: int) -> torch.Tensor:
    """Return where each expert's tokens end, (experts,) int32, if each token chooses ``top`` different ones at random."""
    chance = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(chance.topk(top, dim=1).indices.flatten(), minlength=experts)
    return counts.cumsum(0).to(torch.int32)
