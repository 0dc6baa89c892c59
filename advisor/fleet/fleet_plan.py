"""The plan of a fleet: replica types are judged, a programme chooses for every hour, and the choice is served and corrected.

What one replica carries is judged alone (``advisor.fleet.replica_type``); the fleet that is chosen from that is then served whole
at the tightest hour of every type, and a type that misses its limits there is taken for less and the programme solved again, until all hold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.calibration.intervals import LEVEL
from advisor.capacity.fleet_options import HOURS_A_MONTH
from advisor.capacity.information import WORTHLESS
from advisor.fleet.hourly_programme import HourlyProgramme, one_type_a_model, single_types
from advisor.fleet.information import capacity_outcomes, fleet_values, types_to_measure
from advisor.fleet.question import pairs_of, price_of, read_fleet
from advisor.fleet.relaxation import Shortage
from advisor.fleet.replica_type import checked_fleet, replica_types
from advisor.fleet.workers import called_here, workers_of
from advisor.prediction.inputs import plain_fields, read_model
from advisor.prediction.presentation import header
from advisor.progress import Course
from catalog.errors import InputError, Note

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from advisor.calibration.parameter_posterior import Provenance
    from advisor.capacity.information import MeasurementValue
    from advisor.fleet.assignment import Assignment, Marginals, ReplicaColumn
    from advisor.fleet.question import FleetQuestion
    from advisor.fleet.replica_type import OutOfReach
    from advisor.fleet.workers import Calls
    from advisor.prediction.evidence import Runs
    from advisor.progress import Watch
    from catalog.schema import Deployment
    from catalog.units import Array

CORRECTION = 0.95
"""Share of its capacity at which a type is taken that missed its limits in the whole."""
CORRECTIONS = 6
SHOWN = 6
"""Of what an interrupted answer lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Replicas of one type in one pool."""

    model: str
    pool: str
    gpu: str
    deployment: Deployment
    """Of one replica."""
    gpus_a_replica: int
    replicas: tuple[int, ...]
    """By hour, spares included."""
    capacity_s: float
    """Requests a second of one replica."""
    usd_per_month: float
    """Of what is paid for when it is used."""
    latencies: Mapping[str, float]
    """At the tightest of its hours, the spares out: ms at the model's percentile,"""
    intervals: Mapping[str, tuple[float, float]]
    """with 90% intervals."""
    meets: bool
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """What runs where, what it costs, and what would have to give where not all of it can be."""

    question: FleetQuestion
    placements: tuple[Placement, ...]
    usd_per_month: float
    """All of it."""
    fixed_usd_per_month: float
    """Of it what owned and reserved GPUs cost, used or not."""
    gap: float
    """How far the cost may lie above the least, as a share, over all hours."""
    single_type: Mapping[str, float | None]
    """Dollars a month of what is paid when used, with the GPUs of one kind alone; None where they do not suffice."""
    one_type_a_model: float | None
    """The same where models are planned alone: each in turn takes the one type that is cheapest for it, of what is left."""
    used_usd_per_month: float
    """The same of this plan."""
    marginals: Marginals
    """At the hour with most GPUs."""
    out_of_reach: tuple[OutOfReach, ...]
    unserved: tuple[str, ...]
    """Models that no kind of GPU serves within their limits."""
    lacking: tuple[str, ...]
    """What an answer that was interrupted lacks; empty: nothing."""
    missing: Mapping[str, int]
    """GPUs by pool that more would be needed for all hours."""
    relaxations: tuple[str, ...]
    """Where not everything can be kept: what would have to give, in numbers."""
    measurements: tuple[MeasurementValue, ...] = ()
    """What measuring one type of replica is worth, most first; only where that is asked for."""
    types: int
    """Replica types judged."""
    rounds: int
    """How often the programme was solved anew because the whole missed a limit."""
    notes: tuple[Note, ...]

    @property
    def meets(self) -> bool:
        """Return whether everything that was asked holds."""
        return not self.relaxations

    def used(self, pool: str) -> list[int]:
        """Return the GPUs of a pool that are used, by hour."""
        parts = [
            np.array(place.replicas) * place.gpus_a_replica for place in self.placements if place.pool == pool
        ] or [np.zeros(self.question.hours, dtype=int)]
        return [int(gpus) for gpus in np.sum(parts, axis=0)]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        reasons = [
            {"model": self.question.models[item.model].label, "gpu": item.gpu, "reason": item.reason}
            for item in self.out_of_reach
        ]
        return {
            **header("fleet-plan/1"),
            **plain_fields(self, "question", "out_of_reach"),
            "meets": self.meets,
            "out_of_reach": reasons,
            "hours": self.question.hours,
            "interval_level": LEVEL,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What the programme chose, and what serving it whole shows."""

    numbers: list[int]
    """Type of each column."""
    columns: list[ReplicaColumn]
    hours: list[Assignment]
    checks: dict[int, tuple[Any, Any]]
    """By type: latencies against the limits, and their intervals."""

    @property
    def missed(self) -> list[int]:
        return [number for number, (check, _) in self.checks.items() if not check.meets]


def plan_fleet(
    fleet: str | Path | Mapping[str, Any] | FleetQuestion,
    *,
    runs: Runs = None,
    worth: bool = False,
    workers: int | str = 1,
    progress: Watch | None = None,
) -> FleetPlan:
    """Choose which model runs on which GPUs, in which layout and on how many replicas, hour by hour, for the least money.

    Args:
        fleet: models, pools of GPUs and what must hold: a YAML file, its content as a mapping, or a ``FleetQuestion``.
        runs: None for the shipped fit and the user's own runs; a list for exactly those; [] for the analytic model; or what
            ``fit`` made.
        worth: also say what measuring one type of replica is worth in dollars a month.
        workers: processes, or the address of a running cluster of Dask (``dask://HOST:8786``) or Ray (``ray://HOST:10001``, or
            ``ray://auto`` for the one of this machine); the answer is the same, whichever of them die.
        progress: called with a ``Progress`` as the work goes on.

    Ctrl-C ends the judging and leaves an answer of what was judged until then, which says what it lacks.

    Raises:
        InputError: a name, number or combination that cannot be.

    """
    question = read_fleet(fleet)
    work = _begun(question)
    # By kind of GPU, so that an answer that is interrupted has every model on some kind.
    pairs = sorted(pairs_of(question), key=lambda pair: (pair[2], pair[1]))
    course = Course(watch=progress, steps=len(pairs) + 2)
    with workers_of(workers) as calls:
        judged = _judged(work, pairs, runs, calls, course)
        lacking = [f"{question.models[number].label} on {gpu}" for number, gpu, _ in pairs[judged:]]
        course.tell("choosing and serving the whole", len(pairs))
        left = called_here if lacking else calls  # the workers were interrupted, too
        choice, rounds = _chosen(work, runs, left), 0
        while choice.missed and rounds < CORRECTIONS:
            for number in choice.missed:
                work.factors[number] = work.factors.get(number, 1.0) * CORRECTION
            choice, rounds = _chosen(work, runs, left), rounds + 1
        answer = _plan(work, choice, rounds, tuple(lacking))
        values = _values(work, choice, runs, left) if worth else ()
        notes = (*answer.notes, WORTHLESS) if worth and not values else answer.notes
        return replace(answer, measurements=values, notes=notes)


def _values(work: HourlyProgramme, choice: _Choice, runs: Runs, calls: Calls) -> tuple[MeasurementValue, ...]:
    """Return what measurements are worth, most first."""
    numbers = types_to_measure(work, choice.numbers, choice.hours)
    node = {gpu: most for _, gpu, most in pairs_of(work.question)}
    tasks = [(work.question, work.types[number], runs, node[work.types[number].gpu]) for number in numbers]
    outcomes = dict(zip(numbers, calls(capacity_outcomes, tasks), strict=True))
    return tuple(sorted(fleet_values(work, choice.hours, outcomes), key=lambda value: -value.usd_per_month))


def _judged(
    work: HourlyProgramme, pairs: Sequence[tuple[int, str, int]], runs: Runs, calls: Calls, course: Course
) -> int:
    """Judge what replicas carry, pair by pair of model and GPU, and return how many pairs were judged: all, or those before Ctrl-C.

    Raises:
        KeyboardInterrupt: it came before anything was judged that could serve a model.

    """
    tasks = [(work.question, number, gpu, runs, node) for number, gpu, node in pairs]
    done = 0
    try:
        for types, reason in calls(replica_types, tasks):
            done += 1
            work.types += types
            work.out_of_reach += [reason] if reason else []
            course.tell("what each model's replicas carry", done)
    except KeyboardInterrupt:
        if not work.types:
            raise
    order = {(number, gpu): place for place, (number, gpu, _) in enumerate(pairs_of(work.question))}
    work.types.sort(key=lambda kind: order[kind.model, kind.gpu])
    work.out_of_reach.sort(key=lambda item: order[item.model, item.gpu])
    return done


def _chosen(work: HourlyProgramme, runs: Runs, calls: Calls) -> _Choice:
    """Solve the programme for every hour, and serve the whole."""
    numbers, columns = [number for number, _ in work.columns], [column for _, column in work.columns]
    hours = work.assigned(columns)
    checks = _served(work, numbers, columns, hours, runs, calls)
    return _Choice(numbers=numbers, columns=columns, hours=hours, checks=checks)


def _begun(question: FleetQuestion) -> HourlyProgramme:
    """Check names and prices, and spread the rates over the hours."""
    demands = [model.demand() for model in question.models]
    for model in question.models:
        try:
            read_model(model.model)
        except InputError as error:
            raise InputError(f"model {model.label}: {error}") from None
    rates = np.array(
        [
            model.rates(demand.workload.rate or 0.0, question.hours)
            for model, demand in zip(question.models, demands, strict=True)
        ]
    )
    return HourlyProgramme(
        question=question,
        prices=tuple(price_of(pool) for pool in question.pools),
        rates=rates * (1.0 + question.headroom),
    )


def _loads(work: HourlyProgramme, columns: Sequence[ReplicaColumn], hours: Sequence[Assignment], model: int) -> Array:
    """Return the share of what a model's replicas carry, the spares out, that comes at every hour; NaN where it has none.

    Where GPUs are missing, what is there is given no more than it carries.
    """
    capacity = np.array([column.capacity_s if column.model == model else 0.0 for column in columns])
    loads = []
    for hour, assignment in enumerate(hours):
        carried = float(capacity @ assignment.replicas)
        largest = float(max(capacity[assignment.replicas > 0], default=0.0))
        rest = max(carried - largest * work.question.spares, 1e-12)
        loads.append(min(work.rates[model, hour] / rest, 1.0) if carried else np.nan)
    return np.array(loads)


def _served(
    work: HourlyProgramme,
    numbers: Sequence[int],
    columns: Sequence[ReplicaColumn],
    hours: Sequence[Assignment],
    runs: Runs,
    calls: Calls,
) -> dict[int, tuple[Any, Any]]:
    """Serve every type at the tightest of its hours, the spares out, with its part by what it carries; results by type."""
    tasks: dict[int, tuple[Any, ...]] = {}
    node = {gpu: most for _, gpu, most in pairs_of(work.question)}
    for model in sorted(work.served):
        loads = _loads(work, columns, hours, model)
        for number in dict.fromkeys(n for n, column in zip(numbers, columns, strict=True) if column.model == model):
            own = [i for i, other in enumerate(numbers) if other == number]
            used = np.array([sum(int(hour.replicas[i]) for i in own) for hour in hours])
            if not used.any():
                continue
            hour = int(np.nanargmax(np.where(used > 0, loads, np.nan)))
            kind, replicas = work.types[number], int(used[hour])
            rate = float(loads[hour]) * kind.capacity_s * work.factors.get(number, 1.0) * replicas
            tasks[number] = (work.question, kind, replicas, rate, runs, node[kind.gpu])
    return dict(zip(tasks, calls(checked_fleet, list(tasks.values())), strict=True))


def _plan(work: HourlyProgramme, choice: _Choice, rounds: int, lacking: tuple[str, ...]) -> FleetPlan:
    question, columns, hours = work.question, choice.columns, choice.hours
    month = HOURS_A_MONTH / len(hours)
    used, fixed = work.usd_per_month(hours), work.fixed_usd_per_month
    missing = {
        pool: max(hour.missing.get(pool, 0) for hour in hours)
        for pool in sorted({pool for hour in hours for pool in hour.missing})
    }
    shortage = Shortage(work=work, columns=columns, usd_per_month=used + fixed, missing=missing)
    unserved = tuple(model.label for i, model in enumerate(question.models) if i not in work.served)
    most = max(
        range(len(hours)), key=lambda hour: sum(n * c.gpus for n, c in zip(hours[hour].replicas, columns, strict=True))
    )
    return FleetPlan(
        question=question,
        placements=tuple(_placements(work, choice, month)),
        usd_per_month=used + fixed,
        fixed_usd_per_month=fixed,
        used_usd_per_month=used,
        gap=(sum(hour.usd_hour - hour.bound_usd_hour for hour in hours) * month) / max(used, 1e-9),
        single_type=dict(single_types(work, columns)),
        one_type_a_model=one_type_a_model(work, columns),
        marginals=work.programme(most, columns).marginals(),
        out_of_reach=tuple(work.out_of_reach),
        unserved=unserved,
        missing={question.pools[pool].label: gpus for pool, gpus in missing.items()},
        lacking=lacking,
        relaxations=(*_limits(work, unserved), *shortage.relaxations()),
        types=len(work.types),
        rounds=rounds,
        notes=tuple(_notes(work, lacking)),
    )


def _placements(work: HourlyProgramme, choice: _Choice, month: float) -> Iterator[Placement]:
    for i, (number, column) in enumerate(zip(choice.numbers, choice.columns, strict=True)):
        replicas = tuple(int(hour.replicas[i]) for hour in choice.hours)
        if not any(replicas):
            continue
        kind, pool = work.types[number], work.question.pools[column.pool]
        check, intervals = choice.checks.get(number, (None, {}))
        price = 0.0 if pool.fixed else work.prices[column.pool]
        yield Placement(
            model=work.question.models[kind.model].label,
            pool=pool.label,
            gpu=kind.gpu,
            deployment=kind.deployment,
            gpus_a_replica=kind.gpus,
            replicas=replicas,
            capacity_s=column.capacity_s,
            usd_per_month=price * kind.gpus * sum(replicas) * month,
            latencies={} if check is None else check.latencies,
            intervals=intervals,
            meets=check is None or check.meets,
            provenance=kind.provenance,
        )


def _limits(work: HourlyProgramme, unserved: Sequence[str]) -> Iterator[str]:
    """Say of each model that no GPU serves which limits could be kept."""
    for label in unserved:
        reasons = [
            f"{item.gpu}: {item.reason}"
            for item in work.out_of_reach
            if work.question.models[item.model].label == label
        ]
        yield f"{label}: other limits or other GPUs ({'; '.join(reasons) or 'none was judged'})"


def _notes(work: HourlyProgramme, lacking: Sequence[str]) -> Iterator[Note]:
    if lacking:
        shown = ", ".join(lacking[:SHOWN]) + (f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else "")
        yield Note(f"interrupted: a better fleet may be among what was not judged: {shown}", "warning")
    spot = [pool.label for pool in work.question.pools if pool.kind == "spot"]
    if spot:
        yield Note(f"{' and '.join(spot)}: spot GPUs can be taken away; nothing here counts on how often", "warning")
    if work.rates.shape[1] > 1:
        yield Note("replicas change from one part of the time to the next; loads of some minutes are not counted")
    for factor, kind in ((work.factors[number], work.types[number]) for number in work.factors):
        label = work.question.models[kind.model].label
        yield Note(
            f"{label} on {kind.gpu}: taken for {factor:.0%} of what one replica alone carries, for the whole missed a limit"
        )
