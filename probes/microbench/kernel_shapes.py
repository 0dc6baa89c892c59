"""Kernel shapes: which kernels one GPU runs for some models, sliced in some ways, the most telling first. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from catalog.engines.torch_layout import has_experts, lay_out
from catalog.schema import Deployment
from probes.torch_engine.model_settings import check_runs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from catalog.schema import Model

    Turn = tuple[int, tuple["Shape", ...]]
    """When a group of shapes has its turn, 0 the first."""

TOKENS = (1, 64, 8192, 16, 256, 2048, 8, 32, 128, 512, 1024, 4096)
"""Tokens of a step, here and below the most telling first."""

HEAD_TOKENS = 512
"""The head sees one token a sequence."""

EXPERT_TOKENS = (1, 64, 8192, 16, 256, 4, 1024, 32, 128, 4096)
DECODE_BATCHES = (1, 64, 256, 16, 128, 32, 8)
DECODE_CONTEXTS = (1024, 8192, 128, 4096)
PREFILL_QUERIES = (1024, 8192, 128, 2048, 512, 4096)
PREFILL_TOKENS = (8192, 16384)
"""Prompts of one length fill a prefill of so many tokens; there is also one of a single prompt."""

COPY_BYTES = (2**28, 2**16, 2**20, 2**24)
COPIES = ("h2d", "d2h", "copy")
"""Of pinned memory to the GPU and back, and within the GPU."""

ROPE_CONTEXT = 1024
"""Places of the cache that a decode step's keys and values are written to; one of prefill has as many as tokens."""

KV_SHARE = 0.4
"""Share of a GPU's memory that the cache of one shape may take."""

AFTER_FUSED = 4
AFTER_PLAIN = 9
"""Turns that the element-wise kernels and the plain variants are behind the others: they take the least time, or are not
what is run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One kernel at one shape; the sizes that its kind has not are 0.

    gemm        [m, k] x [k, n]; weights stored (n, k)
    experts     m tokens to ``top`` of ``experts`` each, n columns of an expert here, in a model k wide: both products and
                the activation between them
    attention   ``query`` new tokens of each of ``batch`` sequences of ``context`` tokens, causal
    norm        sum of two and RMSNorm, m tokens n wide
    swiglu      m tokens, from 2 n columns to n
    rope        queries and keys of ``batch`` x ``query`` tokens turned, keys and values written to a cache
    copy, h2d, d2h
                ``bytes`` within a GPU, to it, and from it
    """

    op: str
    dtype: str = ""
    fused: bool | None = None
    """One kernel made for it (by the compiler or in Triton), or those that PyTorch has; None where there is no choice."""
    m: int = 0
    k: int = 0
    n: int = 0
    experts: int = 0
    top: int = 0
    batch: int = 0
    query: int = 0
    context: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    normed: bool | None = None
    """Whether queries and keys have norms."""
    bytes: int = 0

    def row(self) -> dict[str, Any]:
        """Return the fields that its kind has, as in a row of ``kernels.jsonl``."""
        return {name: value for name, value in asdict(self).items() if value is False or value}


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixShape:
    """A matrix (n, k) of which one GPU holds ``copies``: one a layer that has it, one an expert."""

    name: str
    """"qkv", "out", "gate_up", "down", "router", "head", "expert_gate_up" or "expert_down"."""
    n: int
    k: int
    copies: int


def matrices(model: Model, tp: int) -> tuple[MatrixShape, ...]:
    """List all that tokens are multiplied with on one of ``tp`` GPUs; the vocabulary is padded, lone KV heads are
    replicated.

    Raises:
        InputError: ``check_runs`` refuses the model or the slicing.

    """
    check_runs(model, Deployment(engine="torch", tp=tp, compiled=False), device="cuda")
    layout = lay_out(model, tp=tp, pp=1, rank=0)
    hidden, layers = model.hidden_size, model.num_hidden_layers
    begin, end = layout.kv_share(model.num_key_value_heads)
    heads = model.num_attention_heads // tp
    routed = sum(has_experts(model, layer) for layer in range(layers))
    shapes = [
        MatrixShape(name="qkv", n=(heads + 2 * (end - begin)) * model.head_dim, k=hidden, copies=layers),
        MatrixShape(name="out", n=hidden, k=heads * model.head_dim, copies=layers),
    ]
    if routed < layers:
        columns = model.intermediate_size // tp
        shapes += [
            MatrixShape(name="gate_up", n=2 * columns, k=hidden, copies=layers - routed),
            MatrixShape(name="down", n=hidden, k=columns, copies=layers - routed),
        ]
    if routed:
        columns = model.moe_intermediate_size // tp
        shapes += [
            MatrixShape(name="router", n=model.num_experts, k=hidden, copies=routed),
            MatrixShape(name="expert_gate_up", n=2 * columns, k=hidden, copies=routed * model.num_experts),
            MatrixShape(name="expert_down", n=hidden, k=columns, copies=routed * model.num_experts),
        ]
    return (*shapes, MatrixShape(name="head", n=layout.vocabulary_share(model.vocab_size)[2], k=hidden, copies=1))


def kernel_shapes(
    models: Sequence[Model], tps: Sequence[int] = (1,), *, memory_bytes: float, fusible: bool = True
) -> tuple[tuple[Shape, ...], ...]:
    """List each shape once, the most telling first, in groups that one process should measure in turn: what is compiled
    for one width serves all numbers of tokens.

    ``memory_bytes`` of a GPU bound the batches of attention; ``fusible`` is whether fused kernels can be had.

    Raises:
        InputError: as ``matrices``.

    """
    turns: dict[tuple[Shape, ...], int] = {}
    for turn, group in _copies():
        turns.setdefault(group, turn)
    for model, tp in product(models, tps):
        for turn, group in _of_model(model, tp, memory_bytes, fusible=fusible):
            turns[group] = min(turn, turns.get(group, turn))
    return tuple(sorted(turns, key=turns.__getitem__))


def _copies() -> Iterator[Turn]:
    for turn, size in enumerate(COPY_BYTES):
        for op in COPIES:
            yield turn + 1, (Shape(op=op, bytes=size),)


def _of_model(model: Model, tp: int, memory_bytes: float, *, fusible: bool) -> Iterator[Turn]:
    held = matrices(model, tp)
    attention = _attention(model, tp)
    yield from _products(model, held)
    yield from _prefills(model, attention, memory_bytes)
    fused_attention = fusible and model.dtype != "float32"  # tensor cores multiply halves
    for fused in (True, False) if fused_attention else (False,):
        behind = AFTER_PLAIN if fused_attention and not fused else 0
        for turn, (shape,) in _decodes(model, attention, memory_bytes):
            yield turn + behind, (replace(shape, fused=fused),)
    dense = any(matrix.name == "gate_up" for matrix in held)
    for fused in (True, False) if fusible else (False,):
        behind = AFTER_PLAIN if fusible and not fused else AFTER_FUSED
        yield behind, _element_wise("norm", model.hidden_size, model.dtype, fused=fused)
        if dense:
            yield behind, _element_wise("swiglu", model.intermediate_size // tp, model.dtype, fused=fused)
        yield behind, tuple(_ropes(replace(attention, op="rope", normed=model.qk_norm, fused=fused)))


def _products(model: Model, held: Sequence[MatrixShape]) -> Iterator[Turn]:
    for matrix in held:
        if matrix.name == "expert_down":  # with the other one
            continue
        if matrix.name == "expert_gate_up":
            for turn, m in enumerate(EXPERT_TOKENS):
                yield (
                    turn,
                    (
                        Shape(
                            op="experts",
                            m=m,
                            n=matrix.n // 2,
                            k=matrix.k,
                            experts=model.num_experts,
                            top=model.num_experts_per_tok,
                            dtype=model.dtype,
                        ),
                    ),
                )
            continue
        for turn, m in enumerate(TOKENS):
            if matrix.name != "head" or m <= HEAD_TOKENS:
                yield turn, (Shape(op="gemm", m=m, k=matrix.k, n=matrix.n, dtype=model.dtype),)


def _attention(model: Model, tp: int) -> Shape:
    """Return the shape of attention on one GPU, of no sequences yet."""
    begin, end = lay_out(model, tp=tp, pp=1, rank=0).kv_share(model.num_key_value_heads)
    heads = model.num_attention_heads // tp
    return Shape(op="attention", dtype=model.dtype, heads=heads, kv_heads=end - begin, head_dim=model.head_dim)


def _prefills(model: Model, attention: Shape, memory_bytes: float) -> Iterator[Turn]:
    for turn, query in enumerate(PREFILL_QUERIES):
        for behind, batch in enumerate(dict.fromkeys((1, *(tokens // query for tokens in PREFILL_TOKENS)))):
            shape = replace(attention, batch=batch, query=query, context=query)
            if _can_be(shape, model, memory_bytes):
                yield turn + behind, (shape,)


def _decodes(model: Model, attention: Shape, memory_bytes: float) -> Iterator[Turn]:
    for (i, batch), (j, context) in product(enumerate(DECODE_BATCHES), enumerate(DECODE_CONTEXTS)):
        shape = replace(attention, batch=batch, query=1, context=context)
        if _can_be(shape, model, memory_bytes):
            yield i + j, (shape,)


def _can_be(shape: Shape, model: Model, memory_bytes: float) -> bool:
    """Return whether the cache fits, and a window, where the model has one, is not what attention looks at."""
    number = 4 if model.dtype == "float32" else 2
    cache_bytes = 2 * number * shape.batch * shape.context * shape.kv_heads * shape.head_dim
    return cache_bytes <= KV_SHARE * memory_bytes and not 0 < model.sliding_window < shape.context


def _element_wise(op: str, n: int, dtype: str, *, fused: bool) -> tuple[Shape, ...]:
    return tuple(Shape(op=op, m=m, n=n, dtype=dtype, fused=fused) for m in TOKENS)


def _ropes(rope: Shape) -> Iterator[Shape]:
    for batch in DECODE_BATCHES:
        yield replace(rope, batch=batch, query=1, context=ROPE_CONTEXT)
    for query in PREFILL_QUERIES:
        yield replace(rope, batch=1, query=query, context=query)
