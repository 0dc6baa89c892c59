"""Kernels timed alone by others are predicted by the operators of whole runs: windows, latent attention, formats, routing."""

import numpy as np
import pytest

from advisor.calibration.kernel_observations import OTHERS_NOISE, evidence_of, own_evidence
from advisor.calibration.kernel_predictions import predictions
from advisor.calibration.shared_offsets import SERVER_SIGMA
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.forward_pass import decode_pass
from advisor.perf_model.operators import attention_work, expert_products
from advisor.perf_model.parameters import Parameters
from advisor.perf_model.roofline import attention_cost, product_cost
from advisor.perf_model.routing import balanced_routing, expert_imbalance, power_law_routing, uniform_routing
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.kernels import (
    AttentionModuleTime,
    AttentionTime,
    Collective,
    ExpertsTime,
    Kernel,
    LatentAttentionTime,
    PartTime,
)
from catalog.models.find import find_model
from catalog.parts import Experts

TYPICAL = Parameters.typical()
H200, B200 = (find_gpu(name).value for name in ("H200", "B200"))


def ms(time, engine="vllm"):
    (predicted,) = predictions([time], engine)
    return float(predicted.run(TYPICAL)[0])


def time_of(kind, gpu="H200-SXM", **fields):
    return kind(gpu=gpu, us=1.0, **fields)


def decode(**fields):
    sizes = {"batch": 16, "query": 1, "context": 8192, "heads": 32, "kv_heads": 8, "dtype": "bfloat16"}
    return time_of(AttentionTime, op="attention", **sizes | fields)


def prefill(**fields):
    return decode(**{"batch": 1, "query": 8192, "context": 8192} | fields)


def experts(**fields):
    sizes = {"m": 64, "n": 768, "k": 2048, "experts": 128, "top": 8, "dtype": "bfloat16"}
    return time_of(ExpertsTime, op="experts", **sizes | fields)


@pytest.mark.parametrize("kernel", [decode, prefill])
def test_a_window_is_all_that_is_read_and_computed(kernel):
    assert ms(kernel(window=512)) < 0.3 * ms(kernel())
    assert ms(kernel(window=8192)) == pytest.approx(ms(kernel()))
    assert ms(decode(window=512)) == pytest.approx(ms(decode(context=512)))


def test_a_narrow_cache_is_half_as_many_bytes_read_less_well():
    wide, narrow = (ms(decode(batch=256, kv_dtype=kind)) for kind in ("bfloat16", "fp8"))
    assert 0.5 * wide < narrow < wide


def test_writing_the_cache_is_a_kernel_more():
    assert ms(decode(caches=True)) - ms(decode()) == pytest.approx(TYPICAL.kernel_us * 1e-3, rel=0.1)


def test_attention_and_latent_attention_are_those_of_whole_runs():
    """One layer of 32 of Llama, and one of 61 of DeepSeek-V3 with TP 8, by the counts that whole runs have."""
    for name, tp, time in (
        ("llama-3.1-8b", 1, decode()),
        (
            "deepseek-ai/DeepSeek-V3",
            8,
            time_of(LatentAttentionTime, op="mla", batch=16, query=1, context=8192, heads=16, dtype="bfloat16"),
        ),
    ):
        model = find_model(name).value
        layout = DeploymentArrays.from_columns({"tp": tp, "dtype": "bfloat16"}, model, H200)
        work = attention_work(model, layout, decode_pass(model, np.array([16.0]), np.array([8192.0])))
        whole = attention_cost(work, layout, H200, TYPICAL).total_ms[0]
        assert ms(time) == pytest.approx(whole / model.num_hidden_layers, rel=1e-9)


def test_a_module_has_projections_around_its_attention():
    sizes = {"batch": 1, "query": 1, "context": 1025, "heads": 16, "dtype": "bfloat16"}
    module = time_of(AttentionModuleTime, op="mla_module", model="deepseek-ai/DeepSeek-V3", **sizes)
    alone = time_of(LatentAttentionTime, op="mla", **sizes)
    assert ms(module) > 2 * ms(alone)
    sparse = time_of(AttentionModuleTime, op="dsa_module", model="deepseek-ai/DeepSeek-V3.2", **sizes)
    assert ms(sparse) > ms(module)  # the indexer
    for wrong, words in (
        ({"op": "msa_module"}, "DeepSeek-V3 has no layer that msa_module could be of"),
        ({"model": "llama-3.1-8b"}, "has no layer that mla_module could be of"),
    ):
        with pytest.raises(InputError, match=words):
            ms(time_of(AttentionModuleTime, **{"op": "mla_module", "model": "deepseek-ai/DeepSeek-V3"} | sizes | wrong))


def test_experts_are_those_of_whole_runs():
    model = find_model("Qwen/Qwen3-30B-A3B").value
    layout = DeploymentArrays.from_columns({"engine": "vllm"}, model, H200)
    held = Experts(num_experts=128, num_experts_per_tok=8, width=768)
    whole = sum(
        product_cost(product, layout, H200, TYPICAL).total_ms[0]
        for product in expert_products(model, held, layout, np.array([64.0]))
        if product.kind == "expert"
    )
    assert ms(experts(), "vllm") == pytest.approx(whole, rel=0.02)  # and what is moved between them


def test_routing_says_which_experts_are_read():
    held = Experts(num_experts=128, num_experts_per_tok=8, width=768)
    few, ones = np.array([8.0]), np.ones(1)
    evenly, dealt = uniform_routing(held, few, ones), balanced_routing(held, few)
    skewed = power_law_routing(held, few, ones, np.array([1.2]))
    assert skewed.touched[0] < evenly.touched[0] < dealt.touched[0] == 64
    assert ms(experts(m=8, routing="power_law", exponent=1.2)) < ms(experts(m=8)) < ms(experts(m=8, routing="balanced"))
    assert ms(experts(m=8, routing="given", touched=float(evenly.touched[0]))) == pytest.approx(ms(experts(m=8)))


def test_one_token_touches_as_many_experts_as_it_chooses():
    held = Experts(num_experts=64, num_experts_per_tok=6, width=768)
    for exponent in (0.0, 1.0, 1.01):
        found = power_law_routing(held, np.ones(1), np.ones(1), np.array([exponent]))
        assert found.touched[0] == pytest.approx(6.0, rel=0.05)
        assert found.busiest.tolist() == [1.0]
    flat = power_law_routing(
        held, np.array([4096.0]), np.array([8.0]), np.array([-60.0])
    )  # loads that are nearly alike
    assert flat.busiest[0] == pytest.approx(expert_imbalance(held, np.array([4096.0]), np.array([8.0]))[0], rel=0.05)


def test_spread_experts_hold_and_do_a_part():
    """Of all tokens' choices a GPU of eight has one in eight, and the busiest more."""
    whole, part = ms(experts(m=8192)), ms(experts(m=8192, ep=8))
    assert whole / 8 < part < whole / 3
    assert ms(experts(m=8192, ep=8, routing="power_law", exponent=1.01)) > part
    assert ms(experts(m=8192, ep=8, routing="balanced")) < part


def test_sorting_tokens_is_six_kernels_more():
    assert ms(experts(sorts=True)) - ms(experts()) == pytest.approx(6 * TYPICAL.kernel_us * 1e-3)


def test_formats_have_their_own_efficiencies_and_conversions():
    sizes = {"op": "gemm", "m": 16, "k": 8192, "n": 8192}
    kinds = {
        "bf16": time_of(Kernel, gpu="B200", dtype="bfloat16", **sizes),
        "fp8": time_of(Kernel, gpu="B200", dtype="fp8", **sizes),
        "blocks": time_of(Kernel, gpu="B200", dtype="fp8", block_scales=True, **sizes),
        "nvfp4": time_of(Kernel, gpu="B200", dtype="nvfp4", **sizes),
        "converted": time_of(Kernel, gpu="B200", dtype="fp8", converts=True, **sizes),
    }
    found = {name: ms(time) for name, time in kinds.items()}
    assert found["nvfp4"] < found["fp8"] < found["blocks"] < found["bf16"]
    assert found["converted"] - found["fp8"] == pytest.approx(TYPICAL.kernel_us * 1e-3, rel=0.2)
    (nvfp4,) = predictions([kinds["nvfp4"]], "vllm")
    assert {"native4_memory", "gemm_memory"} <= set(nvfp4.names)
    assert "narrow8_memory" not in nvfp4.names


def test_collectives_of_all_kinds_are_predicted_and_parts_are_not():
    for op in ("allreduce", "allgather", "reducescatter", "alltoall"):
        assert ms(time_of(Collective, op=op, group=8, bytes=2**26, impl="nccl")) > 0
    assert not list(predictions([time_of(PartTime, op="gdn", batch=1, query=1, heads=8)], "vllm"))


def others(kind, **fields):
    return time_of(kind, source="someone", licence="Apache-2.0", **fields)


def test_kernels_of_others_are_evidence_of_their_engine_where_they_were_timed_as_they_run():
    product = {"op": "gemm", "m": 1, "k": 4096, "n": 4096, "dtype": "bfloat16"}
    times = [
        others(Kernel, engine="sglang", cache="cold", **product),
        others(Kernel, engine="sglang", cache="warm", **product),
        others(Kernel, engine="sglang", graph="eager", **product),
        others(Collective, gpu="L40S", engine="vllm", op="allreduce", group=4, bytes=1024, impl="vllm-custom"),
        others(Collective, engine="vllm", op="allreduce", group=4, bytes=1024, impl="vllm-custom"),
    ]
    found = own_evidence(times)
    assert [(group.engine, group.cluster.gpu.name, group.measured.size) for group in found] == [
        ("sglang", "H200-SXM", 1),
        ("vllm", "H200-SXM", 1),
    ]
    assert evidence_of(times[:1], "vllm") == ()


@pytest.mark.parametrize("count", [1, 16, 1024])
def test_many_kernels_of_one_table_inform_and_do_not_overrule(count):
    """Their mean is never better known than what all of a session have in common."""
    sizes = {"op": "gemm", "m": 1, "k": 8192, "n": 4096, "dtype": "bfloat16"}
    (group,) = own_evidence([others(Kernel, engine="vllm", cache="cold", **sizes)] * count)
    of_mean = group.spread / np.sqrt(count)
    assert of_mean == pytest.approx(np.hypot(OTHERS_NOISE / np.sqrt(count), SERVER_SIGMA))
    (own,) = own_evidence([time_of(Kernel, **sizes)] * count)[:1]
    assert own.spread < OTHERS_NOISE
