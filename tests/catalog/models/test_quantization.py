"""The formats that checkpoints state, part by part, wherever they state them."""

import json
import time

import pytest

from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.models.hf_config import model_from_config, read_config
from catalog.models.quantization import part_of
from catalog.models.sizes import counted_bytes
from tests.catalog.models.configs import CONFIGS, DEEPSEEK_V3, MIXTRAL

LLAMA = CONFIGS["meta-llama/Llama-2-13b-hf"]
PLAIN = DEEPSEEK_V3 | {"quantization_config": None}
LEFT_ALONE = (("attention", "bfloat16"), ("dense", "bfloat16"), ("shared", "bfloat16"))
GROUPS = {
    "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": True}}
}


@pytest.mark.parametrize(
    ("quantization", "weights", "parts", "scale_bits", "kv"),
    [
        ({"quant_method": "compressed-tensors", "config_groups": GROUPS, "ignore": [
            "lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"]},
         "int4", LEFT_ALONE, 0.5, None),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8",
          "exclude_modules": [f"model.layers.{n}.self_attn*" for n in range(61)]},
         "nvfp4", (("attention", "bfloat16"),), None, "fp8"),
        ({"quant_algo": "MIXED_PRECISION", "quantized_layers": {
            **{f"model.layers.{n}.self_attn.o_proj": {"quant_algo": "FP8"} for n in range(61)},
            **{f"model.layers.{n}.mlp.experts.0.up_proj": {"quant_algo": "W4A16_NVFP4"} for n in range(3, 61)}}},
         "nvfp4", (("attention", "fp8"),), None, None),
        ({"quant_method": "fp8", "weight_block_size": [128, 128], "expert_dtype": "fp4"},
         "fp8", (("experts", "mxfp4"),), None, None),
        ({"quant_method": "fp8", "modules_to_not_convert": ["lm_head", "model.embed_tokens", "gate"]}, "fp8", (), None, None),
    ],
)  # fmt: skip
def test_parts_of_a_model_with_experts(quantization, weights, parts, scale_bits, kv):
    model = model_from_config(PLAIN | {"quantization_config": quantization}, "it")
    assert (model.quantization, model.formats, model.scale_bits) == (weights, parts, scale_bits)
    assert model.kv_quantization == kv


@pytest.mark.parametrize(
    ("quantization", "weights", "scale_bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "int4", None),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}, "int4", 20 / 32),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8", 24 / 128),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "int4", 3 - 4 + 19 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", None),
        ({"bits": 4, "group_size": 128}, "int4", None),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "int4", None),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_NVFP4_FP8"}, "nvfp4", None),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}}, "fp8", None),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}}, "int4", None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", 0.5),
        ({"quant_method": "bitsandbytes"}, None, None),
        ({"quant_method": "fbgemm_fp8"}, "fp8", None),
        ({"quant_method": "nvfp4"}, "nvfp4", None),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8", None),
        ({"quant_method": "mxfp4"}, "mxfp4", None),
        ({"quant_method": "mxfp8"}, "fp8", None),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "gptq_v2"}, "int4", None),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}, "int4", 20 / 64),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "data_type": "int"}, "int4", None),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 32, "data_type": "mx_fp_rceil"}, "mxfp4", None),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 16, "data_type": "nv_fp4"}, "nvfp4", None),
        (
            {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
            "int4",
            20 / 64,
        ),
        ({"quant_method": "exl2", "bits": 4.65, "head_bits": 6}, "int4", 0.65),
        ({"quant_method": "exl3", "bits": 3.0}, "int4", -1.0),
        ({"quant_method": "exl2", "bits": 8.0}, "int8", 0.0),
        ({"quant_method": "aqlm", "in_group_size": 8, "nbits_per_codebook": 16, "num_codebooks": 1}, "int4", -2.0),
        ({"quant_method": "bitnet", "quantization_mode": "offline"}, "int4", -2.0),
        ({"quant_method": "qqq", "wbits": 4, "group_size": 128}, "int4", None),
        ({"quant_method": "fp_quant", "forward_dtype": "nvfp4"}, "nvfp4", None),
        ({"quant_method": "quanto", "weights": "int8"}, "int8", None),
        (
            {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 32}}},
            "mxfp4",
            None,
        ),
        (
            {
                "quant_method": "torchao",
                "quant_type": {"default": {"_type": "Float8DynamicActivationInt4WeightConfig"}},
            },
            "int4",
            None,
        ),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}, "int8", None),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
            "int4",
            0.126953125,
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", None),
        ({"quant_method": "eetq"}, "int8", None),
        ({"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, "fp8", None),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"}, "nvfp4", None),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_MXFP4_FP8"}, "mxfp4", None),
        ({"quant_method": "modelopt", "quant_algo": "W8A8_SQ_PER_CHANNEL"}, "int8", None),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "float-quantized",
                "config_groups": {
                    "g": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
                },
            },
            "fp8",
            None,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "nvfp4-pack-quantized",
                "config_groups": {
                    "g": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "group_size": 16}}
                },
            },
            "nvfp4",
            None,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "mxfp4-pack-quantized",
                "config_groups": {
                    "g": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "group_size": 32}}
                },
            },
            "mxfp4",
            None,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "int-quantized",
                "config_groups": {
                    "g": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}
                },
            },
            "int8",
            None,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {
                    "g": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 128, "symmetric": True}}
                },
            },
            "int4",
            16 / 128,
        ),
        ({}, None, None),
    ],
)
def test_methods(quantization, weights, scale_bits):
    model = model_from_config(LLAMA | {"quantization_config": quantization}, "it")
    assert model.quantization == weights
    assert model.scale_bits == (None if scale_bits is None else pytest.approx(scale_bits))


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"quant_method": "spqr"}, "quant_method 'spqr' is not known"),
        ({"quant_method": "exl2"}, "bits is null"),
        ({"quant_method": "exl2", "bits": 400}, "from 0 to 8"),
        ({"quant_method": "aqlm", "num_codebooks": 1}, "nbits_per_codebook is missing"),
        ({"quant_method": "torchao", "quant_type": "autoquant"}, "weights' format of torchao"),
        ({"quant_method": "modelopt", "quant_algo": "W2A2"}, "quant_algo 'W2A2' is not known"),
        ({"quant_method": "gptq", "bits": 1}, "from 2 to 8"),
        ({"quant_method": "compressed-tensors"}, "config_groups is missing"),
    ],
)
def test_what_cannot_be_weighed_is_refused(quantization, words):
    with pytest.raises(InputError, match=words):
        model_from_config(LLAMA | {"quantization_config": quantization}, "it")


def test_a_file_beside_the_configuration_counts(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    assert read_config(tmp_path).quantization is None
    beside = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    for path in (tmp_path, tmp_path / "config.json"):
        assert (read_config(path).quantization, read_config(path).kv_quantization) == ("nvfp4", "fp8")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.layers.0.self_attn.q_proj", "attention"),
        ("model.language_model.layers.0.linear_attn.out_proj", "attention"),
        ("backbone.layers.0.mixer.in_proj", "attention"),
        ("backbone.layers.1.mixer.experts.0.down_proj", "experts"),
        ("model.layers.3.mlp.shared_experts.up_proj", "shared"),
        ("language_model.model.layers.0.mlp.down_proj", "dense"),
        ("model.layers.3.mlp.gate", ""),
        ("model.visual.blocks.0.attn.qkv", ""),
        ("lm_head", "head"),
    ],
)
def test_names_of_modules(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize("pattern", ["re:(a*)*b", "re:" + "(x+x+)+y" * 9, "re:[", "re:" + ".*" * 80, "*" * 150 + "b"])
def test_hostile_patterns_end(pattern):
    begin = time.process_time()
    quantization = {"quant_method": "fp8", "modules_to_not_convert": [pattern] * 50}
    assert model_from_config(LLAMA | {"quantization_config": quantization}, "it").formats == ()
    assert time.process_time() - begin < 1.0


def test_the_catalogs_own_stay_as_they_were():
    assert find_model("gpt-oss-20b").value.part_format("attention") == "bfloat16"
    assert find_model("deepseek-v3").value.part_format("attention") == ""


@pytest.mark.parametrize(("share", "told"), [(1.0, 0), (1.004, 0), (1.3, 1), (0.5, 1)])
def test_the_size_that_files_state_is_held_against_the_count(tmp_path, share, told):
    """Llama-2-13B in float16 has 26.03 GB, as its index says."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    index = {"metadata": {"total_size": int(26_031_728_640 * share)}, "weight_map": {}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = find_model(str(tmp_path))
    assert found.value.checkpoint_bytes == index["metadata"]["total_size"]
    assert len(found.notes) == told
    assert all("than the 24.2 GiB" in note.text for note in found.notes)


def test_what_an_fp8_checkpoint_did_not_quantise_further_stays_in_fp8():
    listed = {f"layers.{n}.ffn.experts": {"quant_algo": "NVFP4"} for n in range(61)}
    ignored = ["*.attn.*", "*.ffn.shared_experts.*", "head", "mtp.*"]
    settings = {"quant_method": "fp8", "quant_algo": "MIXED_PRECISION", "quantized_layers": listed, "ignore": ignored}
    model = model_from_config(PLAIN | {"quantization_config": settings}, "it")
    assert model.quantization == "nvfp4"
    assert model.formats == (("attention", "fp8"), ("shared", "fp8"))


def test_a_quantised_head_is_held_and_read_so():
    layers = {f"model.layers.{n}.mlp.down_proj": {"quant_algo": "NVFP4"} for n in range(40)}
    attention = {f"model.layers.{n}.self_attn.o_proj": {"quant_algo": "NVFP4"} for n in range(40)}

    def read(**more):
        listed = {"quant_algo": "MIXED_PRECISION", "quantized_layers": {**layers, **attention, **more}}
        return model_from_config(LLAMA | {"quantization_config": listed}, "it")

    plain, narrow = read(), read(lm_head={"quant_algo": "NVFP4"})
    assert narrow.formats == (("head", "nvfp4"),)
    head = plain.vocab_size * plain.hidden_size
    assert counted_bytes(plain) - counted_bytes(narrow) == head * (16 - 4.5) / 8
    gptq = model_from_config(
        LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4, "lm_head": True}}, "it"
    )
    assert gptq.formats == (("head", "int4"),)
