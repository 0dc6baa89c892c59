"""The traffic that a plan is for: requests of a file or random ones, at a rate, for as long as that takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.simulator.arrivals import DRAWN_S, FEWEST, LEAST_S_A_TOKEN, MOST_DRAWN
from advisor.simulator.offered_traffic import check_classes, classed
from advisor.simulator.session_files import read_sessions
from advisor.simulator.trace_files import TraceFile, read_trace
from catalog.errors import InputError
from catalog.schema import Workload, require_positive
from catalog.units import DAY_S

if TYPE_CHECKING:
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.class_mix import ClassMix
    from advisor.simulator.replica_sizing import TrafficSpec
    from advisor.simulator.traffic_question import TrafficQuestion

LEAST_S = 60.0
"""Seconds that requests come at least."""


def offered_requests(
    trace: str | Path | TraceFile | Arrivals | None,
    sessions: str | Path | None,
    duration_s: float | None,
    longest: int,
    stated: TrafficQuestion,
    *,
    disaggregate: bool,
) -> Arrivals | None:
    """Return the requests of a trace or of sessions that an engine with sequences of at most ``longest`` tokens serves.

    None where neither is given.

    Raises:
        InputError: they cannot be read, contradict what is stated, or cannot be planned for.

    """
    if stated.mix is not None:
        check_classes(stated.conversations, None, sessions)
        if disaggregate:
            raise InputError(
                "a pool for prompts takes requests that are all alike; leave out disaggregate or the classes"
            )
        trace = None if trace is None else classed(trace, stated.mix)
    arrivals = _arrivals(trace, sessions, duration_s, stated)
    arrivals = None if arrivals is None else arrivals.within(longest)
    sharing = None if arrivals is None else arrivals.sharing
    if disaggregate and (stated.conversations.turns > 1 or (sharing is not None and sharing.follows)):
        raise InputError(
            "a pool for prompts takes requests that wait for no other; leave out disaggregate or the turns"
        )
    stated.check_hits(sharing)
    return arrivals


def _arrivals(
    trace: str | Path | TraceFile | Arrivals | None,
    sessions: str | Path | None,
    duration_s: float | None,
    stated: TrafficQuestion,
) -> Arrivals | None:
    if sessions is not None or trace is not None:
        stated.conversations.check_alone("a trace" if sessions is None else "a file of sessions")
    if sessions is not None:
        if trace is not None:
            raise InputError("sessions say what comes and when; leave out the trace")
        trace = read_sessions(sessions, duration_s=duration_s)
    arrivals = read_trace(trace, duration_s=duration_s) if isinstance(trace, (str, Path, TraceFile)) else trace
    if arrivals is not None and arrivals.concurrency:
        raise InputError("a closed loop has no rate to plan for; take a trace")
    return arrivals


def _duration_s(stated: float | None, rate: float, workload: Workload, mix: ClassMix | None) -> float:
    """Return for how many seconds random requests come: as stated, else as ``DRAWN_S``, ``FEWEST``, ``MOST_DRAWN``, ``LEAST_S`` and
    ``LEAST_S_A_TOKEN`` say, and so long that the rarest class has some.
    """
    if stated is not None:
        return stated
    enough = max(min(max(DRAWN_S, FEWEST / rate), MOST_DRAWN / rate), LEAST_S)
    if mix is None:
        return max(enough, LEAST_S_A_TOKEN * workload.output_len)
    return max(enough, min(mix.lasting_s(rate), DAY_S), LEAST_S_A_TOKEN * mix.longest_output)


def with_rate(workload: Workload, offered: Arrivals | None) -> tuple[Workload, float]:
    """Return the workload, or the mean lengths of the requests offered, with the rate stated or theirs; and that rate.

    Raises:
        InputError: nothing says how much comes, or it cannot be.

    """
    rate = workload.rate
    if offered is not None:
        workload = Workload(input_len=round(offered.input_len.mean()), output_len=round(offered.output_len.mean()))
        rate = offered.rate if rate is None else rate
    if rate is None:
        raise InputError("give exactly one of --rate, --users or --trace: what comes")
    require_positive("rate", rate, whole=False, most=1e5)
    return replace(workload, rate=rate), rate


def demand_at_rate(demand: TrafficSpec, duration_s: float | None, rate: float) -> TrafficSpec:
    """Return the demand at another rate, for as long as a plan for that rate takes it where no duration is stated."""
    lasting = (
        _duration_s(duration_s, rate, demand.workload, demand.mix) if demand.trace is None else len(demand.trace) / rate
    )
    return replace(demand, workload=replace(demand.workload, rate=rate), duration_s=lasting)
