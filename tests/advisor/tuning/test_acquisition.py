"""Which loads are run next: what they could tell, for the time they take, beside one another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.benchmarking.benchmark_plan import Candidate
from advisor.tuning.acquisition import Prospects, best_round
from catalog.schema import Deployment

DRAWS = 2048


def drawn(seed, *shape):
    half = np.random.default_rng(seed).standard_normal((DRAWS // 2, *shape))
    return np.concatenate([half, -half])


def load(tp, pp, seconds):
    return Candidate(deployment=Deployment(tp=tp, pp=pp), seconds=seconds)


def shape(batch):
    return (batch, 128, 128)


def test_a_batch_that_tells_which_of_two_is_better_is_worth_what_is_known_of_such_a_choice():
    second = 0.1 * drawn(0, 1)
    utility = np.hstack([np.zeros((DRAWS, 1)), second])
    noise = drawn(1, 1)
    shown = np.stack([np.hstack([second, noise]), np.hstack([noise, second])], axis=1)
    # E[max(0, x)] of a normal x is its standard deviation over sqrt(2 pi)
    assert Prospects(utility=utility, shown=shown).value([0])[0] == pytest.approx(0.1 / np.sqrt(2 * np.pi), rel=0.15)
    idle = np.stack([np.hstack([drawn(2, 1), noise])], axis=1)
    assert Prospects(utility=utility, shown=idle).value([0])[0] < 0.003


def test_nothing_is_gained_where_one_is_best_whatever_is_shown():
    unsure = 0.01 * drawn(0, 1)
    utility = np.hstack([1.0 + unsure, unsure])
    shown = np.stack([np.hstack([unsure, drawn(1, 1)])], axis=1)
    assert Prospects(utility=utility, shown=shown).value([0])[0] < 0.001


def choice(loads, told, *, gpus=4, most_s=100.0, start_s=10.0):
    """The best round where ``told[layout, shape]`` is how much of each of three deployments' draws a batch shows."""
    places = {key: i for i, key in enumerate(told)}
    latent = 0.1 * drawn(0, 3)
    shown = np.stack([latent @ np.diag(weights) for weights in told.values()], axis=1)
    shown = np.stack([shown.sum(axis=2), 0.01 * drawn(1, len(told))], axis=2) + 0.001 * drawn(2, len(told), 2)
    prospects = Prospects(utility=latent, shown=shown)
    return best_round(loads, prospects, places, start_s=start_s, gpus=gpus, most_s=most_s).loads


def test_what_tells_more_for_a_second_comes_first():
    dear, cheap = load(1, 1, {shape(1): 50.0}), load(2, 1, {shape(1): 5.0})
    told = {((1, 1), shape(1)): (1, 0, 0), ((2, 1), shape(1)): (0, 1, 0)}
    assert next(each.layout for each in choice([dear, cheap], told)) == (2, 1)


def test_gpus_that_would_be_idle_are_used_and_no_others():
    loads = [load(2, 1, {shape(1): 5.0}), load(1, 2, {shape(1): 5.0}), load(4, 1, {shape(1): 5.0})]
    told = {((2, 1), shape(1)): (1, 0, 0), ((1, 2), shape(1)): (0, 1, 0), ((4, 1), shape(1)): (0, 0, 0.01)}
    assert {each.layout for each in choice(loads, told)} == {(2, 1), (1, 2)}
    assert len(choice(loads, told, gpus=2)) == 1


@settings(max_examples=20)
@given(
    st.lists(st.floats(0.5, 60.0), min_size=6, max_size=6),
    st.floats(0.0, 120.0),
    st.integers(1, 4),
    st.lists(st.floats(0.0, 1.0), min_size=18, max_size=18),
)
def test_a_round_fits_the_gpus_and_the_time(seconds, most_s, gpus, weights):
    layouts = [each for each in ((1, 1), (2, 1), (1, 3)) if each[0] * each[1] <= gpus]
    loads, told = [], {}
    for k, layout in enumerate(layouts):
        loads.append(load(*layout, {shape(1): seconds[2 * k], shape(16): seconds[2 * k + 1]}))
        for j, batch in enumerate((1, 16)):
            told[layout, shape(batch)] = tuple(weights[3 * (2 * k + j) :][:3])
    found = choice(loads, told, gpus=gpus, most_s=most_s)
    assert sum(each.gpus for each in found) <= gpus
    assert all(10.0 + sum(each.seconds.values()) <= most_s for each in found)
    assert all(each.seconds for each in found)
