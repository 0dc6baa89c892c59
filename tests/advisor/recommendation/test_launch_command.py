"""Exported commands on H200s: what they were foretold to hold, and what today's model foretells, beside what vLLM found."""

import importlib.util
import sys
from pathlib import Path

import pytest

import advisor
from catalog.jsonl_store import json_rows
from catalog.tables import DATA
from probes.benchmark_plan import read_plan

# Not installed with the package: read from beside the tests.
_SPEC = importlib.util.spec_from_file_location("exports", Path(__file__).parents[3] / "benchmarks" / "exports.py")
_EXPORTS = importlib.util.module_from_spec(_SPEC)
sys.modules["exports"] = _EXPORTS  # its dataclasses look themselves up
_SPEC.loader.exec_module(_EXPORTS)
ALLOWED = _EXPORTS.ALLOWED
cache_tokens = _EXPORTS.cache_tokens

FOLDER = DATA / "exports"
LOADS = {load.name: load for load in read_plan(FOLDER / "vllm-0.24.0_h200_plan.json")}
STARTED = {row["load"]: row for _, row in json_rows(FOLDER / "started.jsonl") if row["outcome"] == "started"}


@pytest.mark.parametrize("name", STARTED)
def test_what_was_exported_started_with_the_cache_that_was_foretold(name):
    load, row = LOADS[name], STARTED[name]
    assert row["exported"] == [line for line in load.exported.splitlines() if line and not line.startswith("#")]
    # what was foretold when it was exported; the model of memory has learned of 8-bit weights since
    assert row["foretold_kv_tokens"] == pytest.approx(load.foretold_kv_tokens, rel=ALLOWED)
    knobs = load.deployment
    now = advisor.estimate(
        load.model,
        f"{knobs.num_gpus}xH200",
        tp=knobs.tp,
        pp=knobs.pp,
        dp=knobs.dp,
        ep=knobs.ep,
        batch=1,
        input_len=16,
        output_len=16,
        dtype=knobs.dtype,
        kv_dtype=knobs.kv_dtype,
        max_num_seqs=knobs.max_num_seqs,
        max_num_batched_tokens=knobs.max_num_batched_tokens,
        max_model_len=knobs.max_model_len,
        gpu_memory_utilization=knobs.gpu_memory_utilization,
        engine_version=row["vllm"],
        runs=[],
    )
    assert len(cache_tokens(row)) == knobs.dp
    for tokens in cache_tokens(row):
        assert load.foretold_kv_tokens == pytest.approx(tokens, rel=ALLOWED)
        assert now.kv_capacity_tokens == pytest.approx(tokens, rel=ALLOWED)


def test_most_were_tried():
    assert len(LOADS) == 11
    assert STARTED.keys() == LOADS.keys()
