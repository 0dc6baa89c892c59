"""The cheapest autoscaling policy that keeps a model's limits through its day, with replicas that take minutes to start.

What a policy costs is that of its replicas over the whole day. Whether it keeps the limits is simulated request by request in the two
stretches that are hardest: the steepest rise, when new replicas are still loading, and the busiest time. Days differ in when requests
come, how long replicas take to start, and how long the engine's steps take, as far as that is uncertain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.capacity.fleet_options import HOURS_A_MONTH
from advisor.fleet.question import pairs_of, price_of, read_fleet
from advisor.fleet.replica_lives import serve_lives
from advisor.fleet.replica_type import replica_types, sizing_of
from advisor.fleet.scaling_policy import DAY_TICKS, SYNC_S, ScaledTraffic, ScalingPolicy
from advisor.fleet.workers import workers_of
from advisor.prediction.inputs import plain_fields
from advisor.prediction.presentation import header
from advisor.progress import Course
from advisor.simulator.arrivals import open_loop
from catalog.errors import InputError, Note
from catalog.gpus import find_gpu
from catalog.schema import LATENCIES
from catalog.units import DAY_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from advisor.fleet.question import FleetModel, FleetQuestion, GpuPool
    from advisor.fleet.replica_lives import ServedLives
    from advisor.fleet.replica_type import ReplicaType
    from advisor.fleet.scaling_policy import Event, Kind, ReplicaLife
    from advisor.prediction.evidence import Runs
    from advisor.progress import Watch
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.replica_sizing import ReplicaSizing
    from catalog.schema import Deployment
    from catalog.units import Array

KINDS: tuple[Kind, ...] = ("fixed", "schedule", "rate", "running")
TARGETS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Shares of what a replica carries that policies are tried with, the cheapest first."""
EVENTS: tuple[Event, ...] = ("replica lost", "node lost", "spot reclaimed", "rolling upgrade")
AFTER_S = 900.0
"""Seconds over which requests are counted after an event."""
STRETCH_S, SETTLING_S, MOST_REQUESTS = 3600.0, 120.0, 20_000
"""A stretch that is simulated: its seconds, the seconds before it, and no more requests than that."""
START_S = (50.0, 210.0)
"""Seconds from the start of vLLM to its first answer where the runs that ship were measured: from 8B on one GPU to 70B on four."""
MOST_DEPLOYMENTS = 3
"""Types of replicas, the cheapest first, that are tried until a policy keeps the limits."""
LOADS = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 1.0)
"""Shares of a replica's saturation at which its requests in flight are simulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOutcome:
    """What a policy costs and how it does."""

    policy: ScalingPolicy
    usd_per_month: float
    replicas: tuple[int, int]
    """Fewest and most over the day."""
    days: int
    """That were simulated: no more than decide whether the limits are kept often enough."""
    kept: float
    """Share of those on which the limits are kept in both stretches."""
    latencies: Mapping[str, float]
    """ms at the percentile of the limits, of the worse stretch; the median day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventOutcome:
    """What becomes of the limits in the ``AFTER_S`` after something happens at the busiest time."""

    event: str
    days: int
    kept: float
    """Share of the simulated days on which they are kept."""
    latencies: Mapping[str, float]
    """ms at their percentile; the median day."""
    sent_again: float
    """Requests that were lost with a replica and sent again; mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAutoscaling:
    """One model's autoscaling."""

    model: str
    """What the fleet calls it,"""
    deployed: str
    """and what the catalog does."""
    gpu: str
    pool: str
    deployment: Deployment
    """Of one replica."""
    gpus_a_replica: int
    capacity_s: float
    """Requests a second that one replica carries within its limits."""
    limits: Mapping[str, float]
    slow_days: float
    """Share of the days on which steps are so slow, as far as they are uncertain, that even a request alone misses a limit, which no
    number of replicas mends."""
    in_flight: float
    """Requests in flight on a replica that is given what the best policy gives it; NaN where none suffices."""
    schedule: tuple[int, ...]
    """Replicas at every hour of the day by the clock, as the best policy would have them if it is one by the clock; else empty."""
    best: PolicyOutcome | None
    """The cheapest that keeps the limits often enough; None where none does."""
    options: tuple[PolicyOutcome, ...]
    """The cheapest of each kind that does, or the one that comes nearest."""
    events: tuple[EventOutcome, ...]
    """Under the best policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaling:
    """The policies of all models of a fleet."""

    models: tuple[ModelAutoscaling, ...]
    probability: float
    start_s: tuple[float, float]
    days: int
    notes: tuple[Note, ...]

    @property
    def meets(self) -> bool:
        return all(model.best is not None for model in self.models)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {**header("autoscaling/1"), **plain_fields(self), "meets": self.meets}


def plan_autoscaling(
    fleet: str | Path | Mapping[str, Any] | FleetQuestion,
    *,
    runs: Runs = None,
    probability: float = 0.9,
    start_s: tuple[float, float] = START_S,
    days: int = 10,
    workers: int | str = 1,
    progress: Watch | None = None,
) -> Autoscaling:
    """Choose for every model the cheapest policy that keeps its limits with a probability, on the GPUs to rent that are cheapest for it.

    Args:
        fleet: as ``plan_fleet`` takes it; a curve is of a day. Pools of owned GPUs are left out: nothing is saved there.
        runs: see ``plan_fleet``.
        probability: with which limits are kept through the hardest stretches of a day.
        start_s: seconds that a replica takes to start, between these.
        days: that are simulated of each policy.
        workers: see ``plan_fleet``.
        progress: called with a ``Progress`` as the work goes on.

    Raises:
        InputError: a name, number or combination that cannot be.

    """
    question = read_fleet(fleet)
    low, high = start_s
    if not 0 <= low <= high <= DAY_S / 4:
        raise InputError(f"start is {low:g} to {high:g} s; it must be from 0 to 6 hours, the shorter first: 50-210")
    if not 0.5 <= probability <= 1.0:
        raise InputError(f"probability is {probability:g}; it must be from 0.5 to 1")
    if not 1 <= days <= 1000:
        raise InputError(f"days is {days}; it must be from 1 to 1000")
    if all(pool.fixed for pool in question.pools):
        raise InputError(
            "all pools are owned or reserved, which cost the same at any number of replicas; add one to rent"
        )
    course = Course(watch=progress, steps=len(question.models))
    tasks = [(question, number, runs, probability, (low, high), days) for number in range(len(question.models))]
    models, notes = [], []
    with workers_of(workers) as calls:
        for done, model in enumerate(calls(_model_autoscaling, tasks)):
            course.tell("policies through a day", done + 1)
            if isinstance(model, str):
                notes.append(Note(model, "warning"))
            else:
                models.append(model)
    if not models:
        raise InputError("; ".join(note.text for note in notes))
    return Autoscaling(
        models=tuple(models), probability=probability, start_s=(low, high), days=days, notes=tuple(notes)
    )


def _model_autoscaling(
    question: FleetQuestion, number: int, runs: Runs, probability: float, start_s: tuple[float, float], days: int
) -> ModelAutoscaling | str:
    """Return one model's, or in words why it has none."""
    model = question.models[number]
    options = [
        (kind, pool, price_of(pool))
        for place, gpu, most in pairs_of(question)
        if place == number
        for kind in replica_types(question, number, gpu, runs, most)[0]
        for pool in question.pools
        if not pool.fixed and find_gpu(pool.gpu).value.name == gpu
    ]
    if not options:
        return f"{model.label}: no GPU to rent serves it within its limits; advisor fleet says why"
    options.sort(key=lambda option: option[2] * option[0].gpus / option[0].capacity_s)
    nodes = {gpu: most for _, gpu, most in pairs_of(question)}
    answers = []
    for kind, pool, price in options[:MOST_DEPLOYMENTS]:  # where no policy does, another layout or GPU may
        sizing = sizing_of(question, kind, runs, nodes[kind.gpu])
        day = _Day(model=model, question=question, kind=kind, sizing=sizing, price=price, start_s=start_s, days=days)
        answers.append(_with_policies(day, pool, probability))
        if answers[-1].best:
            return answers[-1]
    return answers[0]


def _with_policies(day: _Day, pool: GpuPool, probability: float) -> ModelAutoscaling:
    """Return the policies on one type of replica."""
    model, kind = day.model, day.kind
    outcomes = [_cheapest(day, each, probability) for each in KINDS]
    able = [outcome for outcome in outcomes if outcome.kept >= probability]
    best = min(able, key=lambda outcome: outcome.usd_per_month, default=None)
    target = best.policy.target * kind.capacity_s if best else math.nan
    return ModelAutoscaling(
        model=model.label,
        deployed=model.model,
        gpu=kind.gpu,
        pool=pool.label,
        deployment=kind.deployment,
        gpus_a_replica=kind.gpus,
        capacity_s=kind.capacity_s,
        limits=day.sizing.demand.slo.limits,
        slow_days=float(np.mean([not outcome.alone.meets for outcome in day.outcomes])),
        in_flight=day.traffic(0).in_flight(target) if best else math.nan,
        schedule=day.hourly(best.policy) if best and best.policy.kind == "schedule" else (),
        best=best,
        options=tuple(outcomes),
        events=tuple(day.through(best.policy, event) for event in EVENTS) if best else (),
    )


def _cheapest(day: _Day, kind: Kind, probability: float) -> PolicyOutcome:
    """Return the policy of a kind that gives its replicas most and keeps the limits, or the one that keeps them most often."""
    nearest: PolicyOutcome | None = None
    for target in TARGETS:
        outcome = day.outcome(ScalingPolicy(kind=kind, target=target, spares=day.question.spares), probability)
        if outcome.kept >= probability:
            return outcome
        nearest = outcome if nearest is None or outcome.kept > nearest.kept else nearest
    assert nearest
    return nearest


@dataclass(frozen=True, kw_only=True)
class _Day:
    """A model's day on one type of replica."""

    model: FleetModel
    question: FleetQuestion
    kind: ReplicaType
    sizing: ReplicaSizing
    price: float
    start_s: tuple[float, float]
    days: int

    @cached_property
    def expected_s(self) -> Array:
        """Return requests a second in each ``SYNC_S`` of the day: the curve's parts joined by straight lines."""
        mean = self.model.demand().workload.rate or 0.0
        parts = np.array(self.model.curve or (1.0,), dtype=float)
        middles = (np.arange(-1, len(parts) + 1) + 0.5) / len(parts) * DAY_S
        ticks = (np.arange(DAY_TICKS) + 0.5) * SYNC_S
        rates = np.interp(ticks, middles, np.concatenate([parts[-1:], parts, parts[:1]]))
        return np.asarray(rates * (mean * (1.0 + self.question.headroom) / rates.mean()))

    @cached_property
    def in_flight(self) -> Callable[[float], float]:
        """Return the requests in flight on a replica by what it is given a second: Little's law on simulated times."""
        sizing, most = self.sizing, self.sizing.saturation_s
        rates = [0.0, *(share * most for share in LOADS)]
        flying = [0.0]
        for rate in rates[1:]:
            served = sizing.engine.served(sizing.demand.at_rate(sizing.traffic, rate), sizing.times)
            flying.append(1e-3 * served.mean("e2e_ms") * rate)
        return lambda rate: float(np.interp(rate, rates, flying))

    @cached_property
    def stretches(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return begin and end of the steepest rise and of the busiest time."""
        rates, lead = self.expected_s, max(round(self.start_s[1] / SYNC_S), 1)
        busiest = int(rates.argmax())
        steepest = int((np.roll(rates, -lead) / np.maximum(rates, 1e-9)).argmax())
        length = min(STRETCH_S, max(MOST_REQUESTS / float(rates.max()), 10 * SETTLING_S))
        begins = [min(max(tick * SYNC_S - length / 2.0, 0.0), DAY_S - length) for tick in (steepest, busiest)]
        return (begins[0], begins[0] + length), (begins[1], begins[1] + length)

    def traffic(self, day: int) -> ScaledTraffic:
        """Return a day as an autoscaler sees it."""
        offered = np.random.default_rng(day).poisson(self.expected_s * SYNC_S) / SYNC_S
        return ScaledTraffic(
            offered_s=offered,
            expected_s=self.expected_s,
            capacity_s=self.kind.capacity_s,
            saturation_s=self.kind.saturation_s,
            in_flight=self.in_flight,
            start_s=self.start_s,
            node=max(self.sizing.cluster.gpus_per_node // self.kind.gpus, 1),
        )

    def hourly(self, policy: ScalingPolicy) -> tuple[int, ...]:
        """Return the most replicas that a schedule has within each hour."""
        scheduled = self.traffic(0).scheduled(policy).reshape(24, -1)
        return tuple(int(most) for most in scheduled.max(axis=1))

    def times(self, day: int) -> Any:
        """Return step times of a day: quantiles of what is believed of them, spread evenly over the days."""
        return self.outcomes[day].times

    @cached_property
    def outcomes(self) -> list[ReplicaSizing]:
        return self.sizing.outcomes(self.days)

    def requests(self, day: int, begin_s: float, end_s: float) -> Arrivals:
        """Draw the requests of a stretch, ``SETTLING_S`` before it included, at seconds of the day; as many in each ``SYNC_S`` as ``traffic`` has."""
        ticks = np.arange(int(max(begin_s - SETTLING_S, 0.0) // SYNC_S), int(end_s // SYNC_S))
        counts = np.rint(self.traffic(day).offered_s[ticks] * SYNC_S).astype(int)
        random = np.random.default_rng((day, int(begin_s)))
        arrival = np.sort(np.repeat(ticks * SYNC_S, counts) + random.random(counts.sum()) * SYNC_S)
        spec = self.sizing.demand
        number = max(len(arrival), 1)
        drawn = open_loop(
            replace(spec.workload, rate=1.0),
            duration_s=1.2 * number + 60.0,
            longest=spec.longest,
            seed=day,
            spread=spec.spread,
        )
        taken = np.arange(number) % len(drawn)
        return replace(
            drawn,
            arrival_s=arrival,
            input_len=drawn.input_len[taken][: len(arrival)],
            output_len=drawn.output_len[taken][: len(arrival)],
            duration_s=max(end_s, 1.0),
        )

    def outcome(self, policy: ScalingPolicy, probability: float) -> PolicyOutcome:
        """Simulate days under a policy, no more than decide whether it keeps the limits often enough."""
        paid: list[float] = []
        counts: list[int] = []
        good: list[bool] = []
        worst: list[dict[str, float]] = []
        for day in range(self.days):
            lives = self.traffic(day).lives(policy, day)
            paid.append(sum(life.paid_s(DAY_S) for life in lives))
            counts += _counts(lives)
            seen = [self._seen(day, lives, *stretch)[0] for stretch in self.stretches]
            worst.append({name: max(each[name] for each in seen) for name in LATENCIES})
            good.append(all(self._meets(each) for each in seen))
            if good.count(False) > (1.0 - probability) * self.days + 1e-9:
                break
        usd = float(np.mean(paid)) / DAY_S * self.kind.gpus * self.price * HOURS_A_MONTH
        return PolicyOutcome(
            policy=policy,
            usd_per_month=usd,
            replicas=(min(counts), max(counts)),
            days=len(good),
            kept=good.count(True) / len(good),
            latencies=_median(worst),
        )

    def through(self, policy: ScalingPolicy, event: Event) -> EventOutcome:
        """Simulate the time after an event at the busiest moment."""
        begin, end = self.stretches[1]
        at = (begin + end) / 2.0
        results: list[tuple[dict[str, float], int]] = []
        for day in range(self.days):
            lives = self.traffic(day).lives(policy, day, ((at, event),))
            results.append(self._seen(day, lives, at, min(at + AFTER_S, DAY_S)))
        return EventOutcome(
            event=event,
            days=len(results),
            kept=float(np.mean([self._meets(latencies) for latencies, _ in results])),
            latencies=_median([latencies for latencies, _ in results]),
            sent_again=float(np.mean([again for _, again in results])),
        )

    def _seen(
        self, day: int, lives: Sequence[ReplicaLife], begin_s: float, end_s: float
    ) -> tuple[dict[str, float], int]:
        """Return what requests meet in a stretch, and how many were sent again."""
        requests = self.requests(day, begin_s, end_s)
        there = [life for life in lives if life.gone_s > begin_s - SETTLING_S - SYNC_S and life.ready_s < end_s]
        served: ServedLives = serve_lives(self.sizing, self.times(day), requests, there)
        return served.statistics(self.sizing.demand.slo.percentile, begin_s, end_s), served.sent_again

    def _meets(self, latencies: Mapping[str, float]) -> bool:
        return all(not latencies[name] > limit for name, limit in self.sizing.demand.slo.limits.items())


def _counts(lives: Sequence[ReplicaLife]) -> Iterator[int]:
    """Yield how many replicas stand after each change of the day."""
    for at in {0.0, *(life.ordered_s for life in lives), *(life.gone_s for life in lives if life.gone_s < DAY_S)}:
        yield sum(life.ordered_s <= at < life.gone_s for life in lives)


def _median(days: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.median([day[name] for day in days])) for name in LATENCIES}
