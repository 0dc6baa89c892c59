"""Ranks in step: laws of the longest of them, and that the steady state agrees with what is simulated step by step."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor import simulate
from advisor.perf_model.lockstep import longest_rank, most_of, ranks_in_step
from advisor.perf_model.steady_state import steady_state_times
from advisor.prediction.prediction import Prediction
from catalog.schema import Deployment, Workload
from tests.advisor.simulator.test_lockstep import simulated_server

MODEL = "qwen3-30b-a3b"


def steady(server, *, batch, lockstep=True, **parts):
    cost_model = server.cost_model
    prediction = Prediction.of(
        cost_model.model,
        cost_model.cluster,
        cost_model.layout,
        batch=np.array([float(batch)]),
        input_len=1024,
        output_len=256,
        regime="steady",
        parameters=cost_model.parameters,
        **parts,
    )
    lengths = prediction.batch, prediction.input_len, prediction.output_len
    return steady_state_times(replace(prediction.cost_model, lockstep=lockstep), *lengths)


@settings(deadline=None, max_examples=50)
@given(mean=st.floats(1e-3, 300.0), number=st.integers(2, 64))
def test_the_most_of_several_is_above_one_and_below_all(mean, number):
    (one,) = most_of(np.array([mean]), np.array([1.0]))
    (most,) = most_of(np.array([mean]), np.array([float(number)]))
    assert one == pytest.approx(mean, rel=1e-6)
    assert mean < most < number * mean * (1.0 + 1e-9)


def test_the_most_of_several_is_that_of_drawn_numbers():
    drawn = np.random.default_rng(0).poisson(0.7, (200_000, 6)).max(axis=1).mean()
    assert most_of(np.array([0.7]), np.array([6.0]))[0] == pytest.approx(drawn, rel=0.01)


@pytest.mark.parametrize("layout", [{}, {"tp": 2, "ep": 2}, {"dp": 2}])
def test_one_rank_waits_for_nobody(layout):
    server = simulated_server(MODEL, "2xH200", **layout)
    assert ranks_in_step(server.cost_model)[0] == 1
    alone, group = (steady(server, batch=16, lockstep=each) for each in (False, True))
    assert group.tpot_ms == alone.tpot_ms
    assert group.ttft_ms == alone.ttft_ms


def test_a_floor_waits_for_nobody():
    cost_model = replace(simulated_server(MODEL, "4xH200", dp=4, ep=4).cost_model, lockstep=True)
    one = np.ones(1)
    assert longest_rank(cost_model, 0.2 * one, 9.0 * one).ranks[0] == 4
    assert longest_rank(replace(cost_model, ideal=True), 0.2 * one, 9.0 * one).ranks[0] == 1


@pytest.mark.parametrize(("ranks", "batch"), [(2, 16), (4, 16)])
def test_a_steady_state_of_ranks_is_what_is_simulated(ranks, batch):
    gpus, layout = f"{ranks}xH200", {"dp": ranks, "ep": ranks, "max_num_seqs": 64}
    server = simulated_server(MODEL, gpus, dp=ranks, ep=ranks)
    served = simulate(
        MODEL,
        gpus,
        deployment=Deployment(**layout),
        workload=Workload(input_len=1024, output_len=256, concurrency=ranks * batch),
        duration_s=40.0,
        draws=0,
    )
    simulated = served.metrics["tpot_ms"]["mean"]
    assert steady(server, batch=batch).tpot_ms[0] == pytest.approx(simulated, rel=0.12)
    assert steady(server, batch=batch, lockstep=False).tpot_ms[0] < 0.9 * simulated
