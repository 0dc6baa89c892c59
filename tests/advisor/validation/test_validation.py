"""Predictions beside measured runs: errors by group, choices and their regret, other methods, and what is written."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import advisor
from advisor.calibration.kernel_observations import evidence_of
from advisor.calibration.observations import group_runs
from advisor.calibration.posterior import PooledEffects, fit_posterior
from advisor.calibration.surrogate import shipped_surrogate
from advisor.cli import app
from advisor.validation.ablations import APART, NO_KERNELS, NO_RESIDUALS, NO_RUNS, POOLED, WHOLE, ablations
from advisor.validation.baselines import BOOSTED, FOREST, NEAREST, ROOFLINE, SCALED, baselines
from advisor.validation.prediction_errors import KEYS, Check, coverage_interval, error_interval, summarised
from advisor.validation.ranking import ANY, choices, rankings
from catalog.errors import InputError
from catalog.kernels import shipped_kernels
from catalog.runs import append_runs
from tests.reference_runs import reference_runs

STATIC = [
    run for run in reference_runs() if run.regime == "static" and not run.oom and run.engine == "vllm" and run.compiled
]
FIT = [run for run in STATIC if run.role == "fit" and run.model.endswith(("Llama-2-7b-hf", "Llama-3.2-1B"))]
HELD = [run for run in STATIC if run.model.endswith(("Llama-2-13b-hf", "Qwen2.5-14B"))]


def check(run, metric="output_tok_s", factor=1.0, split="not fitted", width=1.1):
    measured = getattr(run, metric)
    predicted = measured * factor
    return Check(
        run=run,
        engine=run.engine,
        metric=metric,
        split=split,
        measured=measured,
        predicted=predicted,
        low=predicted / width,
        high=predicted * width,
    )


@pytest.fixture(scope="module")
def found():
    return advisor.validate([*FIT, *HELD], refit=False, compare=False)


# -- groups ----------------------------------------------------------------------------------------------------------


def test_errors_can_be_grouped_by_every_key(found):
    total = len(found.checks)
    for key in KEYS:
        rows = found.summary([key])
        assert sum(row.checks for row in rows) == total
        assert len({row.group[key] for row in rows}) == len(rows)
    batches = [row.group["batch"] for row in summarised([check(run) for run in HELD], ["batch"])]
    assert batches == ["1", "2-8", "9-32", "33-128", "129-"]


def test_an_unknown_key_is_refused(found):
    with pytest.raises(InputError, match="not grouped by 'colour'; the keys are split, engine"):
        found.summary(["colour"])


def test_a_summary_is_what_its_checks_say():
    (row,) = summarised([check(HELD[0], factor=1.2), check(HELD[1], factor=0.9)], ["metric"])
    assert row.mean_error == pytest.approx(0.15)
    assert row.bias == pytest.approx(0.05)
    assert row.coverage == 0.0 if 0.9 * 1.1 < 1.0 else 0.5
    assert row.half_width == row.mean_half_width == pytest.approx((1.1 - 1 / 1.1) / 2)


@settings(max_examples=30)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=12))
def test_a_coverage_interval_holds_the_coverage(clusters):
    low, high = coverage_interval(clusters)
    share = sum(map(sum, clusters)) / sum(map(len, clusters))
    assert 0.0 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1.0


@settings(max_examples=30)
@given(st.lists(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=9), min_size=2, max_size=12))
def test_an_interval_of_an_error_holds_it(clusters):
    low, high = error_interval(clusters)
    mean = sum(map(sum, clusters)) / sum(map(len, clusters))
    assert 0.0 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= 10.0 + 1e-9


def test_a_figure_says_on_how_many_runs_of_which_models_it_stands():
    """And runs of one model, however many, leave it open what another's error would be."""
    alike = [check(run, factor=1.2) for run in HELD[:1] * 6]
    one = [replace(each, run=replace(each.run, run_id=str(i))) for i, each in enumerate(alike)]
    (row,) = summarised([*one, *one], ["metric"])
    assert (row.checks, row.runs, row.models) == (12, 6, 1)
    assert (row.error_low, row.error_high, row.coverage_low, row.coverage_high) == (None, None, 0.0, 1.0)
    other = [replace(each, run=replace(each.run, model="another"), predicted=each.measured) for each in one]
    (row,) = summarised([*one, *other], ["metric"])
    assert row.models == 2
    assert row.error_low == pytest.approx(0.0)
    assert row.error_high == pytest.approx(0.2)
    assert row.to_dict()["models"] == 2


# -- choices ---------------------------------------------------------------------------------------------------------


def test_perfect_predictions_have_no_regret():
    checks = [check(run, metric) for run in HELD for metric in ("output_tok_s", "e2e_ms", "tpot_ms", "ttft_ms")]
    for row in rankings(choices(checks)):
        assert row.worst_regret == 0.0
        assert row.within == 1.0
        assert row.kendall == pytest.approx(1.0)
        assert row.spearman == pytest.approx(1.0)


def test_regret_is_what_the_wrong_choice_costs():
    """Two layouts of one batch; the slower one is predicted to be faster."""
    one, two = (
        replace(HELD[0], run_id=name, tp=tp, gpus=tp, output_tok_s=speed)
        for name, tp, speed in (("one", 1, 100.0), ("two", 2, 180.0))
    )
    found = {
        choice.objective: choice for choice in choices([check(one, factor=3.0), check(two)]) if choice.batch == ANY
    }
    assert set(found) == {"throughput", "throughput_per_gpu"}
    assert found["throughput"].regret == pytest.approx(80 / 180)
    assert found["throughput"].kendall == -1.0
    assert found["throughput_per_gpu"].regret == 0.0  # 100 a GPU is more than 90
    assert (found["throughput"].chosen, found["throughput"].best) == ("TP1 PP1 batch 1", "TP2 PP1 batch 1")
    assert found["throughput"].to_dict()["kendall"] == -1.0


@settings(max_examples=20)
@given(st.lists(st.floats(0.2, 5.0), min_size=6, max_size=6), st.sampled_from(["output_tok_s", "e2e_ms", "tpot_ms"]))
def test_regret_is_never_negative(factors, metric):
    for choice in choices([check(run, metric, factor) for run, factor in zip(HELD, factors, strict=False)]):
        assert choice.regret >= 0.0
        assert choice.candidates >= 2
        assert -1.0 <= choice.kendall <= 1.0 or math.isnan(choice.kendall)


def test_shipped_runs_are_chosen_among_with_little_regret(found):
    """Of models never fitted, over every workload and batch: throughput and latency within 1% of the best measured."""
    rows = {row.objective: row for row in found.rankings() if row.split == "not fitted"}
    assert {"throughput", "throughput_per_gpu", "latency", "tpot"} <= set(rows)
    for objective in ("throughput", "throughput_per_gpu", "latency", "tpot"):
        assert rows[objective].worst_regret <= 0.01, rows[objective].worst


# -- other methods ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def others():
    pytest.importorskip("sklearn")
    return baselines(group_runs(FIT), group_runs(HELD))


def mean_error(checks, metric="tpot_ms"):
    return float(np.mean([abs(each.error) for each in checks if each.metric == metric]))


def test_every_method_predicts_every_run(others):
    assert set(others) == {ROOFLINE, SCALED, NEAREST, FOREST, BOOSTED}
    measured = {(run.run_id, metric) for run in HELD for metric in ("prefill_ms", "tpot_ms", "e2e_ms")}
    for name, checks in others.items():
        told = {(each.run.run_id, each.metric) for each in checks}
        assert measured <= told, name
        assert all(each.predicted > 0 for each in checks)


def test_the_roofline_alone_is_never_slower_than_what_was_measured(others):
    assert all(each.error < 0 for each in others[ROOFLINE] if each.metric in ("prefill_ms", "tpot_ms", "e2e_ms"))
    assert mean_error(others[SCALED]) < mean_error(others[ROOFLINE])


def test_larger_models_are_beyond_what_learns_without_physics(others, found):
    own = mean_error([each for each in found.checks if each.run.role == "validate"])
    assert own < 0.06
    for name in (NEAREST, FOREST, BOOSTED):
        assert mean_error(others[name]) > 3 * own, name


def test_what_was_seen_is_its_own_nearest_run():
    groups = group_runs(FIT[:8])
    apart = [abs(each.error) for each in baselines(groups, groups)[NEAREST]]
    assert np.median(apart) < 1e-9


def test_pooled_effects_know_one_set_for_all():
    groups = group_runs([run for run in FIT if run.tp == run.pp == 1][:6])
    posterior = fit_posterior(groups, index=PooledEffects(groups))
    assert np.array_equal(posterior.marginal("vllm", "H200-SXM").mean, posterior.marginal("torch", "T4").mean)


def test_every_part_can_be_taken_out():
    fitted, judged = group_runs([run for run in FIT if run.tp == run.pp == 1][:8]), group_runs(HELD[:4])
    kernels = evidence_of(shipped_kernels()[::20], "vllm")
    found = ablations(fitted, kernels, judged, shipped_surrogate().noise)
    errors = {name: [e.residual for e in each] for name, each in found.items()}
    assert list(errors) == [WHOLE, NO_RESIDUALS, NO_KERNELS, APART, POOLED, NO_RUNS]
    assert errors.pop(NO_RESIDUALS) == errors[WHOLE]  # of other models they say nothing
    assert len({tuple(each) for each in errors.values()}) == len(errors)  # each is another fit
    assert np.mean(np.abs(errors[WHOLE])) < np.mean(np.abs(errors[NO_RUNS]))


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_tables_figures_and_one_page(tmp_path, monkeypatch):
    pytest.importorskip("vl_convert")
    monkeypatch.setenv("COLUMNS", "150")
    runs, folder = tmp_path / "own.jsonl", tmp_path / "report"
    append_runs(runs, [*FIT[:8], *HELD[:12]])
    given = ["validate", str(runs), "--no-refit", "--by", "model,metric", "--report", str(folder)]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    for words in ("Llama-2-13b-hf", "nearest run", "regret", "Kendall", "report.html"):
        assert words in result.stdout
    page = (folder / "report.html").read_text(encoding="utf-8")
    images = sorted(path.name for path in folder.glob("*.png"))
    assert images == ["coverage.png", "models.png", "parity.png", "residuals.png"]
    assert page.count("data:image/png;base64,") == len(images)
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is fetched from elsewhere
    body = json.loads(CliRunner().invoke(app, [*given[:5], "--format", "json", "--no-baselines"]).stdout)
    assert {"summary", "rankings", "choices", "baselines", "ablation", "checks"} <= set(body)
    assert set(body["summary"][0]) >= {"model", "metric", "mean_half_width", "coverage_low"}


def test_nothing_to_draw_is_a_page_without_figures():
    pytest.importorskip("vl_convert")
    from advisor.render.answers.validation import document
    from advisor.render.page import page_files
    from advisor.validation.validation import Validation

    assert list(page_files(document(Validation(checks=(), claims=(), left_out={})))) == ["report.html", "report.md"]
