"""Questions that people asked in public, with the right answers their logs give."""

from pathlib import Path

import pytest

import advisor

CASES = Path(__file__).parents[2] / "catalog" / "models" / "cases"


@pytest.mark.parametrize(
    ("case", "gpus", "knobs", "weights_gib", "tokens", "kv_bytes"),
    [
        ("qwen3-235b-a22b-nvfp4", "4xB200", {"tp": 4}, 31.3, 5.59e6, 24064),
        ("qwen3-32b-fp8-static", "1xH100", {}, 32.0, None, 131072),
        ("glm-4.7-nvfp4", "4xRTXPRO6000", {"tp": 4, "gpu_memory_utilization": 0.8}, None, None, 47104),
        ("qwen3.5-27b", "2xH100", {"tp": 2}, None, None, 32768),
        ("qwen3-vl-30b-a3b", "1xH100", {}, 2 * 31.1e9 / 2**30, None, 98304),
        ("nemotron-3-nano-30b-a3b", "1xH100", {}, None, None, 6144),
    ],
)
def test_memory_of_one_gpu(case, gpus, knobs, weights_gib, tokens, kv_bytes):
    """Weights and cache from public logs or by hand; states and blocks that are not full are within 5%."""
    answer = advisor.estimate(str(CASES / case), gpus, batch=1, input_len=128, output_len=8, **knobs)
    if weights_gib:
        assert answer.memory["weights"] == pytest.approx(weights_gib, rel=0.03)
    if tokens:
        assert answer.kv_capacity_tokens == pytest.approx(tokens, rel=0.03)
    assert answer.memory["kv_cache"] * 2**30 / answer.kv_capacity_tokens == pytest.approx(kv_bytes, rel=0.05)


def test_a_hybrid_takes_longer_for_more_context_but_less_than_a_model_that_caches_everything():
    """Of Qwen3.5's layers one in four reads the context; 64 layers of as wide attention read four times as much."""

    def tpot(length):
        knobs = {"tp": 2, "batch": 64, "output_len": 64, "max_model_len": 40_000}
        return advisor.estimate(str(CASES / "qwen3.5-27b"), "2xH200", input_len=length, **knobs).tpot_ms

    short, long = tpot(1000), tpot(16000)
    read_ms = 64 * 15_000 * 32768 / 4.8e9
    assert short < long < short + 2.0 * read_ms
