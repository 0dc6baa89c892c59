"""What the plain transformer reads from a ``config.json``, and what it refuses to run."""

import json
from dataclasses import replace

import pytest

from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.models.hf_config import read_config
from catalog.schema import Deployment
from probes.torch_engine.model_settings import Rotary, Settings, check_runs, read_settings

LLAMA = find_model("meta-llama/Llama-3.1-8B").value
CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 101,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def settings(tmp_path, **changes):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CONFIG, **changes}))
    return read_settings(read_config(path))


def test_a_model_of_the_catalog_has_typical_settings():
    assert read_settings(LLAMA) == Settings()


@pytest.mark.parametrize(
    ("changes", "rotary"),
    [
        ({}, Rotary(theta=1e4)),
        ({"rope_theta": 5e5, "rope_scaling": None}, Rotary(theta=5e5)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, Rotary(theta=7.0)),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, Rotary(kind="linear", factor=4.0)),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, Rotary(theta=5e5, kind="llama3", factor=8.0)),
    ],
)
def test_rotary_embeddings_are_read_as_older_and_newer_files_write_them(tmp_path, changes, rotary):
    assert settings(tmp_path, **changes).rotary == rotary


def test_defaults_are_those_of_the_model_type(tmp_path):
    assert settings(tmp_path) == Settings(norm_eps=1e-6, norm_topk=False)
    assert settings(tmp_path, rms_norm_eps=1e-5).norm_eps == 1e-5
    experts = {"model_type": "mixtral", "num_local_experts": 4, "num_key_value_heads": 2}
    assert settings(tmp_path, **experts) == Settings(norm_eps=1e-5, norm_topk=True, rotary=Rotary(theta=1e6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_scaling": {"type": "yarn", "factor": 4}},
            "rope type 'yarn' is not run; default, linear and llama3 are",
        ),
        ({"rope_scaling": {"type": "linear"}}, "factor is None; it must be a number above 0"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; it must be an object"),
        ({"rope_theta": "big"}, "rope_theta is 'big'; it must be a number"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1; it must be a number above 0"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu' is run"),
    ],
)
def test_what_is_not_run_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        settings(tmp_path, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "deployment"),
    [
        ("meta-llama/Llama-2-13b-hf", Deployment(tp=4, dtype="float16")),
        ("meta-llama/Llama-3.1-8B", Deployment(tp=16, pp=2, kv_dtype="bfloat16")),
        ("mistralai/Mixtral-8x7B-v0.1", Deployment(tp=2, pp=2)),
        ("Qwen/Qwen3-30B-A3B", Deployment(tp=4)),
        ("Qwen/Qwen2.5-32B", Deployment(pp=4, compiled=False)),
        ("Qwen/Qwen2.5-32B", Deployment(tp=2, pp=2, offload=0.3)),
        ("meta-llama/Llama-2-13b-hf", Deployment(offload=1.0, graphs=False)),
        ("meta-llama/Llama-2-13b-hf", Deployment(compiled=False, graphs=True)),
        ("meta-llama/Llama-2-13b-hf", Deployment(dtype="float32", graphs=False)),
    ],
)
def test_published_models_are_run(name, deployment):
    check_runs(find_model(name).value, deployment, device="cuda")


@pytest.mark.parametrize(
    ("model", "deployment", "message"),
    [
        (find_model("deepseek-ai/DeepSeek-V3").value, Deployment(), "'deepseek_v3' is not run; llama, mistral"),
        (replace(LLAMA, quantization="int4"), Deployment(), "int4 weights are not run"),
        (LLAMA, Deployment(kv_dtype="fp8"), "kv_dtype is 'fp8'; it must be 'auto' or the weights' 'bfloat16'"),
        (replace(LLAMA, sliding_window=9, num_windowed_layers=1), Deployment(), "windows in some layers only"),
        (LLAMA, Deployment(ep=2), "ep is 2; this engine runs 1 only"),
        (LLAMA, Deployment(dp=2), "dp is 2; this engine runs 1 only"),
        (LLAMA, Deployment(offload=1.5), "offload is 1.5; it must be a share of the layers' weights, from 0 to 1"),
        (LLAMA, Deployment(offload=float("nan")), "offload is nan; it must be a share"),
        (LLAMA, Deployment(sequence_parallel=True), "sequence_parallel is True"),
        (LLAMA, Deployment(tp=3), "tp is 3; it must divide, or be a multiple of, the 8 KV heads"),
        (LLAMA, Deployment(tp=64), "tp is 64; it must divide the 32 attention heads"),
        (LLAMA, Deployment(tp=0), "tp is 0; it must be a whole number above 0"),
        (LLAMA, Deployment(pp=33), "pp is 33; .* has only 32 layers"),
        (LLAMA, Deployment(max_model_len=0), "max_model_len is 0"),
        (
            LLAMA,
            Deployment(dtype="float32"),
            "^compiled is true, but attention in CUDA graphs needs .* float16; set it, or graphs alone, to false",
        ),
        (LLAMA, Deployment(dtype="float32", compiled=False, graphs=True), "^graphs is true, .*; set it to false"),
        (find_model("Qwen/Qwen3-30B-A3B").value, Deployment(tp=4), None),
    ],
)
def test_impossible_deployments_are_refused(model, deployment, message):
    if message is None:
        model = replace(model, moe_intermediate_size=48)
        message = "whose width is a multiple of 8 on each GPU; it is 48 over tp 4"
    with pytest.raises(InputError, match=message):
        check_runs(model, deployment, device="cuda")


def test_on_a_cpu_kernels_can_be_fused_but_not_recorded():
    check_runs(LLAMA, Deployment(graphs=False), device="cpu")
    with pytest.raises(
        InputError, match=r"^compiled is true, but there are no CUDA graphs on a CPU; set it, or graphs"
    ):
        check_runs(LLAMA, Deployment(), device="cpu")
    with pytest.raises(InputError, match=r"^graphs is true, but there are no CUDA graphs on a CPU; set it to false"):
        check_runs(LLAMA, Deployment(compiled=False, graphs=True), device="cpu")
