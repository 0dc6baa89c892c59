"""What there is to say of a plan beside its numbers: what prompts share and caches hit, what engines chose, what GPUs cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.simulator.cache_tiers import UNUSED
from advisor.simulator.server import AggregatedServer
from advisor.simulator.slot_shortage import slot_notes
from catalog.errors import Note
from catalog.schema import STATED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from advisor.capacity.fleet_choice import FleetChoice
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.replica_sizing import ReplicaSizing
    from catalog.schema import Deployment, Price


def traffic_notes(requests: Arrivals, choice: FleetChoice, base: Deployment) -> list[Note]:
    """Say what the best fleet's caches and adapter slots make of the requests, and what the engines of those shown chose."""
    notes: list[Note] = []
    if requests.sharing is None:
        notes += [UNUSED] if base.kv_offload else []
    else:
        notes += _hits(requests, *choice.ranked[0]) if choice.ranked else [_prompts(requests)]
    if choice.ranked and isinstance(engine := choice.ranked[0][0].engine, AggregatedServer):
        notes += slot_notes(engine, requests, choice.ranked[0][0].saturation_s)
    return [*notes, *_engine_notes(choice.answers)]


def _prompts(requests: Arrivals) -> Note:
    return Note(f"prompts have {requests.input_len.mean():.0f} tokens on average, with all that they share")


def _hits(requests: Arrivals, fleet: ReplicaSizing, replicas: int) -> list[Note]:
    """Say what the prefix caches of a fleet hit, and what of that the tiers below them."""
    hit_rate, below = fleet.hit_rates(replicas)
    loaded = ", ".join(f"{share:.0%} from {name}" for name, share in below.items())
    text = f"{_prompts(requests).text}; the best fleet's prefix caches hit {hit_rate:.0%} of them"
    tiers = fleet.engine.tier_notes if isinstance(fleet.engine, AggregatedServer) else ()
    return [Note(f"{text}, of which {loaded}" if loaded else text, "asked"), *tiers]


def _engine_notes(fleets: Iterable[ReplicaSizing]) -> list[Note]:
    """Collect the notes of the layouts that are shown, of those with two pools only the warning; what warns of another layout than
    the first is no warning of the answer.
    """
    best, *others = [
        engine.notes if isinstance(engine, AggregatedServer) else (engine.warning,)
        for engine in (fleet.engine for fleet in fleets)
    ]
    known = {note.text for note in best}
    rest = [note for notes in others for note in notes if note.text not in known]
    return [*best, *(Note(note.text) if note.kind == "warning" else note for note in rest)]


def price_notes(prices: Mapping[str, Price | None], stated: Mapping[str, float]) -> list[Note]:
    """Say what a GPU of each kind costs, and whose offer that is."""
    notes = []
    for name, price in prices.items():
        if price is not None:
            offer = STATED if name in stated or "" in stated else price.offer
            notes.append(Note(f"{name} at ${price.usd_per_gpu_hour:g} per GPU-hour: {offer}"))
    return notes
