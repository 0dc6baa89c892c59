"""``advisor train``: its answers as people and machines get them."""

import json

import pytest
from typer.testing import CliRunner

from advisor.cli import app

GPT = ["train", "--model", "gpt-3-175b", "--gpus", "64xA100", "--batch", "64"]


def run(*arguments):
    return CliRunner().invoke(app, [*arguments])


def test_a_stated_layout():
    result = run(*GPT, "--tp", "8", "--pp", "8", "--tokens", "300B", "--format", "json")
    assert result.exit_code == 0, result.output
    body = json.loads(result.stdout)
    assert body["schema"] == "advisor/training/1"
    assert body["layout"]["tp"] == body["layout"]["pp"] == 8
    assert body["budget"]["tokens"] == 300e9
    low, high = body["intervals"]["step_s"]
    assert low < body["step_s"] < high


def test_without_a_layout_the_best_ones_are_shown():
    result = run(*GPT)
    assert result.exit_code == 0, result.output
    assert "TP8" in result.stdout
    assert "90% interval" in result.stdout
    rows = run(*GPT, "--format", "csv").stdout.splitlines()
    assert len(rows) == 6


def test_what_does_not_fit_ends_with_1():
    result = run("train", "--model", "llama-3-8b", "--gpus", "2x4090", "--batch", "8")
    assert result.exit_code == 1
    assert "--lora-rank 16" in result.stdout


@pytest.mark.parametrize("tokens", ["many", "3X", "B"])
def test_tokens_that_are_no_number(tokens):
    result = run(*GPT, "--tokens", tokens)
    assert result.exit_code == 2
    assert "such as 300B" in result.output


def test_recommend_train_is_the_search_of_train():
    assert run("recommend", "--train", *GPT[1:]).stdout == run(*GPT).stdout


def test_a_missing_batch_is_explained_as_that_of_a_step():
    from advisor.cli.program import message_of

    result = run(*GPT[:-2])
    assert result.exit_code == 2
    assert "over all replicas" in result.output + message_of(result.exception)[0]


def test_a_sequence_beyond_memory_says_which_fits():
    stated = (
        "train",
        "--model",
        "llama-3-8b",
        "--gpus",
        "8xH100",
        "--batch",
        "16",
        "--seq-len",
        "4000000",
        "--tp",
        "8",
    )
    result = run(*stated)
    assert result.exit_code == 1
    assert "--seq-len 250000: fits on the same GPUs" in result.stdout
