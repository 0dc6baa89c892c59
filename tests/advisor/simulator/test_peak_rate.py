"""The busiest part of a trace: found where it is, never below the mean, and as uneven as what was offered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.simulator.arrivals import Arrivals, closed_loop, open_loop
from advisor.simulator.peak_rate import trace_peak
from catalog.errors import InputError
from catalog.schema import Workload


def traffic(arrival_s, input_len=100, output_len=10):
    arrival = np.asarray(arrival_s, dtype=float)
    return Arrivals(
        arrival_s=arrival,
        input_len=np.full(len(arrival), input_len),
        output_len=np.full(len(arrival), output_len),
        duration_s=float(arrival[-1]) + 1.0,
    )


def test_a_burst_is_found_where_it_is():
    calm, burst = np.arange(0, 600, 10.0), 300.0 + np.arange(0, 60, 0.5)
    found = trace_peak(traffic(np.sort(np.concatenate([calm, burst]))))
    assert found.begin_s == pytest.approx(300.0)
    assert found.workload.rate == pytest.approx((len(burst) + 6) / 60.0)
    assert found.mean_rate == pytest.approx((len(calm) + len(burst)) / 591.0)
    assert (found.workload.input_len, found.workload.output_len) == (100, 10)
    assert found.spread == 0.0


@given(gaps=st.lists(st.floats(0.0, 30.0), min_size=1, max_size=60), window_s=st.floats(1.0, 200.0))
def test_no_window_holds_more(gaps, window_s):
    arrival = np.cumsum(gaps) - gaps[0]
    trace = traffic(arrival)
    found = trace_peak(trace, window_s)
    width = min(window_s, trace.duration_s)
    assert found.window_s == width
    # one request may lie on the far edge, which rounding takes for in or out
    most = max(((arrival >= begin) & (arrival < begin + width)).sum() for begin in arrival)
    assert abs(found.workload.rate - max(most / width, found.mean_rate)) <= (1.0 + 1e-6) / width
    assert found.workload.rate >= found.mean_rate


@pytest.mark.parametrize("burstiness", [0.0, 1.0, 4.0])
def test_how_uneven_arrivals_and_lengths_are_is_recovered(burstiness):
    offered = open_loop(
        Workload(input_len=500, output_len=100, rate=20.0),
        duration_s=600.0,
        longest=100_000,
        spread=0.5,
        burstiness=burstiness,
    )
    found = trace_peak(offered, 600.0)
    assert found.workload.rate == pytest.approx(20.0, rel=0.1)
    assert found.workload.input_len == pytest.approx(500, rel=0.05)
    assert found.spread == pytest.approx(0.5, rel=0.15)
    assert found.burstiness == pytest.approx(burstiness, rel=0.25, abs=1e-6)


def test_a_few_requests_are_taken_for_poisson():
    assert trace_peak(traffic([0.0, 1.0, 2.0])).burstiness == 1.0
    assert trace_peak(traffic([0.0])).workload.rate == pytest.approx(1.0)


def test_a_closed_loop_has_no_times():
    loop = closed_loop(Workload(input_len=10, output_len=10, concurrency=4), duration_s=10.0, longest=100)
    with pytest.raises(InputError, match="no busiest time"):
        trace_peak(loop)
    with pytest.raises(InputError, match="window_s"):
        trace_peak(traffic([0.0]), 0.0)
