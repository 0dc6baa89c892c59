from __future__ import annotations

import numpy as np
import pytest

from catalog.errors import InputError
from search.scores import Scores
from search.space import Axis, Space
from search.study import TRIALS, explore
from tests.search.serving import Serving, deployments, directions, many_deployments


def optimum(space, objective):
    """The largest feasible first value, by brute force."""
    best = -np.inf
    for _, columns in space.chunks():
        scores = objective(columns)
        feasible = (scores.violations <= 0).all(axis=1) & ~np.isnan(scores.values).any(axis=1)
        best = max(best, scores.values[feasible, 0].max(initial=-np.inf))
    return best


@pytest.mark.parametrize("hardware", range(3))
def test_a_million_points_are_sampled_to_within_a_hundredth_of_the_best(hardware):
    space = many_deployments()
    assert space.size > 1_000_000
    best = optimum(space, Serving(hardware))
    for seed in range(2):
        found = explore(space, Serving(hardware), directions=directions(1), trials=TRIALS, seed=seed)
        assert not found.exact
        assert found.evaluated < 65 * TRIALS + 2**15
        assert found.scores.excess[0] == 0
        assert found.scores.values[0, 0] >= 0.99 * best


def test_two_objectives_at_once_find_both_ends_of_the_front():
    space, objective = deployments(16), Serving(2, objectives=2)
    exact = explore(space, objective, directions=directions(2))
    found = explore(space, objective, directions=directions(2), trials=500)
    assert not found.exact
    for column, end in ((0, np.max), (1, np.min)):
        truth = end(exact.scores.values[exact.front, column])
        assert end(found.scores.values[found.front, column]) == pytest.approx(truth, rel=0.01)


def test_no_point_is_evaluated_twice_and_none_that_the_rules_forbid():
    space = deployments()
    seen = []

    def objective(columns):
        assert space.allows(columns).all()
        seen.append(space.records(columns))
        return Serving(0)(columns)

    found = explore(space, objective, directions=directions(1), trials=300)
    evaluated = [tuple(record.items()) for batch in seen[:-1] for record in batch]
    repeated = len(evaluated) - len(set(evaluated))
    assert repeated <= 300 / 50  # what a sweep found is proposed once more, to have offspring
    assert found.evaluated == len(set(evaluated))


def test_the_same_seed_gives_the_same_answer():
    space, objective = deployments(), Serving(0)
    one, same, other = (
        explore(space, objective, directions=directions(1), trials=100, seed=seed).pool.points for seed in (3, 3, 4)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_few_trials_stay_few():
    found = explore(deployments(), Serving(0), directions=directions(1), trials=10)
    assert found.evaluated < 65 * 10 + 2**15
    assert not found.exact


def test_good_points_handed_in_are_tried():
    space, objective = many_deployments(), Serving(0)
    best = explore(space, objective, directions=directions(1), trials=400).records()[0]
    unknown = best | {"tp": 7}
    found = explore(space, objective, directions=directions(1), trials=1, starts=[unknown, best], seed=9)
    assert found.records()[0] == best


def test_a_study_goes_on_from_what_it_holds(tmp_path):
    options = {"directions": directions(1), "storage": tmp_path / "x.journal", "study_name": "answer"}
    space, objective = many_deployments(), Serving(3)
    first = explore(space, objective, trials=200, **options)
    rows = len(first.study.trials)
    again = explore(space, objective, trials=50, seed=1, **options)
    assert again.scores.values[0, 0] >= first.scores.values[0, 0]
    seen = [tuple(trial.params.items()) for trial in again.study.trials]
    assert len(set(seen)) == len(seen) > rows


def test_where_nothing_is_feasible_sampling_finds_nearly_the_nearest():
    space, objective = deployments(16), Serving(0, memory=0.005)
    exact = explore(space, objective, directions=directions(1))
    found = explore(space, objective, directions=directions(1), trials=200)
    assert found.feasible == exact.feasible == 0
    assert found.scores.excess[0] == pytest.approx(exact.scores.excess[0], rel=0.01)


def test_sampling_ends_when_every_allowed_point_is_known():
    space = Space(
        (Axis.of("a", range(30)), Axis.of("b", range(30))), rules=(lambda columns: columns["a"] + columns["b"] < 8,)
    )

    def objective(columns):
        values = (columns["a"] * columns["b"]).astype(float)
        return Scores(values=values[:, None], violations=np.empty((len(values), 0)))

    found = explore(space, objective, directions={"x": "maximize"}, trials=800)
    assert not found.exact
    assert found.evaluated == 36
    assert found.scores.values[0, 0] == 12


def test_rules_that_allow_next_to_nothing_are_told():
    space = Space((Axis.of("a", range(100)), Axis.of("b", range(100))), rules=(lambda columns: columns["a"] < 0,))
    with pytest.raises(InputError, match=r"none of .* is allowed"):
        explore(space, Serving(), directions=directions(1), trials=10)


def test_importances_after_sampling_are_optunas():
    found = explore(many_deployments(), Serving(0), directions=directions(1), trials=200)
    shares = found.importances()
    assert shares.keys() == set(many_deployments().names)
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares.values()) > 2 / len(shares)
