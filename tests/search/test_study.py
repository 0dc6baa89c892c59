from __future__ import annotations

import itertools
import logging
import math
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

import search
from catalog.errors import InputError
from search.scores import Scores
from search.space import Axis, Space
from search.storage import open_storage
from search.study import BEST_KEPT, FRONT_STORED, explore
from tests.search.serving import Serving, deployments, directions, layouts

FILL = {"num_gpus": "maximize"}


def by_hand(space, objective):
    """Values of the feasible points, the first objective's first, by looking at every one of them."""
    columns = space.columns()
    scores = objective(columns)
    feasible = (scores.violations <= 0).all(axis=1) & ~np.isnan(scores.values).any(axis=1)
    records = space.records({name: column[feasible] for name, column in columns.items()})
    return records, scores.values[feasible], scores.attributes["num_gpus"][feasible]


def dominated(values, others):
    """Whether another point is as good everywhere and better somewhere: first larger, the rest smaller."""
    signed, rest = values * [-1, 1, 1][: len(values)], others * [-1, 1, 1][: len(values)]
    return bool(((rest <= signed).all(axis=1) & (rest < signed).any(axis=1)).any())


@pytest.mark.parametrize("gpus", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("seed", range(3))
def test_an_enumeration_finds_the_optimum_and_breaks_ties_by_filling_the_cluster(gpus, seed):
    space, objective = deployments(gpus, batches=256), Serving(seed)
    records, values, num_gpus = by_hand(space, objective)
    found = explore(space, objective, directions=directions(1), tie_break=FILL)
    assert found.exact
    assert found.evaluated == len(space.columns()["tp"])
    assert found.feasible == len(records)
    if not records:
        assert not len(found.front)
        return
    best = values[:, 0].max()
    tied = np.isclose(values[:, 0], best, rtol=1e-9)
    assert found.scores.values[0, 0] == pytest.approx(best, rel=1e-9)
    assert found.scores.attributes["num_gpus"][0] == num_gpus[tied].max()
    assert found.records()[0] in [record for record, is_tied in zip(records, tied, strict=True) if is_tied]


@pytest.mark.parametrize("objectives", [2, 3])
def test_an_enumeration_finds_the_whole_front(objectives):
    space, objective = deployments(4, batches=64), Serving(1, objectives=objectives)
    _, values, _ = by_hand(space, objective)
    found = explore(space, objective, directions=directions(objectives))
    front = found.scores.values[found.front]
    expected = np.array([value for value in values if not dominated(value, values)])
    assert np.allclose(np.unique(front.round(6), axis=0), np.unique(expected.round(6), axis=0))
    assert len(front) == len(np.unique(front.round(6), axis=0))
    assert found.front[0] == 0


def test_candidates_come_best_first_and_none_twice():
    found = explore(deployments(), Serving(0), directions=directions(1), tie_break=FILL)
    excess = found.scores.excess
    feasible = found.scores.values[excess == 0, 0]
    assert (np.diff(excess) >= 0).all()
    assert (np.diff(feasible) <= 1e-6).all()
    records = [tuple(record.items()) for record in found.records()]
    assert len(set(records)) == len(records)
    assert len(feasible) > BEST_KEPT
    assert (excess > 0).any()


def test_the_best_batch_of_every_layout_is_kept():
    space, objective = deployments(), Serving(0)
    names = ("tp", "pp", "dp", "ep")
    found = explore(space, objective, directions=directions(1), distinct=names)
    kept = {tuple(record[name] for name in names) for record in found.records()}
    assert kept == {(layout.tp, layout.pp, layout.dp, layout.ep) for layout in layouts(8, max_pp=4)}
    records, values, _ = by_hand(space, objective)
    for layout in kept:
        of_layout = [value[0] for record, value in zip(records, values, strict=True) if layout_of(record) == layout]
        best = next(row for row, record in enumerate(found.records()) if layout_of(record) == layout)
        if of_layout:
            assert found.scores.values[best, 0] == pytest.approx(max(of_layout), rel=1e-9)


def layout_of(record):
    return record["tp"], record["pp"], record["dp"], record["ep"]


def test_where_nothing_is_feasible_the_nearest_comes_first():
    space, objective = deployments(), Serving(0, memory=0.02)
    scores = objective(space.columns())
    found = explore(space, objective, directions=directions(1), distinct=("tp", "pp", "dp", "ep"))
    assert found.feasible == 0
    assert not len(found.front)
    assert found.scores.excess[0] == pytest.approx(scores.excess.min())
    assert found.importances() == dict.fromkeys(sorted(space.names), 0.0)
    assert {trial.state for trial in found.study.trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    with pytest.raises(ValueError, match="feasible"):
        _ = found.study.best_trial


def test_rules_that_allow_nothing_are_told():
    space = Space((Axis.of("tp", [1, 2]),), rules=(lambda columns: columns["tp"] > 2,))
    with pytest.raises(InputError, match="rules allow no combination"):
        explore(space, lambda _: Scores(values=np.empty((0, 1)), violations=np.empty((0, 0))), directions=directions(1))


def test_too_many_objectives_and_too_few_trials_are_refused():
    four = dict.fromkeys("abcd", "minimize")
    with pytest.raises(ValueError, match="4 objectives"):
        explore(deployments(), Serving(), directions=four)
    with pytest.raises(InputError, match="trials"):
        explore(deployments(), Serving(), directions=directions(1), trials=0)


# The contract every storage keeps.


@pytest.mark.slow
def test_the_study_holds_the_candidates(storage):
    space, objective = deployments(1, batches=8), Serving(1, objectives=2)
    found = explore(space, objective, directions=directions(2), storage=storage, study_name="answer")
    assert found.study_name == "answer"
    study = found.study if storage is None else optuna.load_study(study_name="answer", storage=open_storage(storage))
    trials = study.get_trials()
    assert [trial.params for trial in trials] == found.records()
    assert study.metric_names == list(directions(2))
    assert [direction.name.lower() for direction in study.directions] == list(directions(2).values())
    for row, trial in enumerate(trials):
        excess = found.scores.excess[row]
        assert list(trial.constraints) == list(found.scores.limits)
        assert sum(max(value, 0) for value in trial.constraints.values()) == pytest.approx(excess)
        assert trial.user_attrs["num_gpus"] == found.scores.attributes["num_gpus"][row]
        if trial.state == TrialState.COMPLETE:
            assert trial.values == pytest.approx(found.scores.values[row])
        else:
            assert np.isnan(found.scores.values[row]).any()
            assert trial.state == TrialState.FAIL
    front = {tuple(trial.params.items()) for trial in study.best_trials}
    assert {tuple(found.records()[row].items()) for row in found.front} <= front


@pytest.mark.slow
def test_asking_again_adds_nothing(storage):
    space, objective = deployments(1, batches=8), Serving(1)
    options = {"directions": directions(1), "storage": storage, "study_name": "answer"}
    first = explore(space, objective, **options)
    again = explore(space, objective, **options)
    rows = len(first.study.trials)
    assert len(again.study.trials) == rows
    assert again.superseded == 0
    assert again.records() == first.records()


@pytest.mark.parametrize("storage", ["sqlite", "journal"], indirect=True)
def test_a_sampled_study_never_answers_worse_than_what_it_holds(storage):
    options = {"directions": directions(1), "storage": storage, "study_name": "answer", "trials": 25}
    held = -math.inf
    for seed in range(6):
        found = explore(deployments(8), Serving(1), seed=seed, **options)
        assert not found.exact
        assert found.scores.excess[0] == 0
        assert found.scores.values[0, 0] >= held
        held = found.scores.values[0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["sqlite", "journal"], indirect=True)
def test_more_choices_continue_the_study_and_other_scores_supersede(storage):
    options = {"directions": directions(1), "storage": storage, "study_name": "answer"}
    few = len(explore(deployments(1, batches=2), Serving(1), **options).study.trials)
    more = explore(deployments(1, batches=4), Serving(1), **options)
    seen = [tuple(trial.params.items()) for trial in more.study.trials]
    assert len(set(seen)) == len(seen) > few
    assert more.superseded == 0
    slower = explore(deployments(1, batches=2), Serving(2), **options)
    assert slower.superseded == len(slower.records()) == few
    assert len(slower.study.trials) == len(seen) + few
    assert explore(deployments(1, batches=2), Serving(2), **options).superseded == 0


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["sqlite", "journal"], indirect=True)
def test_a_study_about_something_else_is_not_mixed_up(storage):
    options = {"storage": storage, "study_name": "answer"}
    explore(deployments(1, batches=4), Serving(1), directions=directions(1), **options)
    with pytest.raises(InputError, match=r"about other objectives .*choose another name"):
        explore(deployments(1, batches=4), Serving(1, objectives=2), directions=directions(2), **options)
    with pytest.raises(InputError, match=r"about other objectives .maximize tok_s_per_gpu, not maximize usd"):
        explore(deployments(1, batches=4), Serving(1), directions={"usd": "maximize"}, **options)
    other = Space((Axis.of("tp", [1]), Axis.of("dtype", ["bfloat16", "mxfp4"])))
    with pytest.raises(InputError, match="about other choices of dtype; choose another name"):
        explore(other, Serving(1), directions=directions(1), **options)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["sqlite", "journal"], indirect=True)
def test_studies_of_other_names_stay_apart(storage):
    one = explore(deployments(1, batches=2), Serving(1), directions=directions(1), storage=storage)
    two = explore(deployments(1, batches=2), Serving(1), directions=directions(1), storage=storage)
    assert one.study_name != two.study_name
    assert len(one.study.trials) == len(two.study.trials)


WRITER = """
import sys
import numpy as np
from search.scores import Scores
from search.space import Axis, Space
from search.study import explore

def objective(columns):
    values = (columns["tp"] * columns["batch"]).astype(float)[:, None]
    return Scores(values=values, violations=np.empty((len(values), 0)))

space = Space((Axis.of("tp", [int(sys.argv[2])]), Axis.of("batch", range(1, 9))))
explore(space, objective, directions={"tok_s": "maximize"}, storage=sys.argv[1], study_name="shared")
"""


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["sqlite", "journal"], indirect=True)
def test_several_processes_write_one_study(storage):
    home = Path(search.__file__).parents[1]
    command = [sys.executable, "-W", "error", "-c", WRITER, str(storage)]
    writers = [
        subprocess.Popen([*command, str(tp)], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for tp in (1, 2, 3)
    ]
    said = [writer.communicate(timeout=100)[0] for writer in writers]
    assert said == ["", "", ""]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    trials = optuna.load_study(study_name="shared", storage=open_storage(storage)).trials
    assert sorted((trial.params["tp"], trial.params["batch"]) for trial in trials) == list(
        itertools.product([1, 2, 3], range(1, 9))
    )
    assert [trial.number for trial in trials] == list(range(24))


# What a user sees.


@pytest.mark.slow
def test_nothing_is_printed_or_warned_of_and_the_users_settings_stay(capfd, tmp_path):
    before = optuna.logging.get_verbosity()
    filters = list(warnings.filters)
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    optuna.logging.enable_propagation()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            options = {"directions": directions(1), "storage": f"sqlite:///{tmp_path}/x.db", "study_name": "answer"}
            explore(deployments(1, batches=4), Serving(1), **options)
            explore(deployments(2, batches=64), Serving(1), directions=directions(1), trials=60).importances()
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)
        optuna.logging.disable_propagation()
    assert [str(warning.message) for warning in caught] == []
    assert warnings.filters == filters
    assert logging.getLogger("optuna").handlers
    assert capfd.readouterr() == ("", "")


def test_a_long_front_is_complete_in_the_answer_and_thinned_out_in_the_study():
    space = Space((Axis.of("batch", range(1, 2001)),))

    def objective(columns):
        batch = columns["batch"].astype(float)
        return Scores(values=np.stack([batch, batch], axis=1), violations=np.empty((len(batch), 0)))

    found = explore(space, objective, directions={"tok_s": "maximize", "tpot_ms": "minimize"})
    assert len(found.front) == 2000
    assert FRONT_STORED <= len(found.study.trials) <= FRONT_STORED + 2 * BEST_KEPT
    assert {trial.params["batch"] for trial in found.study.trials} >= {1, 2000}


def test_importances_are_shares_of_the_variance():
    space = Space((Axis.of("a", range(4)), Axis.of("b", range(10)), Axis.of("c", [1, 2])))

    def objective(columns):
        values = 3.0 * columns["a"] + columns["b"]
        return Scores(values=values[:, None], violations=np.empty((len(values), 0)))

    shares = explore(space, objective, directions={"x": "maximize"}).importances()
    effect = {"a": 9 * np.arange(4).var(), "b": np.arange(10).var(), "c": 0.0}
    assert shares == pytest.approx({name: value / sum(effect.values()) for name, value in effect.items()})
    assert list(shares) == ["a", "b", "c"]


def test_optunas_own_importances_work_on_the_study():
    study = explore(deployments(), Serving(0), directions=directions(1)).study
    shares = optuna.importance.get_param_importances(study)
    assert shares.keys() == set(deployments().names)
    assert sum(shares.values()) == pytest.approx(1)


def test_the_second_answer_costs_no_more_calls_than_chunks():
    objective = Serving(0)
    explore(deployments(), objective, directions=directions(1))
    assert objective.calls == 2  # all points at once, then the candidates
