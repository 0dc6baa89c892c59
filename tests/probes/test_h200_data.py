"""The shipped H200 measurements hold together: physics allows them and their parts add up."""

import csv
from pathlib import Path

import pytest

import catalog
from catalog.models.find import find_model
from catalog.models.sizes import active_parameters
from catalog.runs import read_runs
from probes.benchmark_plan import read_plan
from probes.vllm_engine.static import MEMORY_COLUMNS

DATA = Path(catalog.__file__).parent / "data"
RUNS = DATA / "runs"
STATIC = read_runs(RUNS / "vllm-0.24.0_h200_static.csv")
PEAK_TFLOPS = {"bfloat16": 989.0, "fp8": 1979.0}
PEAK_TB_S = 4.8


def rows(path):
    with (DATA / path).open(newline="") as file:
        return list(csv.DictReader(file))


def gpus_share(run):
    """The batch's floating-point operations on one GPU, prompts only, without attention."""
    return 2 * active_parameters(find_model(run.model).value) * run.batch * run.input_len / run.gpus


def test_every_run_is_of_a_load_in_the_plan_and_has_its_role():
    loads = {load.name: load for load in read_plan(RUNS / "vllm-0.24.0_h200_plan.json")}
    for run in STATIC:
        load = loads[run.run_id.rsplit("-b", 1)[0]]
        assert run.run_id == load.run_id((run.batch, run.input_len, run.output_len))
        assert (run.model, run.role, run.tp, run.pp) == (
            load.model.name,
            load.role,
            load.deployment.tp,
            load.deployment.pp,
        )
    assert {run.run_id.rsplit("-b", 1)[0] for run in STATIC} == set(loads)


def test_run_ids_are_unique():
    assert len({run.run_id for run in STATIC}) == len(STATIC)


def test_no_prefill_is_faster_than_the_tensor_cores():
    for run in STATIC:
        head = 2 * find_model(run.model).value.vocab_size * find_model(run.model).value.hidden_size
        work = gpus_share(run) - head * run.batch * run.input_len / run.gpus  # the head sees one token a sequence
        assert run.prefill_ms > work / PEAK_TFLOPS[run.dtype] / 1e9, run.run_id


def test_times_and_capacity_agree():
    for run in STATIC:
        decode = run.tpot_ms * (run.output_len - 1)
        assert run.prefill_ms + decode == pytest.approx(run.e2e_ms, rel=2e-3), run.run_id
        assert run.output_tok_s == pytest.approx(run.batch * run.output_len / run.e2e_ms * 1e3, rel=1e-3)
        assert run.batch * (run.input_len + run.output_len) <= run.kv_capacity_tokens
        assert run.spread is None or run.spread < 0.11
        assert run.repeats == 1 or run.spread is not None


def test_decode_gets_faster_with_tensor_parallelism():
    knobs = ("model", "pp", "ep", "batch", "input_len", "output_len", "max_num_batched_tokens", "dtype", "kv_dtype")
    found = {(*(getattr(run, name) for name in knobs), run.compiled, run.tp): run for run in STATIC}
    pairs = [(run, found[(*key[:-1], 2 * key[-1])]) for key, run in found.items() if (*key[:-1], 2 * key[-1]) in found]
    assert len(pairs) > 50
    assert all(wider.tpot_ms < run.tpot_ms for run, wider in pairs)


def test_the_memory_of_a_gpu_adds_up():
    memory = rows("memory/vllm-0.24.0_h200.csv")
    assert tuple(memory[0]) == MEMORY_COLUMNS
    for row in memory:
        size = {name: float(value) for name, value in row.items() if name.endswith("_gib") and value}
        parts = ("weights_gib", "peak_activation_gib", "non_torch_gib", "graph_estimate_gib", "kv_gib")
        assert sum(size[name] for name in parts) == pytest.approx(size["requested_gib"], abs=1e-3), row["load"]
        assert size["requested_gib"] == pytest.approx(
            size["total_gib"] * float(row["gpu_memory_utilization"]), abs=1e-3
        )


def test_memory_and_runs_tell_the_same_capacity():
    blocks = {
        row["load"]: int(row["num_blocks"]) * int(row["block_size"]) for row in rows("memory/vllm-0.24.0_h200.csv")
    }
    for run in STATIC:
        assert run.kv_capacity_tokens == blocks[run.run_id.rsplit("-b", 1)[0]]


def test_no_matrix_product_is_below_the_floor():
    products = rows("kernels/h200_gemm.csv")
    assert len(products) > 500
    for row in products:
        m, k, n, us = (float(row[name]) for name in ("m", "k", "n", "us"))
        assert 2 * m * k * n / us / 1e6 < PEAK_TFLOPS["bfloat16"]
        assert 2 * (m * k + k * n + m * n) / us / 1e6 < PEAK_TB_S


def test_no_attention_is_below_the_floor():
    for row in rows("kernels/h200_attention.csv"):
        batch, query, context, heads, kv_heads, us = (
            float(row[name]) for name in ("batch", "query", "context", "heads", "kv_heads", "us")
        )
        pairs = query * context - query * (query - 1) / 2
        assert 4 * batch * heads * 128 * pairs / us / 1e6 < PEAK_TFLOPS["bfloat16"]
        kept = batch * context * kv_heads * 128 * 4
        if kept > 200e6:  # less than that can come from the L2 cache, over the rotating tables
            assert kept / us / 1e6 < PEAK_TB_S, row
