from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.scores import ScoredPoints, Scores, SearchProblem, tied_ranks
from search.space import Axis, Space


def pool(values, *, violations=None, direction="minimize", tie_break=None, names=("first", "second")):
    """One point a row of ``values``, its number in column ``number``."""
    values = np.array(values, dtype=float)
    space = Space((Axis.of("number", range(len(values))),))
    scores = Scores(
        values=values,
        violations=np.zeros((len(values), 1)) if violations is None else np.array(violations, dtype=float),
        limits=("memory",) if violations is None else tuple("abc"[: len(violations[0])]),
        attributes={"half": np.arange(len(values)) // 2},
    )
    question = SearchProblem(
        space=space,
        objective=lambda _: scores,
        directions=dict.fromkeys(names[: values.shape[1]], direction),
        tie_break=tie_break or {},
    )
    return ScoredPoints.of(question, *next(space.chunks()))


def order(made):
    return made.order(made.ranks()).tolist()


def test_the_direction_decides_which_end_is_best():
    assert order(pool([[3], [1], [2]])) == [1, 2, 0]
    assert order(pool([[3], [1], [2]], direction="maximize")) == [0, 2, 1]


def test_feasible_comes_first_then_the_least_excess():
    made = pool([[9], [1], [2], [3]], violations=[[0, -1], [0.5, 0.2], [0.6, -9], [0.4, 0.4]])
    assert order(made) == [0, 2, 1, 3]
    assert made.excess.tolist() == pytest.approx([0, 0.7, 0.6, 0.8])


def test_what_has_no_value_is_not_feasible_and_what_cannot_be_checked_comes_last():
    made = pool([[np.nan], [5], [np.nan], [5]], violations=[[0.0], [0.1], [0.3], [np.nan]])
    assert order(made) == [1, 2, 3, 0]
    assert made.excess.tolist() == pytest.approx([np.inf, 0.1, 0.3, np.inf])


def test_rounding_does_not_decide_but_the_tie_break_does():
    throughput = [[1000 * (1 + noise * 1e-15)] for noise in (0, 3, -2, 1)]
    assert order(pool(throughput)) == [0, 1, 2, 3]
    assert order(pool(throughput, tie_break={"number": "maximize"})) == [3, 2, 1, 0]
    assert order(pool(throughput, tie_break={"half": "maximize", "number": "minimize"})) == [2, 3, 0, 1]


def test_the_second_objective_decides_before_the_tie_break():
    made = pool([[1, 2], [1, 1], [0, 9]], tie_break={"number": "minimize"})
    assert order(made) == [2, 1, 0]


def test_of_equal_points_on_the_front_the_first_is_kept():
    made = pool([[1, 2], [1, 2], [2, 1], [2, 3]], tie_break={"number": "maximize"})
    ranks = made.ranks()
    assert made.front(ranks, made.order(ranks)).tolist() == [1, 2]


def test_the_front_has_feasible_points_only():
    made = pool([[1, 1], [2, 2]], violations=[[0.1], [0.0]])
    ranks = made.ranks()
    assert made.front(ranks, made.order(ranks)).tolist() == [1]
    nothing = pool([[1, 1], [2, 2]], violations=[[0.1], [0.2]])
    assert not len(nothing.front(nothing.ranks(), nothing.order(nothing.ranks())))


@given(st.lists(st.floats(allow_nan=True, width=32), max_size=30))
def test_ranks_follow_the_values(values):
    values = np.array(values, dtype=float)
    ranks = tied_ranks(values)
    known = np.where(np.isnan(values), np.inf, values)
    for one, of_one in zip(known, ranks, strict=True):
        assert not (of_one > ranks)[known > one].any()
        assert (ranks[known == one] == of_one).all()


def test_only_rounding_ties():
    assert tied_ranks(np.array([1.0, 1.0 + 1e-12, 1.0 + 1e-6, -np.inf, np.inf, np.nan])).tolist() == [1, 1, 2, 0, 3, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"violations": np.zeros((2, 1))},
        {"limits": ()},
        {"values": np.zeros(3)},
        {"attributes": {"num_gpus": np.zeros(2)}},
    ],
)
def test_scores_of_different_lengths_are_refused(wrong):
    right = {"values": np.zeros((3, 1)), "violations": np.zeros((3, 1)), "limits": ("memory",), "attributes": {}}
    Scores(**right)
    with pytest.raises(ValueError, match="do not fit together"):
        Scores(**right | wrong)


def test_an_objective_with_another_number_of_values_is_refused():
    with pytest.raises(ValueError, match=r"expected \(2, 1\)"):
        pool([[1, 2], [3, 4]], names=("only",))
