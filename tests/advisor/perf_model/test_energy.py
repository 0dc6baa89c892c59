"""Energy: the constants are those of the runs, held against runs they were not fitted to, and follow physics."""

import math
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.capacity.capacity_plan import plan
from advisor.perf_model.energy import (
    LEVEL_90,
    POWER,
    batch_work,
    dynamic_work,
    fit_power,
    log_errors,
    power_of,
    weights_read,
    with_energy,
)
from advisor.prediction.estimation import estimate
from advisor.prediction.inputs import read_cluster, read_model
from advisor.simulator.simulation import simulate
from catalog.errors import InputError
from catalog.models.sizes import active_parameters, parameters
from catalog.runs import shipped_runs
from catalog.schema import Deployment, Slo, Workload

LLAMA, MIXTRAL = (read_model(name).value for name in ("llama-3.1-8b", "mixtral-8x7b"))
H200 = POWER["H200-SXM"]


@pytest.fixture(scope="module")
def by_role():
    runs = [run for run in with_energy(shipped_runs()) if run.gpu == "H200-SXM"]
    return {role: [run for run in runs if run.role == role] for role in ("fit", "validate")}


def test_the_constants_are_what_the_runs_say(by_role):
    # Runs that are added later move them a little.
    assert astuple(fit_power(by_role["fit"])) == pytest.approx(astuple(H200), rel=0.1)


def test_runs_that_were_not_fitted_are_met(by_role):
    errors = log_errors(by_role["validate"], H200)
    assert len(errors) > 150
    assert np.median(np.abs(np.expm1(errors))) < 0.08
    assert np.mean(np.abs(errors) <= LEVEL_90 * H200.sigma) > 0.85


def test_what_a_pass_reads():
    assert weights_read(LLAMA, 7) == parameters(LLAMA)
    assert weights_read(MIXTRAL, 1) == pytest.approx(active_parameters(MIXTRAL))
    assert weights_read(MIXTRAL, 10_000) == pytest.approx(parameters(MIXTRAL))


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 256),
    input_len=st.integers(1, 8000),
    output_len=st.integers(1, 2000),
    steady=st.booleans(),
    dp=st.integers(1, 8),
    tp=st.sampled_from([1, 2, 4]),
    seconds=st.floats(0.01, 1000.0),
)
def test_energy_lies_between_what_idle_gpus_and_what_full_ones_take(
    batch, input_len, output_len, steady, dp, tp, seconds
):
    deployment = Deployment(tp=tp, dp=dp, dtype="bfloat16", max_num_batched_tokens=8192)
    asked = {"batch": batch, "input_len": input_len, "output_len": output_len, "seconds": seconds, "steady": steady}
    work = batch_work(LLAMA, deployment, 131072.0, **asked)
    joules = work.joules(H200, 700.0)
    assert H200.static_w * tp * dp * seconds <= joules <= 700.0 * tp * dp * seconds * (1 + 1e-12)
    one = batch_work(LLAMA, replace(deployment, dp=1), 131072.0, **asked)
    assert dp * one.joules(H200, 700.0) == pytest.approx(joules)
    longer = batch_work(LLAMA, deployment, 131072.0, **asked | {"output_len": output_len + 1})
    assert (longer.bytes, longer.flops) > (work.bytes, work.flops)


def test_a_decode_of_one_request_by_hand():
    work = dynamic_work(LLAMA, 131072.0, gpu_s=1.0, passes=((10, 1),), tokens=10, contexts=10 * 100, pairs=1000)
    assert work.bytes == pytest.approx(10 * 2 * 8.03e9 + 131072 * 1000, rel=1e-3)
    assert work.flops == pytest.approx(2 * 8.03e9 * 10 + 4 * 32 * 32 * 128 * 1000, rel=1e-3)


def test_only_what_was_measured_has_an_energy():
    h200, h100 = (read_cluster(name).value.gpu for name in ("H200", "H100"))
    assert power_of(h200, Deployment(dtype="bfloat16")) is H200
    assert power_of(h100, Deployment(dtype="bfloat16")) is None
    assert power_of(h200, Deployment(dtype="fp8")) is None
    asked = {"batch": 16, "input_len": 512, "output_len": 64}
    assert estimate("llama-3.1-8b", "H100", **asked).energy_j_per_token is None
    with pytest.raises(InputError, match="none was measured"):
        estimate("llama-3.1-8b", "H100", **asked).interval("energy_j_per_token")
    with pytest.raises(InputError, match="H100-SXM was not measured"):
        plan("llama-3.1-8b", "H100", rate=5.0, slo=Slo(tpot_ms=50.0), objective="energy")
    with pytest.raises(InputError, match="16-bit"):
        plan(
            "llama-3.1-8b",
            "H200",
            rate=5.0,
            slo=Slo(tpot_ms=50.0),
            objective="energy",
            deployment=Deployment(dtype="fp8"),
            draws=0,
            duration_s=5.0,
        )


def test_estimate_and_simulation_agree_on_a_full_replica():
    found = estimate("llama-3.1-8b", "H200", batch=64, input_len=512, output_len=256)
    low, high = found.interval("energy_j_per_token")
    assert low < found.energy_j_per_token < high
    watts = found.energy_j_per_token * found.output_tok_s
    assert H200.static_w < watts <= 700.0 * (1 + 1e-9)
    served = simulate(
        "llama-3.1-8b",
        "H200",
        workload=Workload(input_len=512, output_len=256, concurrency=64),
        duration_s=60.0,
        draws=2,
    )
    assert served.energy_j_per_token == pytest.approx(found.energy_j_per_token, rel=0.2)
    low, high = served.interval("energy_j_per_token")
    assert low < served.energy_j_per_token < high
    assert math.sqrt(low * high) == pytest.approx(served.energy_j_per_token, rel=0.01)  # each side by its draws
    assert "energy_j_per_token" in served.to_dict()["intervals"]


def test_a_plan_for_the_least_energy():
    common = {
        "rate": 40.0,
        "slo": Slo(tpot_ms=12.0, percentile=95.0),
        "draws": 0,
        "duration_s": 10.0,
        "top": 10,
        "workload": Workload(input_len=512, output_len=64),
        "price": 2.0,
        "deployment": Deployment(max_num_seqs=16),
    }
    least, cheapest = (plan("llama-3.1-8b", "4xH200", objective=goal, **common) for goal in ("energy", "cost"))
    joules = [option.energy_j_per_token for option in least.options]
    assert joules == sorted(joules)
    assert least.best.energy_j_per_token <= min(option.energy_j_per_token for option in cheapest.options) * (1 + 1e-9)
    spared = plan("llama-3.1-8b", "4xH200", objective="energy", spares=1, **common)
    assert spared.best.energy_j_per_token > least.best.energy_j_per_token
