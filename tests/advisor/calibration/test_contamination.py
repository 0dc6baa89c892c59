"""Runs judged by the others: as a fit without each of them would, and robustly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.calibration.contamination import PRIOR_RUNS, disagreement, dispersion

NOISE, RUNS, PARAMETERS = 0.1, 12, 3


def world(factor=1.0, which=4):
    """A linear one: slopes (k, p, m), what was measured (k, m), with one run off by a factor."""
    pick = np.random.default_rng(7)
    slopes = pick.normal(size=(2, PARAMETERS, RUNS))
    truth = 0.3 * pick.normal(size=PARAMETERS)
    measured = np.einsum("kpm,p->km", slopes, truth) + NOISE * pick.normal(size=(2, RUNS))
    measured[:, which] += np.log(factor)
    return slopes, measured


def fitted(slopes, measured, rows):
    """Parameters and covariance of ridge regression (prior standard deviation 1) on some of the runs."""
    matrix, target = slopes[:, :, rows].transpose(0, 2, 1).reshape(-1, PARAMETERS), measured[:, rows].ravel()
    covariance = np.linalg.inv(np.eye(PARAMETERS) + matrix.T @ matrix / NOISE**2)
    return covariance @ matrix.T @ target / NOISE**2, covariance


def judged(slopes, measured, **changes):
    mean, covariance = fitted(slopes, measured, np.arange(RUNS))
    given = {
        "residual": np.einsum("kpm,p->km", slopes, mean) - measured,
        "slopes": slopes,
        "covariance": covariance,
        "noise": np.full(measured.shape, NOISE),
        "weight": np.ones(measured.shape),
        "used": np.ones(measured.shape, dtype=bool),
        "sign": np.ones(2),
    }
    return disagreement(**{**given, **changes})


def test_each_run_is_judged_as_a_fit_without_it_would():
    slopes, measured = world(1.5)
    found = judged(slopes, measured)
    for i in range(RUNS):
        mean, covariance = fitted(slopes, measured, np.delete(np.arange(RUNS), i))
        apart = slopes[:, :, i] @ mean - measured[:, i]
        variance = np.diag(slopes[:, :, i] @ covariance @ slopes[:, :, i].T) + NOISE**2
        assert found.score[i] == pytest.approx(np.mean(apart**2 / variance), rel=1e-6)


@pytest.mark.parametrize("factor", [3.0, 0.3])
def test_only_the_run_that_is_off_is_called_so(factor):
    found = judged(*world(factor))
    assert found.clean[4] < 0.01
    assert np.delete(found.clean, 4).min() > 0.5


def test_what_is_not_measured_is_not_judged():
    slopes, measured = world()
    used = np.ones(measured.shape, dtype=bool)
    used[:, 3] = False
    found = judged(slopes, measured, used=used, weight=used + 0.0)
    assert np.isnan(found.score[3])
    assert found.clean[3] == 1.0


@given(st.lists(st.floats(0, 1e6), max_size=50), st.floats(0, 1e6))
def test_dispersion_grows_with_disagreement_and_is_never_below_1(scores, more):
    found = dispersion(scores)
    assert found >= 1.0
    assert dispersion([*scores, max([*scores, more])]) >= found - 1e-12
    assert dispersion([*scores, float("nan")]) == found


def test_runs_as_near_as_expected_change_nothing_and_one_far_off_counts_once():
    assert dispersion([0.5] * 30) == 1.0
    near, far = (dispersion([0.5] * 9 + [score]) for score in (50.0, 5000.0))
    assert 1.0 < near < far < 2.0
    assert PRIOR_RUNS > 1
