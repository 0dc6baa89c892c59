"""Traffic served as believed and under other parameters: the requests, their statistics, how far those spread, the energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advisor.calibration.intervals import LEVEL
from advisor.perf_model.energy import power_of
from advisor.prediction.deployment_estimate import ENERGY
from advisor.prediction.inputs import CONFIDENCE
from advisor.simulator.arrivals import Arrivals, ArrivalStream, BusiestWindow, refusals
from advisor.simulator.class_outcomes import ClassSpreads, class_numbers, class_results
from advisor.simulator.disaggregated_server import DisaggregatedServer
from advisor.simulator.request_results import METRICS
from advisor.simulator.served_energy import served_work
from advisor.simulator.streaming_statistics import StreamingStatistics
from advisor.simulator.summary_statistics import meets, numbers, spreads, with_nearer_end
from catalog.errors import Note

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from advisor.simulator.request_results import RequestResults
    from advisor.simulator.server import AggregatedServer
    from advisor.simulator.summary_statistics import Spread
    from catalog.schema import Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOutcome:
    """Requests served as believed, their statistics, and how far those spread under other parameters."""

    served: RequestResults | StreamingStatistics
    results: RequestResults
    """Requests that were kept: all, or those of a stream's busiest piece."""
    statistics: Mapping[tuple[str, str], float]
    """As ``numbers`` gives them, and the saturation rate."""
    sigmas: dict[str, dict[str, Spread]]
    classes: ClassSpreads | None
    """The classes of the requests; None where they are all alike."""
    energy_j_per_token: float | None
    """Of all GPUs until the last request is served; None where no run measured such energy."""
    notes: tuple[Note, ...]

    @classmethod
    def of(
        cls,
        engine: AggregatedServer | DisaggregatedServer,
        decode: AggregatedServer,
        traffic: Arrivals | ArrivalStream,
        slo: Slo | None,
        draws: int,
        each: Callable[[RequestResults], None] | None,
    ) -> TrafficOutcome:
        """Serve the traffic, and what its intervals are from, all of it or a stream's busiest piece, at both ends of what steps
        take by ``draws`` of their parameters; where that decides about limits, also at the confidence that a plan asks for.
        """
        notes: tuple[Note, ...] = ()
        totals: StreamingStatistics | None = None
        judged = traffic
        if isinstance(traffic, ArrivalStream):
            totals, judged = tallied(decode, traffic, slo, each)
            notes = refusals(len(traffic) - len(totals), len(traffic), decode.longest)
            if draws:
                notes = (*notes, Note(f"intervals are from the busiest {len(judged)} of {len(totals)} requests"))
        assert isinstance(judged, Arrivals)
        times: Any = engine.believed_times()
        results = engine.served(judged, times)
        if totals is None and each is not None:
            each(results)
        key = ("rates", "saturation_s")
        served = results if totals is None else totals

        def met(table: Any, requests: RequestResults) -> dict[tuple[str, str], float]:
            hits = requests.hit_rate if requests.counted.any() else None
            return numbers(requests, judged, slo) | {key: engine.saturation(judged, table, hits)}

        believed, kinds = met(times, results), class_numbers(results, judged)
        ends, kinds_at_ends, quantile = [], [], 1.0
        if draws:
            spread: Any = engine.spread(draws, judged)
            quantile = engine.scale.quantile(LEVEL)
            for side in (-quantile, quantile):
                table: Any = engine.ended(times, spread, side)
                requests = engine.served(judged, table)
                ends.append(met(table, requests))
                kinds_at_ends.append(class_numbers(requests, judged))
        sigmas = spreads(believed, ends, quantile)
        if draws and meets(results, slo) and not _surely(requests, ends[1][key], traffic, slo):
            near = engine.scale.quantile(2.0 * CONFIDENCE - 1.0)
            slower: Any = engine.ended(times, spread, near)
            there = met(slower, engine.served(judged, slower))
            sigmas = with_nearer_end(sigmas, believed, there, near, quantile)
        joules, power_sigma = (None, 0.0) if _of_two_kinds(engine) else _energy(decode, served, engine.gpus)
        if joules is not None:
            # The part of it that times decide is that of a closed loop, which ends when its time is up.
            sigmas["rates"][ENERGY] = sigmas["rates"]["completed_s"].beside(power_sigma)
        return cls(
            served=served,
            results=results,
            statistics=numbers(served, traffic, slo) | {key: believed[key]},
            sigmas=sigmas,
            classes=ClassSpreads(
                results=class_results(results),
                statistics=kinds,
                sigmas=tuple(
                    spreads(kind, [end[number] for end in kinds_at_ends], quantile) for number, kind in enumerate(kinds)
                ),
            )
            if kinds
            else None,
            energy_j_per_token=joules,
            notes=notes,
        )

    @property
    def counted_s(self) -> float:
        """Return the requests a second of which goodput is the good share: those that are completed while requests come."""
        return self.statistics["rates", "completed_s"]

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the statistics by metric and by name."""
        return {
            metric: {name: value for (owner, name), value in self.statistics.items() if owner == metric}
            for metric in METRICS
        }


def _surely(slowest: RequestResults, saturation_s: float, traffic: Arrivals | ArrivalStream, slo: Slo | None) -> bool:
    """Return whether even the slowest steps keep the limits and complete as much as comes."""
    stable = bool(traffic.concurrency) or saturation_s >= len(traffic) / traffic.duration_s
    return stable and bool(meets(slowest, slo))


def _of_two_kinds(engine: AggregatedServer | DisaggregatedServer) -> bool:
    return isinstance(engine, DisaggregatedServer) and engine.of_two_kinds


def _energy(
    decode: AggregatedServer, served: RequestResults | StreamingStatistics, gpus: int
) -> tuple[float | None, float]:
    """Return joules per output token and the standard deviation of their logarithm; None where none were measured."""
    gpu = decode.cost_model.cluster.gpu
    power = power_of(gpu, decode.deployment)
    if power is None:
        return None, 0.0
    work = served_work(decode.model, decode.kv_bytes, served, gpu_s=gpus * served.end_s)
    return work.joules(power, gpu.tdp_w) / served.loads.made, power.sigma


def tallied(
    engine: AggregatedServer,
    traffic: ArrivalStream,
    slo: Slo | None,
    each: Callable[[RequestResults], None] | None = None,
) -> tuple[StreamingStatistics, Arrivals]:
    """Serve a stream as believed, and find its busiest piece; ``each`` is handed the requests.

    Raises:
        InputError: all are refused, or the queue outgrows memory.

    """
    tally, busiest = (
        StreamingStatistics(limits=(slo.limits if slo else {}), duration_s=traffic.duration_s),
        BusiestWindow(),
    )
    times = engine.believed_times()
    for part in engine.served_pieces(busiest.passing(traffic.pieces()), times, traffic.duration_s):
        tally.add(part)
        if each is not None:
            each(part)
    refusals(len(traffic) - len(tally), len(traffic), traffic.longest or 0)
    return tally, busiest.window
