"""A config.json, whatever is in it, becomes a Model or one clear line."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import InputError
from catalog.models.architectures import READERS
from catalog.models.families import ALIASES, FAMILIES
from catalog.models.find import find_model, parameters
from catalog.models.hf_config import model_from_config, read_config
from catalog.models.image_encoders import encoder_of
from catalog.schema import Model
from tests.catalog.models.configs import CONFIGS, DEEPSEEK_V3, MIXTRAL

LLAMA = CONFIGS["meta-llama/Llama-2-13b-hf"]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_config_gives_the_catalog_entry(name):
    read = model_from_config(CONFIGS[name], name)
    known = find_model(name).value
    facts = {"source", "published_parameters", "published_source", "gated"}
    same = replace(
        known,
        **{fact: getattr(read, fact) for fact in facts},
        model_type=read.model_type,
        image_encoder=read.image_encoder and encoder_of(known),  # configurations of the language model alone have none
    )
    assert read == same


def test_readers_without_a_catalog_model():
    """Model types the catalog has no entry for, against counts their publishers state."""
    internlm2 = {
        "model_type": "internlm2", "bias": False, "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "torch_dtype": "bfloat16", "vocab_size": 92544,
    }  # fmt: skip
    glm4_9b = {
        "model_type": "glm", "attention_bias": True, "head_dim": 128, "hidden_size": 4096,
        "intermediate_size": 13696, "max_position_embeddings": 131072, "num_attention_heads": 32,
        "num_hidden_layers": 40, "num_key_value_heads": 2, "torch_dtype": "bfloat16", "vocab_size": 151552,
    }  # fmt: skip
    qwen15_moe = {
        "model_type": "qwen2_moe", "decoder_sparse_step": 1, "hidden_size": 2048, "intermediate_size": 5632,
        "max_position_embeddings": 8192, "moe_intermediate_size": 1408, "num_attention_heads": 16,
        "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16,
        "shared_expert_intermediate_size": 5632, "torch_dtype": "bfloat16", "vocab_size": 151936,
    }  # fmt: skip
    gpt2 = {
        "model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
    }  # fmt: skip
    glm45_air = {
        "model_type": "glm4_moe", "attention_bias": True, "first_k_dense_replace": 1, "head_dim": 128,
        "hidden_size": 4096, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 128,
        "n_shared_experts": 1, "num_attention_heads": 96, "num_experts_per_tok": 8, "num_hidden_layers": 46,
        "num_key_value_heads": 8, "use_qk_norm": False, "vocab_size": 151552,
    }  # fmt: skip
    counts = [(internlm2, 7.74e9), (glm4_9b, 9.40e9), (qwen15_moe, 14.3e9), (gpt2, 124_439_808), (glm45_air, 107e9)]
    for config, published in counts:
        assert parameters(model_from_config(config, "it")) == pytest.approx(published, rel=5e-3), config["model_type"]


@pytest.mark.parametrize("name", READERS)
def test_core_sizes_are_never_guessed(name):
    with pytest.raises(InputError, match="missing") as caught:
        model_from_config({"model_type": name}, "it")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "4096", [], {}, 10**30, float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_impossible_sizes_are_named(field, value):
    with pytest.raises(InputError, match=field) as caught:
        model_from_config(LLAMA | {field: value}, "it")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_key_value_heads": 7}, "no multiple"),
        ({"num_hidden_layers": 5000}, "from 1 to 1000"),
        ({"hidden_size": 10**7}, "hidden_size"),
        ({"torch_dtype": "int8"}, "dtype"),
        ({"torch_dtype": 16}, "torch_dtype"),
        ({"tie_word_embeddings": "yes"}, "true or false"),
        ({"quantization_config": {"quant_method": "hqx"}}, "hqx"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 1}}, "from 2 to 8"),
        ({"quantization_config": {"quant_method": "gptq"}}, "bits is missing"),
        ({"quantization_config": "fp8"}, "must be an object"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "W5A8"}}, "W5A8"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "config_groups"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(change, words):
    with pytest.raises(InputError, match=words) as caught:
        model_from_config(LLAMA | change, "it")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_experts_per_tok": 9}, "num_experts_per_tok from 1 to 8"),
        ({"num_local_experts": None}, "num_local_experts is missing"),
    ],
)
def test_experts_must_add_up(change, words):
    with pytest.raises(InputError, match=words):
        model_from_config(MIXTRAL | change, "it")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"first_k_dense_replace": 62}, "at most its 61 layers"),
        ({"moe_layer_freq": 2}, "moe_layer_freq"),
        ({"n_routed_experts": 0}, "n_routed_experts"),
    ],
)
def test_expert_layers_must_add_up(change, words):
    with pytest.raises(InputError, match=words):
        model_from_config(DEEPSEEK_V3 | change, "it")


@pytest.mark.parametrize(
    ("quantization", "weights"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}}, "fp8"),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}}, "int4"),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}}}, "nvfp4"),
        (None, None),
    ],
)  # fmt: skip
def test_quantisation(quantization, weights):
    assert model_from_config(LLAMA | {"quantization_config": quantization}, "it").quantization == weights


def test_a_window_as_long_as_the_context_is_none():
    phi = CONFIGS["microsoft/Phi-4-mini-instruct"]
    assert model_from_config(phi, "it").num_windowed_layers == 0
    assert model_from_config(phi | {"sliding_window": 4096}, "it").num_windowed_layers == 32


def test_a_mistral_config_without_a_window_has_the_default_one_and_null_has_none():
    mistral = {key: value for key, value in CONFIGS["mistralai/Mistral-7B-v0.1"].items() if key != "sliding_window"}
    assert model_from_config(mistral, "it").sliding_window == 4096
    assert model_from_config(mistral | {"sliding_window": None}, "it").sliding_window == 0


def test_file_folder_and_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    for spelling in (tmp_path, tmp_path / "config.json"):
        model = find_model(str(spelling)).value
        assert model.name == str(tmp_path)
        assert model.hidden_size == 5120


def test_a_folder_with_a_config_beats_the_catalog(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama-13b").mkdir()
    assert find_model("llama-13b").value.name == "meta-llama/Llama-2-13b-hf", "an empty folder is not meant"
    (tmp_path / "llama-13b" / "config.json").write_text(json.dumps(LLAMA | {"vocab_size": 77}))
    assert find_model("llama-13b").value.vocab_size == 77


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "no JSON object"),
        (b"null", "no JSON object"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b'{"model_type": "llama", "hidden_size": NaN}', "hidden_size is a number; it must be a whole number"),
        (b'{"model_type": "llama", "hidden_size": -Infinity}', "hidden_size is a number; it must be a whole number"),
        (b'{"model_type": "llama", "hidden_size": 1, "hidden_size": 2}', "twice"),
        (b'{"hidden_size": ' + b"9" * 100_000 + b"}", "not JSON"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * 33_000_000, "larger than 32 MB"),
        (b'{"model_type": "llama"', "not JSON"),
        (b"{}", "hidden_size is missing"),
    ],
)
def test_hostile_files(tmp_path, data, words):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 400


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "none.json", "bad\0name.json"):
        with pytest.raises(InputError):
            read_config(path)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
)


@given(config=st.dictionaries(st.text(max_size=20), JSON, max_size=6))
def test_any_object_gives_a_model_or_one_line(config):
    try:
        model_from_config(config, "it")
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017  it may as well not raise


@settings(max_examples=300)
@given(data=st.data())
def test_a_published_config_with_anything_in_it_gives_a_model_or_one_line(data):
    config = deepcopy(data.draw(st.sampled_from(list(CONFIGS.values()))))
    parts = [config, *(value for value in config.values() if isinstance(value, dict))]
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from(parts))
        lists = ["layer_types", "moe_layers", "mlp_only_layers", "no_rope_layers", "head_dim", "text_config"]
        key = data.draw(st.sampled_from([*part, *lists]))
        part[key] = data.draw(JSON | st.integers(-1, 5000) | st.lists(st.integers(-9, 99), max_size=60))
    try:
        model = model_from_config(config, "it")
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017  it may as well not raise
    else:
        assert isinstance(model, Model)
        assert 0 < parameters(model) < 10**20


@given(data=st.binary(max_size=200))
def test_any_bytes_give_one_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "config.json"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


def test_another_name_of_a_type_means_a_known_one_and_is_none_itself():
    known = READERS.keys() | FAMILIES.keys()
    assert set(ALIASES.values()) <= known
    assert not ALIASES.keys() & known
