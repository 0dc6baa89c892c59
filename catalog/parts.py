"""The parts that the layers of a decoder are made of: mixers, and what works on each token alone; and how they are stacked.

Every count of memory and time follows from these; see ``catalog.mixers`` for the other half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from catalog.mixers import Attention, LatentAttention, Matrix, Recurrence

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A feed-forward block that every token goes through."""

    width: int
    gated: bool = True
    """Gate, up and down projections (SwiGLU and kin) rather than up and down alone."""
    bias: bool = False

    @property
    def inner(self) -> int:
        """Return columns of its first product."""
        return self.width * (2 if self.gated else 1)

    def matrices(self, hidden: int) -> Iterator[Matrix]:
        yield Matrix(name="gate_up" if self.gated else "up", k=hidden, n=self.inner, bias=self.bias)
        yield Matrix(name="down", k=self.width, n=hidden, sliced="k", bias=self.bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Experts of which a router chooses some for every token, and shared ones beside them (arXiv 2401.06066)."""

    num_experts: int
    num_experts_per_tok: int
    width: int
    """Of one expert."""
    gated: bool = True
    bias: bool = False
    """Biases in the experts and the router (gpt-oss)."""
    shared: Dense | None = None
    """What every token goes through beside the routed experts."""
    shared_gate: bool = False
    latent: int = 0
    """Width that tokens are projected to before the routed experts and back from after them; 0: the hidden state's."""
    zero_experts: int = 0
    """Further outputs of the router that compute nothing."""
    routing_bias: bool = False
    """A number an expert that balances the load (arXiv 2412.19437, section 2.1.2)."""

    @property
    def inner(self) -> int:
        """Return columns of an expert's first product."""
        return self.width * (2 if self.gated else 1)

    def inputs(self, hidden: int) -> int:
        """Return width of what an expert gets and gives."""
        return self.latent or hidden

    def expert_elements(self, hidden: int) -> int:
        """Count the weights of one expert."""
        return self.inputs(hidden) * (self.inner + self.width) + self.expert_vectors(hidden)

    def expert_vectors(self, hidden: int) -> int:
        """Count the biases of one expert."""
        return (self.inner + self.inputs(hidden)) * self.bias

    def router_elements(self, hidden: int) -> int:
        """Count the weights of the router, its biases and a gate on what is shared, all of them in 16 bits."""
        rows = self.num_experts + self.zero_experts
        return rows * hidden + self.num_experts * (self.bias + self.routing_bias) + hidden * self.shared_gate

    def latent_matrices(self, hidden: int) -> Iterator[Matrix]:
        """Yield the projections into and out of the experts' narrower space, which every GPU has."""
        if self.latent:
            yield Matrix(name="latent_down", k=hidden, n=self.latent, sliced="no")
            yield Matrix(name="latent_up", k=self.latent, n=hidden, sliced="no")


Mixer: TypeAlias = Attention | LatentAttention | Recurrence
FeedForward: TypeAlias = Dense | Experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One kind of layer: a mixer and a feed-forward part, either of which may be missing, and their norms."""

    mixer: Mixer | None
    feed_forward: FeedForward | None
    beside: Recurrence | None = None
    """A second mixer on the same input (Falcon-H1: attention and a state-space model side by side)."""
    norms: int = 2
    norm_bias: bool = False
    extra: float = 0.0
    """Further weights of the layer, sliced over GPUs, that no part describes."""
    held: float = 1.0
    """Share of the weights of its mixer, its feed-forward part and their norms that it adds to the model, 0 to 1: the rest
    belongs to layers with the same weights (Zamba's shared blocks; layers that are run several times)."""

    @property
    def mixers(self) -> tuple[Mixer, ...]:
        return tuple(part for part in (self.mixer, self.beside) if part is not None)

    def norm_elements(self, hidden: int) -> float:
        return self.held * self.norms * hidden * (1 + self.norm_bias)

    def mixer_elements(self, hidden: int) -> float:
        """Count the weights of the mixers and what no part describes, without the layer's norms."""
        return self.extra + sum(
            (self.held if part is self.mixer else 1.0)
            * (sum(matrix.elements for matrix in part.matrices(hidden)) + part.vectors + part.sliced_vectors)
            for part in self.mixers
        )

    def dense_elements(self, hidden: int) -> float:
        """Count what every token goes through of the feed-forward part: all but the routed experts."""
        part = self.feed_forward
        if part is None:
            return 0
        if isinstance(part, Dense):
            return self.held * sum(matrix.elements for matrix in part.matrices(hidden))
        shared = sum(matrix.elements for matrix in part.shared.matrices(hidden)) if part.shared else 0
        latent = sum(matrix.elements for matrix in part.latent_matrices(hidden))
        return self.held * (part.router_elements(hidden) + shared + latent)

    def routed_elements(self, hidden: int) -> float:
        """Count the weights of all routed experts."""
        part = self.feed_forward
        return self.held * part.num_experts * part.expert_elements(hidden) if isinstance(part, Experts) else 0

    def idle_elements(self, hidden: int) -> float:
        """Count the weights of the experts that a token is not routed to."""
        part = self.feed_forward
        if not isinstance(part, Experts):
            return 0
        return self.held * (part.num_experts - part.num_experts_per_tok) * part.expert_elements(hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """All layers of a model: their kinds, and which kind each layer is, first to last."""

    kinds: tuple[Layer, ...]
    pattern: tuple[int, ...]

    @property
    def counts(self) -> tuple[tuple[int, Layer], ...]:
        """Pair each kind with the number of layers of it."""
        numbers = [0] * len(self.kinds)
        for kind in self.pattern:
            numbers[kind] += 1
        return tuple(zip(numbers, self.kinds, strict=True))


def stack_of(layers: list[Layer]) -> Stack:
    """Group equal layers."""
    number: dict[Layer, int] = {}
    pattern = tuple(number.setdefault(layer, len(number)) for layer in layers)
    return Stack(kinds=tuple(number), pattern=pattern)
