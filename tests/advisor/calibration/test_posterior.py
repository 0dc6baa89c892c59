"""Fits in worlds whose parameters are known: what is learned is true, and as uncertain as it says."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from advisor.calibration.observations import METRICS, NOISE, RunGroup, group_runs
from advisor.calibration.posterior import SHARES, WIDTHS, fit_posterior, log_residuals, sensitivities, update
from advisor.calibration.surrogate import analytic_marginal
from advisor.perf_model.parameters import NAMES, PRIORS, SPREADS, Parameters
from catalog.runs import shipped_runs
from catalog.schema import Measurement

SPREAD = np.array([prior.spread for prior in PRIORS.values()])
TYPICAL = Parameters.typical().unbounded()


def shapes(model, gpu, engine="vllm", *, tps=(1, 2, 4), loads=((1, 128), (16, 512), (64, 128), (16, 4096), (256, 512))):
    """Runs to be measured: every load at every degree, times still unknown."""
    return [
        Measurement(
            run_id=f"{engine} {gpu} {model} {tp} {pp} {batch} {input_len}", role="fit", source="synthetic", gpu=gpu,
            gpus=tp * pp, engine=engine, engine_version="0.24.0", model=model, dtype="bfloat16", tp=tp, pp=pp,
            max_num_batched_tokens=8192, max_num_seqs=256, max_model_len=8192, batch=batch, input_len=input_len,
            output_len=128,
        )
        for tp, pp in [(tp, 1) for tp in tps] + [(1, 2)]
        for batch, input_len in loads
    ]  # fmt: skip


def measured(runs, x, pick=None):
    """The same runs as a world with parameters ``x`` shows them, with noise of the size that the fit expects."""
    found = []
    for group in group_runs(runs):
        truth = group.predict(Parameters.from_unbounded(x))
        for column, run in zip(truth.T, group.runs, strict=True):
            factors = [1.0 if pick is None else float(np.exp(pick.normal(0, NOISE[metric]))) for metric in METRICS]
            values = {m: float(v) * f for m, v, f in zip(METRICS, column, factors, strict=True)}
            found.append(replace(run, **values))
    return found


def errors(groups, x):
    """Mean and largest relative error of all measured quantities."""
    found = np.concatenate([np.abs(np.expm1(log_residuals(group, x))).ravel() for group in groups])
    return float(np.nanmean(found)), float(np.nanmax(found))


LLAMA, QWEN, UNSEEN = "meta-llama/Llama-2-7b-hf", "Qwen/Qwen2.5-32B", "meta-llama/Meta-Llama-3.1-70B"


@pytest.fixture(scope="module")
def world():
    return TYPICAL + 1.2 * SPREAD * np.random.default_rng(5).normal(size=len(NAMES))


@pytest.fixture(scope="module")
def learned(world):
    """What exact measurements of two models on one GPU say."""
    runs = shapes(LLAMA, "H200-SXM") + shapes(QWEN, "H200-SXM")
    return update(analytic_marginal(), group_runs(measured(runs, world)))


def test_update_predicts_the_runs_it_saw(world, learned):
    groups = group_runs(measured(shapes(LLAMA, "H200-SXM") + shapes(QWEN, "H200-SXM"), world))
    mean, worst = errors(groups, learned.mean)
    assert mean < 0.02
    assert mean < errors(groups, TYPICAL)[0] / 5
    assert worst < 0.12  # what is believed beforehand pulls a little on what few runs tell
    every = np.concatenate([np.abs(log_residuals(group, learned.mean)).ravel() for group in groups])
    assert np.nanquantile(every, 0.95) < 0.05


def test_update_predicts_a_model_it_never_saw(world, learned):
    groups = group_runs(measured(shapes(UNSEEN, "H200-SXM", tps=(4,))[:5], world))
    mean, _ = errors(groups, learned.mean)
    assert mean < 0.03
    assert mean < errors(groups, TYPICAL)[0] / 3


def test_update_recovers_the_parameters_it_can_tell(world, learned):
    """Those whose spread the runs reduced to a third are near the truth, in units of what was believed before."""
    told = np.sqrt(np.diag(learned.covariance)) < SPREAD / 3
    assert told.sum() >= 3
    off = np.abs(learned.mean - world) / SPREAD
    assert off[told].max() < 0.35
    assert np.sqrt(np.mean(off**2)) < np.sqrt(np.mean(((TYPICAL - world) / SPREAD) ** 2))


def test_update_never_grows_less_certain(learned):
    prior = analytic_marginal().covariance
    assert np.linalg.eigvalsh(prior - learned.covariance).min() > -1e-9
    assert np.linalg.eigvalsh(learned.covariance).min() > 0
    assert learned.provenance == "calibrated"


def test_update_with_more_runs_is_surer(world):
    few = update(analytic_marginal(), group_runs(measured(shapes(LLAMA, "H200-SXM", tps=(1,)), world)))
    more = update(few, group_runs(measured(shapes(QWEN, "H200-SXM"), world)))
    assert np.trace(more.covariance) < np.trace(few.covariance) < np.trace(analytic_marginal().covariance)


def test_one_wild_run_does_not_carry_the_others_away(world):
    """A run that took ten times as long (another job on the GPU) is an outlier, not evidence."""
    runs = measured(shapes(LLAMA, "H200-SXM"), world)
    wild = [replace(runs[0], prefill_ms=10 * runs[0].prefill_ms, tpot_ms=10 * runs[0].tpot_ms, e2e_ms=None)]
    mean = update(analytic_marginal(), group_runs(wild + runs[1:])).mean
    assert np.nanmedian(np.abs(log_residuals(group_runs(runs[1:])[0], mean))) < 0.02


def test_sensitivities_are_the_derivatives():
    group = group_runs(measured(shapes(LLAMA, "H200-SXM"), TYPICAL))[0]
    found = sensitivities(group, TYPICAL)
    step = 1e-4
    for i in range(len(NAMES)):
        nudge = step * np.eye(len(NAMES))[i]
        central = (log_residuals(group, TYPICAL + nudge) - log_residuals(group, TYPICAL - nudge)) / (2 * step)
        assert found[:, i] == pytest.approx(central, abs=2e-3)


def test_noise_and_use_of_what_is_measured():
    """Of quantities that determine each other only the independent ones count."""
    runs = measured(shapes(LLAMA, "H200-SXM")[:3], TYPICAL)
    runs[1] = replace(runs[1], prefill_ms=None)
    runs[2] = replace(runs[2], prefill_ms=None, ttft_ms=None, tpot_ms=None, e2e_ms=None)
    (group,) = group_runs(runs)
    assert isinstance(group, RunGroup)
    rows = {metric: group.used[i].tolist() for i, metric in enumerate(METRICS)}
    assert rows == {
        "prefill_ms": [True, False, False], "ttft_ms": [True, True, False], "tpot_ms": [True, True, False],
        "e2e_ms": [False, True, False], "output_tok_s": [False, False, True],
    }  # fmt: skip
    assert group.noise[METRICS.index("tpot_ms")].tolist() == [NOISE["tpot_ms"]] * 3


@pytest.fixture(scope="module")
def crossed():
    """Two engines on two GPUs, one pair never measured, every effect drawn from what is believed of it."""
    pick = np.random.default_rng(3)
    population, effects = TYPICAL + 0.5 * SPREAD * pick.normal(size=len(NAMES)), {}
    for label in ("vllm", "lmdeploy", "H200-SXM", "A100-SXM-80GB"):
        effects[label] = 0.3 * SPREAD * pick.normal(size=len(NAMES))
    truth = {
        (engine, gpu): population + effects[engine] + effects[gpu]
        for engine in ("vllm", "lmdeploy")
        for gpu in ("H200-SXM", "A100-SXM-80GB")
    }
    seen = [pair for pair in truth if pair != ("lmdeploy", "A100-SXM-80GB")]
    runs = [run for engine, gpu in seen for run in measured(shapes(LLAMA, gpu, engine, tps=(1, 4)), truth[engine, gpu])]
    groups = group_runs(runs)
    return truth, groups, fit_posterior(groups)


@pytest.mark.slow
def test_fit_recovers_the_predictions_of_every_pair(crossed):
    _, groups, posterior = crossed
    for group in groups:
        x = posterior.marginal(group.engine, group.cluster.gpu.name).mean
        mean, worst = errors([group], x)
        assert mean < 0.02, (group.engine, group.cluster.gpu.name)
        assert worst < 0.06, (group.engine, group.cluster.gpu.name)


def test_fit_says_what_it_knows_of_a_pair(crossed):
    _, _, posterior = crossed
    seen, new_pair, new_gpu, new_engine, nothing = (
        posterior.marginal(*key)
        for key in (
            ("vllm", "H200-SXM"),
            ("lmdeploy", "A100-SXM-80GB"),
            ("vllm", "T4"),
            ("torch", "H200-SXM"),
            ("torch", "T4"),
        )
    )
    assert [found.provenance for found in (seen, new_pair, new_gpu, new_engine, nothing)] == [
        "calibrated", "transferred", "transferred", "analytic", "analytic",
    ]  # fmt: skip
    spread = [np.trace(found.covariance) for found in (seen, new_pair, new_gpu, new_engine, nothing)]
    assert spread[0] < min(spread[1:])
    assert max(spread[1:4]) < spread[4]
    among = sum(share**2 for share in SHARES.values()) * np.sum((WIDTHS * SPREADS) ** 2)
    assert np.trace(nothing.covariance) < among * 1.02


def test_an_unseen_pair_is_predicted_from_its_engine_and_its_gpu(crossed):
    """Better than from what was believed before, and within what the spread allows."""
    truth, _, posterior = crossed
    pair = ("lmdeploy", "A100-SXM-80GB")
    marginal = posterior.marginal(*pair)
    groups = group_runs(measured(shapes(LLAMA, pair[1], pair[0]), truth[pair]))
    assert errors(groups, marginal.mean)[0] < 0.7 * errors(groups, TYPICAL)[0]
    slopes = sensitivities(groups[0], marginal.mean)
    sigma = np.sqrt(np.einsum("kpm,pq,kqm->km", slopes, marginal.covariance, slopes))
    assert np.nanmean(np.abs(log_residuals(groups[0], marginal.mean)) < 1.96 * sigma + 1e-6) > 0.9


@pytest.mark.slow
def test_intervals_cover_what_they_say():
    """Twenty-five worlds drawn from the priors, a few noisy runs each: 90% intervals hold 90% of what is measured next."""
    pick = np.random.default_rng(11)
    width = NormalDist().inv_cdf(0.95)
    inside = []
    seen = shapes(LLAMA, "H200-SXM", tps=(1, 2))[::2]
    unseen = shapes(QWEN, "H200-SXM", tps=(2,), loads=((8, 1024), (128, 256)))
    for _ in range(25):
        x = TYPICAL + SPREAD * pick.normal(size=len(NAMES))
        marginal = update(analytic_marginal(), group_runs(measured(seen, x, pick)))
        for group in group_runs(measured(unseen, x, pick)):
            slopes = sensitivities(group, marginal.mean)
            variance = np.einsum("kpm,pq,kqm->km", slopes, marginal.covariance, slopes) + group.noise**2
            inside.append(np.abs(log_residuals(group, marginal.mean)) < width * np.sqrt(variance))
    assert 0.84 < np.mean(inside) < 0.97


def test_a_kin_engine_starts_from_the_parameters_of_its_kin():
    """SGLang without a run of its own is predicted as vLLM was measured, and less certainly; LMDeploy from everybody."""
    world = TYPICAL + 0.8 * SPREAD * np.random.default_rng(7).normal(size=len(NAMES))
    posterior = fit_posterior(group_runs(measured(shapes(LLAMA, "H200-SXM"), world)))
    own, kin, other = (posterior.marginal(engine, "H200-SXM") for engine in ("vllm", "sglang", "lmdeploy"))
    assert kin.mean == pytest.approx(own.mean)
    told = np.diag(own.covariance) < (SPREAD / 2) ** 2
    spread = [np.diag(each.covariance)[told].sum() for each in (own, kin, other)]
    assert told.sum() >= 3
    assert spread[0] < spread[1] < spread[2]
    assert [each.provenance for each in (own, kin, other)] == ["calibrated", "analytic", "analytic"]


def test_releases_are_steps_from_the_nearest_measured_one():
    """Runs of an earlier release say most of it, less of those before it, and what lies between shares its step."""
    slower = TYPICAL.copy()
    slower[NAMES.index("expert8_compute")] -= 1.0
    slower[NAMES.index("gemm_compute")] -= 0.5
    runs = measured(shapes(LLAMA, "H200-SXM"), TYPICAL)
    older = [
        replace(run, run_id=f"old {run.run_id}", engine_version="0.18.0")
        for run in measured(shapes(QWEN, "H200-SXM"), slower)
    ]
    posterior = fit_posterior(group_runs([*runs, *older], by_release=True))
    at = {release: posterior.marginal("vllm", "H200-SXM", release) for release in (0, -3, -6, -9, 9)}
    place = NAMES.index("gemm_compute")
    assert at[-6].mean[place] < at[0].mean[place]
    assert at[-9].mean == pytest.approx(at[-6].mean)
    assert at[-3].mean == pytest.approx(at[0].mean)
    assert at[9].mean == pytest.approx(at[0].mean)
    spread = {release: np.trace(each.covariance) for release, each in at.items()}
    assert spread[0] < min(spread[-3], spread[9])
    assert spread[-6] < spread[-9]


def test_small_matrices_are_not_shared_out_among_threads(monkeypatch):
    """On two busy cores singular values of a few hundred rows took a second each, and a fit of 60 runs minutes."""
    import scipy.optimize
    from threadpoolctl import threadpool_info, threadpool_limits

    found = []
    solve = scipy.optimize.least_squares

    def seen(*given, **named):
        found.extend(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas")
        return solve(*given, **named)

    monkeypatch.setattr(scipy.optimize, "least_squares", seen)
    groups = group_runs([run for run in shipped_runs() if run.gpu == "H200-SXM" and run.role == "fit"][:3])
    with threadpool_limits(limits=2, user_api="blas"):
        update(analytic_marginal(), groups)
    assert found
    assert set(found) == {1}
