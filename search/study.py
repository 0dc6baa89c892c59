"""Every answer is an Optuna study: exploring a space for an objective, exactly where it can be enumerated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.trial import TrialState

from catalog.errors import InputError
from catalog.schema import require_positive
from search.optuna_logging import quietly
from search.pareto import MOST_OBJECTIVES
from search.sampling import POPULATION, distributions, sample
from search.scores import ScoredPoints, Scores, SearchProblem
from search.storage import only_writer, open_storage, readable_errors

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from search.scores import Direction, Objective
    from search.space import Columns, Space

ENUMERABLE = 2_000_000
"""Points up to which a space is enumerated: seconds, at the 100,000 and more deployments estimated in one."""
TRIALS = 1_000
"""Points the sampler proposes in a larger space unless the caller says otherwise."""
BEST_KEPT = 200
INFEASIBLE_KEPT = 32
"""Points beyond a limit that are kept beside the feasible ones: they show where the limits run."""
EVEN_KEPT = 32
"""Feasible points kept from all over the space, so that a dashboard's plots and importances see more than the best."""
FRONT_STORED = 250
"""Points of the Pareto front that go into the study; a longer one is thinned out evenly there."""
IMPORTANCE_TRIALS = 1_000
SAME = 1e-6
"""Relative difference up to which a stored value is the same as a computed one."""
LARGE = 1e9
"""Stands for an infinite violation in a study: JSON knows no infinity."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StudyResult:
    """Results of a search, the best candidate first; where nothing is feasible, the one that exceeds its limits least."""

    study: optuna.Study
    """The front, the best, some beyond the limits and some from all over the space, as finished trials."""
    space: Space
    columns: Columns
    """The candidates' choices, shape (candidates,) each."""
    scores: Scores
    """The candidates' scores, in the same order."""
    front: NDArray[np.intp]
    """Candidates that no other feasible point dominates, in their order; of equal ones only the first."""
    evaluated: int
    feasible: int
    """How many of the evaluated points keep all limits."""
    exact: bool
    """Every allowed point was evaluated, so the best is the optimum and the front is complete."""
    superseded: int
    """Rows the study held of these candidates with other scores (another workload or fit); newer rows were added."""
    pool: ScoredPoints = field(repr=False)
    """All points evaluated."""

    @property
    def study_name(self) -> str:
        return self.study.study_name

    def records(self) -> list[dict[str, Any]]:
        """Return the candidates' choices as plain Python values."""
        return self.space.records(self.columns)

    def importances(self) -> dict[str, float]:
        """Return how much each choice matters for the first objective among the feasible points, largest first, sum 1.

        After an enumeration: the share of the variance over all feasible points that the choice explains alone (first
        order Sobol index, Saltelli et al., "Global Sensitivity Analysis", 2008, sect. 1.2.3), scaled to sum 1. After
        sampling, where points crowd around the best, Optuna's PED-ANOVA (how much a choice differs between the best
        tenth and the rest) on up to ``IMPORTANCE_TRIALS`` of the points. All 0 when no choice makes a difference.
        """
        effects = _main_effects(self.space, self.pool) if self.exact else _ped_anova(self.space, self.pool)
        total = sum(effects.values())
        shares = {name: value / total if total else 0.0 for name, value in effects.items()}
        return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def explore(
    space: Space,
    objective: Objective,
    *,
    directions: Mapping[str, Direction],
    tie_break: Mapping[str, Direction] | None = None,
    distinct: Sequence[str] = (),
    trials: int | None = None,
    storage: str | os.PathLike[str] | None = None,
    study_name: str | None = None,
    starts: Iterable[Mapping[str, Any]] = (),
    seed: int = 0,
) -> StudyResult:
    """Find the best points of ``space`` and keep them in a study.

    Args:
        space: what may be chosen.
        objective: scores many points at once; called with up to ``search.space.CHUNK`` of them, and a second time with
            the candidates.
        directions: one to three objectives by name; the first decides, the others where it is equal (and all of them
            for the front).
        tie_break: columns or attributes that decide between points with equal values: {"num_gpus": "maximize"} fills
            the cluster. What is still equal keeps the space's order.
        distinct: names whose every combination (as far as ``BEST_KEPT`` go) has its best point among the candidates;
            ("tp", "pp", "dp") keeps the best batch of each layout.
        trials: let a sampler propose so many points (``search.sampling.sample``). None: evaluate all points up to
            ``ENUMERABLE``, in a larger space propose ``TRIALS``. A space of no more points than asked for is enumerated.
        storage: where the study is kept, see ``open_storage``; None: in memory.
        study_name: None: a new name. A study of this name in the storage is continued: points that it holds with the
            same scores are not added again, the sampler begins with its first points, and all of them count again.
        starts: points for the sampler to begin with, as plain values by name; those outside the space are ignored.
        seed: of the sampler.

    Raises:
        InputError: the rules allow no point; the storage or the study in it cannot be used; ``trials`` is not positive.
    """
    if not 1 <= len(directions) <= MOST_OBJECTIVES:
        raise ValueError(f"{len(directions)} objectives; 1 to {MOST_OBJECTIVES} are possible")
    if trials is not None:
        require_positive("trials", trials)
    question = SearchProblem(space=space, objective=objective, directions=directions, tie_break=tie_break or {})
    where = "in memory" if storage is None else str(storage)
    kept = open_storage(storage)
    study = _open_study(kept, where, study_name, directions)
    with readable_errors(where):
        known = study.get_trials(deepcopy=False)
    _check_choices(study, known, distributions(space))
    exact = space.size <= (trials or ENUMERABLE)
    if exact:
        pool = ScoredPoints.joined([ScoredPoints.of(question, points, columns) for points, columns in space.chunks()])
    else:
        begin = np.unique(space.find([*starts, *(trial.params for trial in known[:POPULATION])]), axis=0)
        pool = sample(question, trials=trials or TRIALS, seed=seed, starts=begin)
        pool = _with_held(question, pool, [trial.params for trial in known])
    if not len(pool):
        raise InputError("the rules allow no combination of the choices; allow more choices")

    front, some, selected = _selection(space, pool, distinct)
    columns = space.take(pool.points[selected])
    scores = objective(columns)
    thinned = front[_evenly(len(front), FRONT_STORED)]
    stored = np.flatnonzero(np.isin(selected, np.concatenate([thinned, some])))
    with readable_errors(where), only_writer(kept, where, study.study_name):
        superseded = _store(study, _frozen_trials(space, columns, scores, stored))
    return StudyResult(
        study=study,
        space=space,
        columns=columns,
        scores=scores,
        front=np.flatnonzero(np.isin(selected, front)),
        evaluated=len(pool),
        feasible=int(np.count_nonzero(pool.excess == 0)),
        exact=exact,
        superseded=superseded,
        pool=pool,
    )


def _selection(
    space: Space, pool: ScoredPoints, distinct: Sequence[str]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return rows of ``pool``: the front, what is worth keeping beside it, and both together, the best first."""
    ranks = pool.ranks()
    order = pool.order(ranks)
    front = pool.front(ranks, order)
    some = _worth_keeping(pool, order, _groups(space, pool, distinct))
    place = np.empty(len(pool), dtype=np.int64)
    place[order] = np.arange(len(pool))
    return front, some, order[np.unique(place[np.concatenate([front, some])])]


def _with_held(question: SearchProblem, pool: ScoredPoints, held: Iterable[Mapping[str, Any]]) -> ScoredPoints:
    """Add what the study holds, so that no answer is worse than one it has given; each point once."""
    space = question.space
    points = np.concatenate([pool.points, space.find(held)])
    first = np.unique(points, axis=0, return_index=True)[1]
    missing = points[np.sort(first[first >= len(pool)])]
    return ScoredPoints.joined([pool, ScoredPoints.of(question, missing, space.take(missing))])


def _groups(space: Space, pool: ScoredPoints, names: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each point, equal where all ``names`` are."""
    groups = np.zeros(len(pool), dtype=np.int64)
    for name in names:
        options, codes = _codes(space, pool, name)
        groups = np.unique(groups * options + codes, return_inverse=True)[1].astype(np.int64)
    return groups


def _codes(space: Space, pool: ScoredPoints, name: str) -> tuple[int, NDArray[np.int64]]:
    """Return how many options ``name`` has, and each point's by number."""
    number, axis = next((number, axis) for number, axis in enumerate(space.axes) if name in axis.columns)
    options, of_row = np.unique(axis.columns[name], return_inverse=True)
    return len(options), of_row[pool.points[:, number]]


def _worth_keeping(pool: ScoredPoints, order: NDArray[np.intp], groups: NDArray[np.int64]) -> NDArray[np.intp]:
    """Choose the best of each group, the best of all, those least beyond the limits, and some from all over the space."""
    feasible = int(np.count_nonzero(pool.excess == 0))
    firsts = np.sort(np.unique(groups[order], return_index=True)[1])[:BEST_KEPT]
    best = order[: feasible or len(order)][:BEST_KEPT]
    everywhere = np.flatnonzero(pool.excess == 0)
    even = everywhere[_evenly(len(everywhere), EVEN_KEPT)]
    return np.concatenate([order[firsts], best, order[feasible:][:INFEASIBLE_KEPT], even])


def _evenly(length: int, most: int) -> NDArray[np.int64]:
    """Return up to ``most`` positions spread over ``length``, the ends among them."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(np.int64))


def _open_study(
    storage: BaseStorage, where: str, name: str | None, directions: Mapping[str, Direction]
) -> optuna.Study:
    with readable_errors(where), quietly():
        study = optuna.create_study(
            storage=storage, study_name=name, directions=list(directions.values()), load_if_exists=True
        )
        held = [direction.name.lower() for direction in study.directions]
        names = study.metric_names
        if held != list(directions.values()) or names not in (None, list(directions)):
            requested = ", ".join(f"{direction} {of}" for of, direction in directions.items())
            holds = ", ".join(
                f"{direction} {of}" for of, direction in zip(names or ["?"] * len(held), held, strict=True)
            )
            raise InputError(
                f"study {name!r} is about other objectives ({holds}, not {requested}); choose another name"
            )
        if names is None:
            study.set_metric_names(list(directions))
    return study


def _check_choices(study: optuna.Study, known: Iterable[FrozenTrial], options: Mapping[str, BaseDistribution]) -> None:
    """Raise ``InputError`` where Optuna could not keep the new trials beside those the study has."""
    for trial in known:
        for name, held in trial.distributions.items():
            try:
                check_distribution_compatibility(held, options.get(name, held))
            except ValueError:
                raise InputError(
                    f"study {study.study_name!r} is about other choices of {name}; choose another name"
                ) from None


def _frozen_trials(space: Space, columns: Columns, scores: Scores, which: NDArray[np.intp]) -> list[FrozenTrial]:
    """Return candidates as finished trials; one without a value has failed."""
    options = distributions(space)
    records = space.records({name: column[which] for name, column in columns.items()})
    attributes = {name: column[which].tolist() for name, column in scores.attributes.items()}
    values = scores.values[which]
    violations = np.nan_to_num(scores.violations[which], nan=LARGE, posinf=LARGE, neginf=-LARGE)
    failed = [bool(np.isnan(row).any()) for row in values]
    return [
        optuna.trial.create_trial(
            state=TrialState.FAIL if failed[row] else TrialState.COMPLETE,
            values=None if failed[row] else values[row].tolist(),
            params=params,
            distributions=options,
            constraints=dict(zip(scores.limits, violations[row].tolist(), strict=True)),
            user_attrs={name: _plain(column[row]) for name, column in attributes.items()},
        )
        for row, params in enumerate(records)
    ]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _store(study: optuna.Study, trials: Iterable[FrozenTrial]) -> int:
    """Add those of ``trials`` that the study does not hold already; how many it holds with other scores.

    Optuna's finished trials cannot be changed, so what has changed is added as a newer row.
    """
    held = {_identity(trial): trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
    superseded = 0
    for trial in trials:
        earlier = held.get(_identity(trial))
        if earlier is None or not _same(earlier, trial):
            superseded += earlier is not None
            study.add_trial(trial)
    return superseded


def _identity(trial: FrozenTrial) -> frozenset[tuple[str, Any]]:
    return frozenset(trial.params.items())


def _same(one: FrozenTrial, other: FrozenTrial) -> bool:
    if one.state != other.state or one.constraints.keys() != other.constraints.keys():
        return False
    pairs = [*zip(one.values or (), other.values or (), strict=True)]
    pairs += [(value, other.constraints[name]) for name, value in one.constraints.items()]
    return all(math.isclose(a, b, rel_tol=SAME, abs_tol=SAME * SAME) for a, b in pairs)


def _main_effects(space: Space, pool: ScoredPoints) -> dict[str, float]:
    """Return the variance of the first objective's mean given each choice, over the feasible points."""
    feasible = pool.take(np.flatnonzero((pool.excess == 0) & np.isfinite(pool.losses[:, 0])))
    losses = feasible.losses[:, 0]
    if not len(losses):
        return dict.fromkeys(space.names, 0.0)
    centred = losses - losses.mean()
    effects = {}
    for name in space.names:
        options, codes = _codes(space, feasible, name)
        counts = np.bincount(codes, minlength=options)
        sums = np.bincount(codes, weights=centred, minlength=options)
        effect = float((sums**2 / np.maximum(counts, 1)).sum() / len(losses))
        # Below this is rounding, not an effect.
        effects[name] = effect if effect > 1e-18 * float(losses @ losses) / len(losses) else 0.0
    return effects


def _ped_anova(space: Space, pool: ScoredPoints) -> dict[str, float]:
    feasible = np.flatnonzero((pool.excess == 0) & np.isfinite(pool.losses[:, 0]))
    chosen = pool.take(feasible[_evenly(len(feasible), IMPORTANCE_TRIALS)])
    if len(chosen) < 2 or np.ptp(chosen.losses[:, 0]) == 0:
        return dict.fromkeys(space.names, 0.0)
    scores = Scores(values=chosen.losses[:, :1], violations=np.empty((len(chosen), 0)))
    with quietly():
        study = optuna.create_study(direction="minimize")
        study.add_trials(_frozen_trials(space, space.take(chosen.points), scores, np.arange(len(chosen))))
        return optuna.importance.get_param_importances(study)
