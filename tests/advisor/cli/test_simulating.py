"""``advisor simulate``: every format, requests written, deployments compared, and what is refused in one line."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from advisor.cli import app
from advisor.cli.pools import changed
from advisor.cli.program import BAD_INPUT
from advisor.render.answers.simulation import bars, document
from advisor.simulator.simulation import simulate
from catalog.errors import InputError
from catalog.schema import Deployment

SIMULATE = [
    "simulate",
    "--model",
    "llama-3.1-8b",
    "--gpus",
    "2xH200",
    "--rate",
    "5",
    "--input-len",
    "512",
    "--output-len",
    "64",
    "--duration",
    "40",
    "--max-num-seqs",
    "64",
    "--max-model-len",
    "8192",
    "--draws",
    "2",
]
COMPARED = [*SIMULATE, "--tp", "2", "--compare", "tp=1,dp=2", "--ttft", "100", "--percentile", "90"]


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def refused(*arguments):
    result = run(*arguments, code=BAD_INPUT)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def shown(cell):
    """A cell of CSV, which has every digit, as JSON has it: six significant digits."""
    return float(f"{float(cell):.6g}")


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_one_deployment_is_told_in_detail():
    text = run(*SIMULATE, "--tpot", "20").stdout
    assert max(map(len, text.splitlines())) <= 80
    for word in (
        "TTFT",
        "TPOT",
        "ITL",
        "E2E",
        "p99",
        "saturated at",
        "goodput",
        "kept at p95",
        "preemptions",
    ):
        assert word in text


def test_limits_hold_for_the_mean_when_that_is_asked_for():
    text = run(*SIMULATE, "--tpot", "20", "--percentile", "0").stdout
    assert "kept on the mean" in text


def test_simulate_and_plan_say_the_same_of_what_both_take():
    commands = get_command(app).commands
    one, other = ({each.name: each for each in commands[name].params} for name in ("simulate", "plan"))
    both = one.keys() & other.keys()
    assert {"rate", "trace", "duration", "percentile", "ttft", "input_len", "router", "draws", "report", "seed"} <= both
    chosen = {"gpus", "decode_context_parallel_size"}  # a plan chooses how many
    for name in both - chosen:
        told = [(each.opts, each.help, each.default, each.required) for each in (one[name], other[name])]
        assert told[0] == told[1], name


def test_several_are_told_side_by_side():
    text = run(*COMPARED).stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "TP2 PP1" in text
    assert "2 x TP1 PP1" in text
    assert text.count("kept") + text.count("missed") == 2
    assert "p90" in text


def test_machines_get_the_same_numbers_in_every_format():
    body = json.loads(run(*SIMULATE, "--format", "json").stdout)
    (row,) = csv.DictReader(io.StringIO(run(*SIMULATE, "--format", "csv").stdout))
    assert shown(row["ttft_p95_ms"]) == body["metrics"]["ttft_ms"]["p95"]
    assert shown(row["ttft_p95_ms_low"]) == body["intervals"]["ttft_ms"]["p95"][0]
    assert shown(row["saturation_s"]) == body["saturation_s"]
    lines = run(*SIMULATE, "--format", "markdown").stdout.splitlines()
    assert lines[0].startswith("| ms | mean | p50 |")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| TTFT", "| TPOT", "| ITL", "| E2E"]
    several = json.loads(run(*COMPARED, "--format", "json").stdout)["simulations"]
    assert [each["deployment"]["tp"] for each in several] == [2, 1]
    assert several[0]["requests"] == several[1]["requests"]


def test_requests_are_written(tmp_path):
    path = tmp_path / "requests.csv"
    run(*COMPARED, "--requests", path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    first, second = ([row for row in rows if row["deployment"] == which] for which in "01")
    assert len(first) == len(second) == pytest.approx(200, rel=0.3)
    assert [row["arrival_s"] for row in first] == [row["arrival_s"] for row in second]
    assert {row["replica"] for row in second} == {"0", "1"}
    assert all(float(row["e2e_ms"]) >= float(row["ttft_ms"]) > 0 for row in rows)


def test_a_trace_and_a_closed_loop(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("time,input,output\n0,100,10\n1,200,20\n", encoding="utf-8")
    question = SIMULATE[:5]
    assert json.loads(run(*question, "--trace", path, "--format", "json").stdout)["requests"] == 2
    loop = json.loads(run(*question, "--concurrency", "4", "--duration", "20", "--format", "json").stdout)
    assert loop["concurrency"] == 4
    assert loop["rate"] is None
    assert max(loop["timeline"]["running"]) <= 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (SIMULATE[:5], "give exactly one of --rate"),
        ([*SIMULATE, "--compare", "max_num_seq=2"], "did you mean max_num_seqs?"),
        ([*SIMULATE, "--compare", "tp"], "must be KNOB=VALUE,..., such as tp=1,dp=2"),
        ([*SIMULATE, "--compare", "tp=two"], "tp must be a whole number"),
        ([*SIMULATE, "--compare", "tp=1,tp=2"], "gives tp twice"),
        ([*SIMULATE, "--curve", "1,x"], "it must be numbers with commas between"),
        ([*SIMULATE, "--router", "rund_robin"], "did you mean round_robin?"),
        ([*SIMULATE, "--percentile", "95"], "state one: --ttft, --tpot or --e2e"),
        ([*SIMULATE, "--tp", "4"], "4"),
        ([*SIMULATE, "--requests", "/nowhere/at/all.csv"], "cannot write the requests to /nowhere/at/all.csv"),
        ([*SIMULATE[:5], "--trace", "missing.csv"], "cannot read the trace missing.csv"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, said):
    assert said in refused(*arguments)


def test_knobs_of_every_kind_can_be_compared():
    found, _ = changed(Deployment(), "tp=2, max_num_seqs=8, gpu_memory_utilization=0.8, dtype=fp8")
    assert found == Deployment(tp=2, max_num_seqs=8, gpu_memory_utilization=0.8, dtype="fp8")
    found, serving = changed(
        Deployment(), "dp=4,router=prefix_aware,enable_prefix_caching=false,scheduling_policy=priority"
    )
    assert found == Deployment(dp=4)
    assert serving.keywords() == {
        "router": "prefix_aware",
        "enable_prefix_caching": False,
        "scheduling_policy": "priority",
        "prefill_gpus": None,
        "speculate": None,
        "draft_len": None,
        "acceptance": None,
    }
    _, drafting = changed(Deployment(), "speculate=ngram,draft_len=3", serving)
    assert drafting.keywords() == serving.keywords() | {"speculate": "ngram", "draft_len": 3}
    _, plain = changed(Deployment(), "speculate=none", drafting)
    assert plain == serving
    for knobs, replicas in (("prefill_gpus=4xL40S", 2), ("prefill_gpus=4xL40S,prefill_replicas=1", 1)):
        found, serving = changed(Deployment(tp=2), knobs)
        assert serving.prefill(found) == Deployment(tp=2, dp=replicas)
    _, serving = changed(Deployment(tp=2), "prefill_gpus=1xL40S")
    with pytest.raises(InputError, match="holds no replica of 2 GPUs"):
        serving.prefill(Deployment(tp=2))
    for knobs, message in (("router=sticky", "session_sticky"), ("enable_prefix_caching=0", "true, false")):
        with pytest.raises(InputError, match=message):
            changed(Deployment(), knobs)


def test_bars_follow_a_curve_from_zero():
    assert bars(np.arange(8.0)) == "▁▂▃▄▅▆▇█"
    assert bars(np.zeros(3)) == "▁▁▁"
    assert len(bars(np.ones(1000))) == 40


def test_the_command_after_a_simulation_of_pools_starts_both():
    knobs = Deployment(max_model_len=4096, max_num_seqs=64)
    found = simulate(
        "llama-3.1-8b",
        "4xH100",
        workload={"rate": 4.0},
        deployment=replace(knobs, dp=2),
        prefill=replace(knobs, tp=2),
        duration_s=10.0,
        draws=0,
    )
    words = document([found]).sections[-1].command.argv
    assert words[:2] == ["advisor", "export"]
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count('"kv_producer"') == 1
    assert result.stdout.count('"kv_consumer"') == 2
    assert "--tensor-parallel-size 2" in result.stdout
    refused = CliRunner().invoke(app, [*words[1:], "--format", "compose"])
    assert "no pools for prompts and outputs" in refused.stderr


def test_pools_that_are_started_spread_contexts_as_they_were_simulated():
    knobs = Deployment(tp=8, dcp=2)
    asked = {"workload": {"rate": 2.0}, "duration_s": 10.0, "draws": 0}
    found = simulate("qwen3-30b-a3b", "2x8xH200", deployment=knobs, prefill=knobs, **asked)
    words = document([found]).sections[-1].command.argv
    result = CliRunner().invoke(app, words[1:])
    assert result.stdout.count("--decode-context-parallel-size 2") == 2
