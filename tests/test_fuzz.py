"""A slice of ``benchmarks.fuzz``: damaged input is answered or refused in one line; the whole of it is run by itself."""

import json
from pathlib import Path

import pytest

import advisor
from benchmarks import fuzz
from benchmarks.hostile_cases import Fuzzer, Undamaged
from benchmarks.soundness import unsound

SUITES = list(Fuzzer(Path(), 0).suites)


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_damaged_input_is_answered_or_refused_in_one_line(suite, tmp_path):
    assert [(outcome.argv, faults) for _, outcome, faults in fuzz.findings([suite], 8, 20, tmp_path)] == []


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_what_is_damaged_is_answered_before(suite, tmp_path, monkeypatch):
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))
    assert 0 in {fuzz.run(Undamaged(tmp_path, seed).case(suite)).code for seed in range(6)}


def test_a_fault_is_found():
    def of(code, out="", err="", seconds=0.0):
        return fuzz.Outcome(argv=("estimate", "json"), code=code, out=out, err=err, seconds=seconds).faults()

    assert of(0, '{"ttft": {"value": 2.0, "low": 1.0, "high": 3.0}}') == []
    assert of(2, err="advisor: no such model\n") == []
    assert of(0, '{"ttft": {"value": 4.0, "low": 1.0, "high": 3.0}}') == [".ttft: 4.0 is outside 1.0 to 3.0"]
    assert of(70, err="advisor: internal error\n")
    assert of(2, err="one\ntwo\n")
    assert of(2, err="Traceback (most recent call last):")
    assert of(0, "{}", seconds=9.0)
    assert list(unsound({"a": [float("nan")]})) == [(".a[]", "nan is no number")]


@pytest.mark.parametrize(
    "answer",
    [
        {"tpot_ms": 4.0, "intervals": {"tpot_ms": [5.0, 6.0]}},
        {"tpot_ms": 4.0, "tpot_ms_low": 5.0, "tpot_ms_high": 6.0},
        {"latencies": {"tpot_ms": 4.0}, "intervals": {"tpot_ms": [5.0, 6.0]}},
        {"metrics": {"tpot_ms": {"p50": 4.0}}, "intervals": {"tpot_ms": {"p50": [5.0, 6.0]}}},
        {"kv_capacity_tokens": 4, "kv_capacity_ends": [5, 6]},
        {"ms": 4.0, "low": 5.0, "high": 6.0},
    ],
)
def test_an_interval_without_its_estimate_is_found_however_it_is_written(answer):
    assert [what for _, what in unsound(answer)] == [f"4{'' if 'kv_capacity_ends' in answer else '.0'} is outside " + (
        "5 to 6" if "kv_capacity_ends" in answer else "5.0 to 6.0"
    )]  # fmt: skip


def shortened(part, name, share):
    """Return an answer with a time and its interval ``share`` as long."""
    ends = part["intervals"][name]
    return part | {name: part[name] * share, "intervals": part["intervals"] | {name: [each * share for each in ends]}}


@pytest.mark.parametrize("model", ["llama-13b", "mixtral-8x7b", "deepseek-v3"])
def test_a_time_below_the_floor_is_found(model):
    body = json.loads(
        json.dumps(advisor.estimate(model, "8xH200", tp=8, batch=16, input_len=512, output_len=64).to_dict())
    )
    assert list(unsound(body)) == []
    for name in ("tpot_ms", "prefill_ms"):
        places = [place for place, what in unsound(shortened(body, name, 0.05)) if "below" in what]
        assert [place.split(" ")[0] for place in places] == [f".{name}", f".intervals.{name}"]
        low = body["intervals"] | {name: [0.05 * body[name], body["intervals"][name][1]]}
        assert any("below" in what for _, what in unsound(body | {"intervals": low}))


def test_training_and_exploration_have_a_floor():
    step = json.loads(json.dumps(advisor.recommend_training("llama-3-8b", "8xH100", batch=64).to_dict()))
    assert list(unsound(step)) == []
    short = step["best"] | {"step_s": step["best"]["step_s"] * 0.3}
    assert any(place == ".step_s" and "below" in what for place, what in unsound(short))
    sweep = json.loads(json.dumps(advisor.explore("llama-13b", "A100", sweep="bandwidth").to_dict()))
    assert list(unsound(sweep)) == []
    fast = sweep | {"points": [sweep["points"][0] | {"ms": 1.0, "low": 1.0, "high": 1.0}]}
    assert any("below" in what for _, what in unsound(fast))
