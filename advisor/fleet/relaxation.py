"""Where a fleet cannot be: the smallest sets of things to relax, each in numbers and each tried before it is told.

One thing alone is tried first, of every kind: GPUs of one pool, the budget, all traffic or that of one model, headroom, spares. Where
none suffices, a mixed-integer programme over the hours finds how few pools have to grow, and by how little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from advisor.capacity.fleet_options import HOURS_A_MONTH
from advisor.fleet.assignment import TIME_LIMIT_S
from catalog.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from advisor.fleet.assignment import ReplicaColumn
    from advisor.fleet.hourly_programme import HourlyProgramme
    from catalog.units import Array

HALVINGS = 9
"""Of the range in which the largest traffic lies that fits: to 0.2% of it."""
MODELS = 10
"""Models of which each one's traffic is lowered alone; of more, only that of all."""
MOST_VARIABLES = 2000
"""Replicas by column and hour of the programme that finds how few pools have to grow."""
A_POOL = 1e3
"""GPUs that one more pool that has to grow is worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """A fleet whose pools or budget do not suffice."""

    work: HourlyProgramme
    columns: Sequence[ReplicaColumn]
    usd_per_month: float
    """Of the cheapest fleet, GPUs that are missing left out."""
    missing: Mapping[int, int]
    """GPUs by pool that are missing where as few GPUs as possible are."""

    @property
    def budget(self) -> float:
        """Return dollars a month; infinite where there is none."""
        hourly = self.work.question.budget_usd_hour
        return np.inf if hourly is None else hourly * HOURS_A_MONTH

    def relaxations(self) -> Iterator[str]:
        """Say each thing that suffices alone; where there is none, how few pools have to grow, and to which budget."""
        dear = self.usd_per_month > self.budget * (1.0 + 1e-9)
        if not self.missing and not dear:
            return
        yield from self._capacity(dear=dear)
        yield from self._traffic()
        question = self.work.question
        if question.spares:
            yield from self._fewer_spares()
        if question.headroom:
            yield from self._less_headroom()

    def _capacity(self, *, dear: bool) -> Iterator[str]:
        """Say how many GPUs, or dollars, are missing."""
        pools = self.work.question.pools
        budget = f"a budget of ${self.usd_per_month:,.0f} a month in place of ${self.budget:,.0f}"
        if not self.missing:
            yield budget
            return
        more = self._fewest_pools()
        parts = [f"{counted(gpus, 'more GPU')} in pool {pools[pool].label}" for pool, gpus in more.items()]
        yield " and ".join([*parts, *([budget] if dear else [])]) + ", or GPUs to rent beside it"

    def _traffic(self) -> Iterator[str]:
        """Say how much of all traffic fits, and of each model's alone."""
        work, question = self.work, self.work.question
        share = self._most(lambda part: (work.rates * part, question.spares))
        if share > 0:
            yield f"{_percent(share)} of all traffic"
        hopeful = sorted(work.served) if 1 < len(question.models) <= MODELS else []
        for model in hopeful:

            def lowered(part: float, model: int = model) -> tuple[Array, int]:
                rates = work.rates.copy()
                rates[model] *= part
                return rates, question.spares

            share = self._most(lowered)
            if share > 0:
                yield f"{_percent(share)} of the traffic of {question.models[model].label}"

    def _fewer_spares(self) -> Iterator[str]:
        for spares in reversed(range(self.work.question.spares)):
            if self._fits(self.work.rates, spares):
                yield f"{spares} spares in place of {self.work.question.spares}"
                return

    def _less_headroom(self) -> Iterator[str]:
        headroom, spares = self.work.question.headroom, self.work.question.spares
        bare = self.work.rates / (1.0 + headroom)
        share = self._most(lambda part: (bare * (1.0 + headroom * part), spares), least=True)
        if share >= 0:
            yield f"headroom of {np.floor(1000.0 * headroom * share) / 10.0:g}% in place of {100.0 * headroom:g}%"

    def _most(self, changed: Callable[[float], tuple[Array, int]], *, least: bool = False) -> float:
        """Return the largest part, 0 to 1, at which what is asked fits; with ``least`` -1 where not even 0 does."""
        if least and not self._fits(*changed(0.0)):
            return -1.0
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2.0
            if self._fits(*changed(middle)):
                low = middle
            else:
                high = middle
        return low

    def _fits(self, rates: Array, spares: int) -> bool:
        """Return whether the pools and the budget suffice."""
        work = self.work.with_rates(rates, spares)
        hours = work.assigned(self.columns)
        if any(hour.missing for hour in hours):
            return False
        return work.usd_per_month(hours) + work.fixed_usd_per_month <= self.budget * (1.0 + 1e-9)

    def _fewest_pools(self) -> Mapping[int, int]:
        """Return GPUs by pool that suffice at every hour: as few pools as possible, and of those as few GPUs.

        For hours h with x_th replicas, s_q more GPUs in pool q and z_q whether there are any: minimise sum of A z_q + s_q such that
        every hour's programme holds with n_q + s_q GPUs, and s_q <= S z_q.
        """
        work, columns = self.work, self.columns
        limited = [place for place, pool in enumerate(work.question.pools) if pool.count is not None]
        hours = sorted({tuple(map(float, rates)) for rates in work.rates.T if self._short(rates)}, key=sum)
        n, q = len(columns), len(limited)
        # Spares, or many variables, make the programme too large; the fewest GPUs are known in any case.
        if work.question.spares or n * len(hours) > MOST_VARIABLES or not q:
            return self.missing
        gpus = np.array([[c.gpus if c.pool == pool else 0.0 for c in columns] for pool in limited])
        carried = np.array([[c.capacity_s if c.model == m else 0.0 for c in columns] for m in range(len(work.rates))])
        size, rows, low, high = n * len(hours) + 2 * q, [], [], []
        most = float(gpus.sum()) * 1e3
        counts = np.array([float(work.question.pools[pool].count or 0) for pool in limited])
        for number, rates in enumerate(hours):
            enough, room = np.zeros((len(rates), size)), np.zeros((q, size))
            place = slice(number * n, (number + 1) * n)
            enough[:, place], room[:, place] = carried, gpus
            room[:, -2 * q : -q] = -np.eye(q)
            rows += [enough, room]
            low += [np.array(rates), np.full(q, -np.inf)]
            high += [np.full(len(rates), np.inf), counts]
        used = np.zeros((q, size))
        used[:, -2 * q : -q], used[:, -q:] = np.eye(q), -most * np.eye(q)
        limits = LinearConstraint(
            np.vstack([*rows, used]), np.concatenate([*low, np.full(q, -np.inf)]), np.concatenate([*high, np.zeros(q)])
        )
        bounds = Bounds(np.zeros(size), np.concatenate([np.full(size - q, np.inf), np.ones(q)]))
        costs = np.concatenate([np.full(n * len(hours), 1e-6), np.ones(q), np.full(q, A_POOL)])
        result = milp(
            costs,
            integrality=np.ones(size, dtype=np.int64),
            bounds=bounds,
            constraints=limits,
            options={"time_limit": TIME_LIMIT_S},
        )
        if result.x is None:
            return self.missing
        more = np.rint(result.x[-2 * q : -q]).astype(int)
        return {pool: int(gpus) for pool, gpus in zip(limited, more, strict=True) if gpus}

    def _short(self, rates: Array) -> bool:
        work = self.work.with_rates(rates[:, None], self.work.question.spares)
        return any(hour.missing for hour in work.assigned(self.columns))


def _percent(share: float) -> str:
    return f"{np.floor(1000.0 * share) / 10.0:g}%"
