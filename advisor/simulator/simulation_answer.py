"""What became of traffic, as an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.simulator.class_outcomes import all_kept, class_outcomes
from advisor.simulator.disaggregated_server import DisaggregatedServer
from advisor.simulator.request_results import RequestResults
from advisor.simulator.scheduler import longest
from advisor.simulator.serving import serving_warnings
from advisor.simulator.simulation import RATES, Simulation
from advisor.simulator.summary_statistics import meets, timeline

if TYPE_CHECKING:
    from advisor.calibration.surrogate import IntervalScale
    from advisor.simulator.arrivals import Arrivals, ArrivalStream
    from advisor.simulator.outcome import TrafficOutcome
    from advisor.simulator.server import AggregatedServer
    from advisor.simulator.traffic_speculation import TrafficSpeculation
    from catalog.errors import Note
    from catalog.schema import Slo


def simulation_of(
    engine: AggregatedServer | DisaggregatedServer,
    decode: AggregatedServer,
    traffic: Arrivals | ArrivalStream,
    outcome: TrafficOutcome,
    *,
    slo: Slo | None,
    asked_s: float | None,
    client: str | None,
    scale: IntervalScale | None,
    speculation: TrafficSpeculation | None,
    notes: tuple[Note, ...],
) -> Simulation:
    """Return what became of the traffic as an answer; ``decode`` is the engine itself, or its pool that decodes."""
    served, scheduler = outcome.served, decode.scheduler
    loads = served.adapter_loads if isinstance(served, RequestResults) else ()
    kinds = class_outcomes(outcome.classes, outcome.counted_s(traffic), scale)
    below = served.tier_hit_rates if isinstance(served, RequestResults) else ()
    drawn = None if traffic.concurrency else len(served) / traffic.duration_s
    rates = {name: outcome.statistics["rates", name] for name in RATES}
    return Simulation(
        model=engine.model,
        cluster=decode.cost_model.cluster,
        deployment=decode.deployment,
        prefill=engine.prefill.deployment if isinstance(engine, DisaggregatedServer) else None,
        prefill_cluster=engine.prefill_cluster if isinstance(engine, DisaggregatedServer) else None,
        slo=slo,
        rate=drawn,
        asked_s=asked_s,
        concurrency=traffic.concurrency,
        client=client,
        duration_s=traffic.duration_s,
        metrics=outcome.metrics(),
        **rates,
        good=served.good(slo.limits if slo else {}),
        energy_j_per_token=outcome.energy_j_per_token,
        meets=all_kept(kinds) if kinds else meets(served, slo),
        preemptions=served.preempted,
        router=scheduler.router,
        scheduling_policy=scheduler.scheduling_policy,
        classes=kinds,
        prefix_caching=scheduler.prefix_caching,
        hit_rate=None if traffic.sharing is None else served.hit_rate,
        tier_hit_rates=dict(zip(scheduler.tier_names, below, strict=True)) if below else None,
        kv_peak=served.most_blocks / scheduler.kv_blocks,
        kv_capacity_tokens=longest(scheduler),
        timeline=timeline(served, scheduler),
        served=served,
        steps=served.steps,
        provenance=engine.provenance,
        notes=(*notes, *serving_warnings(decode.deployment, scheduler, drawn, rates["saturation_s"])),
        sigmas=outcome.sigmas,
        scale=scale,
        speculation=speculation,
        adapter_hits=scheduler.adapters.hits(loads) if scheduler.adapters is not None and loads else None,
    )
