"""The mixed-integer programme: how many replicas of each type serve each model's rate for the least money.

For one hour, with x_t replicas of type t, c_t requests a second each, g_t GPUs each at p_t dollars an hour:

    minimise    sum p_t g_t x_t
    such that   sum over the types of model m of c_t x_t - s c_u y_u >= r_m    for every m and every type u of it,
                x_t <= most y_t,     sum over the types in pool q of g_t x_t <= n_q

The s replicas that may fail are taken from any one type. HiGHS solves it (``scipy.optimize.milp``); its relaxation gives the bound
that the gap is told against, and the marginal prices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from catalog.units import Array

GAP = 1e-4
"""Relative, at which the search ends."""
TIME_LIMIT_S = 20.0
"""For one hour's programme."""
UNUSED = 1e-6
"""Dollars that a GPU-hour of a pool costs beside its price, so that of equal fleets the one of fewer GPUs is taken."""
SHORT_USD = 1e4
"""Dollars an hour that a missing GPU costs where the programme is asked what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaColumn:
    """One replica type in one pool."""

    model: int
    pool: int
    gpus: int
    capacity_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Replicas of every column in one hour."""

    replicas: NDArray[np.int64]
    usd_hour: float
    """Of what is paid for when it is used."""
    bound_usd_hour: float
    """That no assignment is below."""
    missing: Mapping[int, int]
    """GPUs by pool beyond those there are; empty where the pools suffice."""

    @property
    def gap(self) -> float:
        """Return how far the cost may lie above the least, as a share of it."""
        return max(self.usd_hour - self.bound_usd_hour, 0.0) / max(self.usd_hour, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Marginals:
    """What a little more would cost in one hour, by the programme without whole numbers."""

    usd_a_request_s: tuple[float, ...]
    """Dollars an hour for one more request a second of each model."""
    usd_a_gpu: tuple[float, ...]
    """Dollars an hour that one more GPU of each pool would save."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programme:
    """The programme of one hour."""

    columns: Sequence[ReplicaColumn]
    prices: Sequence[float]
    """Dollars per GPU-hour by pool; 0 where they are paid for in any case."""
    counts: Sequence[int | None]
    """GPUs by pool; None: as many as it takes."""
    rates: Sequence[float]
    """Requests a second by model, headroom included."""
    spares: int = 0

    @property
    def _most(self) -> Array:
        """Return the replicas of each column that could be worth having."""
        wanted = [math.ceil(self.rates[column.model] / column.capacity_s) for column in self.columns]
        return np.array(wanted, dtype=float) + self.spares

    @property
    def _capacity(self) -> Array:
        return np.array([column.capacity_s for column in self.columns])

    @property
    def _costs(self) -> Array:
        return np.array([(self.prices[column.pool] + UNUSED) * column.gpus for column in self.columns])

    def solve(self) -> Assignment | None:
        """Return the cheapest assignment; with what is missing where the pools are too small, None where a model has no column.

        The answer is the best to within ``GAP``, or the best after ``TIME_LIMIT_S``.
        """
        served = {column.model for column in self.columns}
        if any(rate > 0 and number not in served for number, rate in enumerate(self.rates)):
            return None
        n, pools = len(self.columns), len(self.counts)
        with_spares = n if self.spares else 0
        matrix, lower, upper = self._constraints(n, with_spares, pools)
        costs = np.concatenate([self._costs, np.zeros(with_spares), np.full(pools, SHORT_USD)])
        limits = np.concatenate([self._most, np.ones(with_spares), np.full(pools, np.inf)])
        result = milp(
            costs,
            integrality=np.concatenate([np.ones(n + with_spares), np.zeros(pools)]),
            bounds=Bounds(np.zeros(len(costs)), limits),
            constraints=LinearConstraint(matrix, lower, upper),
            options={"mip_rel_gap": GAP, "time_limit": TIME_LIMIT_S},
        )
        if result.x is None:
            return None
        replicas = np.rint(result.x[:n]).astype(np.int64)
        short = {
            pool: math.ceil(float(gpus) - 1e-6) for pool, gpus in enumerate(result.x[n + with_spares :]) if gpus > 1e-6
        }
        paid = np.array([self.prices[column.pool] * column.gpus for column in self.columns])
        bound = float("nan") if result.mip_dual_bound is None else float(result.mip_dual_bound)
        usd = float(paid @ replicas)
        return Assignment(replicas=replicas, usd_hour=usd, bound_usd_hour=min(max(bound, 0.0), usd), missing=short)

    def _constraints(self, n: int, with_spares: int, pools: int) -> tuple[Array, Array, Array]:
        """Return matrix and ends of: enough for every model, spares included; no more GPUs than there are."""
        capacity = self._capacity
        blocks: list[tuple[Array, Array, Array]] = []
        for number, rate in enumerate(self.rates):
            own = np.array([column.model == number for column in self.columns])
            rows = int(own.sum()) if with_spares else 1
            if rate <= 0 or not rows:
                continue
            carried = np.tile(np.where(own, capacity, 0.0), (rows, 1))
            lost = np.zeros((rows, with_spares))
            if with_spares:
                lost[np.arange(rows), np.flatnonzero(own)] = -self.spares * capacity[own]
            block = np.hstack([carried, lost, np.zeros((rows, pools))])
            blocks.append((block, np.full(rows, rate), np.full(rows, np.inf)))
        if with_spares:
            used = np.hstack([np.eye(n), -np.diag(self._most), np.zeros((n, pools))])
            blocks.append((used, np.full(n, -np.inf), np.zeros(n)))
        limited = [pool for pool, count in enumerate(self.counts) if count is not None]
        room = np.hstack([self._gpus()[limited], np.zeros((len(limited), with_spares)), -np.eye(pools)[limited]])
        counts = np.array([float(count) for count in self.counts if count is not None])
        blocks.append((room, np.full(len(limited), -np.inf), counts))
        matrices, lows, highs = zip(*blocks, strict=True)
        return np.vstack(matrices), np.concatenate(lows), np.concatenate(highs)

    def _gpus(self) -> Array:
        """Return the GPUs of each column by pool, (pools, n)."""
        pools, gpus = ([getattr(column, name) for column in self.columns] for name in ("pool", "gpus"))
        return np.where(np.arange(len(self.counts))[:, None] == pools, np.array(gpus, dtype=float), 0.0)

    def marginals(self) -> Marginals:
        """Return the marginal prices of the programme without whole numbers and without spares; NaN where GPUs are missing."""
        unknown = Marginals(usd_a_request_s=(math.nan,) * len(self.rates), usd_a_gpu=(math.nan,) * len(self.counts))
        if not self.columns:
            return unknown
        models = np.array([column.model for column in self.columns])
        demand = -np.where(np.arange(len(self.rates))[:, None] == models, self._capacity, 0.0)
        limited = [pool for pool, count in enumerate(self.counts) if count is not None]
        counts = np.array([float(count) for count in self.counts if count is not None])
        result = linprog(
            self._costs,
            A_ub=np.vstack([demand, self._gpus()[limited]]),
            b_ub=np.concatenate([-np.asarray(self.rates, dtype=float), counts]),
            method="highs",
        )
        if not result.success:
            return unknown
        prices = -np.asarray(result.ineqlin.marginals)
        by_pool = dict(zip(limited, prices[len(self.rates) :], strict=True))
        return Marginals(
            usd_a_request_s=tuple(float(price) for price in prices[: len(self.rates)]),
            usd_a_gpu=tuple(float(by_pool.get(pool, 0.0)) for pool in range(len(self.counts))),
        )
