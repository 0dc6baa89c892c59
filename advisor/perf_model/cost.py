"""A cost is a value: milliseconds by operator and by cause, and costs add up.

The cost of a layer is the sum of the costs of its operators, the cost of a pass the sum over its layers; nothing is
accumulated in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from catalog.units import Array

CAUSES = ("compute", "memory", "communication", "overhead")
_CAUSES = frozenset(CAUSES)

ATTENTION, RECURRENCE, ELEMENTWISE = "attention", "recurrence", "elementwise"
"""Operators without a matrix: attention; linear attention and state-space layers; norms, rotary embedding, activations and
the like. Products of mixers and feed-forwards have the names of their matrices (``catalog.mixers``, ``catalog.parts``), ..."""
LM_HEAD, ROUTER, EXPERTS_UP, EXPERTS_DOWN = "lm_head", "router", "experts_up", "experts_down"
SHARED_UP, SHARED_DOWN = "shared_up", "shared_down"
"""... but those of the head, of routed and of shared experts."""
ALL_REDUCE, ALL_GATHER, EXPERT_EXCHANGE, HAND_OVER = "all_reduce", "all_gather", "expert_exchange", "hand_over"
CONTEXT_EXCHANGE = "context_exchange"
"""Communication: sums over slices, gathered logits, tokens sent to experts and back, and from one pipeline stage to the next; and queries
and partial outputs of attention whose context is spread."""
IMAGE_ENCODER = "image_encoder"
"""All that the encoder of the images of a prompt does."""
ADAPTERS = "lora_adapters"
"""All kernels of LoRA adapters."""
ROUTING, MIXED = "routing", "mixed"
"""What plain PyTorch adds to send tokens to experts; and prompts that share the decode steps of a static batch."""

LAUNCH, OFFLOAD, HOST = "launch", "offload", "host"
"""What runs beside the GPU: launches of kernels and copies of offloaded layers, as far as the GPU waits for them, and the
engine's own work."""
BESIDE_GPU = frozenset({LAUNCH, OFFLOAD, HOST})


@dataclass(frozen=True, slots=True)
class Cost:
    """Time of n configurations side by side."""

    times: Mapping[tuple[str, str], Array] = field(default_factory=dict)
    """Milliseconds by operator and cause (``CAUSES``), of shape (n,), behind that of the parameters where these are several, or of one
    number where it is the same for all; what takes no time is left out."""

    @classmethod
    def of(cls, operator: str, **by_cause: Array | float) -> Cost:
        """Return one operator's cost, its causes by name: ``Cost.of("qkv", compute=c, memory=m)``."""
        assert by_cause.keys() <= _CAUSES
        return cls({(operator, cause): np.asarray(value, dtype=float) for cause, value in by_cause.items()})

    def __add__(self, other: Cost) -> Cost:
        times = dict(self.times)
        for key, time in other.times.items():
            times[key] = times[key] + time if key in times else time
        return Cost(times)

    def __mul__(self, factor: Array | float) -> Cost:
        if isinstance(factor, float) and factor == 1.0:
            return self
        return Cost({key: time * factor for key, time in self.times.items()})

    __rmul__ = __mul__

    def take(self, rows: slice) -> Cost:
        """Return the chosen configurations; what is the same for all of them stays so."""
        return Cost({key: time[..., rows] if _is_wide(time) else time for key, time in self.times.items()})

    def first(self) -> Cost:
        """Return the cost at the first of several parameters; one of a single set of them is itself."""
        return Cost({key: time[0] if time.ndim > 1 else time for key, time in self.times.items()})

    def spread(self, rows: NDArray[np.bool_]) -> Cost:
        """Return the cost of more configurations, of which ``rows`` are these and all others take no time."""
        times = {}
        for key, time in self.times.items():
            times[key] = np.zeros((*time.shape[:-1], *rows.shape))
            times[key][..., rows] = time
        return Cost(times)

    @classmethod
    def joined(cls, costs: Sequence[Cost], sizes: Sequence[int]) -> Cost:
        """Return several costs one behind another, of as many configurations as ``sizes`` says."""
        keys, none = dict.fromkeys(key for cost in costs for key in cost.times), np.zeros(())
        return cls({key: joined([cost.times.get(key, none) for cost in costs], sizes) for key in keys})

    @property
    def total_ms(self) -> Array:
        """Return milliseconds, shape (n,)."""
        return _sum(list(self.times.values()))

    def row(self, row: int) -> dict[str, dict[str, float]]:
        """Return milliseconds of one configuration by operator and cause; zeros are left out."""
        rows: dict[str, dict[str, float]] = {}
        for (operator, cause), time in self.times.items():
            if (one := float(time[row] if _is_wide(time) else time.item())) > 0:
                rows.setdefault(operator, {})[cause] = one
        return {
            operator: {cause: causes[cause] for cause in CAUSES if cause in causes} for operator, causes in rows.items()
        }

    @property
    def parts(self) -> dict[str, Array]:
        """Return milliseconds by operator, of shape (4, n): by ``CAUSES``."""
        parts: dict[str, Array] = {}
        for operator, times in self._by(0).items():
            shape = np.broadcast_shapes(*(time.shape for time in times.values()))
            parts[operator] = np.stack([np.broadcast_to(times.get(cause, 0.0), shape) for cause in CAUSES])
        return parts

    def by_operator(self) -> dict[str, Array]:
        return {operator: _sum(list(times.values())) for operator, times in self._by(0).items()}

    def by_cause(self) -> dict[str, Array]:
        shape = _shape_of(*{time.shape for time in self.times.values()})
        held = self._by(1)
        return {cause: _sum([np.zeros(shape), *held.get(cause, {}).values()]) for cause in CAUSES}

    def _by(self, place: int) -> dict[str, dict[str, Array]]:
        """Group times by operator (0) or cause (1), and by the other within."""
        groups: dict[str, dict[str, Array]] = {}
        for key, time in self.times.items():
            groups.setdefault(key[place], {})[key[1 - place]] = time
        return groups


def _is_wide(time: Array) -> bool:
    """Return whether configurations have times of their own."""
    return time.ndim > 0 and time.shape[-1] > 1


def joined(arrays: Sequence[Array], sizes: Sequence[int]) -> Array:
    """Return arrays of so many configurations, which come last, one behind another."""
    ahead = np.broadcast_shapes(*(each.shape[:-1] for each in arrays))
    pairs = zip(arrays, sizes, strict=True)
    return np.concatenate([np.broadcast_to(each, (*ahead, size)) for each, size in pairs], axis=-1)


def replaced(values: Array, rows: NDArray[np.intp], others: Array) -> Array:
    """Return ``values`` with others in some rows, which come last."""
    ahead = np.broadcast_shapes(values.shape[:-1], others.shape[:-1])
    mixed = np.array(np.broadcast_to(values, (*ahead, values.shape[-1])))
    mixed[..., rows] = others
    return mixed


@lru_cache(maxsize=4096)
def _shape_of(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of sums of arrays of these shapes, which a handful are of all that are ever asked about."""
    return np.broadcast_shapes(*shapes)


def _sum(times: Sequence[Array]) -> Array:
    """Add arrays of shape (n,) and single numbers up."""
    if not times:
        return np.zeros(())
    total = np.zeros(_shape_of(*{time.shape for time in times}))
    for time in times:
        total += time
    return total
