"""What a model caches a token, keeps a sequence and weighs, against counts by hand: one architecture of every part."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import advisor
from catalog.errors import InputError
from catalog.mixers import Attention, Recurrence
from catalog.models.find import active_parameters, find_model, parameters
from catalog.models.hf_config import model_from_config, read_config
from catalog.models.sizes import kv_bytes_per_token, state_bytes_per_sequence
from catalog.models.stack import stack
from catalog.parts import Dense, Experts, Layer, stack_of

CASES = Path(__file__).parent / "cases"
SHAPE = {"hidden_size": 1024, "num_attention_heads": 16, "vocab_size": 32000, "intermediate_size": 4096}

QWEN3_NEXT = SHAPE | {
    "model_type": "qwen3_next", "num_hidden_layers": 8, "num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4, "num_experts": 64, "num_experts_per_tok": 4, "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 256,
}  # fmt: skip
MLA = {"kv_lora_rank": 512, "q_lora_rank": 768, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
DEEPSEEK = SHAPE | MLA | {
    "num_hidden_layers": 6, "n_routed_experts": 64, "n_shared_experts": 1, "num_experts_per_tok": 4, "moe_intermediate_size": 512,
    "first_k_dense_replace": 2,
}  # fmt: skip
INDEX = {"index_n_heads": 32, "index_head_dim": 128, "index_topk": 2048}
MAMBA2 = {
    "mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4, "use_conv_bias": True,
}  # fmt: skip

BY_HAND = {
    # every layer: keys and values of 8 heads of 64, two bytes each
    "grouped queries": (SHAPE | {"model_type": "llama", "num_hidden_layers": 4, "num_key_value_heads": 8}, 4 * 2 * 8 * 64 * 2, 0),
    # two of eight layers attend: 2 heads of 256; six keep 32 x 128 x 128 numbers and three inputs of 2 x 2048 + 4096 channels
    "gated delta net": (QWEN3_NEXT, 2 * 2 * 2 * 256 * 2, 6 * (32 * 128 * 128 * 2 + 3 * 8192 * 2)),
    "gated delta net in float32": (
        QWEN3_NEXT | {"mamba_ssm_dtype": "float32"}, 2 * 2 * 2 * 256 * 2, 6 * (32 * 128 * 128 * 4 + 3 * 8192 * 2)),
    # one latent of 512 and a rotary key of 64 a layer
    "latent": (DEEPSEEK | {"model_type": "deepseek_v3"}, 6 * 576 * 2, 0),
    # beside it 128 bytes and a scale of four for the index
    "sparse with an index": (DEEPSEEK | INDEX | {"model_type": "deepseek_v32"}, 6 * (576 * 2 + 132), 0),
    "an index shared by layers": (
        DEEPSEEK | INDEX | {"model_type": "glm_moe_dsa", "indexer_types": ["full", "shared", "shared"] * 2},
        6 * 576 * 2 + 2 * 132, 0),
    # 3 of 6 layers of Kimi delta attention: 16 heads of 128 x 128 in float32, convolutions over 3 x 2048 channels
    "kimi delta": (
        DEEPSEEK | {"model_type": "kimi_linear", "linear_attn_config": {
            "full_attn_layers": [2, 4, 6], "kda_layers": [1, 3, 5], "num_heads": 16, "head_dim": 128, "short_conv_kernel_size": 4}},
        3 * 576 * 2, 3 * (16 * 128 * 128 * 4 + 3 * 6144 * 2)),
    # Nemotron-H: 64 heads of 64 with 128 states in float32; channels 4096 + 2 x 8 x 128
    "mamba 2": (
        SHAPE | MAMBA2 | {"model_type": "nemotron_h", "num_hidden_layers": 6, "hybrid_override_pattern": "M-M*-M",
                          "num_key_value_heads": 2, "head_dim": 128},
        1 * 2 * 2 * 128 * 2, 3 * (64 * 64 * 128 * 4 + 3 * 6144 * 2)),
    # attention and Mamba-2 side by side in every layer; the state in 16 bits
    "both in a layer": (
        SHAPE | {"model_type": "falcon_h1", "num_hidden_layers": 5, "num_key_value_heads": 2, "head_dim": 64, "mamba_d_ssm": 1536,
                 "mamba_n_heads": 24, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_d_conv": 4},
        5 * 2 * 2 * 64 * 2, 5 * (1536 * 128 * 2 + 3 * (1536 + 256) * 2)),
    # Jamba: one of four layers attends; Mamba keeps 2048 channels x 16, and convolutions over 2048
    "mamba 1": (
        SHAPE | {"model_type": "jamba", "num_hidden_layers": 8, "num_key_value_heads": 4, "attn_layer_period": 4, "attn_layer_offset": 2,
                 "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 4, "num_experts_per_tok": 2,
                 "mamba_d_state": 16, "mamba_dt_rank": 64, "mamba_expand": 2, "mamba_d_conv": 4},
        2 * 2 * 4 * 64 * 2, 6 * (2048 * 16 * 2 + 3 * 2048 * 2)),
    "only states": (
        {"model_type": "mamba2", "hidden_size": 1024, "num_hidden_layers": 3, "vocab_size": 32000, "num_heads": 32, "head_dim": 64,
         "state_size": 128, "n_groups": 1, "conv_kernel": 4, "expand": 2},
        0, 3 * (2048 * 128 * 2 + 3 * (2048 + 256) * 2)),
    # lightning attention: 16 heads of 64 x 64
    "lightning": (
        SHAPE | {"model_type": "minimax", "num_hidden_layers": 4, "num_key_value_heads": 4, "attn_type_list": [0, 0, 0, 1],
                 "num_local_experts": 8, "num_experts_per_tok": 2},
        2 * 4 * 64 * 2, 3 * 16 * 64 * 64 * 2),
    # LFM2: two last inputs of 1024 channels
    "short convolution": (
        SHAPE | {"model_type": "lfm2", "num_hidden_layers": 3, "num_key_value_heads": 4, "conv_L_cache": 3,
                 "layer_types": ["conv", "full_attention", "conv"]},
        2 * 4 * 64 * 2, 2 * 2 * 1024 * 2),
    # Gemma 4: full layers have 2 heads of 512, the others 8 of 256; the last two share a cache
    "two kinds of heads, shared caches": (
        SHAPE | {"model_type": "gemma4_text", "num_hidden_layers": 8, "num_key_value_heads": 8, "head_dim": 256, "global_head_dim": 512,
                 "num_global_key_value_heads": 2, "attention_k_eq_v": True, "sliding_window": 512, "num_kv_shared_layers": 2,
                 "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] * 2},
        5 * 2 * 8 * 256 * 2 + 1 * 2 * 2 * 512 * 2, 0),
    # MiMo-V2: keys of 192 and values of 128, 4 heads in full layers and 8 in windowed ones
    "keys wider than values": (
        SHAPE | {"model_type": "mimo_v2_flash", "num_hidden_layers": 4, "num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128,
                 "swa_num_key_value_heads": 8, "swa_head_dim": 192, "swa_v_head_dim": 128, "sliding_window": 128,
                 "hybrid_layer_pattern": [0, 1, 1, 0]},
        (2 * 4 + 2 * 8) * (192 + 128) * 2, 0),
    # DeepSeek-V4: a latent of 512 for 4 or 128 tokens, an index of 132 bytes for 4; 16 bits
    "compressed latents": (
        SHAPE | INDEX | {"model_type": "deepseek_v4", "num_hidden_layers": 4, "num_key_value_heads": 1, "head_dim": 512,
                         "qk_rope_head_dim": 64, "q_lora_rank": 768, "o_lora_rank": 256, "o_groups": 4, "sliding_window": 128,
                         "compress_ratios": [0, 4, 128, 4, 0], "n_routed_experts": 16, "num_experts_per_tok": 2,
                         "moe_intermediate_size": 512},
        512 * 2 + 2 * (512 * 2 / 4 + 132 / 4) + 512 * 2 / 128, 0),
    # a search took attention out of one of three layers
    "layers without attention": (
        {"model_type": "nemotron-nas", "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 3, "vocab_size": 32000,
         "intermediate_size": None, "block_configs": [
             {"attention": {"n_heads_in_group": 8}, "ffn": {"ffn_mult": 2.0}},
             {"attention": {"n_heads_in_group": None, "no_op": True}, "ffn": {"ffn_mult": 1.0}},
             {"attention": {"n_heads_in_group": 4}, "ffn": {"no_op": True}}]},
        (2 + 4) * 2 * 64 * 2, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_cache_and_state_by_hand(name):
    config, cached, state = BY_HAND[name]
    model = model_from_config(config, name)
    assert kv_bytes_per_token(model) == cached
    assert state_bytes_per_sequence(model) == state
    assert 0 < active_parameters(model) <= parameters(model)


@pytest.mark.parametrize(
    ("case", "total", "cached", "state"),
    [
        ("qwen3.5-27b", 26.9e9, 65536, 151e6),
        ("qwen3-vl-30b-a3b", 30.5e9, 98304, 0),
        ("nemotron-3-nano-30b-a3b", 31.58e9, 6144, 48e6),
        ("nemotron-h-56b", 56.3e9, 40960, 54 * 256 * 64 * 256 * 4),
    ],
)
def test_public_cases(case, total, cached, state):
    model = read_config(CASES / case)
    assert parameters(model) == pytest.approx(total, rel=0.01)
    assert kv_bytes_per_token(model) == cached
    assert state_bytes_per_sequence(model) == pytest.approx(state, rel=0.03)
    assert model.reading == ""


def test_a_vision_tower_is_held_beside_the_language_model():
    model = read_config(CASES / "qwen3-vl-30b-a3b")
    assert parameters(model) + model.encoder_parameters == pytest.approx(31.1e9, rel=0.005)


def test_an_unknown_type_is_read_by_its_parts_and_says_so(tmp_path):
    config = QWEN3_NEXT | {"model_type": "qwen9_next"}
    model = model_from_config(config, "it")
    assert kv_bytes_per_token(model) == BY_HAND["gated delta net"][1]
    assert "nearest family: qwen3_next" in model.reading
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert [note.kind for note in find_model(str(tmp_path)).notes] == ["warning"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer_types": ["full_attention", "retention"] * 4}, "'retention', which is not known"),
        ({"linear_num_value_heads": None}, "of no kind that is known"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"moe_intermediate_size": None, "intermediate_size": None}, "moe_intermediate_size is missing"),
        ({"num_experts_per_tok": 65}, "more than the 64"),
        ({"num_key_value_heads": 3}, "no multiple of 3"),
    ],
)
def test_a_part_that_is_missing_is_named(change, words):
    with pytest.raises(InputError, match=words):
        model_from_config(QWEN3_NEXT | change, "it")


def test_a_thousand_layers_are_read_at_once():
    begin = time.process_time()
    kinds = ["full_attention", "linear_attention"] * 500
    model = model_from_config(
        QWEN3_NEXT
        | {"num_hidden_layers": 1000, "layer_types": kinds, "quantization_config": {
            "quant_method": "fp8", "modules_to_not_convert": [f"model.layers.{n}.mlp.gate*" for n in range(1000)] * 20,
        }},
        "it",
    )  # fmt: skip
    assert len(stack(model).kinds) == 2
    assert time.process_time() - begin < 1.0


MIXERS = st.sampled_from(
    [
        Attention(heads=8, kv_heads=2, head_dim=64, value_dim=64),
        Attention(heads=8, kv_heads=2, head_dim=64, value_dim=64, window=512),
        Recurrence(kind="mamba2", into=2304, out=1024, conv_channels=1280, conv_kernel=4, state_numbers=65536),
    ]
)
PARTS = st.sampled_from([Dense(width=512), Experts(num_experts=8, num_experts_per_tok=2, width=256), None])


@given(pairs=st.lists(st.tuples(MIXERS, PARTS), min_size=1, max_size=12))
def test_a_stack_is_the_sum_of_its_layers(pairs):
    layers = [Layer(mixer=mixer, feed_forward=part) for mixer, part in pairs]
    whole = stack_of(layers)
    assert sum(count for count, _ in whole.counts) == len(layers)
    assert [whole.kinds[kind] for kind in whole.pattern] == layers

    def elements(layer):
        return layer.mixer_elements(512) + layer.dense_elements(512) + layer.routed_elements(512)

    assert sum(count * elements(kind) for count, kind in whole.counts) == sum(map(elements, layers))


def test_an_architecture_read_by_its_fields_alone_is_less_certain():
    knobs = {"batch": 8, "input_len": 512, "output_len": 64}
    known, unknown = (
        advisor.estimate(model_from_config(QWEN3_NEXT | {"model_type": kind}, "it"), "1xH200", **knobs)
        for kind in ("qwen3_next", "qwen9_next")
    )
    assert known.tpot_ms == pytest.approx(unknown.tpot_ms, rel=1e-9)
    low, high = (each.interval("tpot_ms") for each in (known, unknown))
    assert high[1] / high[0] > 1.02 * low[1] / low[0]


def test_falcon_mamba_says_its_width_itself():
    """tiiuae/falcon-mamba-7b: 7.27 B parameters."""
    config = {
        "model_type": "falcon_mamba",
        "conv_kernel": 4,
        "expand": 16,
        "hidden_size": 4096,
        "intermediate_size": 8192,
        "num_hidden_layers": 64,
        "state_size": 16,
        "time_step_rank": 256,
        "tie_word_embeddings": False,
        "vocab_size": 65024,
    }
    assert parameters(model_from_config(config, "it")) == pytest.approx(7.273e9, rel=1e-3)


@pytest.mark.parametrize(("interval", "routed"), [(1, 24), (2, 12), (4, 6)])
def test_experts_at_an_interval_begin_at_its_end(interval, routed):
    config = {
        "model_type": "ernie4_5_moe",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
        "moe_num_experts": 8,
        "moe_k": 2,
        "moe_intermediate_size": 64,
        "moe_layer_interval": interval,
    }
    layers = stack(model_from_config(config, "it"))
    numbers = [n for n, kind in enumerate(layers.pattern) if isinstance(layers.kinds[kind].feed_forward, Experts)]
    assert numbers == list(range(interval - 1, 24, interval))
    assert len(numbers) == routed
