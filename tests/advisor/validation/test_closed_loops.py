"""Closed loops judged: what is chosen within a limit on TPOT, which of two is faster, and what published rows become."""

import csv
from dataclasses import replace

import pytest

from advisor.validation.closed_loops import judge
from advisor.validation.prediction_errors import Check
from catalog.closed_loops import read_loops
from catalog.importers.benchmark_file import read_document
from catalog.importers.registry import read_benchmarks

ROW = {
    "source": "a project's table",
    "id": "one",
    "regime": "in flight",
    "gpu": "B200-SXM",
    "engine": "vllm",
    "engine_version": "0.19.0",
    "model": "meta-llama/Llama-3.1-70B",
    "weights": "fp8",
    "kv_dtype": "fp8",
    "tp": "2",
    "concurrency": "64",
    "isl": "1000",
    "osl": "200",
    "length_ratio": "0.8",
    "ttft_ms": "400",
    "tpot_ms": "20",
    "use": "1",
}


def runs_of(*rows):
    return read_loops((f"line {i}", row) for i, row in enumerate(rows))


def loop(run_id, tpot, tok_s, **changes):
    """Two checks of one loop: ``tpot`` and ``tok_s`` are (predicted, measured), the latter per GPU."""
    run = replace(runs_of(ROW).runs[0], run_id=run_id, **changes)
    return [
        Check(
            run=run,
            engine=run.engine,
            metric=metric,
            split="not fitted",
            measured=values[1] * scale,
            predicted=values[0] * scale,
            low=1.0,
            high=2.0,
        )
        for metric, values, scale in (("tpot_ms", tpot, 1.0), ("output_tok_s", tok_s, run.gpus))
    ]


def test_a_row_becomes_the_run_that_it_says():
    (run,) = runs_of(ROW).runs
    assert (run.input_len, run.output_len) == (900, 180)
    assert (run.model, run.batch, run.gpus, run.regime) == ("meta-llama/Meta-Llama-3.1-70B", 64, 2, "steady")
    assert run.ttft_ms is None
    assert run.e2e_ms == pytest.approx(400 + 20 * 179)
    assert run.output_tok_s == pytest.approx(64 * 180 / run.e2e_ms * 1e3)


@pytest.mark.parametrize(
    "change",
    [{"use": "0"}, {"suspect": "1"}, {"speculative": "possible"}, {"regime": "open"}, {"gpu": "Z9000"}, {"tp": "x"}],
)
def test_a_row_that_cannot_be_trusted_is_left_out_and_says_why(change):
    published = runs_of(ROW | change)
    assert not published.runs
    assert sum(published.left_out.values()) == 1


def test_replicas_share_the_requests_in_flight():
    (run,) = runs_of(ROW | {"tp": "1", "dp": "4"}).runs
    assert (run.batch, run.dp, run.gpus) == (16, 4, 4)


def test_the_format_is_recognised(tmp_path):
    path = tmp_path / "loops.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*ROW, "suspect"])
        writer.writeheader()
        writer.writerows([ROW, ROW | {"id": "two", "suspect": "1"}])
    (reading, skipped) = read_benchmarks(read_document(path, path.name))
    assert reading.stated["tpot_ms"] == 20
    assert "suspect" in str(skipped)


def test_the_best_within_the_limit_is_chosen_and_judged_as_measured():
    checks = [
        *loop("slow", (14.0, 14.0), (100.0, 100.0)),
        *loop("fast", (24.0, 24.0), (200.0, 200.0), batch=128),
        *loop("over", (39.0, 60.0), (300.0, 300.0), batch=256),  # said to hold 40 ms, and does not
    ]
    (row,) = judge(checks).choices
    assert (row.choices, row.within, row.missed, row.empty) == (4, 3, 1, 0)


def test_a_worse_choice_and_an_empty_one_are_told_apart():
    worse = [*loop("a", (10.0, 10.0), (90.0, 100.0)), *loop("b", (10.0, 10.0), (100.0, 80.0), batch=128)]
    (row,) = judge(worse).choices
    assert (row.within, row.missed, row.empty) == (0, 0, 0)
    assert row.regret == pytest.approx(0.2)
    timid = [*loop("a", (100.0, 10.0), (90.0, 100.0)), *loop("b", (100.0, 10.0), (100.0, 80.0), batch=128)]
    (row,) = judge(timid).choices
    assert (row.choices, row.empty) == (4, 4)


def test_two_engines_are_compared_where_nothing_else_differs():
    checks = [
        *loop("a", (20.0, 20.0), (100.0, 100.0)),
        *loop("b", (20.0, 20.0), (80.0, 120.0), engine="sglang"),  # the wrong way round
        *loop("c", (20.0, 20.0), (100.0, 100.0), batch=128),
        *loop("d", (20.0, 20.0), (101.0, 150.0), batch=128, engine="sglang"),  # too close
        *loop("e", (20.0, 20.0), (100.0, 100.0), batch=256),
        *loop("f", (20.0, 20.0), (150.0, 120.0), batch=256, engine="sglang"),  # right
        *loop("g", (20.0, 20.0), (150.0, 120.0), batch=512, engine="sglang"),  # of nothing else
    ]
    (row,) = judge(checks).matched
    assert (row.differ, row.cells, row.right, row.close, row.wrong) == ("engine", 3, 1, 1, 1)


def test_two_gpus_are_compared_within_an_engine():
    checks = [*loop("a", (20.0, 20.0), (200.0, 190.0)), *loop("b", (20.0, 20.0), (100.0, 90.0), gpu="H100-SXM")]
    (row,) = judge(checks).matched
    assert (row.differ, row.one, row.other, row.right) == ("GPU", "B200-SXM", "H100-SXM", 1)
    assert row.measured_ratio == pytest.approx(19 / 9)
