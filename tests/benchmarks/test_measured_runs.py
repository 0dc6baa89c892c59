"""What lies in ``benchmarks/measured``: it reads, its requests belong to its runs, its counts agree."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks.kv_capacity import capacities
from benchmarks.shared_gpu_loads import job_of
from catalog.requests import read_requests
from catalog.runs import read_runs

MEASURED = Path(__file__).parents[2] / "benchmarks" / "measured"
RUNS = {
    "vllm_0.33_h200_more": 38,
    "vllm_0.33_h200_serving": 10,
    "vllm_0.33_h200_layouts": 13,
    "vllm_0.33_h200_long": 34,
    "vllm_0.33_h200_sizes": 87,
    "vllm_0.33_h200_replicas": 8,
    "sglang_0.5.15_h200": 27,
}
SMALL = (
    *("Llama-3.1-8B", "Qwen2.5-7B", "Qwen3-8B", "DeepSeek-V2-Lite", "gpt-oss-20b"),
    *("OLMoE-1B-7B", "Qwen1.5-MoE-A2.7B", "Nemotron-Nano-9B", "granite-4.0-h-tiny", "Ling-mini-2.0", "Qwen3.5-9B"),
    *("Llama-2-7b", "Llama-3.2-3B", "Qwen2.5-1.5B", "Qwen2.5-3B"),
)


def rows_of(name):
    with (MEASURED / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("prefix", RUNS)
def test_runs_read_and_small_models_alone_fit(prefix):
    runs = read_runs(MEASURED / f"{prefix}_runs.csv")
    assert len(runs) == len({run.run_id for run in runs}) == RUNS[prefix]
    for run in runs:
        assert (run.role == "fit") == any(name in run.model for name in SMALL), run.run_id
        assert json.loads(run.fingerprint)[run.engine] == run.engine_version


@pytest.mark.parametrize("prefix", RUNS)
def test_runs_are_those_of_the_loads(prefix):
    loads = json.loads((MEASURED / f"{prefix}_loads.json").read_text(encoding="utf-8"))
    jobs = [job_of(load, measure_s=1.0) for load in loads]
    deployments = {job.run_id(piece): job.deployment for job in jobs for piece in (*job.shapes, *job.offers)}
    for run in read_runs(MEASURED / f"{prefix}_runs.csv"):
        assert (run.max_model_len, run.gpu_memory_utilization) == (
            deployments[run.run_id].max_model_len,
            deployments[run.run_id].gpu_memory_utilization,
        )
    assert {row["load"] for row in rows_of(f"{prefix}_memory.csv")} == {job.name for job in jobs}


@pytest.mark.parametrize(
    "prefix", ["vllm_0.33_h200_serving", "vllm_0.33_h200_layouts", "vllm_0.33_h200_replicas", "sglang_0.5.15_h200"]
)
def test_a_run_is_the_mean_of_its_requests(prefix):
    by_run = defaultdict(list)
    for request in read_requests(MEASURED / f"{prefix}_requests.csv"):
        by_run[request.run_id].append(request)
    runs = [run for run in read_runs(MEASURED / f"{prefix}_runs.csv") if run.regime != "static"]
    assert set(by_run) == {run.run_id for run in runs}
    for run in runs:
        requests = by_run[run.run_id]
        assert len(requests) == json.loads(run.fingerprint)["requests"]
        for name in ("ttft_ms", "e2e_ms"):
            assert np.mean([getattr(each, name) for each in requests]) == pytest.approx(getattr(run, name), abs=0.01)


def test_cached_tokens_are_those_that_the_engine_counted():
    prompts, cached = defaultdict(int), defaultdict(int)
    for row in rows_of("vllm_0.33_h200_serving_sessions.csv"):
        prompts[row["run_id"]] += int(row["input_len"])
        cached[row["run_id"]] += int(row["cached_tokens"])
        assert int(row["cached_tokens"]) % 16 == 0
        assert int(row["cached_tokens"]) < int(row["input_len"])
    counters = {row["run_id"]: row for row in rows_of("vllm_0.33_h200_serving_counters.csv")}
    assert len(prompts) == 6
    for run_id, tokens in prompts.items():
        assert int(counters[run_id]["prefix_cache_queries"]) == tokens
        assert int(counters[run_id]["prefix_cache_hits"]) == cached[run_id]


def test_kv_capacity_is_that_of_the_logs():
    """Groups and pages alone give every load's tokens; with weights, activations and graphs they are as near as the GiB that is said to be
    unsure (``spread_gib``), which is much of the small caches of engines that share a GPU.
    """
    loads = capacities()
    of_vllm = [(paged / logged - 1.0, said / logged - 1.0) for _, logged, paged, said, _, _ in loads if paged > 0]
    assert len(of_vllm) == 54
    assert max(abs(pages) for pages, _ in of_vllm) < 1e-4
    assert sum(abs(said) <= 0.01 for _, said in of_vllm) >= 34
    off = np.array([said_gib - logged_gib for _, _, paged, _, logged_gib, said_gib in loads if paged > 0])
    assert np.sqrt(np.mean(off**2)) < 0.3
    assert np.abs(off).max() < 0.8
    of_sglang = [said / logged - 1.0 for _, logged, paged, said, _, _ in loads if not paged > 0]
    assert len(of_sglang) == 3
    assert max(map(abs, of_sglang)) < 0.01
