from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from search.pareto import non_dominated


def brute_force(losses):
    """By definition, every pair."""
    no_larger = (losses[None] <= losses[:, None]).all(axis=-1)
    smaller = (losses[None] < losses[:, None]).any(axis=-1)
    return ~(no_larger & smaller).any(axis=1)


shapes = st.tuples(st.integers(0, 80), st.integers(1, 3))
few_values = st.integers(0, 8).map(float)  # so that ties and repeats are common


@given(arrays.arrays(np.float64, shapes, elements=few_values))
def test_it_is_what_every_pair_says_with_ties(losses):
    assert np.array_equal(non_dominated(losses), brute_force(losses))


@given(arrays.arrays(np.float64, shapes, elements=st.floats(allow_nan=False, width=32)))
def test_it_is_what_every_pair_says_with_infinities(losses):
    assert np.array_equal(non_dominated(losses), brute_force(losses))


@given(arrays.arrays(np.float64, shapes, elements=few_values), st.randoms(use_true_random=False))
def test_it_does_not_depend_on_the_order_of_points(losses, random):
    order = random.sample(range(len(losses)), len(losses))
    assert np.array_equal(non_dominated(losses[order]), non_dominated(losses)[order])


@given(arrays.arrays(np.float64, shapes, elements=st.one_of(few_values, st.just(np.nan))))
def test_points_with_a_nan_neither_win_nor_beat_others(losses):
    real = ~np.isnan(losses).any(axis=1)
    expected = np.zeros(len(losses), dtype=bool)
    expected[real] = brute_force(losses[real])
    assert np.array_equal(non_dominated(losses), expected)


@pytest.mark.parametrize("objectives", [2, 3])
def test_thousands_of_points_of_which_none_dominates(objectives):
    draws = np.random.default_rng(0).exponential(size=(1200, objectives))
    plane = draws / draws.sum(axis=1, keepdims=True)
    losses = np.concatenate([plane, plane * 1.001])
    assert np.array_equal(non_dominated(losses), brute_force(losses))


@pytest.mark.parametrize("objectives", [2, 3])
def test_very_many_points_take_no_more_than_some_sorts(objectives):
    draws = np.random.default_rng(1).exponential(size=(300_000, objectives))
    plane = draws / draws.sum(axis=1, keepdims=True)  # the worst case: most of the points are on the front

    start = time.process_time()
    np.lexsort(plane.T)
    sorting = time.process_time() - start
    start = time.process_time()
    found = non_dominated(plane)
    taken = time.process_time() - start

    assert found.mean() > 0.9
    assert taken < 60 * max(sorting, 0.1)


@pytest.mark.parametrize("shape", [(5,), (5, 0), (5, 4), (2, 2, 2)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        non_dominated(np.zeros(shape))
