"""Which kernels a model's shards are made of: nothing is missing, nothing is there twice, the most telling come first."""

from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.models.sizes import embedding_parameters, norm_parameters, parameters
from probes.microbench.kernel_shapes import EXPERT_TOKENS, HEAD_TOKENS, KV_SHARE, TOKENS, Shape, kernel_shapes, matrices

LLAMA = find_model("meta-llama/Llama-3.1-8B").value
MIXTURE = find_model("Qwen/Qwen3-30B-A3B").value
GIB = 2**30


def shapes_of(*models, tps=(1,), memory_gib=140.0, fusible=True):
    return [*chain(*kernel_shapes(models, tps, memory_bytes=memory_gib * GIB, fusible=fusible))]


@st.composite
def models(draw):
    """Decoders of any shape that eight GPUs divide, with and without experts, biases and norms of heads."""
    groups, kv_heads = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 8]))
    heads = max(8, groups * kv_heads)
    layers = draw(st.integers(1, 6))
    changes = {
        "hidden_size": 8 * draw(st.integers(1, 100)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 2 * draw(st.integers(1, 64)),
        "intermediate_size": 8 * draw(st.integers(1, 100)),
        "vocab_size": draw(st.integers(10, 5000)),
        "tie_word_embeddings": draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
    }
    if draw(st.booleans()):
        changes |= {
            "num_experts": draw(st.integers(2, 16)),
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64 * draw(st.integers(1, 20)),
            "moe_layer_step": draw(st.integers(1, layers)),
            "first_dense_layers": 0,
        }
    return replace(LLAMA, **changes)


@given(models())
def test_the_matrices_are_all_parameters_but_embedding_and_norms(model):
    products = sum(matrix.n * matrix.k * matrix.copies for matrix in matrices(model, 1))
    norms = model.num_hidden_layers * (norm_parameters(model) + 2 * model.head_dim * model.qk_norm) + model.hidden_size
    embedding = 0 if model.tie_word_embeddings else embedding_parameters(model)  # a tied one is the head
    assert products + norms + embedding == parameters(model)


@given(models(), st.sampled_from([2, 4, 8]))
def test_the_slices_are_the_whole_and_what_every_gpu_has(model, tp):
    whole, sliced = ({matrix.name: matrix for matrix in matrices(model, each)} for each in (1, tp))
    replicas = max(1, tp // model.num_key_value_heads)
    for name, matrix in sliced.items():
        size, full = matrix.n * matrix.k * tp, whole[name].n * whole[name].k
        if name == "router":
            assert size == tp * full
        elif name == "head":
            assert 0 <= size - full < tp * model.hidden_size
        elif name == "qkv":
            kv = 2 * model.num_key_value_heads * model.head_dim * model.hidden_size
            assert size == full + (replicas - 1) * kv
        else:
            assert size == full
        assert matrix.copies == whole[name].copies


@given(models(), st.sets(st.sampled_from([1, 2, 4, 8]), min_size=1))
def test_each_product_is_there_at_every_number_of_tokens_once(model, tps):
    shapes = shapes_of(model, tps=sorted(tps))
    assert len(set(shapes)) == len(shapes)
    products = {(shape.m, shape.k, shape.n) for shape in shapes if shape.op == "gemm"}
    experts = {(shape.m, shape.k, shape.n, shape.experts, shape.top) for shape in shapes if shape.op == "experts"}
    expected, expected_experts = set(), set()
    for tp in tps:
        for matrix in matrices(model, tp):
            if matrix.name == "expert_gate_up":
                size = (matrix.k, matrix.n // 2, model.num_experts, model.num_experts_per_tok)
                expected_experts |= {(m, *size) for m in EXPERT_TOKENS}
            elif matrix.name != "expert_down":
                most = HEAD_TOKENS if matrix.name == "head" else max(TOKENS)
                expected |= {(m, matrix.k, matrix.n) for m in TOKENS if m <= most}
    assert (products, experts) == (expected, expected_experts)


def test_what_two_models_share_is_timed_once():
    both = shapes_of(LLAMA, replace(LLAMA, name="a twin", num_hidden_layers=5), tps=(1, 2))
    assert sorted(map(repr, both)) == sorted(map(repr, shapes_of(LLAMA, tps=(1, 2))))


def test_the_most_telling_come_first():
    shapes = shapes_of(LLAMA, MIXTURE, tps=(1, 2, 4))
    first = shapes[: len(shapes) // 8]
    assert {shape.op for shape in first} >= {"gemm", "experts", "attention"}
    assert {shape.m for shape in first if shape.op == "gemm"} >= {1, 64}
    assert all(shape.fused is not False for shape in first)
    assert all(shape.fused is False for shape in shapes[-20:])


def test_one_process_has_all_of_what_is_compiled_for_one_width():
    groups = kernel_shapes([LLAMA], (1, 2), memory_bytes=140 * GIB)
    norms = [group for group in groups if group[0].op == "norm" and group[0].fused]
    assert [{shape.m for shape in group} for group in norms] == [set(TOKENS)]


@pytest.mark.parametrize("gib", [0.01, 1, 20])
def test_attention_fits_into_the_memory(gib):
    some = [shape for shape in shapes_of(LLAMA, memory_gib=gib) if shape.op == "attention"]
    kept = [4 * shape.batch * shape.context * shape.kv_heads * shape.head_dim for shape in some]
    assert 0.2 * KV_SHARE * gib * GIB < max(kept) <= KV_SHARE * gib * GIB


def test_a_window_is_not_exceeded():
    windowed = replace(LLAMA, sliding_window=2000, num_windowed_layers=32)
    assert {shape.context for shape in shapes_of(windowed) if shape.op == "attention"} == {128, 512, 1024}


def test_without_fusion_there_is_one_variant_of_everything():
    shapes = shapes_of(LLAMA, fusible=False)
    assert {shape.fused for shape in shapes} == {False, None}
    assert {replace(shape, fused=None) for shape in shapes} == {
        replace(shape, fused=None) for shape in shapes_of(LLAMA)
    }


def test_a_row_has_the_sizes_of_its_kind_and_makes_the_shape_again():
    for shape in shapes_of(LLAMA, MIXTURE, tps=(2,)):
        assert Shape(**shape.row()) == shape
    assert Shape(op="norm", dtype="bfloat16", m=3, n=8, fused=False).row() == {
        "op": "norm",
        "dtype": "bfloat16",
        "m": 3,
        "n": 8,
        "fused": False,
    }


def test_what_the_engine_does_not_run_is_refused():
    with pytest.raises(InputError, match="tp is 3; it must divide"):
        shapes_of(LLAMA, tps=(3,))
    with pytest.raises(InputError, match="model type 'deepseek_v3' is not run"):
        shapes_of(find_model("deepseek-ai/DeepSeek-V3").value)
