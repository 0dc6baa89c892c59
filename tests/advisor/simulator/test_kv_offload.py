"""``advisor.simulate`` with tiers below the GPUs' KV cache: hits by tier, what they take, and how right that is."""

import numpy as np
import pytest

from advisor.render.answers.simulation import comparison_columns, document, simulation_row
from advisor.simulator.cache_tiers import CPU_LATENCY_S, tiers_of
from advisor.simulator.simulation import simulate
from benchmarks import prefix_caches
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.schema import Cluster, Deployment, Workload


def served(kv_offload=None, **given):
    """Conversations of twice the tokens that a small share of one H200 has room for."""
    deployment = Deployment(
        max_num_seqs=64,
        max_num_batched_tokens=8192,
        max_model_len=16384,
        gpu_memory_utilization=0.17,
        kv_offload=kv_offload,
        dp=given.pop("dp", 1),
        engine=given.pop("engine", "vllm"),
    )
    wanted = {
        "workload": Workload(rate=3.0, input_len=800, output_len=64),
        "turns": 5,
        "think_time": 15.0,
        "duration_s": 120.0,
        "draws": 0,
    }
    return simulate("llama-3.1-8b", given.pop("gpus", "H200"), deployment=deployment, **wanted | given)


def test_blocks_that_were_evicted_are_found_below_and_serve_faster():
    without, cpu = served(), served("cpu=200GB")
    assert without.tier_hit_rates is None
    assert without.hit_rate < 0.5
    assert cpu.hit_rate > without.hit_rate + 0.2
    assert 0.2 < cpu.tier_hit_rates["cpu"] < cpu.hit_rate
    assert cpu.metrics["ttft_ms"]["mean"] < 0.8 * without.metrics["ttft_ms"]["mean"]


def test_more_room_below_hits_more_and_a_slow_store_makes_requests_wait():
    few, many = served("cpu=5GB"), served("cpu=50GB")
    assert few.hit_rate < many.hit_rate
    assert any("holds no more than the" in note.text for note in few.notes if note.kind == "warning")
    assert not any("holds no more than the" in note.text for note in many.notes)
    fast, slow = served("store=1TB@25GB/s"), served("store=1TB@1GB/s")
    assert slow.metrics["ttft_ms"]["p95"] > 2 * fast.metrics["ttft_ms"]["p95"]
    assert any("longer than computing" in note.text for note in slow.notes if note.kind == "warning")
    assert any("it is quicker from" in note.text for note in fast.notes)


def test_hits_by_tier_are_told_in_every_form():
    answer = served("cpu=5GB+disk=100GB")
    assert list(answer.tier_hit_rates) == ["cpu", "disk"]
    assert answer.tier_hit_rates["disk"] > 0
    assert answer.to_dict()["tier_hit_rates"] == answer.tier_hit_rates
    assert answer.to_dict()["deployment"]["kv_offload"] == "cpu=5GB+disk=100GB"
    assert simulation_row(answer)["hit_rate_disk"] == answer.tier_hit_rates["disk"]
    assert f"{answer.tier_hit_rates['disk']:.1%} loaded from disk" in str(document([answer]).sections[0].lines)
    without = served()
    assert "tier_hit_rates" not in without.to_dict()
    assert "kv_offload" not in without.to_dict()["deployment"]
    columns = {column.name: list(column.cells) for column in comparison_columns([without, answer])}
    assert columns["KV offload"] == ["none", "cpu=5GB+disk=100GB"]


def test_a_store_serves_all_replicas():
    pairs = {"dp": 2, "gpus": "2xH200"}
    own, common = (served(tier, **pairs) for tier in ("cpu=500GB@50GB/s", "store=1TB@100GB/s"))
    assert common.hit_rate > own.hit_rate + 0.1


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(InputError, match="pool of their own are not simulated with kv_offload"):
        served("cpu=5GB", gpus="2xH200", turns=1, think_time=None, shared_prefix=100, prefill=Deployment())
    with pytest.raises(InputError, match="KV blocks below the GPUs"):
        served("cpu=5GB", engine="sglang")
    alone = served("cpu=5GB", turns=1, think_time=None)
    assert any("kv_offload changes nothing" in note.text for note in alone.notes)


def test_each_gpu_loads_its_part_over_its_own_link():
    cluster = Cluster(gpu=find_gpu("H200").value, gpus_per_node=4)
    one, four = (tiers_of(Deployment(tp=tp, kv_offload="cpu=100GB"), cluster, block_bytes=2**21)[0] for tp in (1, 4))
    assert one.load_s == pytest.approx(4 * four.load_s)
    assert one.blocks == four.blocks == int(100e9 // 2**21)
    assert one.latency_s == CPU_LATENCY_S


def test_measured_conversations_load_what_is_simulated():
    runs = list(prefix_caches.measured(prefix_caches.OFFLOADED))
    assert sum(len(run.rows) for run in runs) == 377
    for run in runs:
        ours, cached = prefix_caches.served(run), run.column("cached_tokens")
        assert int(ours.cached.sum()) == pytest.approx(cached.sum(), rel=prefix_caches.MOST_OFF), run.name
        gpu = int((ours.cached - ours.loaded[:, 0]).sum())
        assert gpu == pytest.approx(run.hits, rel=prefix_caches.MOST_OFF), run.name
        assert (np.sort(ours.cached) == np.sort(cached)).mean() > 0.9, run.name
