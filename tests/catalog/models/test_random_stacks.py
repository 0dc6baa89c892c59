"""Properties of random stacks of parts: of their counts, their memory and their time."""

import time
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advisor
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.dispatch import memory
from catalog.engines import resolve
from catalog.gpus import parse_cluster
from catalog.mixers import Attention, LatentAttention, Recurrence, SparseIndex, State
from catalog.models.by_parts import summary
from catalog.models.hf_config import model_from_config
from catalog.models.sizes import active_parameters, kv_bytes_per_token, parameters, state_bytes_per_sequence
from catalog.parts import Dense, Experts, Layer, stack_of
from catalog.schema import Deployment, Model

HIDDEN = 1024
CLUSTER = parse_cluster("1xH200").value
INDEX = SparseIndex(heads=16, dim=128, top_k=2048)

attention = st.builds(
    Attention,
    heads=st.sampled_from([8, 16]),
    kv_heads=st.sampled_from([1, 2, 8]),
    head_dim=st.sampled_from([64, 128]),
    value_dim=st.sampled_from([64, 128]),
    window=st.sampled_from([0, 512]),
    qk_norm=st.sampled_from([0, 128]),
    gate=st.sampled_from([0, 8]),
    sinks=st.booleans(),
    keys_are_values=st.booleans(),
    index=st.sampled_from([None, INDEX]),
)
latent = st.builds(
    LatentAttention,
    heads=st.just(16),
    q_lora_rank=st.sampled_from([0, 256]),
    kv_lora_rank=st.sampled_from([128, 512]),
    nope_dim=st.just(64),
    rope_dim=st.just(64),
    value_dim=st.just(64),
    window=st.sampled_from([0, 512]),
    o_lora_rank=st.sampled_from([0, 128]),
    index=st.sampled_from([None, INDEX]),
)
recurrence = st.builds(
    Recurrence,
    kind=st.sampled_from(get_args(State)),
    into=st.sampled_from([2048, 4096]),
    out=st.sampled_from([1024, 2048]),
    conv_channels=st.sampled_from([0, 1280]),
    conv_kernel=st.just(4),
    low_rank=st.sampled_from([(), ((1024, 128), (128, 2048))]),
    state_numbers=st.sampled_from([4096, 262_144]),
    state_float32=st.booleans(),
)
dense = st.builds(Dense, width=st.sampled_from([512, 4096]), gated=st.booleans(), bias=st.booleans())
experts = st.builds(
    Experts,
    num_experts=st.sampled_from([8, 64]),
    num_experts_per_tok=st.sampled_from([1, 4]),
    width=st.sampled_from([128, 512]),
    shared=st.sampled_from([None, Dense(width=512)]),
    latent=st.sampled_from([0, 256]),
)
layers = st.builds(
    Layer,
    mixer=st.one_of(attention, latent, recurrence, st.none()),
    feed_forward=st.one_of(dense, experts, st.none()),
    beside=st.one_of(st.none(), st.none(), recurrence),
    held=st.sampled_from([1.0, 1.0, 0.5]),
)
stacks = st.lists(layers, min_size=1, max_size=6)


def built(parts):
    """Make a model of layers."""
    stack = stack_of(parts)
    fields = {
        "vocab_size": 32_000,
        "max_position_embeddings": 8192,
        "hidden_size": HIDDEN,
        "num_hidden_layers": len(parts),
    }
    return Model(name="random", model_type="random", stack=stack, **summary(stack) | fields)


def room(model):
    """Return the memory of one engine with ``model`` on one H200."""
    resolved = resolve(Deployment(max_model_len=8192), model, CLUSTER).value
    return memory(model, CLUSTER, DeploymentArrays.of([resolved], model, CLUSTER.gpu))


@settings(max_examples=25)
@given(parts=stacks)
def test_counts_are_sums_over_layers(parts):
    whole, bare = built(parts), 2 * 32_000 * HIDDEN + HIDDEN
    each = [parameters(built([part])) - bare for part in parts]
    assert parameters(whole) - bare == pytest.approx(sum(each), abs=len(parts))
    assert kv_bytes_per_token(whole) == sum(kv_bytes_per_token(built([part])) for part in parts)
    assert state_bytes_per_sequence(whole) == sum(state_bytes_per_sequence(built([part])) for part in parts)
    assert 0 < active_parameters(whole) <= parameters(whole)


@settings(max_examples=25)
@given(parts=stacks, part=layers)
def test_a_further_layer_never_makes_a_model_smaller(parts, part):
    less, more = built(parts), built([*parts, part])
    assert parameters(more) >= parameters(less)
    assert kv_bytes_per_token(more) >= kv_bytes_per_token(less)
    a, b = room(less), room(more)
    assert b.weights_gib[0] >= a.weights_gib[0]
    assert b.kv_gib[0] <= a.kv_gib[0] + 1e-9


@settings(max_examples=25)
@given(parts=stacks)
def test_weights_in_memory_are_those_that_are_counted(parts):
    model = built(parts)
    floor = 2.0 * parameters(model) / 2**30
    assert floor <= room(model).weights_gib[0] <= floor + 0.06


@settings(max_examples=25)
@given(parts=stacks, times=st.sampled_from([2, 4]))
def test_wider_blocks_weigh_more(parts, times):
    def wider(layer):
        block = layer.feed_forward
        return replace(layer, feed_forward=replace(block, width=block.width * times)) if block is not None else layer

    less, more = built(parts), built([wider(part) for part in parts])
    assert parameters(more) >= parameters(less)
    assert room(more).weights_gib[0] >= room(less).weights_gib[0]
    assert kv_bytes_per_token(more) == kv_bytes_per_token(less)


@settings(max_examples=25)
@given(mixer=attention, part=dense, depth=st.integers(2, 12))
def test_a_window_never_holds_fewer_requests(mixer, part, depth):
    def tokens(window):
        one = Layer(mixer=replace(mixer, window=window, index=None), feed_forward=part)
        full = Layer(mixer=replace(mixer, window=0, index=None), feed_forward=part)
        return float(room(built([one] * (depth - 1) + [full])).kv_capacity_tokens[0])

    # one block more a group: of 512 that a request of the longest length takes
    assert tokens(256) >= 0.99 * tokens(0)


@pytest.mark.slow
@settings(max_examples=8)
@given(parts=stacks)
def test_a_token_takes_at_least_the_time_to_read_what_it_needs(parts):
    """A step reads every weight of a token's pass, and its cache, at no more than the memory's bandwidth."""
    model = built(parts)
    answer = advisor.estimate(model, CLUSTER, batch=1, input_len=2048, output_len=16)
    table = 32_000 * HIDDEN
    floor_ms = 2.0 * (active_parameters(model) - table) / (CLUSTER.gpu.memory_bandwidth_gbps * 1e6)
    assert answer.tpot_ms >= floor_ms
    longer = advisor.estimate(model, CLUSTER, batch=1, input_len=6000, output_len=16)
    assert longer.tpot_ms >= answer.tpot_ms - 1e-9
    deeper = advisor.estimate(built([*parts, *parts]), CLUSTER, batch=1, input_len=2048, output_len=16)
    assert deeper.tpot_ms > answer.tpot_ms


def test_a_thousand_different_layers_are_answered_within_a_second():
    """Whatever a stranger's file says: every layer with heads of its own, a window or a state, experts or none."""
    number = 1000
    config = {
        "model_type": "nobody_knows", "hidden_size": HIDDEN, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 32_000,
        "num_hidden_layers": number, "intermediate_size": 2048, "sliding_window": 512, "mamba_num_heads": 16, "mamba_head_dim": 64,
        "layer_types": [("full_attention", "sliding_attention", "mamba")[n % 3] for n in range(number)],
        "per_layer_config": {str(n): {"num_key_value_heads": 2 ** (n % 5), "head_dim": 64 + n % 7} for n in range(number)},
        "quantization_config": {"quant_method": "fp8", "modules_to_not_convert": [f"model.layers.{n}.mlp" for n in range(number)]},
    }  # fmt: skip
    begin = time.process_time()
    model = model_from_config(config, "it")
    assert room(model).weights_gib[0] > 0
    assert time.process_time() - begin < 1.0
