"""``advisor tune`` before it measures: what is believed, what comes first, and what it refuses."""

import json
from dataclasses import asdict, replace

import pytest
from typer.testing import CliRunner

import advisor
from advisor.cli import app
from advisor.render.answers.tuning import tuning_columns, tuning_rows
from catalog.errors import InputError
from catalog.runs import append_runs
from tests.reference_runs import reference_runs

QUESTION = ["--model", "llama-13b", "--gpus", "4xH200"]


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["tune", *arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def dry():
    return advisor.tune("llama-13b", "4xH200", dry_run=True)


@pytest.mark.slow
def test_a_dry_run_says_what_is_believed_and_what_comes_first(dry, home):
    assert not home.exists()
    assert dry.ended == "nothing was measured"
    assert (dry.runs, dry.rounds, dry.measured_now) == ((), (), 0)
    assert dry.best is dry.candidates[0]
    assert dry.best.metrics == dry.best.before
    assert sum(each.chance for each in dry.candidates) == pytest.approx(1.0)
    assert len({(each.deployment.tp, each.deployment.pp) for each in dry.candidates}) == len(dry.candidates) == 7
    for each in dry.candidates:
        assert all(low < value < high for value, low, high in each.metrics.values())
    assert len(dry.upcoming) >= 1
    assert sum(load["tp"] * load["pp"] for load in dry.upcoming) <= 4
    assert all(load["shapes"] for load in dry.upcoming)
    assert all(15 < load["expected_s"] < 300 for load in dry.upcoming)


@pytest.mark.slow
def test_it_agrees_with_the_recommendation_it_begins_from(dry):
    best = advisor.recommend("llama-13b", "4xH200", engine="torch").best
    assert best is not None
    wanted = dry.best.deployment
    assert (wanted.dp, wanted.tp, wanted.pp) == (best.deployment.dp, best.deployment.tp, best.deployment.pp)
    assert dry.best.metrics["output_tok_s_per_gpu"][0] == pytest.approx(best.output_tok_s_per_gpu, rel=0.02)
    assert dry.best.metrics["ttft_ms"][0] == pytest.approx(best.ttft_ms, rel=0.15)


@pytest.mark.slow
def test_the_users_own_runs_of_the_model_count(dry, home):
    own = [
        replace(run, role="fit")
        for run in reference_runs()
        if (run.engine, run.model, run.tp, run.pp) == ("torch", "meta-llama/Llama-2-13b-hf", 1, 1) and run.tpot_ms
    ]
    append_runs(home / "runs" / "mine.jsonl", own)
    told = advisor.tune("llama-13b", "4xH200", dtype="bfloat16", dry_run=True)
    assert {run.run_id for run in told.runs} == {run.run_id for run in own}
    measured = next(each for each in told.candidates if each.deployment.tp == each.deployment.pp == 1)
    assert measured.measured == len(own)
    unmeasured = next(each for each in dry.candidates if each.deployment.tp == each.deployment.pp == 1)

    def width(each):
        _, low, high = each.metrics["tpot_ms"]
        return high / low

    assert width(measured) <= width(unmeasured)
    # float16 is another format: those runs say nothing of it
    assert advisor.tune("llama-13b", "4xH200", dtype="float16", dry_run=True).runs == ()


@pytest.mark.slow
def test_limits_and_lengths_are_kept(dry):
    limited = advisor.tune("llama-13b", "4xH200", slo=advisor.Slo(tpot_ms=15.0), dry_run=True)
    assert limited.best.metrics["tpot_ms"][0] <= 15.0
    assert limited.best.batch < dry.best.batch
    static = advisor.tune("llama-13b", "4xH200", objective="latency", regime="static", dry_run=True)
    assert (static.best.batch, static.best.deployment.tp) == (1, 4)
    assert all(
        shape[1:] == [1024, 256] or shape[1:] == [128, 64] for each in static.upcoming for shape in each["shapes"]
    )


@pytest.mark.slow
def test_every_format_tells_the_same(dry):
    text = run(*QUESTION, "--dry-run").stdout
    assert "> " in text
    assert "first" in text
    assert max(map(len, text.splitlines())) <= 80
    body = json.loads(json.dumps(dry.to_dict()))
    assert body["best"]["deployment"] == asdict(dry.best.deployment)
    assert body["runs"] == []
    for row, each in zip(tuning_rows(dry), dry.candidates, strict=True):
        assert (row["tp"], row["pp"], row["batch"]) == (each.deployment.tp, each.deployment.pp, each.batch)
        assert row["tpot_ms_low"] < row["tpot_ms"] < row["tpot_ms_high"]
    columns = tuning_columns(dry)
    assert {len(column.cells) for column in columns} == {len(dry.candidates)}


def test_where_nothing_keeps_the_limits_it_says_what_would():
    result = run(*QUESTION, "--dry-run", "--tpot", "1", "--format", "csv", code=1)
    assert "nothing feasible; relax: TPOT limit of" in result.stderr


def test_a_model_that_does_not_fit_is_an_answer():
    result = run("--model", "llama-70b", "--gpus", "1xA100", "--dry-run", code=1)
    assert "nothing feasible: meta-llama/Llama-2-70b-hf fits no layout of 1xA100-SXM-80GB" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "sglang"}, "engine is 'sglang'; torch and vllm can be measured"),
        ({"regime": "open"}, "regime is 'open'; it must be steady or static"),
        ({"objective": "speed"}, "objective 'speed' is not known"),
        ({"budget_s": 3.0}, "budget is 3 s; starting and measuring one batch takes about"),
        ({"budget_s": 0.0}, "budget_s is 0.0; it must be a number above 0"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"workload": advisor.Workload(rate=3.0)}, "recommend takes no rate"),
        ({"workload": advisor.Workload(input_len=5000)}, "5000 tokens in and 256 out are 5256"),
        ({"engine": "vllm", "device": "cpu"}, "vllm is measured on GPUs only"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, message):
    with pytest.raises(InputError) as caught:
        advisor.tune(**{"model": "llama-13b", "gpus": "4xH200", "dry_run": True} | options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_gpus_that_are_elsewhere_are_only_planned_for():
    with pytest.raises(InputError, match="4xH200-SXM is not looked for here"):
        advisor.tune("llama-13b", "4xH200")
