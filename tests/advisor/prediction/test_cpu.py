"""A CPU as a device: answers, floors, what was published, and the commands that start vLLM on it."""

import pytest

import advisor
from advisor.calibration.cpu_posterior import cpu_start
from advisor.perf_model.parameters import NAMES
from advisor.prediction.evidence import Evidence
from advisor.validation.cpu import LARGE_GPUS, LARGE_MODEL, LARGE_MS, left_out_by_format
from catalog.gpus import find_gpu
from catalog.schema import Measurement

CPUS = [gpu.name for gpu in advisor.all_gpus() if gpu.vendor == "cpu"]


def test_those_of_the_papers_are_there():
    assert len(CPUS) >= 12
    assert {"Xeon-Max-9460", "Xeon-Max-9468", "Xeon-Max-9480", "Xeon-8480+", "Xeon-8592+", "Xeon-6980P"} <= set(CPUS)
    assert {"EPYC-9654", "EPYC-9755", "Grace", "M3-Ultra"} <= set(CPUS)


@pytest.mark.slow
def test_decode_is_predicted_from_other_formats():
    errors = [abs(error) for run, error in left_out_by_format() if run.tpot_ms]
    assert len(errors) == 11
    assert max(errors) < 0.15


def test_a_model_of_72b_takes_140_ms_a_token():
    estimate = advisor.estimate(LARGE_MODEL, LARGE_GPUS, tp=4, batch=1, input_len=1024, output_len=128)
    low, high = estimate.interval("tpot_ms")
    assert low <= LARGE_MS <= high
    assert estimate.provenance == "transferred"


@pytest.mark.parametrize("name", CPUS)
def test_decode_is_never_faster_than_memory(name):
    engine = "llama.cpp" if name.startswith("M") else "vllm"
    estimate = advisor.estimate(
        "llama-2-7b", f"1x{name}", batch=1, input_len=1024, output_len=128, engine=engine, dtype="bfloat16"
    )
    gpu = estimate.cluster.gpu
    floor = 2 * 6.6e9 / gpu.memory_bandwidth_gbps / 1e6
    assert floor < estimate.interval("tpot_ms")[0] < estimate.tpot_ms < 10 * floor


def test_more_sockets_and_faster_memory_are_faster():
    def tpot(gpus, **own):
        return advisor.estimate("llama-2-13b", gpus, batch=1, input_len=512, output_len=64, **own).tpot_ms

    assert tpot("2xXeon-8592+", tp=2) < tpot("1xXeon-8592+")
    assert tpot("Xeon-Max-9460") < tpot("Xeon-Max-9460-QUAD") < tpot("Xeon-Max-9460-DDR")


def test_float16_prompts_are_slow_without_tensor_units_for_it():
    first = {
        dtype: advisor.estimate(
            "llama-2-13b", "Xeon-8592+", batch=1, input_len=1024, output_len=8, dtype=dtype
        ).prefill_ms
        for dtype in ("float16", "bfloat16")
    }
    assert first["float16"] > 3 * first["bfloat16"]


def test_vllm_is_started_with_its_cpu_build():
    best = advisor.recommend("llama-3.1-8b", "2xXeon-8592+").best
    assert "VLLM_CPU_KVCACHE_SPACE=" in advisor.export(best, "vllm")
    compose = advisor.export(best, "compose")
    assert "vllm-cpu" in compose
    assert "nvidia" not in compose


def test_engines_for_gpus_alone_say_so():
    with pytest.raises(advisor.InputError, match="sglang"):
        advisor.estimate("llama-3.1-8b", "Xeon-8592+", engine="sglang", batch=1, input_len=8, output_len=8)


def test_own_runs_on_a_cpu_start_from_what_cpus_do():
    """A barrier over all cores ends every operator: its fixed time is ten times a GPU's, whatever one run says."""
    gpu = find_gpu("Xeon-8592+").value
    run = Measurement(
        run_id="own",
        role="fit",
        source="mine",
        gpu=gpu.name,
        gpus=1,
        engine="vllm",
        engine_version="0.33.0",
        model="meta-llama/Llama-2-7b-hf",
        dtype="bfloat16",
        batch=1,
        input_len=128,
        output_len=32,
        tpot_ms=50.0,
    )
    fixed = Evidence.of([run], engine="vllm", gpu=gpu).marginal("vllm", gpu).mean[NAMES.index("gemm_us")]
    assert fixed == pytest.approx(cpu_start().mean[NAMES.index("gemm_us")], abs=0.5)
    assert advisor.estimate("llama-2-7b", "Xeon-8592+", batch=1, input_len=128, output_len=32, runs=[run]).tpot_ms == (
        pytest.approx(50.0, rel=0.25)
    )


def test_plain_pytorch_runs_on_a_cpu():
    answer = advisor.estimate(
        "llama-2-7b", "Xeon-8592+", batch=1, input_len=128, output_len=32, engine="torch", compiled=False
    )
    assert answer.tpot_ms > 2 * 6.6e9 / answer.cluster.gpu.memory_bandwidth_gbps / 1e6
