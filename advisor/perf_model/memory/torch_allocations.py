"""What one process of the plain PyTorch engine asks of its GPU's allocator: weights, tables, a pass through its layers.

The order and the sizes are those of ``probes``: ``transformer.weights`` and ``transformer.sources`` (random weights are
made on the GPU, through temporary numbers of eight bytes that leave gaps), ``transformer.model`` and ``pytorch.memory``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from advisor.perf_model.memory.caching_allocator import CachingAllocator
from catalog.engines.torch_layout import has_experts, lay_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.schema import Model

AT_ONCE = 1 << 24
"""Random numbers made at once (``probes.torch_engine.weight_sources``)."""
ALIGNED = 256
"""Bytes that tensors in an offloaded layer's buffer are aligned to (``probes.torch_engine.offload``), and ..."""
BUFFERS = 2
"""... how many such buffers there are."""
INDEX = 8
"""Bytes of a token id, a position, a place."""

Shape: TypeAlias = tuple[int, ...]
Made: TypeAlias = tuple[Shape, list[Shape]]
"""A tensor and the parts that it is put together from; none of one that is not random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One process's part of a model: a pipeline stage's layers, a slice of their matrices."""

    model: Model
    tp: int
    layers: range
    is_first: bool
    is_last: bool
    itemsize: int
    """Bytes of a weight, an activation, a key or value."""
    offload: float
    """Share of all layers that is kept in the host's memory."""
    positions: int
    """Tokens a sequence may have."""
    compiled: bool
    workspace: int
    """Bytes that cuBLAS takes for each stream it is used on."""

    @property
    def heads(self) -> int:
        return max(1, self.model.num_attention_heads // self.tp)

    @property
    def kv_heads(self) -> int:
        return max(1, self.model.num_key_value_heads // self.tp)

    @property
    def token_bytes(self) -> int:
        """Return the bytes of keys and values of one token."""
        return len(self.layers) * 2 * self.kv_heads * self.model.head_dim * self.itemsize

    @property
    def offloaded(self) -> frozenset[int]:
        """Return the stage's layers in the host's memory (``probes.torch_engine.offload.offloaded_layers``)."""
        layers = self.model.num_hidden_layers
        count = max(1, round(self.offload * layers)) if self.offload else 0
        return frozenset(layer for layer in self.layers if (layer + 1) * count // layers > layer * count // layers)

    @property
    def from_the_start(self) -> Stage:
        """Return the stage with the model's first layers in place of its own, where they are of the same kinds in that order."""
        first = range(len(self.layers))
        uniform = all(
            has_experts(self.model, a) == has_experts(self.model, b) for a, b in zip(first, self.layers, strict=True)
        )
        return replace(self, layers=first) if uniform and not self.offload else self

    @property
    def vocabulary(self) -> Shape:
        return -(-self.model.vocab_size // self.tp), self.model.hidden_size

    def layer(self, layer: int) -> list[Made]:
        """List the tensors of a layer in the order in which they are made."""
        model, hidden, width = self.model, self.model.hidden_size, self.model.head_dim
        q, kv = self.heads * width, self.kv_heads * width
        norm: Made = ((hidden,), [])
        made: list[Made] = [norm, ((q + 2 * kv, hidden), [(q, hidden), (kv, hidden), (kv, hidden)])]
        made += [((q + 2 * kv,), [(q,), (kv,), (kv,)])] if model.qkv_bias else []
        made += [((width,), [])] * (2 if model.qk_norm else 0)
        made += [((hidden, q), [(hidden, q)])]
        made += [((hidden,), [(hidden,)])] if model.o_bias else []
        made += [norm]
        if has_experts(model, layer):
            inner, experts = model.moe_intermediate_size // self.tp, model.num_experts
            # parts of all experts are alike, and leave what the first one leaves
            made += [((experts, 2 * inner, hidden), []), ((experts, hidden, inner), [(inner, hidden), (hidden, inner)])]
            return [*made, ((experts, hidden), [(experts, hidden)])]
        inner = model.intermediate_size // self.tp
        made += [((2 * inner, hidden), [(inner, hidden)] * 2)]
        made += [((2 * inner,), [(inner,)] * 2)] if model.mlp_bias else []
        made += [((hidden, inner), [(hidden, inner)])]
        return made + ([((hidden,), [(hidden,)])] if model.mlp_bias else [])

    def layer_bytes(self, layer: int) -> int:
        return sum(math.prod(shape) for shape, _ in self.layer(layer)) * self.itemsize

    def sizes(self) -> dict[int, int]:
        """Return bytes of each layer; layers with experts are alike, and so are those without."""
        kinds = {layer: has_experts(self.model, layer) for layer in self.layers}
        size = {kind: self.layer_bytes(layer) for kind, layer in {kind: layer for layer, kind in kinds.items()}.items()}
        return {layer: size[kind] for layer, kind in kinds.items()}

    def buffer_bytes(self) -> int:
        """Return the bytes of the buffers through which offloaded layers come."""
        kinds = {has_experts(self.model, layer): layer for layer in self.offloaded}
        rows = [
            sum(-(-math.prod(shape) * self.itemsize // ALIGNED) * ALIGNED for shape, _ in self.layer(layer))
            for layer in kinds.values()
        ]
        return min(len(self.offloaded), BUFFERS) * max(rows, default=0)

    def weight_bytes(self) -> int:
        """Return the bytes of everything that stays on the GPU."""
        tables = self.is_first + self.is_last - (self.is_first and self.is_last and self.model.tie_word_embeddings)
        away = self.offloaded
        resident = sum(size for layer, size in self.sizes().items() if layer not in away)
        norm = self.model.hidden_size * self.itemsize * self.is_last
        return resident + self.buffer_bytes() + tables * math.prod(self.vocabulary) * self.itemsize + norm

    def pass_bytes(self, tokens: int) -> int:
        """Return the most that one pass of ``tokens`` tokens of prompts takes beside weights, cache and workspaces.

        Three hidden states (stream, normed, what the block before adds), on later stages what came in, too; and whatever
        is largest of a layer: gate and up with their product, a layer's queries, keys and values with what becomes of
        them, or the experts' copies of each token. Without fused kernels SiLU's result lies apart.
        """
        model, hidden = self.model, self.model.hidden_size
        unfused = not self.compiled
        q, kv = self.heads * model.head_dim, self.kv_heads * model.head_dim
        inside = [hidden + (q + 2 * kv) + 2 * q]
        if any(not has_experts(model, layer) for layer in self.layers):
            inside.append((3 + unfused) * model.intermediate_size // self.tp)
        if any(has_experts(model, layer) for layer in self.layers):
            top_k, inner = model.num_experts_per_tok, model.moe_intermediate_size // self.tp
            inside.append(top_k * max(hidden + 2 * inner, (3 + unfused) * inner, inner + 3 * hidden))
        states = 3 if self.is_first else 4
        angles = model.head_dim
        return tokens * (self.itemsize * (states * hidden + max(inside) + angles) + INDEX)


@lru_cache(maxsize=256)
def stages(model: Model, tp: int, pp: int) -> tuple[range, ...]:
    """Return the layers of each pipeline stage, as ``catalog.engines.torch_layout`` balances them."""
    return lay_out(model, tp=tp, pp=pp, rank=0).stages


@lru_cache(maxsize=64)
def loaded(stage: Stage) -> CachingAllocator:
    """Return the allocator once the engine has its weights and has tried its longest prompt; to be copied before it is used."""
    allocator = CachingAllocator()
    for table in range(stage.is_first + stage.is_last):
        if table == 0 or not (stage.is_first and stage.model.tie_word_embeddings):
            allocator.take(math.prod(stage.vocabulary) * stage.itemsize)
            allocator.give(_random(allocator, stage.vocabulary))
    passing: list[int] = []
    sizes, away = stage.sizes(), stage.offloaded
    for layer in stage.layers:
        kept = [_make(allocator, shape, parts, stage.itemsize) for shape, parts in stage.layer(layer)]
        allocator.give(*passing)
        passing = kept if layer in away else []  # until the next one is made
        if passing:
            allocator.give(allocator.take(sizes[layer]))
    buffers = min(len(away), BUFFERS)
    for _ in range(buffers):
        allocator.take(stage.buffer_bytes() // buffers)
    if stage.is_last:
        _make(allocator, (stage.model.hidden_size,), [], stage.itemsize)
    allocator.give(*passing)
    for _ in ("cosine", "sine"):
        allocator.take(stage.positions * stage.model.head_dim // 2 * stage.itemsize)
    cache = allocator.take(stage.positions * stage.token_bytes // len(stage.layers))
    run(allocator, stage, stage.positions)
    allocator.give(cache)
    allocator.give_back()
    return allocator


def run(allocator: CachingAllocator, stage: Stage, tokens: int, *, workspaces: int = 1) -> None:
    """Run one pass of prompts, ``workspaces`` of which stay: those that cuBLAS takes when it first multiplies on a stream."""
    size, hidden = stage.itemsize, stage.model.hidden_size
    q, kv = stage.heads * stage.model.head_dim, stage.kv_heads * stage.model.head_dim
    state = tokens * hidden * size
    held = [allocator.take(tokens * INDEX)]
    if stage.is_first and stage.tp > 1:
        places, own = allocator.take(tokens * INDEX), allocator.take(state)
        allocator.give(places)
        stream = allocator.take(state)
        allocator.give(own)
    else:
        stream = allocator.take(state)
    added = allocator.take(state)
    held += [allocator.take(tokens * stage.model.head_dim // 2 * size) for _ in ("cosine", "sine")]
    normed, entering, stream = allocator.take(state), stream, allocator.take(state)
    if stage.is_first:
        allocator.give(entering)
    else:
        held.append(entering)
    joined = allocator.take(tokens * (q + 2 * kv) * size)
    for _ in range(workspaces):
        allocator.take(stage.workspace)
    query, mixed = allocator.take(tokens * q * size), allocator.take(tokens * q * size)
    out = allocator.take(state)
    allocator.give(joined, query, mixed, added, normed)
    normed, stream_after = allocator.take(state), allocator.take(state)
    allocator.give(stream)
    inside = stage.pass_bytes(tokens) - (3 if stage.is_first else 4) * state
    inside -= tokens * (stage.model.head_dim * size + INDEX)
    # gate and up are one tensor; of whatever else is largest, the largest part
    wide = allocator.take(inside * 2 // 3)
    allocator.give(allocator.take(inside - inside * 2 // 3), wide, normed, stream_after, out, *held)


def _make(allocator: CachingAllocator, shape: Shape, parts: Sequence[Shape], itemsize: int) -> int:
    """Make a tensor of random numbers, part by part; where it is made from one alone, that part comes before it.

    A norm is ones, float32 before it has the format.
    """
    size = math.prod(shape) * itemsize
    alone = len(parts) <= 1 and len(shape) < 3
    if not parts and alone:
        ones = allocator.take(math.prod(shape) * 4)
        kept = allocator.take(size)
        allocator.give(ones)
        return kept
    if alone:
        made = _random(allocator, parts[0])
        kept = allocator.take(size)
        allocator.give(made)
        return kept
    kept = allocator.take(size)
    for part in parts:
        allocator.give(_random(allocator, part))
    return kept


def _random(allocator: CachingAllocator, shape: Shape) -> int:
    """Make float32 numbers, made through int64 ones, ``AT_ONCE`` at a time; of the chunks that are alike one is played."""
    rows, columns = shape[0], math.prod(shape[1:])
    across, made = allocator.take(columns * INDEX), allocator.take(rows * columns * 4)
    step = max(1, AT_ONCE // columns)
    for chunk in dict.fromkeys((min(step, rows), rows % step or min(step, rows))):
        size = chunk * columns * INDEX
        down, index = allocator.take(chunk * INDEX), allocator.take(size)
        mixed = None
        for _ in range(2):
            crossed = _crossed(allocator, size)
            product = allocator.take(size)
            allocator.give(crossed, *([] if mixed is None else [mixed]))
            mixed = product
        crossed = _crossed(allocator, size)
        allocator.give(product)
        whole, fraction = allocator.take(size), allocator.take(size // 2)
        allocator.give(whole, crossed, index, fraction, down)
    allocator.give(across)
    return made


def _crossed(allocator: CachingAllocator, size: int) -> int:
    """Make the exclusive or of numbers with themselves, shifted and masked; a temporary result is freed once it was used."""
    shifted, masked = allocator.take(size), allocator.take(size)
    allocator.give(shifted)
    crossed = allocator.take(size)
    allocator.give(masked)
    return crossed
