"""What a few measurements say of all the other configurations, on the runs that ship."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.calibration.observations import METRICS, group_runs
from advisor.calibration.posterior import log_residuals
from advisor.calibration.residual_gp import REPEAT_NOISE
from advisor.calibration.surrogate import analytic_marginal, shipped_surrogate
from advisor.perf_model.correction import PHASES
from advisor.tuning.gp_belief import Belief, Points
from advisor.tuning.loop import believed, prior_of
from tests.reference_runs import reference_runs

GPU = "H200-SXM"
RUNS = [
    run
    for run in reference_runs()
    if (run.engine, run.model, run.regime) == ("torch", "meta-llama/Llama-2-13b-hf", "static")
    and run.compiled
    and run.prefill_ms
    and run.tpot_ms
    and not run.oom
]
PRIOR = shipped_surrogate().marginal("torch", GPU)


def points(runs):
    (group,) = group_runs(runs)
    return Points.of(
        group.model,
        group.cluster,
        group.layout,
        engine="torch",
        regime="static",
        batch=group.batch,
        input_len=group.input_len,
        output_len=group.output_len,
    )


def foreseen(belief, runs, metrics=PHASES):
    mean, covariance = belief.joint(belief.rows(points(runs), metrics))
    sigma = np.sqrt(np.diag(covariance))
    return mean.reshape(len(metrics), -1), sigma.reshape(len(metrics), -1)


def measured(runs):
    return np.log([[getattr(run, name) for run in runs] for name in PHASES])


@pytest.mark.parametrize("prior", [PRIOR, analytic_marginal()])
def test_before_any_run_it_is_the_model_of_time(prior):
    mean, _ = foreseen(believed(prior, []), RUNS)
    (group,) = group_runs(RUNS)
    for row, name in enumerate(PHASES):
        i = METRICS.index(name)
        modelled = log_residuals(group, prior.mean)[i] + np.log(group.measured[i])
        assert mean[row] == pytest.approx(modelled, abs=1e-9)


@settings(max_examples=10)
@given(st.sets(st.integers(0, len(RUNS) - 1), min_size=1, max_size=6), st.booleans())
def test_what_was_measured_is_believed_and_nothing_becomes_less_certain(which, fresh):
    prior = analytic_marginal() if fresh else PRIOR
    chosen = [RUNS[i] for i in sorted(which)]
    belief = believed(prior, chosen)
    mean, sigma = foreseen(belief, chosen)
    noise = np.maximum(np.array(REPEAT_NOISE)[:, None], [run.spread or 0.0 for run in chosen])
    off = np.abs(mean - measured(chosen)) / noise
    assert off.max() < 4.0
    rows = belief.rows(points(RUNS), PHASES)
    before = np.sqrt(np.diag(rows.covariance(rows, prior.covariance)))
    _, covariance = belief.joint(rows)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9
    assert np.all(np.sqrt(np.maximum(np.diag(covariance), 0.0)) <= before + 1e-9)
    assert np.all(sigma <= noise + 1e-9)


def test_a_batch_whose_repeats_differ_counts_less():
    calm, shaky = ([replace(RUNS[0], spread=spread, tpot_ms=2.0 * RUNS[0].tpot_ms)] for spread in (0.001, 0.2))
    (before, _), (trusted, _), (doubted, _) = (foreseen(believed(PRIOR, runs), RUNS[:1]) for runs in ([], calm, shaky))
    assert before[1] < doubted[1] < trusted[1]


def test_one_layout_tells_something_of_the_others():
    start = analytic_marginal()
    others = [run for run in RUNS if (run.tp, run.pp) != (1, 1)]
    before, _ = foreseen(believed(start, []), others)
    after, _ = foreseen(believed(start, [run for run in RUNS if (run.tp, run.pp) == (1, 1)]), others)
    was, now = (np.abs(mean[1] - measured(others)[1]).mean() for mean in (before, after))
    assert now < 0.5 * was


def test_throughput_moves_as_the_parts_of_the_time_do():
    belief = believed(PRIOR, [])
    rows = belief.rows(points(RUNS), ("prefill_ms", "tpot_ms", "e2e_ms", "output_tok_s"))
    prefill, tpot, e2e, tok_s = np.split(rows.weights, 4)
    assert np.all(prefill[:, 1] == 0.0)
    assert np.all(tpot[:, 0] == 0.0)
    e2e, tok_s = (each / np.stack([prefill[:, 0], tpot[:, 1]], axis=1) for each in (e2e, tok_s))
    assert e2e.sum(axis=1) == pytest.approx(1.0)
    assert tok_s == pytest.approx(-e2e)
    # a long prompt and a short answer are mostly prefill
    share = dict(zip([(run.input_len, run.batch) for run in RUNS], e2e[:, 0], strict=True))
    assert share[8192, 1] > 0.3 > share[128, 1]


def test_runs_of_other_models_are_the_prior_and_its_own_are_not():
    others = [run for run in reference_runs() if run.engine == "torch" and run.role == "fit"]
    start = analytic_marginal()
    of = {"model": RUNS[0].model, "engine": "torch", "gpu": GPU}
    assert prior_of(start, RUNS, **of) is start
    learned = prior_of(start, others[:20], **of)
    assert np.trace(learned.covariance) < np.trace(start.covariance)


def test_without_points_nothing_was_seen():
    belief = Belief.of(PRIOR, points(RUNS), None)
    assert belief.seen is None
    assert belief.x is PRIOR.mean
