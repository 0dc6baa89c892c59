"""Whether it is the slots for LoRA adapters that limit a replica, and not its GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from catalog.errors import Note

if TYPE_CHECKING:
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.request_results import RequestResults
    from advisor.simulator.server import AggregatedServer

LIMITED = 0.97
"""Share of the rate with a slot for every adapter below which slots are what limits."""
WAITING, ROOM = 0.05, 0.9
"""Requests that wait as a share of those that run, from which waiting is said, and the share of the room for sequences and of the KV cache
below which it is not for these."""


def slot_notes(
    server: AggregatedServer, traffic: Arrivals, saturation_s: float, served: RequestResults | None = None
) -> tuple[Note, ...]:
    """Say that slots limit the rate of a server, or that requests wait for them though the GPUs have room; nothing without adapters.

    Args:
        server: replicas.
        traffic: what comes to them.
        saturation_s: of them, by the times that are believed.
        served: what became of the traffic, where that was served whole.

    """
    adapters = server.scheduler.adapters
    if adapters is None or adapters.slots >= len(adapters.popularity):
        return ()
    free_s = server.slots_for_all().saturation(traffic, server.believed_times())
    number, held = len(adapters.popularity), adapters.slots
    slots = f"{held} slot{'s' if held > 1 else ''} for {number} adapters (--max-loras)"
    if saturation_s < LIMITED * free_s:
        text = f"limit{'' if held > 1 else 's'} this, not the GPUs: saturated at {saturation_s:.3g} requests/s, with a slot for each at {free_s:.3g}"
        return (Note(f"{slots} {text}; more slots may take the place of more GPUs", "warning"),)
    if served is not None and _waits_with_room(server, served):
        text = "requests wait for one though the GPUs have room; with more slots first tokens come sooner"
        return (Note(f"{slots}: {text}", "warning"),)
    return ()


def _waits_with_room(server: AggregatedServer, served: RequestResults) -> bool:
    """Return whether requests wait that sequences and KV cache have room for."""
    busy, running, waiting, blocks = np.sum(served.bins[:, :4], axis=0).tolist()
    scheduler = server.scheduler
    full = max(running / scheduler.max_num_seqs, blocks / scheduler.kv_blocks)
    return bool(waiting > WAITING * running and full < ROOM * busy)
