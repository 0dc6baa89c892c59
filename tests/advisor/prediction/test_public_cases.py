"""Questions that people asked in public, with the right answers their logs give."""

import re
from pathlib import Path

import pytest

import advisor
from catalog.engines import find_engine, resolve, static_fraction
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.schema import Deployment

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


ONE = {"batch": 1, "input_len": 128, "output_len": 8}


def test_a_context_that_the_cache_cannot_hold_is_said_not_to_start():
    """vLLM 0.6.4 on one RTX 3090 had 1,478 blocks of 16 tokens and stopped, because 29,000 is more (vllm-project/vllm#10517)."""
    knobs = {"max_model_len": 29000, "max_num_batched_tokens": 29000, "engine_version": "0.6.4"}
    answer = advisor.estimate("llama-3.1-8b", "1xRTX3090", **knobs, **ONE)
    assert not answer.fits
    assert answer.kv_capacity_tokens == pytest.approx(23648, rel=0.1)
    assert any("will not start" in note.text for note in answer.notes)


def test_no_recommended_command_asks_for_more_than_its_cache_holds():
    workload = advisor.Workload(input_len=512, output_len=128)
    answer = advisor.recommend("llama-3.1-8b", "1xRTX3090", workload=workload, max_model_len=60_000)
    assert (answer.best, answer.candidates, answer.command) == (None, (), ())


def test_experts_in_mxfp4_weigh_what_a_log_says():
    """vLLM 0.10.1 loaded gpt-oss-120b on four A100s in 17.2217 GiB a GPU: 768 x 3072 numbers where 720 x 2880 are stored."""
    knobs = {"tp": 4, "gpu_memory_utilization": 0.8, "max_model_len": 16384}
    answer = advisor.estimate("gpt-oss-120b", "4xA100-80GB", **knobs, **ONE)
    assert answer.memory["weights"] == pytest.approx(17.22, rel=0.03)


def test_a_cache_where_no_load_was_measured_is_as_uncertain_as_it_is():
    """A pull request says about 3.53 M tokens of vLLM 0.23 on one B200 (vllm-project/perf-eval#44)."""
    knobs = {"kv_dtype": "fp8", "max_model_len": 32768, "max_num_batched_tokens": 8192, "max_num_seqs": 512}
    answer = advisor.estimate("gpt-oss-120b", "1xB200", batch=128, input_len=8192, output_len=1024, **knobs)
    low, high = answer.kv_capacity_ends
    assert low <= 3_530_000 <= high


@pytest.mark.parametrize(
    ("model", "gpu", "tokens"), [("llama-3.1-8b", "1xRTX4090", None), ("qwen3-8b", "1xB200", 992_896)]
)
def test_the_exported_share_of_sglang_is_the_stated_cache(model, gpu, tokens):
    """Weights and cache are ``mem_fraction_static`` of the device; a start-up log of SGLang 0.5 on B200 has 992,896 tokens."""
    answer = advisor.estimate(model, gpu, engine="sglang", **ONE)
    cluster = parse_cluster(gpu).value
    resolved = resolve(Deployment(engine="sglang"), find_model(model).value, cluster).value
    share = static_fraction(resolved, find_engine("sglang"), find_model(model).value, cluster.gpu)
    memory = answer.memory
    assert share * memory["device"] > memory["weights"], "it starts"
    assert memory["weights"] + memory["kv_cache"] == pytest.approx(share * memory["device"], rel=0.05)
    if tokens:
        assert answer.kv_capacity_tokens == pytest.approx(tokens, rel=0.05)


@pytest.mark.parametrize(("batch", "measured"), [(1, 38.8), (8, 184.0), (32, 387.0)])
def test_eight_bit_experts_over_pcie_are_within_what_is_said(batch, measured):
    """vLLM 0.10.2 served Qwen3-235B-A22B in fp8 on eight L40S with TP8 and EP8 at these output tokens a second."""
    knobs = {"tp": 8, "ep": 8, "max_model_len": 32768}
    case = str(CASES / "qwen3-235b-a22b-fp8")
    answer = advisor.estimate(case, "8xL40S", batch=batch, input_len=64, output_len=2000, **knobs)
    low, high = answer.interval("output_tok_s")
    assert low <= measured <= high


def test_infinity_in_a_configuration_is_a_number():
    """Python writes it so (``time_step_limit`` of Nemotron-H)."""
    answer = advisor.estimate(str(CASES / "nemotron-h-56b"), "2xH100", tp=2, **ONE)
    assert answer.memory["weights"] == pytest.approx(56.3e9 * 2 / 2 / 2**30, rel=0.03)


def test_the_share_of_sglang_is_of_what_is_free_before_loading():
    """SGLang 0.4.9 had 367,404 tokens for Qwen3-235B-A22B-FP8 on four H100s at 0.93 (vllm-project/vllm#21348)."""
    case = str(CASES / "qwen3-235b-a22b-fp8")
    answer = advisor.estimate(case, "4xH100", engine="sglang", tp=4, gpu_memory_utilization=0.93, **ONE)
    assert answer.kv_capacity_tokens == pytest.approx(367_404, rel=0.03)


def test_a_hybrid_on_a_gpu_of_141_gb_holds_what_a_log_says():
    """vLLM 0.19 held 33.04 requests of 32,768 tokens of Qwen3.5-27B on an H20 of 141 GB (vllm-project/vllm#40691)."""
    knobs = {"max_model_len": 32768, "max_num_seqs": 16, "max_num_batched_tokens": 16384, "engine_version": "0.19"}
    answer = advisor.estimate(str(CASES / "qwen3.5-27b"), "1xH200", **knobs, **ONE)
    assert answer.kv_capacity_tokens == pytest.approx(33.04 * 32768, rel=0.02)


@pytest.mark.parametrize(("share", "gpu"), [(0.9, "1xH100"), (0.5, "1xH100"), (0.9, "1xB200"), (0.95, "1xRTX4090")])
def test_tensorrt_llm_caches_in_a_share_of_what_weights_and_activations_leave(share, gpu):
    """``free_gpu_memory_fraction`` (commands/serve.py): the command passes the share itself."""
    answer = advisor.estimate("llama-3.1-8b", gpu, engine="tensorrt-llm", gpu_memory_utilization=share, **ONE)
    memory = answer.memory
    left = memory["device"] - memory["weights"] - memory["activations"] - memory["engine"]
    assert memory["kv_cache"] == pytest.approx(share * left, rel=1e-6)
    assert memory["reserved"] == pytest.approx((1.0 - share) * left, rel=1e-6)
    assert re.search(rf"--kv_cache_free_gpu_memory_fraction {share:g}\b", advisor.export(answer, "tensorrt-llm"))
