"""Which ways of slicing a model are accepted."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.engines import (
    check_layout,
    kv_heads_per_gpu,
    padded_vocab,
    pipeline_layers,
    tp_problem,
    valid_ep,
    valid_pp,
    valid_tp,
)
from catalog.errors import InputError
from catalog.models.find import all_models, find_model


def model(name):
    return find_model(name).value


@pytest.mark.parametrize(
    ("name", "most", "tps"),
    [
        ("meta-llama/Llama-2-13b-hf", 16, (1, 2, 4, 8)),
        ("meta-llama/Meta-Llama-3.1-70B", 16, (1, 2, 4, 8, 16)),
        ("tiiuae/falcon-7b", 64, (1,)),  # 71 heads
        ("microsoft/phi-4", 8, (1, 2)),  # 10 KV heads
        ("Qwen/Qwen2.5-0.5B", 8, (1, 2)),  # 14 heads, 2 KV heads
        ("bigscience/bloom", 16, (1, 2, 4, 7, 8, 14, 16)),  # 112 heads
    ],
)
def test_valid_tp(name, most, tps):
    assert valid_tp(model(name), most=most) == tps


def test_int4_groups_limit_tp():
    # Qwen2-72B's 29568 = 231 x 128 does not split into whole groups; the publisher padded its own int4 checkpoints
    qwen = dataclasses.replace(model("Qwen/Qwen2-72B"), quantization="int4", intermediate_size=29568)
    assert valid_tp(qwen, most=8) == (1,)
    assert 8 in valid_tp(model("Qwen/Qwen2-72B"), most=8)


def test_whole_experts_free_tp_from_their_width():
    minimax = model("MiniMaxAI/MiniMax-M2.5")
    assert max(valid_tp(minimax)) < max(valid_tp(minimax, experts_whole=True))


@given(st.sampled_from(all_models()), st.integers(1, 64))
@settings(max_examples=200, deadline=None, database=None)
def test_a_valid_tp_divides_every_sliced_width(model, tp):
    if tp_problem(model, tp):
        assert tp not in valid_tp(model)
        return
    assert tp in valid_tp(model)
    assert model.num_attention_heads % tp == 0
    assert padded_vocab(model) % tp == 0
    if model.attention == "gqa":
        assert kv_heads_per_gpu(model, tp) * tp >= model.num_key_value_heads
        assert (kv_heads_per_gpu(model, tp) * tp) % model.num_key_value_heads == 0
    if model.moe_layers:
        assert model.moe_intermediate_size % tp == 0


@pytest.mark.parametrize(
    ("layers", "pp", "stages"),
    [
        (40, 4, (10, 10, 10, 10)),
        (61, 2, (31, 30)),
        (62, 4, (15, 16, 16, 15)),  # the middle ones: first and last also hold embedding and head
        (63, 4, (16, 16, 16, 15)),
        (126, 4, (31, 32, 32, 31)),
        (3, 3, (1, 1, 1)),
    ],
)
def test_pipeline_layers_follow_vllm(layers, pp, stages):
    assert pipeline_layers(layers, pp) == stages


@given(st.integers(1, 1000), st.integers(1, 64))
@settings(max_examples=200, deadline=None, database=None)
def test_pipeline_layers_lose_none(layers, pp):
    stages = pipeline_layers(layers, pp)
    assert sum(stages) == layers
    assert len(stages) == pp
    assert max(stages) - min(stages) <= 1


def test_valid_ep():
    assert valid_ep(model("meta-llama/Llama-2-13b-hf"), 4, 2) == (1,)
    assert valid_ep(model("mistralai/Mixtral-8x7B-v0.1"), 4, 2) == (1, 4, 8)
    assert valid_ep(model("mistralai/Mixtral-8x7B-v0.1"), 8, 4) == (1, 8)  # 8 experts do not reach 32 GPUs
    assert valid_ep(model("mistralai/Mixtral-8x7B-v0.1"), 1, 1) == (1,)
    assert valid_ep(model("mistralai/Mixtral-8x7B-v0.1"), 1, 6) == (1, 2, 3, 6)  # groups of two, of three, or of all


def test_mla_is_held_once_on_every_gpu():
    assert kv_heads_per_gpu(model("deepseek-ai/DeepSeek-V3"), 8) == 1
    assert kv_heads_per_gpu(model("meta-llama/Meta-Llama-3.1-8B"), 16) == 1
    assert kv_heads_per_gpu(model("meta-llama/Meta-Llama-3.1-8B"), 2) == 4


def test_vocabulary_is_padded_to_64():
    assert padded_vocab(model("meta-llama/Llama-2-7b-hf")) == 32000
    assert padded_vocab(model("microsoft/phi-2")) == 51200
    assert padded_vocab(dataclasses.replace(model("microsoft/phi-2"), vocab_size=32001)) == 32064


def test_valid_pp_leaves_no_stage_empty():
    assert valid_pp(model("meta-llama/Llama-3.2-1B")) == tuple(range(1, 17))


@given(
    st.sampled_from(all_models()), st.integers(-2, 130), st.integers(-2, 130), st.integers(1, 9), st.integers(0, 130)
)
@settings(max_examples=300, deadline=None, database=None)
def test_any_layout_is_accepted_or_refused_in_one_line(model, tp, pp, dp, ep):
    try:
        check_layout(model, tp=tp, pp=pp, dp=dp, ep=ep)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017  most layouts are fine, and those are checked below
        return
    assert not tp_problem(model, tp, experts_whole=ep > 1)
    assert 1 <= pp <= model.num_hidden_layers
