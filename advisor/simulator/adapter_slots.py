"""LoRA adapters under traffic: which a request needs, which have a slot on the GPUs, and what loading one takes.

As vLLM has them: at most ``--max-loras`` adapters are in a batch, so a request whose adapter is not among those that run waits while as
many others are, and those behind it go first (v1/core/sched/scheduler.py); slots keep the adapters that were used last, and as many
as ``--max-cpu-loras`` stay in CPU memory (lora/worker_manager.py ``LRUCacheWorkerLoRAManager``). The step that an adapter is loaded
for waits for it. Importing this module imports numba; nothing but a simulation does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from advisor.simulator.compilation import compiled
from advisor.simulator.splitmix import NUMBERS, splitmix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.simulator.adapter_terms import AdapterTerms

RESIDENT, FROM_CPU, FROM_DISK = range(3)
"""Of ``AdapterSlots.loads``."""


class AdapterSlots(NamedTuple):
    """Adapters of all replicas, of which there are ``replicas``, and A adapters."""

    popularity: NDArray[np.float64]
    """Share of the requests that are of this adapter or one before it, (A,)."""
    runs: NDArray[np.int64]
    """Requests of each that run, (replicas, A)."""
    used: NDArray[np.int64]
    """When each was used last, by a count, 0 if it has no slot, (replicas, A)."""
    cached: NDArray[np.int64]
    """The same for CPU memory."""
    clock: NDArray[np.int64]
    """(replicas,)."""
    loads: NDArray[np.int64]
    """Requests whose adapter had a slot, was loaded from CPU memory, and from disk, (3,)."""
    slots: int
    cpu_slots: int
    cpu_s: float
    """To load one from CPU memory,"""
    disk_s: float
    """and from disk before that."""
    pass_s: float
    """Of the adapters' kernels in a pass,"""
    token_s: float
    """for each of its tokens,"""
    adapter_s: float
    """and for each adapter that runs."""

    @classmethod
    def of(cls, terms: AdapterTerms, replicas: int) -> AdapterSlots:
        """Return slots with nothing in them."""
        number = len(terms.popularity)
        held = {name: getattr(terms, name) for name in cls._fields if hasattr(terms, name)}
        return cls(
            **held,
            runs=np.zeros((replicas, number), np.int64),
            used=np.zeros((replicas, number), np.int64),
            cached=np.zeros((replicas, number), np.int64),
            clock=np.zeros(replicas, np.int64),
            loads=np.zeros(3, np.int64),
        )


@compiled
def adapter_of(loras: Any, request: int) -> int:
    """Return the adapter of a request: a random one of the popularity's law, the same on every deployment."""
    return min(int(np.searchsorted(loras.popularity, splitmix(request) / NUMBERS)), len(loras.popularity) - 1)


@compiled
def _running(loras: Any, r: int) -> int:
    return int((loras.runs[r] > 0).sum())


@compiled
def brought_forward(loras: Any, head: Any, tail: Any, link: Any, r: int, level: int, gone: int, seen: int) -> bool:
    """Move the first of the ``seen`` that wait whose adapter may run to the head of its queue, and return whether there is one."""
    full = _running(loras, r) >= loras.slots
    before, q = -1, head[r, level]
    for _ in range(seen):
        if q < 0:
            return False
        if not full or loras.runs[r, adapter_of(loras, gone + q)] > 0:
            if before >= 0:
                link[before] = link[q]
                if link[q] < 0:
                    tail[r, level] = before
                link[q] = head[r, level]
                head[r, level] = q
            return True
        before, q = q, link[q]
    return False


@compiled
def _kept(used: Any, most: int, a: int, clock: int) -> bool:
    """Use adapter ``a`` in a cache of ``most``, which drops the one used longest ago for it; return whether it was there."""
    there = used[a] > 0
    if not there and (used > 0).sum() >= most:
        oldest = -1
        for other in range(len(used)):
            if used[other] > 0 and (oldest < 0 or used[other] < used[oldest]):
                oldest = other
        used[oldest] = 0
    used[a] = clock
    return bool(there)


@compiled
def admit(loras: Any, r: int, request: int) -> float:
    """Let a request run with its adapter, and return the seconds that loading it takes."""
    a = adapter_of(loras, request)
    loras.clock[r] += 1
    for other in range(len(loras.popularity)):  # what runs is in use
        if loras.runs[r, other] > 0:
            loras.used[r, other] = loras.clock[r]
    loras.clock[r] += 1
    loras.runs[r, a] += 1
    in_cpu = _kept(loras.cached[r], loras.cpu_slots, a, loras.clock[r])
    if _kept(loras.used[r], loras.slots, a, loras.clock[r]):
        loras.loads[RESIDENT] += 1
        return 0.0
    loras.loads[FROM_CPU if in_cpu else FROM_DISK] += 1
    return float(loras.cpu_s + (0.0 if in_cpu else loras.disk_s))


@compiled
def leave(loras: Any, r: int, request: int) -> None:
    """Let a request run no longer: it is done, or was preempted."""
    loras.runs[r, adapter_of(loras, request)] -= 1


@compiled
def adapters_s(loras: Any, r: int, tokens: int) -> float:
    """Return seconds that the kernels of adapters add to a step of so many tokens."""
    return float(loras.pass_s + loras.token_s * tokens + loras.adapter_s * _running(loras, r))
