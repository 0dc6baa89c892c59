"""What a layer computes, counted twice: by the model of time and from the definitions."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.weights import layer_elements
from advisor.perf_model.operators import (
    ForwardPass,
    causal_pairs,
    elementwise_bytes,
    products,
    sliced_numbers,
)
from advisor.perf_model.routing import expert_imbalance, experts_touched
from catalog.engines import valid_tp
from catalog.gpus import find_gpu
from catalog.models.find import all_models, find_model
from catalog.models.sizes import attention_parameters, expert_parameters, mlp_parameters
from catalog.models.stack import stack
from tests.advisor.strategies import models

MANY = 1e9
PLAIN = [model for model in all_models() if model.stack is None]
"""Those whose work the fields of a plain decoder describe, so that it can be written down apart from the parts."""
"""Tokens that reach every expert."""


def layout_of(model, **columns):
    return DeploymentArrays.from_columns({name: [value] for name, value in columns.items()} or {"tp": [1]}, model, GPU)


GPU = find_gpu("H200").value


def prefill(tokens):
    each = np.array([float(tokens)])
    zero = np.zeros(1)
    return ForwardPass(
        tokens=each, sequences=each, decodes=zero, context=zero, windowed_context=zero, pairs=zero, windowed_pairs=zero
    )


def test_llama_2_7b_by_hand():
    """32 layers of 4096 with 32 heads of 128 and a feed-forward of 11008, for 10 tokens."""
    model = find_model("llama-2-7b").value
    found = {product.name: product for product in products(model, layout_of(model), prefill(10))}
    shapes = {"qkv": (4096, 12288), "o": (4096, 4096), "gate_up": (4096, 22016), "down": (11008, 4096)}
    assert {name: (product.k, product.n) for name, product in found.items()} == shapes | {"lm_head": (4096, 32000)}
    for name, (k, n) in shapes.items():
        assert found[name].layers == 32
        assert found[name].weights == k * n
        assert found[name].flops == 2 * 10 * k * n
    assert found["lm_head"].flops == 2 * 10 * 4096 * 32000


def test_mixtral_by_hand():
    """One token reaches 2 of 8 experts of 4096 x 14336; three matrices each."""
    model = find_model("mixtral-8x7b").value
    found = {product.name: product for product in products(model, layout_of(model), prefill(1))}
    assert found["experts_up"].weights == pytest.approx(2 * 2 * 4096 * 14336)
    assert found["experts_down"].weights == pytest.approx(2 * 4096 * 14336)
    assert found["experts_up"].flops + found["experts_down"].flops == pytest.approx(2 * 2 * 3 * 4096 * 14336)
    assert found["router"].weights == 4096 * 8


@pytest.mark.parametrize("model", PLAIN, ids=lambda model: model.name)
def test_products_read_the_matrices_that_memory_holds(model):
    """At every tensor parallel degree; norms, biases and such are read by no product."""
    model = replace(model, quantization=None)  # so that what stays in 16 bits is only what is no product
    for tp in valid_tp(model, most=8):
        layout = layout_of(model, tp=tp)
        matrices = sum(
            count * part.quantised[0]
            for count, kind in stack(model).counts
            for part in layer_elements(kind, model.hidden_size, layout).values()
        )
        matrices += model.moe_layers * model.hidden_size * model.num_experts  # routers are products kept in 16 bits
        found = products(model, layout, prefill(MANY))
        read = sum(float(np.ravel(each.weights)[0]) * each.layers for each in found if each.name != "lm_head")
        assert read == pytest.approx(matrices - model.extra_parameters / tp, rel=1e-9), f"tp={tp}"


@pytest.mark.parametrize("model", PLAIN, ids=lambda model: model.name)
def test_a_token_costs_two_flops_for_each_weight_it_meets(model):
    """With the experts it is routed to, biases and norms left out (Kaplan et al., arXiv 2001.08361, section 2.1)."""
    layers, moe = model.num_hidden_layers, model.moe_layers
    active = layers * attention_parameters(model) + (layers - moe) * mlp_parameters(model, model.intermediate_size)
    shared = mlp_parameters(model, model.shared_expert_intermediate_size)
    active += moe * (model.num_experts_per_tok * expert_parameters(model) + model.hidden_size * model.num_experts)
    active += moe * shared * bool(model.shared_expert_intermediate_size)
    tokens = 1000
    flops = sum(
        float(np.ravel(product.flops)[0]) * product.layers
        for product in products(model, layout_of(model), prefill(tokens))
        if product.name != "lm_head"
    )
    assert flops == pytest.approx(2 * tokens * active, rel=2e-3)  # biases are below this
    assert flops <= 2 * tokens * active


@given(models, st.integers(1, 5000))
def test_slices_do_all_the_work_together(model, tokens):
    whole = sum(
        float(np.ravel(each.flops)[0]) * each.layers for each in products(model, layout_of(model), prefill(tokens))
    )
    for tp in valid_tp(model, most=8):
        step = prefill(tokens)
        sliced = sum(
            float(np.ravel(each.flops)[0]) * each.layers for each in products(model, layout_of(model, tp=tp), step)
        )
        assert tp * sliced >= whole * (1 - 1e-12)
        assert sliced <= whole


@pytest.mark.parametrize(("length", "window"), [(1, 0), (7, 0), (64, 0), (7, 3), (64, 16), (5, 5), (5, 50), (300, 1)])
def test_causal_pairs_counted_one_by_one(length, window):
    expected = sum(1 for query in range(length) for key in range(query + 1) if not window or query - key < window)
    assert causal_pairs(np.array([float(length)]), float(window))[0] == expected


def mixer(model):
    """Return what mixes tokens in the first layer."""
    return stack(model).kinds[0].mixer


def test_pair_flops_by_hand():
    llama, deepseek = find_model("llama-3.1-70b").value, find_model("deepseek-v3").value
    # a score is a product of two head vectors, a value a scaled addition of one: 2 x 128 each, 64 heads over 4 GPUs
    assert mixer(llama).pair_flops(absorbed=True) / 4 == 16 * (2 * 128 + 2 * 128)
    # DeepSeek prefill: keys of 128 + 64, values of 128; decode on the latent of 512 with the rotary part beside it
    assert mixer(deepseek).pair_flops(absorbed=False) == 128 * (2 * 192 + 2 * 128)
    assert mixer(deepseek).pair_flops(absorbed=True) == 128 * (2 * (512 + 64) + 2 * 512)


def test_kv_numbers_by_hand():
    qwen, deepseek = find_model("qwen3-30b-a3b").value, find_model("deepseek-v3").value
    assert [sliced_numbers(mixer(qwen).cached, np.array([tp]))[0] for tp in (1, 2, 4, 8)] == [1024, 512, 256, 256]
    assert [sliced_numbers(mixer(deepseek).cached, np.array([tp]))[0] for tp in (1, 8)] == [576, 576]


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v3"])
def test_experts_touched_is_what_random_routing_touches(name):
    model = find_model(name).value
    pick = np.random.default_rng(0)
    for tokens in (1, 2, 5, 20, 100):
        seen = [
            len(
                {
                    e
                    for _ in range(tokens)
                    for e in pick.choice(model.num_experts, model.num_experts_per_tok, replace=False)
                }
            )
            for _ in range(200)
        ]
        assert experts_touched(model, np.array([tokens]))[0] == pytest.approx(np.mean(seen), rel=0.02)


@given(st.floats(1, 1e6), st.floats(1, 10))
def test_more_tokens_touch_more_experts_up_to_all(tokens, factor):
    model = find_model("deepseek-v3").value
    few, more = experts_touched(model, np.array([tokens, tokens * factor]))
    assert model.num_experts_per_tok * (1 - 1e-12) <= few <= more <= model.num_experts


@pytest.mark.parametrize(("tokens", "ep"), [(64, 4), (512, 8), (4096, 16)])
def test_the_busiest_gpu_is_as_busy_as_random_routing_makes_it(tokens, ep):
    """The bound holds for many balls: within a tenth of the mean of simulated maxima."""
    model = find_model("qwen3-30b-a3b").value
    pick = np.random.default_rng(1)
    balls = tokens * model.num_experts_per_tok
    simulated = np.mean([pick.multinomial(balls, np.full(ep, 1 / ep)).max() for _ in range(300)]) / (balls / ep)
    found = expert_imbalance(model, np.array([float(tokens)]), np.array([float(ep)]))[0]
    assert 1 < found <= ep
    assert found == pytest.approx(simulated, rel=0.1)


def test_one_gpu_has_no_imbalance():
    model = find_model("qwen3-30b-a3b").value
    assert expert_imbalance(model, np.array([1.0, 1000.0]), np.ones(2)).tolist() == [1, 1]


@given(models, st.integers(1, 10_000))
def test_elementwise_traffic_is_at_least_two_norms(model, tokens):
    """Each of a layer's norms reads and writes the hidden state in 16 bits."""
    found = elementwise_bytes(model, layout_of(model), prefill(tokens))[0]
    assert found >= tokens * model.num_hidden_layers * model.norms_per_layer * 2 * 2 * model.hidden_size
    assert math.isfinite(found)


def test_only_the_experts_of_gpt_oss_are_in_four_bits():
    model = find_model("gpt-oss-20b").value
    kinds = {product.name: product.kind for product in products(model, layout_of(model), prefill(1))}
    assert kinds == {
        "qkv": "half",
        "o": "half",
        "router": "half",
        "experts_up": "expert",
        "experts_down": "expert",
        "lm_head": "half",
    }
