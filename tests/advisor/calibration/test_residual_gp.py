"""What measured configurations say of those nearby: it fades, it is tested, and it never breaks physics."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advisor
from advisor.calibration.left_out import errors_of
from advisor.calibration.observations import group_runs
from advisor.calibration.residual_gp import MOST_RUNS, Configurations, Residuals, fit_residuals, of_model
from advisor.calibration.surrogate import Surrogate, shipped_surrogate
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.prediction.evidence import Evidence
from catalog.engines import find_engine, release_distance, resolve
from catalog.errors import InputError
from catalog.gpus import find_gpu, parse_cluster, with_overrides
from catalog.models.find import find_model
from catalog.runs import append_runs
from catalog.schema import Deployment
from tests.advisor.strategies import questions
from tests.reference_runs import reference_runs

SHIPPED = shipped_surrogate()
LLAMA = find_model("llama-3.1-8b").value
H200 = find_gpu("H200").value
NODE = parse_cluster("4xH200").value
HERE = release_distance("vllm")
STATIC = [run for run in reference_runs() if (run.engine, run.regime) == ("vllm", "static") and not run.oom]


def layout(**knobs):
    return DeploymentArrays.of([resolve(Deployment(**knobs), LLAMA, NODE).value], LLAMA, NODE.gpu)


def residuals_at(batches, residual, *, input_len=1024.0, noise=0.05, **knobs):
    """Of runs that all missed by the same."""
    size = len(batches)
    rows = layout(**knobs).take(np.zeros(size, dtype=int))
    return Residuals.of(
        engine="vllm", gpu=H200.name, model=LLAMA.name, release=HERE, sizes={}, noise=np.full((2, 2), noise),
        places=Configurations.of(rows, np.array(batches, dtype=float), np.full(size, input_len), np.full(size, 128.0)),
        residual=np.full((2, size), residual),
    )  # fmt: skip


def asked(known, batch, *, input_len=1024.0, **knobs):
    return known.correction(layout(**knobs), np.array([float(batch)]), np.array([input_len]), np.array([128.0]))


# -- near and far ----------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.floats(-0.15, 0.15), st.floats(2.0, 512.0))
def test_what_was_missed_is_carried_to_neighbours_and_fades(residual, batch):
    known = residuals_at([16, 32, 64], residual)
    here, there = asked(known, 32), asked(known, batch)
    assert np.log(here.factors) == pytest.approx(residual, abs=0.25 * abs(residual) + 1e-9)
    assert (here.left < 0.3).all()
    assert (np.abs(np.log(there.factors)) <= np.abs(residual) * 1.1 + 1e-9).all()
    assert ((there.left >= 0.0) & (there.left <= 1.0)).all()
    away = asked(known, batch, input_len=1e6)
    assert (np.abs(np.log(away.factors)) < 0.12 * abs(residual) + 1e-9).all()
    assert (away.left > 0.9).all()


def test_what_is_of_another_kind_says_nothing():
    known = residuals_at([16, 32, 64], 0.1)
    for knobs in ({"kv_dtype": "fp8"}, {"dtype": "fp8"}, {"compiled": False}, {"offload": 0.25}):
        found = asked(known, 32, **knobs)
        assert (found.factors == 1.0).all(), knobs
        assert (found.left == 1.0).all(), knobs
        assert found.near == 0, knobs


def test_other_layouts_know_less_than_the_same():
    known = residuals_at([16, 32, 64], 0.1)
    left = [asked(known, 32, tp=tp, pp=pp).left[1, 0] for tp, pp in ((1, 1), (2, 1), (4, 1))]
    assert left == sorted(left)
    assert left[0] < 0.3
    assert left[2] > 0.5


def test_many_questions_at_once_are_answered_like_single_ones():
    known = residuals_at([16, 32, 64], 0.1)
    batches = np.tile(np.arange(1.0, 200.0), 40)
    rows = layout().take(np.zeros(len(batches), dtype=int))
    many = known.correction(rows, batches, np.full(len(batches), 1024.0), np.full(len(batches), 128.0))
    for i in (0, 77, 5000):
        one = asked(known, batches[i])
        assert many.factors[:, i] == pytest.approx(one.factors[:, 0])
        assert many.left[:, i] == pytest.approx(one.left[:, 0], abs=1e-12)


@settings(max_examples=8, deadline=None)
@given(questions(), st.floats(-2.0, 2.0), st.sampled_from(["static", "steady"]))
def test_no_correction_goes_below_the_floor(question, residual, regime):
    plain = question.evaluate(regime)
    cost_model = plain.cost_model
    known = Residuals.of(
        engine="vllm", gpu="any", model=question.model.name, release=HERE, sizes={}, noise=np.full((2, 2), 0.5),
        places=Configurations.of(cost_model.layout, plain.batch, plain.input_len, plain.output_len),
        residual=np.full((2, len(plain.batch)), residual),
    )  # fmt: skip
    found = type(plain).of(
        question.model, question.cluster, cost_model.layout, batch=plain.batch, input_len=question.input_len,
        output_len=question.output_len, regime=regime, parameters=question.parameters, residuals=known,
    )  # fmt: skip
    floors = found.floors()
    for metric, values in found.metrics().items():
        bound = floors[metric]
        holds = values <= bound * (1 + 1e-9) if metric == "output_tok_s" else values >= bound * (1 - 1e-9)
        question.require(holds, f"{metric}, {regime}, residual {residual}")


# -- what the shipped runs say ---------------------------------------------------------------------------------------


def left_out(runs, parts=4):
    """Errors of each run by the residuals of the others, and of the model of time alone."""
    kept_apart = [[run for i, run in enumerate(runs) if i % parts == part] for part in range(parts)]
    with_, without = [], []
    for out in kept_apart:
        others = group_runs(run for run in runs if run not in out)
        known = fit_residuals(others, lambda *pair: SHIPPED.marginal(*pair).parameters, SHIPPED.noise)
        with_ += errors_of(group_runs(out), SHIPPED.marginal, known)
        without += errors_of(group_runs(out), SHIPPED.marginal)
    return with_, without


def judged(errors, metric):
    own = [error for error in errors if error.metric == metric and error.run.pp == 1]
    scale = SHIPPED.scale("calibrated", "vllm", metric)
    half = np.array([scale.quantile(0.9) * error.sigma(scale.noise) for error in own])
    off = np.abs([error.residual for error in own])
    return float(np.mean(off)), float(np.mean(off < half)), float(np.median(half))


@pytest.mark.parametrize("role", ["fit", "validate"])
def test_other_configurations_of_a_measured_model_are_foretold_better_and_surer(role):
    """Those of models that were fitted, and those of models that the fit never saw, by their own other runs."""
    runs = [run for run in STATIC if run.role == role and run.kv_dtype == "auto"]
    with_, without = left_out(runs)
    for metric, gain in (("tpot_ms", 0.9), ("prefill_ms", 0.95), ("e2e_ms", 0.9)):
        (error, held, half), (plain_error, _, plain_half) = judged(with_, metric), judged(without, metric)
        assert error < gain * plain_error, metric
        assert held >= 0.85, metric
        assert half < plain_half, metric
    assert judged(with_, "tpot_ms")[2] < 0.8 * judged(without, "tpot_ms")[2]


def test_of_other_models_they_say_nothing():
    other = find_model("llama-13b").value
    assert of_model(SHIPPED.residuals, "vllm", H200.name, other) is None
    assert of_model(SHIPPED.residuals, "lmdeploy", H200.name, LLAMA) is None
    assert of_model(SHIPPED.residuals, "vllm", H200.name, replace(LLAMA, name="a fine-tune", gated=False)) is not None
    assert of_model(SHIPPED.residuals, "vllm", H200.name, replace(LLAMA, vocab_size=1)) is None


def test_what_ships_is_what_its_parameters_miss():
    known = of_model(SHIPPED.residuals, "vllm", H200.name, LLAMA, 0)
    groups = group_runs(run for run in reference_runs() if run.role == "fit" and run.model == LLAMA.name)
    fresh = fit_residuals(groups, lambda *where: SHIPPED.marginal(*where).parameters, SHIPPED.noise)
    again = of_model(fresh, "vllm", H200.name, LLAMA)
    assert known.residual == pytest.approx(again.residual, abs=1e-4, nan_ok=True)
    assert known.places.at == pytest.approx(again.places.at, rel=1e-5)


def test_requests_in_flight_are_foretold_as_well_by_static_batches_of_the_model():
    """Closed loops of two models that were never fitted, foretold to 2%; their own static batches correct both phases, and spoil
    neither.
    """
    loops = [run for run in reference_runs() if (run.role, run.regime) == ("validate", "steady")]
    static = group_runs(run for run in STATIC if run.role == "validate")
    known = fit_residuals(static, lambda *pair: SHIPPED.marginal(*pair).parameters, SHIPPED.noise)
    with_, without = (errors_of(group_runs(loops), SHIPPED.marginal, each) for each in (known, ()))
    for metric in ("tpot_ms", "ttft_ms", "output_tok_s"):
        off, plain = ([abs(e.residual) for e in each if e.metric == metric] for each in (with_, without))
        assert np.mean(off) < max(1.1 * np.mean(plain), 0.022), metric
        assert all(e.left == 1.0 for e in with_)  # its intervals stay as they are


# -- answers ---------------------------------------------------------------------------------------------------------

QUESTION = {"batch": 48, "input_len": 1024, "output_len": 128}


def test_an_answer_says_that_it_was_corrected():
    found = advisor.estimate("llama-3.1-8b", "1xH200", **QUESTION)
    plain = advisor.estimate("llama-3.1-8b", "1xH200", runs=replace(SHIPPED, residuals=()), **QUESTION)
    other = advisor.estimate("llama-13b", "1xH200", **QUESTION)
    assert found.corrected_by > 5
    assert (plain.corrected_by, other.corrected_by) == (0, 0)
    assert found.provenance == "calibrated"
    assert found.tpot_ms != plain.tpot_ms
    low, high = found.interval("tpot_ms")
    plain_low, plain_high = plain.interval("tpot_ms")
    assert high / low < plain_high / plain_low
    assert found.to_dict()["corrected_by"] == found.corrected_by
    parts = sum(sum(causes.values()) for causes in found.breakdown["decode"].values())
    assert parts == pytest.approx(found.tpot_ms)  # causes still add up


def test_a_changed_gpu_or_an_analytic_answer_is_not_corrected():
    faster = with_overrides(H200, {"memory_bandwidth_gbps": 6000})
    assert Evidence.of(None, engine="vllm", gpu=faster).residuals("vllm", faster, LLAMA) is None
    assert Evidence.of([], engine="vllm", gpu=H200).residuals("vllm", H200, LLAMA) is None


def test_own_runs_correct_their_own_model(home):
    runs = [run for run in STATIC if run.model.endswith("Llama-2-13b-hf") and (run.tp, run.pp) == (1, 1)]
    own = [
        replace(
            run, run_id=f"own {run.run_id}", role="fit", source="own", tpot_ms=run.tpot_ms * 1.02,
            engine_version=find_engine("vllm").version,
        )
        for run in runs
    ]  # fmt: skip
    append_runs(home / "runs" / "own.jsonl", own)
    knowledge = Evidence.of(None, engine="vllm", gpu=H200)
    known = knowledge.residuals("vllm", H200, find_model("llama-13b").value)
    assert len(known.places) == len(own)
    assert knowledge.residuals("vllm", H200, LLAMA) is None  # the parameters moved since its residuals were taken
    assert advisor.estimate("llama-13b", "1xH200", **QUESTION).corrected_by > 0
    fit = advisor.fit(own)
    assert advisor.estimate("llama-13b", "1xH200", runs=fit, **QUESTION).corrected_by > 0
    assert {each.engine for each in fit.residuals if each.gpu == H200.name} == {"vllm", "torch", "sglang"}
    read = Surrogate.from_json(fit.to_json())
    assert [each.to_dict() for each in read.residuals] == [each.to_dict() for each in fit.residuals]


@pytest.mark.parametrize(
    "broken",
    [{"places": [[1.0]]}, {"residual": [[0.1], [0.1, 0.2]]}, {"noise": [[0.0, 1.0], [1.0, 1.0]]}, {"sizes": [1]},
     {"places": [[0.0] * 13] * (MOST_RUNS + 1)}, {"residual": "x"},
     {"residual": [[60.0], [0.1]]}, {"noise": [[1e300, 1.0], [1.0, 1.0]]}],
)  # fmt: skip
def test_damaged_residuals_are_refused_in_one_line(broken):
    body = json.loads(replace(SHIPPED, residuals=(residuals_at([16, 32], 0.1),)).to_json())
    assert Surrogate.from_json(json.dumps(body)).residuals
    body["residuals"][0] |= broken
    with pytest.raises(InputError, match="fit") as refusal:
        Surrogate.from_json(json.dumps(body))
    assert "\n" not in str(refusal.value)
