"""Residuals of one server share an offset: many rows of it say no more than few, and independent ones say what they did."""

import numpy as np
import pytest

from advisor.calibration.shared_offsets import SERVER_SIGMA, SharedOffsets


def of(server, noise=0.08):
    server = np.array(server)
    return SharedOffsets(noise=np.full(len(server), noise), server=server)


def test_independent_residuals_pull_as_their_number():
    slopes, residuals = np.ones((4, 1)), np.full(4, 0.05)
    one, four = (of([-1] * n).equations(residuals[:n], slopes[:n]) for n in (1, 4))
    assert four[0] == pytest.approx(4 * one[0])
    assert four[1] == pytest.approx(4 * one[1])


def test_rows_of_one_server_say_no_more_than_its_offset_allows():
    """Information on what moves all rows alike is bounded by the offset's prior, however many rows there are."""
    information = []
    for n in (1, 10, 1000):
        _, curvature = of([0] * n).equations(np.zeros(n), np.ones((n, 1)))
        information.append(float(curvature[0, 0]))
    most = 1.25 / SERVER_SIGMA**2  # a Student t's curvature at its middle, 5 / 4 of a Gaussian's
    assert information[0] < information[1] < information[2] < most
    assert information[2] > 0.95 * most
    assert sum(float(of([i]).equations(np.zeros(1), np.ones((1, 1)))[1][0, 0]) for i in range(10)) > 5 * information[1]


def test_differences_within_a_server_count_in_full():
    slopes = np.array([[1.0], [-1.0]])
    _, shared = of([0, 0]).equations(np.zeros(2), slopes)
    _, apart = of([-1, -1]).equations(np.zeros(2), slopes)
    assert shared == pytest.approx(apart)


@pytest.mark.parametrize("server", [[-1, -1, -1, -1], [0, 0, 1, 1], [0, 0, -1, 1]])
def test_the_gradient_is_that_of_the_cost(server):
    pick = np.random.default_rng(1)
    offsets, slopes = of(server), pick.normal(size=(4, 3))
    start, step = pick.normal(scale=0.1, size=4), 1e-5
    pull, _ = offsets.equations(start, slopes)
    for i in range(3):
        ends = [offsets.cost(start + side * step * slopes[:, i]) for side in (1.0, -1.0)]
        assert pull[i] == pytest.approx((ends[0] - ends[1]) / (2.0 * step), rel=1e-3, abs=1e-3)


def test_one_wild_server_moves_little():
    """Tails are heavy by server, not only by row: rows that are all off by a factor of three are that server's own."""
    slopes = np.ones((20, 1))
    pull, _ = of([0] * 20).equations(np.full(20, np.log(3.0)), slopes)
    mild, _ = of([0] * 20).equations(np.full(20, 0.1), slopes)
    assert abs(pull[0]) < 3 * abs(mild[0])
