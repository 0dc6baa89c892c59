"""Kernels of decode steps that PyTorch has not, in Triton, which comes with PyTorch's builds for CUDA.

Letters in shapes: h query and k KV heads of this process, d head width. They read on the device how far a sequence is, so
that a recorded step can be replayed at any position.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 64
"""Tokens of the cache that a program reads at once."""

LEAST_QUERIES = 16
"""A tensor core multiplies no fewer rows."""

AT_ONCE = 8
"""Heads of a token that a program turns."""

PROGRAMS = 2
"""Programs a multiprocessor should have, of attention that is split among them."""


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    q_pointer,
    k_pointer,
    v_pointer,
    out_pointer,
    weight_pointer,
    used_pointer,
    scale,
    window,
    q_row,
    cache_row,
    cache_place,
    GROUP: tl.constexpr,
    QUERIES: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    SPLITS: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    """Attend with the queries that share a KV head over one of ``SPLITS`` parts of a sequence's cache.

    Their mean over that part, unless it is the only one with the logarithm of its weight (arXiv 2205.14135; the split:
    Dao et al., Flash-Decoding, 2023).
    """
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    used = tl.load(used_pointer + row)
    first = 0
    if WINDOWED:
        first = tl.maximum(used - window, 0)
    blocks = tl.cdiv(used - first, TOKENS)
    per_split = tl.cdiv(blocks, SPLITS)
    begin = first + part * per_split * TOKENS
    end = tl.minimum(begin + per_split * TOKENS, used)
    queries = tl.arange(0, QUERIES)
    columns = tl.arange(0, WIDTH)
    real = queries < GROUP
    q_at = row * q_row + (head * GROUP + queries)[:, None] * WIDTH + columns[None, :]
    q = tl.load(q_pointer + q_at, mask=real[:, None], other=0.0)
    # 64 bits: a cache may have more than 2**31 elements
    at = row.to(tl.int64) * cache_row + head * WIDTH
    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    weight = tl.zeros((QUERIES,), tl.float32)
    mean = tl.zeros((QUERIES, WIDTH), tl.float32)
    for token in range(begin, end, TOKENS):
        places = token + tl.arange(0, TOKENS)
        there = places < end
        offsets = at + places.to(tl.int64)[:, None] * cache_place + columns[None, :]
        k = tl.load(k_pointer + offsets, mask=there[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k)) * scale
        scores = tl.where(there[None, :], scores, float("-inf"))
        better = tl.maximum(best, tl.max(scores, 1))
        shares = tl.exp2(scores - better[:, None])
        shrink = tl.exp2(best - better)
        v = tl.load(v_pointer + offsets, mask=there[:, None], other=0.0)
        mean = mean * shrink[:, None] + tl.dot(shares.to(v.dtype), v)
        weight = weight * shrink + tl.sum(shares, 1)
        best = better
    mean = mean / tl.maximum(weight, 1e-30)[:, None]
    heads = tl.num_programs(1) * GROUP
    out_row = (row * SPLITS + part) * heads + head * GROUP + queries
    out_at = out_row[:, None] * WIDTH + columns[None, :]
    tl.store(out_pointer + out_at, mean.to(out_pointer.dtype.element_ty), mask=real[:, None])
    if SPLITS > 1:
        tl.store(weight_pointer + out_row, best + tl.log2(tl.maximum(weight, 1e-30)), mask=real)


@triton.jit
def _combine(  # type: ignore[no-untyped-def]
    part_pointer, weight_pointer, out_pointer, heads, SPLITS: tl.constexpr, WIDTH: tl.constexpr
):
    """Return the weighted mean of the parts of one head of one sequence."""
    row, head = tl.program_id(0), tl.program_id(1)
    parts = tl.arange(0, SPLITS)
    columns = tl.arange(0, WIDTH)
    at = (row * SPLITS + parts) * heads + head
    weights = tl.load(weight_pointer + at)
    weights = tl.exp2(weights - tl.max(weights, 0))
    means = tl.load(part_pointer + at[:, None] * WIDTH + columns[None, :])
    mean = tl.sum(means * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(out_pointer + (row * heads + head) * WIDTH + columns, mean.to(out_pointer.dtype.element_ty))


@triton.jit
def _place(  # type: ignore[no-untyped-def]
    joined_pointer,
    q_pointer,
    k_pointer,
    v_pointer,
    cosine_pointer,
    sine_pointer,
    position_pointer,
    q_norm_pointer,
    k_norm_pointer,
    eps,
    length,
    cache_row,
    cache_place,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    AT_ONCE: tl.constexpr,
    NORMED: tl.constexpr,
):
    """Turn some heads of one token: queries are turned, keys are turned and kept, values are kept."""
    token = tl.program_id(0)
    row, number = token // length, token % length
    position = tl.load(position_pointer + number)
    head = tl.program_id(1) * AT_ONCE + tl.arange(0, AT_ONCE)[:, None]
    column = tl.arange(0, HALF)[None, :]
    heads_in_all = HEADS + 2 * KV_HEADS
    is_q, is_k = head < HEADS, (head >= HEADS) & (head < HEADS + KV_HEADS)
    is_v = (head >= HEADS + KV_HEADS) & (head < heads_in_all)
    at = joined_pointer + (token.to(tl.int64) * heads_in_all + head) * (2 * HALF) + column
    kind = joined_pointer.dtype.element_ty
    x = tl.load(at, mask=head < heads_in_all, other=0.0).to(tl.float32)
    y = tl.load(at + HALF, mask=head < heads_in_all, other=0.0).to(tl.float32)
    if NORMED:
        shrink = tl.rsqrt((tl.sum(x * x, 1) + tl.sum(y * y, 1)) / (2 * HALF) + eps)[:, None]
        shrink = tl.where(is_q | is_k, shrink, 1.0)
        near = tl.where(is_q, tl.load(q_norm_pointer + column), tl.load(k_norm_pointer + column)).to(tl.float32)
        far = tl.where(is_q, tl.load(q_norm_pointer + HALF + column), tl.load(k_norm_pointer + HALF + column))
        x = x * shrink * tl.where(is_v, 1.0, near)
        y = y * shrink * tl.where(is_v, 1.0, far.to(tl.float32))
    cosine = tl.where(is_v, 1.0, tl.load(cosine_pointer + number * HALF + column).to(tl.float32))
    sine = tl.where(is_v, 0.0, tl.load(sine_pointer + number * HALF + column).to(tl.float32))
    turned_x, turned_y = (x * cosine - y * sine).to(kind), (y * cosine + x * sine).to(kind)
    place = row.to(tl.int64) * cache_row + position * cache_place + column
    q_at = q_pointer + (token.to(tl.int64) * HEADS + head) * (2 * HALF) + column
    k_at = k_pointer + place + (head - HEADS) * (2 * HALF)
    v_at = v_pointer + place + (head - HEADS - KV_HEADS) * (2 * HALF)
    tl.store(q_at, turned_x, mask=is_q)
    tl.store(q_at + HALF, turned_y, mask=is_q)
    tl.store(k_at, turned_x, mask=is_k)
    tl.store(k_at + HALF, turned_y, mask=is_k)
    tl.store(v_at, turned_x, mask=is_v)
    tl.store(v_at + HALF, turned_y, mask=is_v)


def attend_used(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    used: torch.Tensor,
    window: int,
    splits: int | None = None,
) -> torch.Tensor:
    """Attend with one query (rows, h, d) a sequence over the first ``used`` (rows,) places of its cache, (rows, places,
    k, d), or over the last ``window`` of those; returns (rows, h, d). ``splits``, a power of two, is otherwise chosen
    to suit the GPU.
    """
    rows, heads, width = q.shape
    places, kv_heads = keys.shape[1:3]
    if splits is None:
        processors = torch.cuda.get_device_properties(q.device).multi_processor_count
        splits = split_count(rows * kv_heads, min(places, window or places), processors)
    out = torch.empty_like(q)
    parts = out if splits == 1 else q.new_empty((rows, splits, heads, width), dtype=torch.float32)
    weights = parts if splits == 1 else q.new_empty((rows, splits, heads), dtype=torch.float32)
    _attend[rows, kv_heads, splits](
        q,
        keys,
        values,
        parts,
        weights,
        used,
        width**-0.5 * 1.4426950408889634,  # the kernel's exponentials are those of 2
        window,
        q.stride(0),
        keys.stride(0),
        keys.stride(1),
        GROUP=heads // kv_heads,
        QUERIES=max(LEAST_QUERIES, triton.next_power_of_2(heads // kv_heads)),
        WIDTH=width,
        TOKENS=BLOCK,
        SPLITS=splits,
        WINDOWED=bool(window),
        num_warps=4,
        num_stages=3,
    )
    if splits > 1:
        _combine[rows, heads](parts, weights, out, heads, SPLITS=splits, WIDTH=width, num_warps=4)
    return out


def split_count(sequences: int, places: int, multiprocessors: int) -> int:
    """Choose into how many parts, a power of two, ``sequences`` caches of up to ``places`` are split so that all of the
    GPU has work.
    """
    wanted = min(PROGRAMS * multiprocessors // sequences, places // BLOCK)
    return 1 << max(0, wanted.bit_length() - 1)


def place_heads(
    joined: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    turn: tuple[torch.Tensor, torch.Tensor],
    positions: torch.Tensor,
    cache: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """See ``probes.torch_engine.fused_kernels.place_heads``."""
    rows, length, _, width = joined.shape
    keys, values = cache
    kv_heads = keys.shape[2]
    heads = joined.shape[2] - 2 * kv_heads
    heads_in_all = heads + 2 * kv_heads
    q = joined.new_empty(rows, length, heads, width)
    _place[rows * length, triton.cdiv(heads_in_all, AT_ONCE)](
        joined,
        q,
        keys,
        values,
        *turn,
        positions,
        *(norms or (joined, joined)),
        eps,
        length,
        keys.stride(0),
        keys.stride(1),
        HEADS=heads,
        KV_HEADS=kv_heads,
        HALF=width // 2,
        AT_ONCE=AT_ONCE,
        NORMED=norms is not None,
        num_warps=4,
    )
    return q
