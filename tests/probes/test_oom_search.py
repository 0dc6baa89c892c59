"""Where memory ends, found by trying: on every threshold there can be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.oom_search import STEP, Threshold, find_threshold


@given(st.integers(0, 5000), st.integers(1, 10_000), st.integers(1, 6000))
def test_the_threshold_is_found_within_a_step(truth, start, most):
    tried = []

    def runs(batch):
        tried.append(batch)
        return batch <= truth

    found = find_threshold(runs, start, most=most)
    assert len(set(tried)) == len(tried)
    assert all(1 <= batch <= most for batch in tried)
    assert len(tried) <= 40
    assert found.largest <= truth
    assert found.largest in tried or found.largest == 0
    if found.smallest is None:
        assert found.largest == most
    else:
        assert found.smallest in tried
        assert found.largest <= truth < found.smallest
        assert found.smallest - found.largest <= max(1, found.largest // STEP)


@pytest.mark.parametrize("error", [0.97, 1.0, 1.03])
@pytest.mark.parametrize("truth", [1, 15, 100, 256, 700, 3000])
def test_from_a_good_forecast_few_tries_are_needed(truth, error):
    tried = []
    find_threshold(lambda batch: tried.append(batch) or batch <= truth, max(1, round(truth * error)))
    assert len(tried) <= 4


def test_nothing_runs_and_everything_runs():
    assert find_threshold(lambda _: False, 64) == Threshold(0, 1)
    assert find_threshold(lambda _: True, 64, most=512) == Threshold(512, None)
