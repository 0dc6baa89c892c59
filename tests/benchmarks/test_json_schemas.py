"""JSON Schemas: those published are those of the types, and recorded answers are as they say."""

import functools
import gzip
import json
from pathlib import Path

import pytest

import advisor
from advisor.render.formats import as_json
from benchmarks.json_schemas import DOCUMENTS, FOLDER, written
from tests.recording.answers import command

jsonschema = pytest.importorskip("jsonschema")
referencing = pytest.importorskip("referencing")
RECORDED = Path(__file__).parents[1] / "recording" / "answers.json.gz"


@functools.cache
def files():
    return written()


def test_published_schemas_are_those_of_the_types():
    held = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*")}
    stale = sorted(name for name in held.keys() | files().keys() if held.get(name) != files().get(name))
    assert stale == [], "python -m benchmarks.json_schemas --write"


@functools.cache
def validator(name):
    parsed = {file: json.loads(text) for file, text in files().items() if file.endswith(".json")}
    resources = [(file, referencing.Resource.from_contents(body)) for file, body in parsed.items()]
    registry = referencing.Registry().with_resources(resources)
    jsonschema.Draft202012Validator.check_schema(parsed[name])
    return jsonschema.Draft202012Validator({"$ref": name}, registry=registry)


def whole(value):
    """What was recorded, with long lists as their first rows, and the versions that are not."""
    if isinstance(value, dict):
        if "schema" in value:
            value = value | {"version": "0"}
        if value.keys() == {"first", "count", "sums"}:
            return [whole(item) for item in value["first"]]
        return {key: whole(item) for key, item in value.items()}
    return [whole(item) for item in value] if isinstance(value, list) else value


def answers():
    kept = json.loads(gzip.decompress(RECORDED.read_bytes()))
    return {
        name: whole(entry["answer"])
        for name, entry in kept.items()
        if name.startswith("number:") and "--format json" in name and isinstance(entry["answer"], dict)
    }


def test_recorded_answers_are_as_their_schema_says():
    seen, wrong = set(), []
    for name, body in answers().items():
        if "schema" not in body:
            wrong.append(f"{name}: no schema")
            continue
        kind = body["schema"].removeprefix("advisor/")
        seen.add(kind)
        body["version"] = "0"  # not recorded
        error = jsonschema.exceptions.best_match(validator(f"{kind.replace('/', '-')}.json").iter_errors(body))
        if error is not None:
            wrong.append(f"{name}: {error.json_path}: {error.message[:200]}")
    assert wrong == []
    assert {"estimate/1", "recommendation/1", "simulation/1", "capacity-plan/1", "catalog/1", "catalog-entry/1"} <= seen
    assert seen <= set(DOCUMENTS)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("which --model llama-3.1-8b --gpus 1xH100,1xL4 --tpot 50", "comparison-1.json"),
        ("train --model llama-3-8b --gpus 8xH100 --batch 128", "training-layouts-1.json"),
        ("train --model llama-3-8b --gpus 8xH100 --batch 128 --tp 2 --dp 4", "training-1.json"),
        ("explore --model llama-2-13b --gpus 1xA100 --sweep dram", "exploration-1.json"),
        ("recommend --model llama-2-7b --gpus 1xH100 --wide", "recommendation-1.json"),
        ("probe --model llama-2-7b --gpus 1xH200 --budget 5m --dry-run", "probe-plan-1.json"),
    ],
)
def test_answers_that_are_not_recorded_are_as_their_schema_says(line, name, monkeypatch, tmp_path):
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))
    said = command(f"{line} --format json")
    assert said["code"] == 0, said["err"]
    valid(json.loads(said["out"]), name)


def valid(body, name):
    error = jsonschema.exceptions.best_match(validator(name).iter_errors(body))
    assert error is None, f"{error.json_path}: {error.message[:200]}"


def test_a_curve_is_as_its_schema_says():
    curve = advisor.curve("llama-2-7b", "1xH200", runs=[], batches=[1, 8], input_len=512, output_len=64)
    valid(json.loads(as_json(curve.to_dict())), "curve-1.json")


def test_a_wrong_document_would_be_found():
    body = next(body for body in answers().values() if body.get("schema") == "advisor/estimate/1")
    check = validator("estimate-1.json")
    assert not list(check.iter_errors(body))
    assert list(check.iter_errors(body | {"tpot_ms": "12"}))
    assert list(check.iter_errors({key: value for key, value in body.items() if key != "tpot_ms"}))
    assert list(check.iter_errors(body | {"unknown": 1}))
