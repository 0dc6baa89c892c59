"""A cost is a value: milliseconds by operator and by cause, and costs add up.

The cost of a layer is the sum of the costs of its operators, the cost of a pass the sum over its layers; nothing is
accumulated in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catalog.units import Array

CAUSES = ("compute", "memory", "communication", "overhead")

ATTENTION, RECURRENCE, ELEMENTWISE = "attention", "recurrence", "elementwise"
"""Operators without a matrix: attention; linear attention and state-space layers; norms, rotary embedding, activations and
the like. Products of mixers and feed-forwards have the names of their matrices (``catalog.mixers``, ``catalog.parts``), ..."""
LM_HEAD, ROUTER, EXPERTS_UP, EXPERTS_DOWN = "lm_head", "router", "experts_up", "experts_down"
SHARED_UP, SHARED_DOWN = "shared_up", "shared_down"
"""... but those of the head, of routed and of shared experts."""
ALL_REDUCE, ALL_GATHER, EXPERT_EXCHANGE, HAND_OVER = "all_reduce", "all_gather", "expert_exchange", "hand_over"
"""Communication: sums over slices, gathered logits, tokens sent to experts and back, and from one pipeline stage to the next."""
ROUTING, MIXED = "routing", "mixed"
"""What plain PyTorch adds to send tokens to experts; and prompts that share the decode steps of a static batch."""

LAUNCH, OFFLOAD, HOST = "launch", "offload", "host"
"""What runs beside the GPU: launches of kernels and copies of offloaded layers, as far as the GPU waits for them, and the
engine's own work."""
BESIDE_GPU = frozenset({LAUNCH, OFFLOAD, HOST})


@dataclass(frozen=True, slots=True)
class Cost:
    """Time of n configurations side by side.

    ``parts[operator]`` is an array of shape (4, n): milliseconds by ``CAUSES``.
    """

    parts: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, operator: str, **by_cause: Array | float) -> Cost:
        """Return one operator's cost, its causes by name: ``Cost.of("qkv", compute=c, memory=m)``."""
        shapes = {np.shape(value) for value in by_cause.values()}
        time = np.zeros((len(CAUSES), *(next(iter(shapes)) if len(shapes) == 1 else np.broadcast_shapes(*shapes))))
        for cause, value in by_cause.items():
            time[CAUSES.index(cause)] = value
        return cls({operator: time})

    def __add__(self, other: Cost) -> Cost:
        parts = dict(self.parts)
        for operator, time in other.parts.items():
            parts[operator] = parts[operator] + time if operator in parts else time
        return Cost(parts)

    def __mul__(self, factor: Array | float) -> Cost:
        return Cost({operator: time * factor for operator, time in self.parts.items()})

    __rmul__ = __mul__

    def take(self, rows: slice) -> Cost:
        """Return the chosen configurations; what is the same for all of them stays so."""
        wide = {operator: time.ndim > 1 and time.shape[-1] > 1 for operator, time in self.parts.items()}
        return Cost({operator: time[..., rows] if wide[operator] else time for operator, time in self.parts.items()})

    @property
    def total_ms(self) -> Array:
        """Return milliseconds, shape (n,)."""
        return np.asarray(sum(time.sum(axis=0) for time in self.parts.values()))

    def by_operator(self) -> dict[str, Array]:
        return {operator: time.sum(axis=0) for operator, time in self.parts.items()}

    def by_cause(self) -> dict[str, Array]:
        total = sum(self.parts.values())
        return {cause: np.asarray(total)[i] for i, cause in enumerate(CAUSES)}
