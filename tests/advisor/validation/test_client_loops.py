"""First-token times of benchmark clients: rows as they were published, recipes, and how they are judged."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from advisor.calibration.surrogate import shipped_surrogate
from advisor.validation.client_loops import METRIC, PITFALL, SPREAD, client_checks, recipe_of
from advisor.validation.prediction_errors import summarised
from catalog.client_loops import read_client_loops
from tests.advisor.validation.test_closed_loops import ROW

DATED = ROW | {"regime": "in flight", "measured": "2026-03-01", "isl": "1024", "osl": "128", "concurrency": "8"}


@pytest.fixture
def read(tmp_path):
    def loops(*rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
        with (tmp_path / "some_loops.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
        return read_client_loops(tmp_path)

    return loops


def test_a_row_states_the_longest_lengths_and_the_clients_mean(read):
    (loop,) = read(DATED, DATED | {"id": "two", "ttft_ms": ""}, DATED | {"id": "three", "suspect": "1"})
    assert (loop.input_len, loop.output_len, loop.length_ratio) == (1024, 128, 0.8)
    assert (loop.concurrency, loop.ttft_ms) == (8, 400.0)
    assert not loop.pitfall


def test_what_is_known_against_a_row_is_said(read):
    loops = read(
        DATED | {"dp": "2", "tp": "1"},
        DATED | {"id": "two", "model": "deepseek-ai/DeepSeek-V3", "tp": "8", "measured": "2025-12-01"},
        DATED | {"id": "three", "engine": "sglang", "gpu": "B300-SXM", "engine_version": "0.5.9"},
    )
    assert [word in loop.pitfall for word, loop in zip(("parallel", "warm-up", "tokens"), loops, strict=True)] == [
        True
    ] * 3


def test_recipes_set_the_knobs_that_they_state(read):
    plain, few, many, wait, own = read(
        DATED,
        DATED | {"id": "two", "engine": "sglang", "engine_version": "0.5.9"},
        DATED | {"id": "three", "engine": "sglang", "engine_version": "0.5.9", "concurrency": "64"},
        DATED | {"id": "four", "engine": "tensorrt-llm", "engine_version": "1.2.0", "osl": "1024"},
        DATED | {"id": "five", "engine": "tensorrt-llm", "engine_version": "1.0.0", "measured": ""},
    )
    assert recipe_of(plain).client.count(8) == 80
    assert [recipe_of(loop).knobs.poll_steps for loop in (plain, few, many)] == [None, 10, 30]
    assert recipe_of(wait).knobs.batch_wait_steps == 20
    assert recipe_of(own).settled
    assert recipe_of(own).client.length_ratio == pytest.approx(1 - 2 * SPREAD)


def test_loops_are_judged_by_the_errors_of_other_models(read):
    loops = read(
        *(
            DATED | {"id": f"{model}{tp}", "model": f"meta-llama/Llama-3.1-{model}", "tp": tp}
            for model in ("70B", "8B")
            for tp in ("2", "4")
        ),
    )
    checks = client_checks(loops, shipped_surrogate().marginal)
    assert len(checks) == 4
    for check in checks:
        others = [abs(np.log(c.predicted / c.measured)) for c in checks if c.run.model != check.run.model]
        assert np.log(check.high / check.predicted) == pytest.approx(np.quantile(others, 0.9))
        assert check.low == pytest.approx(check.predicted**2 / check.high)
    (row,) = summarised(checks, ("metric",))
    assert row.group == {"metric": METRIC}


def test_rows_with_a_pitfall_set_no_interval_and_are_judged_apart(read):
    slow = DATED | {"id": "odd", "model": "meta-llama/Llama-3.1-8B", "tp": "1", "dp": "2", "ttft_ms": "90000"}
    clean = [DATED, DATED | {"id": "small", "model": "meta-llama/Llama-3.1-8B"}]
    plain, with_odd = (
        {c.run.run_id: c for c in client_checks(read(*rows), shipped_surrogate().marginal)}
        for rows in (clean, [*clean, slow])
    )
    assert with_odd["one"] == plain["one"]
    assert with_odd["odd"].metric == PITFALL


def test_a_loop_that_has_no_room_is_left_out(read):
    loops = read(DATED)
    crowded = replace(loops[0].run, tp=1, gpus=1, gpu="L4", kv_dtype="auto")
    assert client_checks([replace(loops[0], run=crowded)], shipped_surrogate().marginal) == []
