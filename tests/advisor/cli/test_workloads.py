"""Public files that once were misread or refused: traces and benchmarks, by what the command line says of them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from advisor.cli import app

CASES = Path(__file__).parent / "cases"
IMPORT = ["import", "--dry-run", "--model", "llama-3.1-8b", "--engine", "vllm"]
ONE_GPU = ["--gpu", "H100-SXM", "--gpus", "1", "--tp", "1", "--engine-version", "0.11.0"]


def answered(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("file", "told"),
    [("guidellm-0.2.json", ("257/128", "198", "4.94")), ("inference-perf-stage-3.json", ("204/62", "5690", "15.8"))],
)
def test_benchmarks_of_other_programs_are_read(file, told):
    result = CliRunner().invoke(app, [*IMPORT, *ONE_GPU, str(CASES / file)])
    assert result.exit_code == 0, result.output
    assert "1 run" in result.stdout
    assert all(part in result.stdout for part in told)


def test_a_file_of_another_model_is_refused():
    arguments = ["--gpu", "H200", "--gpus", "8", "--tp", "8", "--engine-version", "0.19.0"]
    result = CliRunner().invoke(app, [*IMPORT, *arguments, str(CASES / "bench-of-glm-5.json")])
    assert result.exit_code == 2
    assert "zai-org/GLM-5-FP8" in result.stderr


@pytest.mark.parametrize(
    ("file", "rate", "lengths"), [("bailian.jsonl", 2.0, (521, 132)), ("usage-names.csv", 2.0, (441, 107))]
)
def test_traces_are_read_in_their_own_units_and_names(file, rate, lengths):
    common = ["--model", "llama-3.1-8b", "--gpus", "1xH100", "--trace", str(CASES / file), "--format", "json"]
    body = answered("simulate", *common, "--draws", "0")
    assert body["rate"] == pytest.approx(rate, rel=0.01)
    body = answered("recommend", *common)
    assert (body["workload"]["input_len"], body["workload"]["output_len"]) == lengths


def test_quantities_are_read_on_the_command_line():
    common = ["simulate", "--model", "llama-3.1-8b", "--gpus", "1xH100", "--draws", "0", "--format", "json"]
    units = answered(*common, "--rate", "120/min", "--isl", "1k", "--ttft", "0.2s", "--duration", "0.5min")
    bare = answered(*common, "--rate", "2", "--isl", "1000", "--ttft", "200", "--duration", "30")
    assert units == bare


def test_a_plan_for_users_says_what_it_took():
    arguments = ["plan", "--model", "llama-3.1-8b", "--gpus", "H100", "--use", "chat", "--users", "500", "--draws", "0"]
    body = answered(*arguments, "--format", "json")
    assert body["workload"]["rate"] == float(f"{500 / 150:.6g}")  # JSON has six significant digits
    assert body["slo"]["percentile"] == 95
    assert any("500 users" in note["text"] for note in body["notes"])
