"""Exploring a space that is too large to enumerate: Optuna's NSGA-II proposes, sweeps along the axes polish."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler

from catalog.errors import InputError
from search.optuna_logging import quietly
from search.scores import ScoredPoints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

    from search.scores import SearchProblem
    from search.space import Space

POPULATION = 50
SWEEP_EVERY = 4
"""Generations between sweeps."""
SWEPT = 64
"""Points that sweeps evaluate, for each trial of the sampler, at most (but for the last of them)."""
AROUND = 1 << 15
"""Points around the best that one sweep evaluates at most."""
VARIANTS = 64
"""Neighbours tried in place of a proposal that is not allowed or has been evaluated already."""
ATTEMPTS = 50


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return how Optuna sees every name of ``space``.

    Numbers span their range, logarithmically where they are positive, rather than being a list of choices: neighbours
    are then known to be alike, and a study can go on with other choices than it began with.
    """
    return {
        name: _distribution(column, axis.labels.get(name))
        for axis in space.axes
        for name, column in axis.columns.items()
    }


def _distribution(column: NDArray[Any], labels: tuple[str, ...] | None) -> BaseDistribution:
    if labels:
        return CategoricalDistribution(labels)
    low, high = column.min().item(), column.max().item()
    if column.dtype.kind == "b":
        return CategoricalDistribution((False, True))
    if column.dtype.kind == "i":
        return IntDistribution(low, high, log=low > 0)
    return FloatDistribution(low, high, log=low > 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Coordinates:
    """The options of one name, by row, on a scale from 0 to 1."""

    distribution: BaseDistribution
    rows: NDArray[np.float64]

    @classmethod
    def of(cls, column: NDArray[Any], distribution: BaseDistribution) -> _Coordinates:
        return cls(distribution, _scaled(column, distribution))

    def distance(self, value: Any) -> NDArray[np.float64]:
        """Return how far every row is from ``value``; options without an order are all 1 apart."""
        if isinstance(self.distribution, CategoricalDistribution):
            return np.not_equal(self.rows, self.distribution.to_internal_repr(value)).astype(np.float64)
        return np.abs(np.subtract(self.rows, _scaled(np.array(value), self.distribution)))


def _scaled(values: NDArray[Any], distribution: BaseDistribution) -> NDArray[np.float64]:
    if not isinstance(distribution, (IntDistribution, FloatDistribution)):
        return values.astype(np.float64)  # codes
    bounds = np.array([distribution.low, distribution.high])
    if distribution.log:
        bounds, values = np.log(bounds), np.log(values)
    low, high = bounds
    scaled: NDArray[np.float64] = (values - low) / max(high - low, 1e-12)
    return scaled


def sample(question: SearchProblem, *, trials: int, seed: int, starts: NDArray[np.int64]) -> ScoredPoints:
    """Let a sampler propose ``trials`` points, search around the best ones, and return all distinct points evaluated.

    NSGA-II (constrained domination, Deb et al., IEEE TEVC 6, 2002) proposes generations of ``POPULATION`` points, the
    first of them ``starts`` and random ones, all of them allowed and new. Every ``SWEEP_EVERY`` generations what
    surrounds the best point is swept. A proposal costs Optuna a millisecond or two, a point of a large batch costs the
    objective microseconds: so sweeps evaluate many times more points, up to ``SWEPT`` a trial, in the same time, and
    find the exact edge of a memory or latency limit.
    """
    space = question.space
    sampler = _AllowedSampler(space, starts=starts, seed=seed)
    # In memory even when the answer goes elsewhere: a database takes longer for one trial than the objective for
    # thousands of points.
    with quietly():
        study = optuna.create_study(directions=["minimize"] * len(question.directions), sampler=sampler)
    pool = ScoredPoints.nothing(question)
    count = 0
    while count < trials and not sampler.exhausted:
        generation = [study.ask(sampler.distributions) for _ in range(min(POPULATION, trials - count))]
        count += len(generation)
        proposed = np.array([sampler.proposed[trial.number] for trial in generation])
        scored = ScoredPoints.of(question, proposed, space.take(proposed))
        for trial, losses, excess in zip(generation, scored.losses, scored.excess, strict=True):
            trial.set_constraint("excess", float(excess))
            # Points without a value are infeasible, and of those NSGA-II compares nothing but the excess.
            study.tell(trial, np.nan_to_num(losses, nan=0.0).tolist())
        pool = ScoredPoints.joined([pool, scored])
        if count % (SWEEP_EVERY * POPULATION) == 0 or count == trials:
            pool = _sweep(question, pool, sampler, most=SWEPT * count)
    _, first = np.unique(pool.points, axis=0, return_index=True)  # a swept point may have been proposed later
    return pool.take(np.sort(first))


def _sweep(question: SearchProblem, pool: ScoredPoints, sampler: _AllowedSampler, *, most: int) -> ScoredPoints:
    """Extend ``pool`` by the surroundings of its best point until none there is better, and of one more point of the
    front.
    """
    space = question.space
    ranks = pool.ranks()
    order = pool.order(ranks)
    settled = False
    while not settled and len(pool) < most:
        best = pool.points[order[0]]
        # Points that differ in two choices only once those that differ in one are done: they are many more.
        lines = sampler.around(best, choices=1)
        around = lines if len(lines) else sampler.around(best, choices=2)
        pool = ScoredPoints.joined([pool, ScoredPoints.of(question, around, space.take(around))])
        ranks = pool.ranks()
        order = pool.order(ranks)
        settled = not len(lines) and bool((best == pool.points[order[0]]).all())
    sampler.propose_next(pool.points[order[0]])  # so that it can have offspring
    front = pool.points[pool.front(ranks, order)]
    if len(front) > 1 and len(pool) < most:
        around = sampler.around(sampler.one_of(front), choices=1)
        pool = ScoredPoints.joined([pool, ScoredPoints.of(question, around, space.take(around))])
    return pool


class _AllowedSampler(BaseSampler):
    """NSGA-II whose proposals are moved to the nearest point that is allowed and new."""

    def __init__(self, space: Space, *, starts: NDArray[np.int64], seed: int) -> None:
        self.distributions = distributions(space)
        self.proposed: dict[int, NDArray[np.int64]] = {}
        """What was proposed, by trial number."""
        self.exhausted = False
        """No point is left that is allowed and new, as far as random draws can tell."""
        self._space = space
        self._waiting = list(starts)
        self._seen = {tuple(point) for point in starts.tolist()}
        self._inner = NSGAIISampler(population_size=POPULATION, seed=seed)
        self._random = np.random.default_rng(seed)
        self._coordinates = [
            {name: _Coordinates.of(column, self.distributions[name]) for name, column in axis.columns.items()}
            for axis in space.axes
        ]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        del study, trial
        return self.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        open_names = {name: options for name, options in search_space.items() if not options.single()}
        # Asked even when the answer is not needed: NSGA-II notes the trial's generation on the way.
        child = self._inner.sample_relative(study, trial, open_names)
        if self._waiting:
            point = self._waiting.pop(0)
        elif child:
            for name in open_names.keys() - child.keys():  # those that mutate
                child[name] = self._inner.sample_independent(study, trial, name, open_names[name])
            point = self._new_near(self._nearest(child))
        else:
            point = self._new_anywhere()
        self._seen.add(tuple(point.tolist()))
        self.proposed[trial.number] = point
        return self._space.records(self._space.take(point[None]))[0]

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        del study, param_distribution
        raise AssertionError(f"{param_name} of trial {trial.number} was not proposed")

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)

    def propose_next(self, point: NDArray[np.int64]) -> None:
        """Propose ``point`` before any other, unless it has been proposed already."""
        if not any((point == earlier).all() for earlier in self.proposed.values()):
            self._waiting.append(point)

    def around(self, centre: NDArray[np.int64], *, choices: int) -> NDArray[np.int64]:
        """Return the new points that differ from ``centre`` in at most so many choices; of very many a random part."""
        shape = self._space.shape
        several = list(itertools.combinations(range(len(shape)), choices))
        neighbours = []
        for axes in several:
            lengths = [shape[axis] for axis in axes]
            count = min(math.prod(lengths), AROUND // len(several))
            rows = self._random.choice(math.prod(lengths), count, replace=False, shuffle=False)
            points = np.tile(centre, (count, 1))
            points[:, axes] = np.stack(np.unravel_index(np.sort(rows), lengths), axis=1)
            neighbours.append(points)
        points = self._new(np.unique(np.concatenate(neighbours), axis=0)) if neighbours else centre[:0]
        self._seen.update(map(tuple, points.tolist()))
        return points

    def one_of(self, points: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array(points[self._random.integers(len(points))])

    def _nearest(self, values: dict[str, Any]) -> NDArray[np.int64]:
        """Return the point whose rows are nearest to ``values``, axis by axis."""
        point = []
        for axis in self._coordinates:
            distance: Any = 0.0
            for name, coordinates in axis.items():
                if name in values:
                    distance = distance + coordinates.distance(values[name])
            point.append(np.argmin(distance) if np.ndim(distance) else 0)
        return np.array(point, dtype=np.int64)

    def _new(self, points: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of ``points`` that are allowed and new."""
        new = np.array([tuple(point) not in self._seen for point in points.tolist()], dtype=bool)
        return points[new & self._space.allows(self._space.take(points))]

    def _new_near(self, point: NDArray[np.int64]) -> NDArray[np.int64]:
        variants = np.tile(point, (VARIANTS, 1))
        numbers = np.arange(1, VARIANTS)  # the first is the point itself
        axes = self._random.integers(len(point), size=len(numbers))
        steps = self._random.geometric(0.3, size=len(numbers)) * self._random.choice([-1, 1], size=len(numbers))
        variants[numbers, axes] = np.clip(variants[numbers, axes] + steps, 0, np.array(self._space.shape)[axes] - 1)
        new = self._new(variants)
        return new[0] if len(new) else self._new_anywhere()

    def _new_anywhere(self) -> NDArray[np.int64]:
        for _ in range(ATTEMPTS):
            new = self._new(self._random.integers(self._space.shape, size=(VARIANTS, len(self._space.shape))))
            if len(new):
                return np.array(new[0])
        if not self._seen:
            raise InputError(
                f"none of {ATTEMPTS * VARIANTS} combinations of the choices is allowed; allow more choices"
            )
        self.exhausted = True
        return np.array(next(iter(self._seen)), dtype=np.int64)
