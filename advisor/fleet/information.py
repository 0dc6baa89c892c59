"""What measuring one replica type of a fleet is worth; see ``advisor.capacity.information``."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.capacity.information import LEAST_USD, OUTCOMES, MeasurementValue
from advisor.fleet.replica_type import sizing_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from advisor.fleet.assignment import Assignment
    from advisor.fleet.hourly_programme import HourlyProgramme
    from advisor.fleet.question import FleetQuestion
    from advisor.fleet.replica_type import ReplicaType
    from advisor.prediction.evidence import Runs

MOST_TYPES = 16
"""Types of which a measurement is priced: those with most GPU-hours, and of each model the one that is next best."""


def capacity_outcomes(question: FleetQuestion, kind: ReplicaType, runs: Runs, node: int) -> list[float]:
    """Return what one replica carries under each outcome of a measurement."""
    return [outcome.most_rate(1) for outcome in sizing_of(question, kind, runs, node).outcomes(OUTCOMES)]


def types_to_measure(work: HourlyProgramme, numbers: Sequence[int], hours: Sequence[Assignment]) -> list[int]:
    """Return the types whose measurement might change the fleet."""
    used: dict[int, float] = {}
    for i, number in enumerate(numbers):
        gpus = sum(float(hour.replicas[i]) for hour in hours) * work.types[number].gpus
        used[number] = used.get(number, 0.0) + gpus
    chosen = sorted((number for number, gpus in used.items() if gpus), key=lambda number: -used[number])
    price = {column_number: work.prices[column.pool] for column_number, column in work.columns}
    for model in sorted(work.served):
        rest = [n for n in used if work.types[n].model == model and n not in chosen]
        if rest:
            chosen.append(min(rest, key=lambda n: price[n] * work.types[n].gpus / work.types[n].capacity_s))
    return chosen[:MOST_TYPES]


def fleet_values(
    work: HourlyProgramme, hours: Sequence[Assignment], outcomes: Mapping[int, Sequence[float]]
) -> Iterator[MeasurementValue]:
    """Yield what measuring each type alone is worth, where it is worth anything; ``outcomes``: what it may turn out to carry."""
    now = work.usd_per_month(hours)
    plain = [hour.replicas for hour in hours]
    for number, capacities in outcomes.items():
        kind, changed = work.types[number], 0
        saved: list[float] = []
        for capacity in capacities:
            types = list(work.types)
            # a type that carries nothing is as good as none
            types[number] = replace(kind, capacity_s=max(capacity, 1e-6))
            other = replace(work, types=types)
            again = other.assigned([column for _, column in other.columns])
            short = any(hour.missing for hour in again)
            saved.append(0.0 if short else now - other.usd_per_month(again))
            changed += any(not np.array_equal(before, hour.replicas) for before, hour in zip(plain, again, strict=True))
        usd = math.fsum(saved) / len(saved)
        if usd >= LEAST_USD:
            yield MeasurementValue(
                model=work.question.models[kind.model].label,
                gpu=kind.gpu,
                deployment=kind.deployment,
                usd_per_month=usd,
                usd_between=(min(saved), max(saved)),
                changes=changed / len(capacities),
            )
