"""What an objective says of many points at once, and which of them are better: limits first, then values, then ties."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from search.pareto import non_dominated
from search.space import Columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.space import Space

Direction: TypeAlias = Literal["maximize", "minimize"]

TIED = 1e-9
"""Relative difference below which two values are one: replicas add up to the same throughput but for rounding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """An objective's answer for n points."""

    values: NDArray[np.float64]
    """Shape (n, objectives), in the objectives' own units; NaN where there is none (the weights do not fit)."""
    violations: NDArray[np.float64]
    """Shape (n, limits): by how much of itself a limit is exceeded, 0.1 for 10 % over; kept where <= 0."""
    limits: tuple[str, ...] = ()
    """Names of the limits."""
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """What else to keep of every point, shape (n,) each."""

    def __post_init__(self) -> None:
        points = len(self.values)
        columns = {"violations": self.violations, **self.attributes}
        wrong = [name for name, column in columns.items() if len(column) != points]
        if self.values.ndim != 2 or self.violations.shape != (points, len(self.limits)) or wrong:
            raise ValueError(
                f"scores do not fit together: values {self.values.shape}, violations {self.violations.shape} "
                f"of {len(self.limits)} limits, of other lengths: {', '.join(wrong) or 'none'}"
            )

    @property
    def excess(self) -> NDArray[np.float64]:
        """Sum of the violations of every point, shape (n,): 0 if it keeps all limits, infinite if it has no value."""
        # A NaN is a limit nobody could check.
        over: NDArray[np.float64] = np.where(np.isnan(self.violations), np.inf, np.maximum(self.violations, 0)).sum(
            axis=1
        )
        over[(over == 0) & np.isnan(self.values).any(axis=1)] = np.inf
        return over


Objective: TypeAlias = Callable[[Columns], Scores]
"""Scores of many points at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SearchProblem:
    """What is asked of every point."""

    space: Space
    objective: Objective
    directions: Mapping[str, Direction]
    """The objectives, the one that decides first."""
    tie_break: Mapping[str, Direction]
    """Columns or attributes that decide between points of equal values."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredPoints:
    """Points that have been evaluated, reduced to what comparing them takes."""

    points: NDArray[np.int64]
    """Shape (n, axes)."""
    losses: NDArray[np.float64]
    """Shape (n, objectives): the values, negated where they are to be as large as possible."""
    excess: NDArray[np.float64]
    """Shape (n,): see ``Scores.excess``."""
    ties: NDArray[np.float64]
    """Shape (n, tie-breaks), smaller first."""

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def of(cls, question: SearchProblem, points: NDArray[np.int64], columns: Columns) -> ScoredPoints:
        """Evaluate ``points``, whose values ``columns`` are."""
        if not len(points):
            return cls.nothing(question)
        scores = question.objective(columns)
        if scores.values.shape != (len(points), len(question.directions)):
            expected = len(points), len(question.directions)
            raise ValueError(f"the objective returned values of shape {scores.values.shape}; expected {expected}")
        known = {**scores.attributes, **columns}
        ties = [_sign(direction) * known[name] for name, direction in question.tie_break.items()]
        return cls(
            points=points,
            losses=scores.values * [_sign(direction) for direction in question.directions.values()],
            excess=scores.excess,
            ties=np.stack(ties, axis=1) if ties else np.empty((len(points), 0)),
        )

    @classmethod
    def nothing(cls, question: SearchProblem) -> ScoredPoints:
        return cls(
            points=np.empty((0, len(question.space.axes)), dtype=np.int64),
            losses=np.empty((0, len(question.directions))),
            excess=np.empty(0),
            ties=np.empty((0, len(question.tie_break))),
        )

    def take(self, index: NDArray[np.intp]) -> ScoredPoints:
        return ScoredPoints(
            points=self.points[index], losses=self.losses[index], excess=self.excess[index], ties=self.ties[index]
        )

    @classmethod
    def joined(cls, pools: Sequence[ScoredPoints]) -> ScoredPoints:
        return cls(
            points=np.concatenate([pool.points for pool in pools]),
            losses=np.concatenate([pool.losses for pool in pools]),
            excess=np.concatenate([pool.excess for pool in pools]),
            ties=np.concatenate([pool.ties for pool in pools]),
        )

    def ranks(self) -> NDArray[np.int64]:
        """Return the place of each loss among the distinct ones of its objective, shape (n, objectives)."""
        return np.stack([tied_ranks(losses) for losses in self.losses.T], axis=1)

    def order(self, ranks: NDArray[np.int64]) -> NDArray[np.intp]:
        """Order all points, the best first: least excess, least losses in the objectives' order, ties, then position."""
        order: NDArray[np.intp] = np.lexsort((*self.ties.T[::-1], *ranks.T[::-1], self.excess))
        return order

    def front(self, ranks: NDArray[np.int64], order: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the feasible points that no other dominates, in their order; of equal ones only the first."""
        feasible = order[self.excess[order] == 0]
        best = feasible[non_dominated(ranks[feasible])]
        new = np.ones(len(best), dtype=bool)
        new[1:] = (ranks[best[1:]] != ranks[best[:-1]]).any(axis=1)
        front: NDArray[np.intp] = best[new]
        return front


def tied_ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rank of every value, equal for values that a chain of relative steps below ``TIED`` joins; NaN ranks last."""
    values = np.where(np.isnan(values), np.inf, values)
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    lower, upper = ascending[:-1], ascending[1:]
    with np.errstate(invalid="ignore"):  # infinity less infinity
        near = np.isfinite(lower) & np.isfinite(upper) & (upper - lower <= TIED * np.maximum(abs(lower), abs(upper)))
    step = (upper > lower) & ~near
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.concatenate([[0], np.cumsum(step)])[: len(values)]
    return ranks


def _sign(direction: Direction) -> float:
    return {"minimize": 1.0, "maximize": -1.0}[direction]
