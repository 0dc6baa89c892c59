"""A slice of ``benchmarks.fuzz``: damaged input is answered or refused in one line; the whole of it is run by itself."""

from pathlib import Path

import pytest

from benchmarks import fuzz

SUITES = list(fuzz.Fuzzer(Path(), 0).suites)


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_damaged_input_is_answered_or_refused_in_one_line(suite, tmp_path):
    assert [(outcome.argv, faults) for _, outcome, faults in fuzz.findings([suite], 8, 20, tmp_path)] == []


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
    assert list(fuzz.unsound({"a": [float("nan")]})) == [(".a[]", "nan is no number")]
