"""What mixes the tokens of a sequence in a layer of a decoder: attention of several kinds, and recurrences.

A mixer knows its weights, what it caches a token, what it keeps a sequence, and its work, as numbers of the whole model;
how tensor parallelism divides them stands beside each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOAT32_BYTES = 4
HALF_BYTES = 2
INDEX_BYTES = 1
"""Bytes of a number in the index cache of sparse attention, which is fp8 whatever the KV cache is, ..."""
INDEX_SCALE_BYTES = 4
"""... and of the scale of each of its vectors (vllm/model_executor/models/deepseek_v2.py ``DeepseekV32IndexerCache``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A weight matrix [k, n] and how tensor parallelism slices it (Megatron, arXiv 1909.08053)."""

    name: str
    k: int
    n: int
    sliced: Literal["n", "k", "no"] = "n"
    """Along its outputs, its inputs, or whole on every GPU."""
    kv_n: int = 0
    """Further outputs that are keys and values: sliced too, but a GPU holds at least ``kv_least`` of them."""
    kv_least: int = 0
    bias: bool = False
    half: bool = False
    """Kept in 16 bits whatever the weight format."""

    @property
    def elements(self) -> int:
        """Count the weights and biases of the whole matrix."""
        columns = self.n + self.kv_n
        return self.k * columns + columns * self.bias


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseIndex:
    """The indexer of sparse attention: it scores all tokens cheaply, and attention reads the best (arXiv 2512.02556)."""

    heads: int
    dim: int
    top_k: int
    """Tokens that attention reads at the most."""
    pooled: int = 1
    """Tokens that share one entry of its cache."""

    @property
    def bytes_per_token(self) -> float:
        """Return bytes of its cache a token, on every GPU."""
        return (self.dim * INDEX_BYTES + INDEX_SCALE_BYTES) / self.pooled

    def matrices(self, hidden: int, query: int) -> Iterator[Matrix]:
        """Yield its projections, of queries from a vector of ``query`` numbers; each GPU has all of them."""
        yield Matrix(name="index_q", k=query, n=self.heads * self.dim, sliced="no")
        yield Matrix(name="index_k", k=hidden, n=self.dim, sliced="no")
        yield Matrix(name="index_weights", k=hidden, n=self.heads, sliced="no")

    @property
    def vectors(self) -> int:
        return 2 * self.dim


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heads:
    """What attention of both kinds has: query heads over cached keys and values."""

    heads: int
    value_dim: int
    window: int = 0
    """Tokens that it attends to; 0: all."""
    qkv_bias: bool = False
    o_bias: bool = False
    gate: int = 0
    """Columns of a gate on its output, sliced as its heads are."""
    shares_cache: bool = False
    """It reads the cache of an earlier layer and has neither keys nor values of its own."""
    index: SparseIndex | None = None

    @property
    def index_bytes(self) -> float:
        """Return bytes of the index cache a token; 0 without one."""
        return self.index.bytes_per_token if self.index else 0.0

    @property
    def state_bytes(self) -> int:
        """Return bytes of a state a sequence: none."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(_Heads):
    """Softmax attention over cached keys and values of some heads (grouped queries, arXiv 2305.13245)."""

    kv_heads: int
    head_dim: int
    qk_norm: int = 0
    """Numbers of the norms of queries and keys."""
    sinks: bool = False
    """One learned number a head."""
    keys_are_values: bool = False
    """One projection gives both; both are cached."""
    inputs: int = 0
    """Width of what it attends with; 0: the hidden state's (Zamba gives it the embeddings beside)."""
    latent: ClassVar[bool] = False

    @property
    def cached(self) -> tuple[int, int]:
        """Return numbers a token adds to the KV cache over all heads, and the least of them that one GPU holds."""
        one = self.head_dim + self.value_dim
        return (0, 0) if self.shares_cache else (self.kv_heads * one, one)

    @property
    def read(self) -> tuple[int, int]:
        """Return numbers of the cache that one token reads of each it attends to: of another layer's where it shares."""
        one = self.head_dim + self.value_dim
        return self.kv_heads * one, one

    @property
    def read_by_heads(self) -> tuple[int, int]:
        """Return the same of a kernel that reads the cache once for each query head."""
        one = self.head_dim + self.value_dim
        return self.heads * one, one

    @property
    def vectors(self) -> int:
        """Return weights that every GPU has in 16 bits."""
        return self.qk_norm + (self.index.vectors if self.index else 0)

    @property
    def sliced_vectors(self) -> int:
        """Return weights in 16 bits that are divided among GPUs."""
        return self.heads * self.sinks

    @property
    def rotary(self) -> tuple[int, tuple[int, int]]:
        """Return numbers that rotary embedding and norms move a token: of queries, and of keys as ``cached`` says it."""
        keys = (0, 0) if self.shares_cache else (self.kv_heads * self.head_dim, self.head_dim)
        return self.heads * self.head_dim, keys

    def matrices(self, hidden: int) -> Iterator[Matrix]:
        one = self.head_dim + (0 if self.keys_are_values else self.value_dim)
        kv, least = (0, 0) if self.shares_cache else (self.kv_heads * one, one)
        columns = self.heads * self.head_dim + self.gate
        yield Matrix(name="qkv", k=self.inputs or hidden, n=columns, kv_n=kv, kv_least=least, bias=self.qkv_bias)
        yield Matrix(name="o", k=self.heads * self.value_dim, n=hidden, sliced="k", bias=self.o_bias)
        if self.index:
            yield from self.index.matrices(hidden, hidden)

    def pair_flops(self, *, absorbed: bool) -> float:  # noqa: ARG002  latent attention differs
        """Return operations of one query-key pair over all heads: the score and the weighted value."""
        return 2.0 * self.heads * (self.head_dim + self.value_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention(_Heads):
    """Multi-head latent attention: one compressed vector a token is cached (DeepSeek-V2, arXiv 2405.04434)."""

    q_lora_rank: int
    kv_lora_rank: int
    nope_dim: int
    rope_dim: int
    o_lora_rank: int = 0
    """Width of each of ``o_groups`` low-rank vectors between the heads and the output; 0: one product."""
    o_groups: int = 1
    shares_value: bool = False
    """The cached vector is key and value of all heads at once (DeepSeek-V4): nothing is expanded."""
    compress: int = 1
    """Tokens that share one cached vector (DeepSeek-V4's compressed attention)."""
    latent: ClassVar[bool] = True

    @property
    def cached(self) -> tuple[float, float]:
        one = (self.kv_lora_rank + self.rope_dim) / self.compress
        return (0, 0) if self.shares_cache else (one, one)

    @property
    def read(self) -> tuple[float, float]:
        one = (self.kv_lora_rank + self.rope_dim) / self.compress
        return one, one

    @property
    def read_by_heads(self) -> tuple[float, float]:
        """Return the same: all heads read the one vector together."""
        return self.read

    @property
    def vectors(self) -> int:
        return self.q_lora_rank + self.kv_lora_rank + (self.index.vectors if self.index else 0)

    @property
    def sliced_vectors(self) -> int:
        return 0

    @property
    def width(self) -> int:
        """Return width of one query head."""
        return self.nope_dim + self.rope_dim

    @property
    def rotary(self) -> tuple[int, tuple[int, int]]:
        keys = self.heads * self.width
        return self.heads * self.width, (keys, self.width)

    def matrices(self, hidden: int) -> Iterator[Matrix]:
        heads, rank = self.heads, self.q_lora_rank
        if rank:
            yield Matrix(name="q_a", k=hidden, n=rank, sliced="no", bias=self.qkv_bias)
            yield Matrix(name="q_b", k=rank, n=heads * self.width)
        else:
            yield Matrix(name="q", k=hidden, n=heads * self.width)
        cached = self.kv_lora_rank + self.rope_dim
        into = cached * (1 if self.compress == 1 else 2)
        if not self.shares_cache:
            yield Matrix(name="kv_a", k=hidden, n=into, sliced="no", bias=self.qkv_bias)
        if not self.shares_value:
            yield Matrix(name="kv_b", k=self.kv_lora_rank, n=heads * (self.nope_dim + self.value_dim))
        if self.gate:
            yield Matrix(name="gate", k=hidden, n=self.gate)
        out = heads * self.value_dim
        if self.o_lora_rank:
            yield Matrix(name="o_a", k=out // self.o_groups, n=self.o_groups * self.o_lora_rank)
            out = self.o_groups * self.o_lora_rank
        yield Matrix(name="o", k=out, n=hidden, sliced="k", bias=self.o_bias)
        if self.index:
            yield from self.index.matrices(hidden, rank or hidden)

    def pair_flops(self, *, absorbed: bool) -> float:
        """Return operations of one query-key pair over all heads.

        ``absorbed``: decode, which works on the latent (DeepSeek-V2, section 2.1.2).
        """
        if absorbed:
            return 2.0 * self.heads * (2.0 * self.kv_lora_rank + self.rope_dim)
        return 2.0 * self.heads * (self.width + self.value_dim)


State = Literal[
    "gated_delta_net",
    "kimi_delta",
    "mamba1",
    "mamba2",
    "lightning",
    "short_convolution",
    "gated_linear_recurrence",
    "matrix_lstm",
    "weighted_key_value",
]
"""Kinds of mixers that keep a state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """A mixer that keeps a state of fixed size a sequence instead of keys and values.

    Linear attention and state-space models alike: projections into some channels, most of them through a short
    convolution, a state of float32 or 16-bit numbers that every token updates, and a projection out.
    """

    kind: State
    into: int
    """Columns of the projections from the hidden state, of heads and so sliced."""
    out: int
    """Rows of the projection back."""
    low_rank: tuple[tuple[int, int], ...] = ()
    """Inputs and outputs of narrow matrices in between; those into a narrower space are whole on every GPU."""
    conv_channels: int = 0
    conv_kernel: int = 1
    conv_bias: bool = False
    state_numbers: int = 0
    """Numbers of the recurrent state, over all heads."""
    state_float32: bool = True
    small: int = 0
    """Numbers a head or a channel: decays, skips, biases of time steps."""
    norm: int = 0
    """Numbers of the norm before the projection back."""
    bias: bool = False
    window: ClassVar[int] = 0
    latent: ClassVar[bool] = False
    shares_cache: ClassVar[bool] = False
    index: ClassVar[SparseIndex | None] = None
    index_bytes: ClassVar[float] = 0.0
    cached: ClassVar[tuple[int, int]] = (0, 0)
    read: ClassVar[tuple[int, int]] = (0, 0)

    @property
    def state_bytes(self) -> int:
        """Return bytes that it keeps a sequence: the recurrent state, and the last inputs of the convolution in 16 bits."""
        conv = self.conv_channels * (self.conv_kernel - 1) * HALF_BYTES
        return self.recurrent_bytes + conv

    @property
    def recurrent_bytes(self) -> int:
        """Return bytes of the recurrent state alone."""
        return self.state_numbers * (FLOAT32_BYTES if self.state_float32 else HALF_BYTES)

    @property
    def vectors(self) -> int:
        return 0

    @property
    def sliced_vectors(self) -> int:
        return self.conv_channels * (self.conv_kernel + self.conv_bias) + self.small + self.norm

    @property
    def rotary(self) -> tuple[int, tuple[int, int]]:
        return self.into, (0, 0)

    def matrices(self, hidden: int) -> Iterator[Matrix]:
        if not self.into:  # a convolution of what another part computes has no products of its own
            return
        yield Matrix(name="state_in", k=hidden, n=self.into, bias=self.bias)
        for k, n in self.low_rank:
            yield Matrix(name="state_inner", k=k, n=n, sliced="no" if n < k else "n", half=True)
        yield Matrix(name="state_out", k=self.out, n=hidden, sliced="k", bias=self.bias)

    def pair_flops(self, *, absorbed: bool) -> float:  # noqa: ARG002  it has no pairs
        return 0.0

    @property
    def token_flops(self) -> float:
        """Return operations a token beside the projections: the convolution, an update of the state and its product with a query.

        Three passes over the state (decay, rank-one update, read-out) of a multiplication and an addition each.
        """
        return 6.0 * self.state_numbers + 2.0 * self.conv_channels * self.conv_kernel
