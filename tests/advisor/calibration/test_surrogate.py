"""The fitted model on disk: what is written is what is read, and nothing but numbers is read."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.calibration.fit_file import LEVELS, SCHEMA, FitFile
from advisor.calibration.intervals import EXPERTS, STAGED
from advisor.calibration.kinship import kin_of, stack_of
from advisor.calibration.left_out import PredictionError
from advisor.calibration.parameter_posterior import ParameterPosterior
from advisor.calibration.shipped_fit import quantiles_of, scales_of, unless_wider
from advisor.calibration.surrogate import (
    ANY,
    SHIPPED,
    IntervalScale,
    Surrogate,
    analytic_marginal,
    shipped_surrogate,
)
from advisor.perf_model.parameters import NAMES, PRIORS, Parameters
from catalog.borders import checked
from catalog.errors import InputError
from catalog.runs import shipped_runs
from catalog.shipped import built


def surrogate_of(seed):
    pick = np.random.default_rng(seed)
    size = len(NAMES)

    def marginal(provenance):
        root = pick.normal(size=(size, size)) / 10
        return ParameterPosterior(mean=pick.normal(size=size), covariance=root @ root.T, provenance=provenance)

    scale = IntervalScale(noise=0.1, quantiles=tuple(np.sort(pick.uniform(0.5, 3, len(LEVELS))).tolist()), runs=40)
    return Surrogate(
        marginals={
            ("vllm", "H200-SXM"): marginal("calibrated"), ("vllm", ANY): marginal("transferred"),
            (ANY, "H200-SXM"): marginal("analytic"), (ANY, ANY): marginal("analytic"),
        },
        scales={("calibrated", "vllm", "tpot_ms"): scale, ("analytic", ANY, "tpot_ms"): scale},
        sources=("a", "b"), data_hash="0123",
    )  # fmt: skip


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_round_trip(seed):
    written = surrogate_of(seed)
    read = Surrogate.from_json(written.to_json())
    assert read.marginals.keys() == written.marginals.keys()
    for key, marginal in written.marginals.items():
        assert read.marginals[key].provenance == marginal.provenance
        assert read.marginals[key].mean == pytest.approx(marginal.mean, rel=1e-5)
        assert read.marginals[key].covariance == pytest.approx(marginal.covariance, rel=1e-5, abs=1e-12)
        assert np.array_equal(read.marginals[key].covariance, read.marginals[key].covariance.T)
    assert read.scales == written.scales
    assert (read.sources, read.data_hash) == (written.sources, written.data_hash)
    assert read.to_json() == written.to_json()


def test_shipped_one_is_what_writing_it_again_gives():
    text = SHIPPED.read_text(encoding="utf-8").strip()
    assert Surrogate.from_json(text).to_json() == text


def test_shipped_marginals_are_distributions():
    for key, marginal in shipped_surrogate().marginals.items():
        assert np.isfinite(marginal.mean).all(), key
        assert np.linalg.eigvalsh(marginal.covariance).min() > 0, key
        for name, prior in PRIORS.items():
            value = float(getattr(marginal.parameters, name))
            assert value > 0, (key, name)
            assert prior.kind != "efficiency" or value < 1, (key, name)


def test_shipped_scales_widen_with_the_level():
    for key, scale in shipped_surrogate().scales.items():
        assert scale.noise > 0, key
        assert list(scale.quantiles) == sorted(scale.quantiles), key
        levels = np.linspace(LEVELS[0], LEVELS[-1], 50)
        assert np.all(np.diff([scale.quantile(level) for level in levels]) >= 0), key


@pytest.mark.parametrize("level", [0.0, 0.49, 0.981, 1.0, 2.0, -1.0, float("nan")])
def test_levels_that_were_not_tested_are_refused(level):
    scale = IntervalScale(noise=0.1, quantiles=(1.0,) * len(LEVELS), runs=1)
    with pytest.raises(InputError, match=r"level is .*; it must be from 0\.5 to 0\.98"):
        scale.quantile(level)


def changed(**changes):
    return json.dumps(json.loads(surrogate_of(0).to_json()) | changes)


@pytest.mark.parametrize(
    "text",
    [
        changed(schema=1), changed(schema=None), changed(parameters=list(NAMES)[1:]), changed(parameters=[]), "{}",
        "[]", "null", "1", '"text"', "", "not json", "{" * 100_000, "[" * 100_000, changed(marginals=[{}]),
        changed(marginals=7), changed(scales=[{"provenance": "calibrated"}]), changed(sources=None),
    ],
)  # fmt: skip
def test_what_is_no_fit_of_this_version_is_refused_in_one_line(text):
    with pytest.raises(InputError) as refusal:
        Surrogate.from_json(text)
    assert "\n" not in str(refusal.value)
    assert "fit" in str(refusal.value)


@pytest.mark.parametrize("broken", [[1.0, 2.0], ["x"] * len(NAMES), [float("nan")] * len(NAMES), [None] * len(NAMES)])
def test_numbers_that_are_none_are_refused(broken):
    body = json.loads(surrogate_of(0).to_json())
    body["marginals"][0]["mean"] = broken
    with pytest.raises(InputError, match="fit"):
        Surrogate.from_json(json.dumps(body))


def test_reading_runs_nothing(tmp_path, monkeypatch):
    """Neither a pickle nor JSON that looks like one does more than be refused."""

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    import pickle

    hostile = pickle.dumps(Trap()).decode("latin-1")
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("unpickled"))
    for text in (hostile, json.dumps({"py/reduce": ["os.mkdir"], "schema": SCHEMA})):
        with pytest.raises(InputError):
            Surrogate.from_json(text)
    assert not (tmp_path / "sprung").exists()


def test_the_nearest_known_parameters_are_taken():
    known = surrogate_of(1)
    assert known.marginal("vllm", "H200-SXM", 0) is known.marginals["vllm", "H200-SXM"]
    assert known.marginal("vllm", "T4", 0) is known.marginals["vllm", ANY]
    assert known.marginal("lmdeploy", "H200-SXM") is known.marginals[ANY, "H200-SXM"]
    assert known.marginal("lmdeploy", "T4") is known.marginals[ANY, ANY]
    assert known.scale("calibrated", "vllm", "tpot_ms") is known.scales["calibrated", "vllm", "tpot_ms"]
    assert known.scale("analytic", "vllm", "tpot_ms") is known.scales["analytic", ANY, "tpot_ms"]


def test_knowing_less_is_never_more_certain():
    """The engine's parameters spread more on GPUs it was not measured on, and those of an unknown one still more; but one that starts
    from a kin's may differ from it, too, in what nobody measured.
    """
    shipped = shipped_surrogate()
    pairs = [key for key in shipped.marginals if ANY not in key and shipped.marginals[key].provenance == "calibrated"]
    assert pairs
    for engine, gpu in pairs:
        elsewhere = [(engine, "?")] if stack_of(engine, gpu) == engine else []  # of AMD's there is one with runs
        keys = [(engine, gpu), *elsewhere, ("?", "?")]
        trace = [float(np.trace(shipped.marginal(*key).covariance)) for key in keys]
        compared = trace[:2] if kin_of(engine) else trace
        assert compared == sorted(compared), (engine, gpu)


def test_priors_are_what_is_believed_before_any_run():
    prior = analytic_marginal()
    assert prior.provenance == "analytic"
    for name, value in PRIORS.items():
        assert getattr(prior.parameters, name) == pytest.approx(value.typical)
    assert np.diag(prior.covariance) == pytest.approx([prior.spread**2 for prior in PRIORS.values()])


@given(st.lists(st.floats(-8, 8), min_size=len(NAMES), max_size=len(NAMES)))
def test_unbounded_and_back(x):
    found = Parameters.from_unbounded(np.array(x))
    assert found.unbounded() == pytest.approx(np.array(x), abs=1e-6)
    many = Parameters.from_unbounded(np.array([x, x]))
    for name in NAMES:
        assert np.ravel(getattr(many, name)) == pytest.approx([getattr(found, name)] * 2)


# -- quantiles of left-out errors ------------------------------------------------------------------------------------


def errors(metric, scores, *, pp=1, models=1, regime="static"):
    """Of as many runs of so many models, each off by so many times the noise of 0.1."""
    run = next(run for run in shipped_runs() if (run.engine, run.regime) == ("vllm", regime))
    return [
        PredictionError(
            run=replace(run, pp=pp, model=f"model {i % models}"), engine="vllm", metric=metric, residual=0.1 * score,
            variance=0.0, provenance="analytic",
        )
        for i, score in enumerate(scores)
    ]  # fmt: skip


@given(st.lists(st.floats(0.0, 9.0), min_size=1, max_size=9), st.lists(st.floats(0.0, 9.0), min_size=1, max_size=9))
def test_pipelines_of_an_unknown_engine_are_never_judged_narrower_for_what_others_did(staged, plain):
    noises = {(ANY, "tpot_ms"): 0.1, (ANY, "tpot_ms" + STAGED): 0.1}
    piped, others = errors("tpot_ms", staged, pp=2), errors("tpot_ms", plain)
    own = quantiles_of(piped, ANY, noises)
    found = unless_wider(own, [*piped, *others], "tpot_ms" + STAGED, ANY, noises)
    together = quantiles_of([*piped, *others], ANY, noises)
    assert found == tuple(max(pair) for pair in zip(own, together, strict=True))
    assert unless_wider(own, [], "tpot_ms" + STAGED, ANY, noises) == own


def test_what_an_engine_does_with_other_models_counts_where_few_of_its_own_are_known():
    """One model of the engine is a quarter of four; for the rest the middle of the engines, and of its other kind of model."""
    name = "steady output_tok_s"
    noises = {(ANY, name): 0.1, (ANY, name + EXPERTS): 0.1}
    own, wild = (errors("output_tok_s", [score] * 40, regime="steady") for score in (1.0, 5.0))
    others = [replace(error, engine="sglang") for error in wild]
    beside = [replace(error, experts=True) for error in errors("output_tok_s", [2.0] * 40, regime="steady")]
    of_ninety = LEVELS.index(0.9)
    alone = quantiles_of([*own, *others], "vllm", noises)[of_ninety]
    with_siblings = quantiles_of([*own, *others], "vllm", noises, beside)[of_ninety]
    assert alone == pytest.approx(0.25 * 1.0 + 0.75 * 3.0)
    assert with_siblings == pytest.approx(0.25 * 1.0 + 0.75 * 2.0)


def test_the_first_token_in_flight_is_judged_with_that_of_static_batches():
    """A dozen loops of two models alone would ask for the largest error of all."""
    loops = errors("ttft_ms", [7.0, *[0.5] * 11], models=2, regime="steady")
    static = errors("ttft_ms", [1.0] * 300, models=20)
    left_out = [replace(error, provenance="calibrated") for error in (*loops, *static)]
    scales = scales_of(left_out, left_out)
    found = scales["calibrated", "vllm", "steady ttft_ms"]
    alone = scales_of(left_out[:12], left_out[:12])["calibrated", ANY, "steady ttft_ms"]
    assert found.quantile(0.9) * found.noise < 0.5 * alone.quantile(0.9) * alone.noise


def test_what_ships_is_what_a_check_would_make_of_it():
    """What ships is not checked again on every start, so it is here."""
    body = json.loads(SHIPPED.read_text(encoding="utf-8"))
    assert repr(built(FitFile, body)) == repr(checked(FitFile, body, "the fit that ships"))
