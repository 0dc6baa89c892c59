"""Nothing is said to start that its own KV cache contradicts; commands give the cache that is stated."""

import re

import pytest
from typer.testing import CliRunner

import advisor
from advisor import InputError
from advisor.cli import app
from catalog.engines.kv_cache import CONTEXT_GIB
from catalog.schema import Workload

QUESTION = {"batch": 1, "input_len": 128, "output_len": 8}


def test_a_context_that_the_cache_cannot_hold_does_not_start():
    """vLLM 0.6.4 on an RTX 3090: 1478 blocks of 16 tokens, and a refusal of 29000 (vllm-project/vllm#10517)."""
    knobs = {"max_model_len": 29_000, "max_num_batched_tokens": 29_000, "engine_version": "0.6.4"}
    answer = advisor.estimate("llama-3.1-8b", "1xRTX3090", **QUESTION, **knobs)
    assert answer.kv_capacity_tokens == pytest.approx(23_648, rel=0.1)
    assert (answer.fits, answer.tpot_ms, answer.running) == (False, None, 0)
    said = answer.notes[-1].text
    assert "will not start: max_model_len is 29,000" in said
    assert f"holds {answer.kv_capacity_tokens:,} tokens" in said
    more = {words: int(number.replace(",", "")) for words, number in re.findall(r"with (--\S+ \S+) ([\d,]+)", said)}
    assert more
    for words, tokens in more.items():
        flag, value = words.split()
        change = {flag[2:].replace("-", "_"): float(value) if "." in value else value}
        changed = advisor.estimate("llama-3.1-8b", "1xRTX3090", **QUESTION, **knobs | change)
        assert changed.kv_capacity_tokens == pytest.approx(tokens, rel=1e-6)
        assert changed.fits == (tokens >= 29_000)
    with pytest.raises(InputError, match="will not start"):
        advisor.export(answer, "vllm")


def test_a_context_that_it_holds_starts():
    answer = advisor.estimate("llama-3.1-8b", "1xRTX3090", **QUESTION, max_model_len=20_000)
    assert answer.fits
    assert "--max-model-len 20000" in advisor.export(answer, "vllm")


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm", "lmdeploy"])
def test_estimate_says_that_no_engine_starts_and_exits_with_1(engine):
    asked = [
        "--model",
        "llama-3.1-8b",
        "--gpus",
        "RTX3090",
        "--batch",
        "1",
        "--max-model-len",
        "120000",
        "--engine",
        engine,
    ]
    answer = CliRunner().invoke(app, ["estimate", *asked])
    assert answer.exit_code == 1
    words = " ".join(answer.output.split())
    assert f"{engine} will not start: max_model_len is 120,000 and the KV cache of a replica holds" in words
    assert "with --gpu-memory-utilization 0.95" in words


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm", "lmdeploy"])
def test_no_command_is_recommended_that_its_capacity_contradicts(engine):
    question = {"workload": Workload(input_len=512, output_len=128), "engine": engine}
    refused = advisor.recommend("llama-3.1-8b", "1xRTX3090", max_model_len=120_000, **question)
    assert refused.best is None
    longest = [re.search(r"max_model_len of (\d+)", change) for change in refused.relaxations]
    number = next(int(match[1]) for match in longest if match)
    held = advisor.recommend("llama-3.1-8b", "1xRTX3090", max_model_len=number - 64, **question)
    assert held.best is not None
    assert held.best.kv_capacity_tokens >= number - 64


@pytest.mark.parametrize(
    ("model", "gpus", "tokens"), [("llama-3.1-8b", "1xRTX4090", None), ("qwen3-8b", "1xB200", 992_896)]
)
def test_sglangs_command_gives_the_cache_that_is_stated(model, gpus, tokens):
    """Weights and cache are the exported share of the device; of Qwen3-8B a public log on B200 says how many tokens."""
    answer = advisor.estimate(model, gpus, **QUESTION, engine="sglang")
    share = float(re.search(r"--mem-fraction-static (\S+)", advisor.export(answer, "sglang"))[1])
    static = answer.memory["weights"] + answer.memory["kv_cache"]
    assert share * (answer.memory["device"] - CONTEXT_GIB) == pytest.approx(static, rel=1e-3)
    if tokens:
        assert answer.kv_capacity_tokens == pytest.approx(tokens, rel=0.01)
        assert share == pytest.approx(0.854, abs=0.002)
