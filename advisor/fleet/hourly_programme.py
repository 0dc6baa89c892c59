"""A fleet over all hours: the programme of each of them, and what other ways to choose would cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.capacity.fleet_options import HOURS_A_MONTH
from advisor.fleet.assignment import Programme, ReplicaColumn
from catalog.errors import InputError
from catalog.gpus import find_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from advisor.fleet.assignment import Assignment
    from advisor.fleet.question import FleetQuestion
    from advisor.fleet.replica_type import OutOfReach, ReplicaType
    from catalog.units import Array


@dataclass(slots=True, kw_only=True)
class HourlyProgramme:
    """Replica types, rates and prices, and the programme of every hour that they make."""

    question: FleetQuestion
    prices: tuple[float, ...]
    rates: Array
    """Requests a second by model and hour, headroom included, (models, hours)."""
    types: list[ReplicaType] = field(default_factory=list)
    out_of_reach: list[OutOfReach] = field(default_factory=list)
    factors: dict[int, float] = field(default_factory=dict)
    """Corrections of capacity by type."""

    @property
    def columns(self) -> list[tuple[int, ReplicaColumn]]:
        """Return the number of the type and the column, for every pool of its GPU that it fits."""
        pools = self.question.pools
        return [
            (
                number,
                ReplicaColumn(
                    model=kind.model,
                    pool=place,
                    gpus=kind.gpus,
                    capacity_s=kind.capacity_s * self.factors.get(number, 1.0),
                ),
            )
            for number, kind in enumerate(self.types)
            for place, pool in enumerate(pools)
            if find_gpu(pool.gpu).value.name == kind.gpu and (pool.count is None or kind.gpus <= pool.count)
        ]

    @property
    def served(self) -> set[int]:
        return {column.model for _, column in self.columns}

    def with_rates(self, rates: Array, spares: int) -> HourlyProgramme:
        """Return it for other rates, headroom included, and so many spares."""
        return replace(self, rates=rates, question=replace(self.question, spares=spares))

    def programme(self, hour: int, columns: Sequence[ReplicaColumn]) -> Programme:
        pools = self.question.pools
        return Programme(
            columns=columns,
            prices=[0.0 if pool.fixed else price for pool, price in zip(pools, self.prices, strict=True)],
            counts=[pool.count for pool in pools],
            rates=[
                float(rate) if number in {column.model for column in columns} else 0.0
                for number, rate in enumerate(self.rates[:, hour])
            ],
            spares=self.question.spares,
        )

    def assigned(self, columns: Sequence[ReplicaColumn]) -> list[Assignment]:
        """Return the assignment of every hour; equal hours are solved once."""
        solved: dict[tuple[float, ...], Assignment] = {}
        answers = []
        for hour in range(self.rates.shape[1]):
            key = tuple(map(float, self.rates[:, hour]))
            if key not in solved:
                assignment = self.programme(hour, columns).solve()
                if assignment is None:
                    raise InputError("the programme found no fleet in its time; ask for fewer models or pools at once")
                solved[key] = assignment
            answers.append(solved[key])
        return answers

    def usd_per_month(self, hours: Sequence[Assignment]) -> float:
        """Return what is paid for when it is used."""
        return sum(hour.usd_hour for hour in hours) * HOURS_A_MONTH / len(hours)

    @property
    def fixed_usd_per_month(self) -> float:
        """Return what owned and reserved GPUs cost, used or not."""
        pools = zip(self.question.pools, self.prices, strict=True)
        return sum(price * (pool.count or 0) * HOURS_A_MONTH for pool, price in pools if pool.fixed)


def single_types(work: HourlyProgramme, columns: Sequence[ReplicaColumn]) -> Iterator[tuple[str, float | None]]:
    """Yield what the fleet would cost on one kind of GPU alone."""
    kinds = [find_gpu(pool.gpu).value.name for pool in work.question.pools]
    for gpu in dict.fromkeys(kinds):
        own = [column for column in columns if kinds[column.pool] == gpu]
        if {column.model for column in own} != work.served:
            yield gpu, None
            continue
        hours = work.assigned(own)
        yield gpu, None if any(hour.missing for hour in hours) else work.usd_per_month(hours)


def one_type_a_model(work: HourlyProgramme, columns: Sequence[ReplicaColumn]) -> float | None:
    """Return what it costs where models are planned alone: each in turn takes the one type and pool that is cheapest for it, of the
    GPUs that those before it left; None where nothing is left for one.
    """
    counts = [np.inf if pool.count is None else float(pool.count) for pool in work.question.pools]
    left = [np.full(work.rates.shape[1], count) for count in counts]
    usd = 0.0
    for model in sorted(work.served):
        alone = [(column, _gpus_alone(work, column)) for column in columns if column.model == model]
        able = [(column, gpus) for column, gpus in alone if (gpus <= left[column.pool]).all()]
        if not able:
            return None
        column, gpus = min(able, key=lambda pair: (_price(work, pair[0]) * pair[1].sum(), pair[1].sum()))
        left[column.pool] -= gpus
        usd += _price(work, column) * float(gpus.sum())
    return float(usd * HOURS_A_MONTH / work.rates.shape[1])


def _gpus_alone(work: HourlyProgramme, column: ReplicaColumn) -> Array:
    """Return the GPUs that a model takes in one column alone, by hour."""
    rates = work.rates[column.model]
    replicas = np.ceil(rates / column.capacity_s - 1e-9) + np.where(rates > 0, work.question.spares, 0)
    return np.asarray(replicas * column.gpus)


def _price(work: HourlyProgramme, column: ReplicaColumn) -> float:
    return 0.0 if work.question.pools[column.pool].fixed else work.prices[column.pool]
