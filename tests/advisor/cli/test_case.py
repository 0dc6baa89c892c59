"""The file that reports a wrong prediction: complete, and without anything private."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from advisor.cli import app

QUESTIONS = {
    "estimate": "estimate --model llama-13b --gpus 2xA100 --tp 2 --batch 4",
    "recommend": "recommend --model llama-13b --gpus 2xA100",
    "simulate": "simulate --model llama-2-7b --gpus H100 --rate 2 --duration 10 --draws 0",
}


@pytest.mark.parametrize("line", QUESTIONS.values(), ids=QUESTIONS)
def test_it_holds_question_answer_runs_and_versions(tmp_path, monkeypatch, line):
    monkeypatch.setattr("sys.argv", ["advisor", *line.split()])
    path = tmp_path / "case.json"
    result = CliRunner().invoke(app, [*line.split(), "--case", str(path), "--format", "json"])
    assert result.exit_code == 0, result.output
    case = json.loads(path.read_text())
    assert case["command"] == ["advisor", *line.split()]
    assert case["answer"] == json.loads(result.stdout)
    assert case["runs"] == []
    assert {"advisor", "numpy", "python", "platform"} <= case["versions"].keys()


def test_nothing_private_is_in_it(tmp_path, monkeypatch):
    line = [*QUESTIONS["estimate"].split(), "--config", str(Path.home() / "q.yaml"), "postgresql://me:secret@host/x"]
    monkeypatch.setattr("sys.argv", ["advisor", *line])
    path = tmp_path / "case.json"
    result = CliRunner().invoke(app, [*QUESTIONS["estimate"].split(), "--case", str(path)])
    assert result.exit_code == 0, result.output
    text = path.read_text()
    assert "secret" not in text
    assert str(Path.home()) not in text
    assert "postgresql://me:***@host/x" in text


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    result = CliRunner().invoke(app, [*QUESTIONS["estimate"].split(), "--case", str(tmp_path / "no" / "case.json")])
    assert result.exit_code == 2
    assert "cannot write --case" in result.output
