"""Laws of decode context parallelism: what is shared is counted once, and nothing is free."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advisor
from advisor.perf_model.context_parallel import exchanges
from advisor.perf_model.cost import ATTENTION, CONTEXT_EXCHANGE
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.forward_pass import decode_pass
from advisor.perf_model.memory.dispatch import memory
from advisor.perf_model.memory.kv_capacity import max_concurrency
from advisor.perf_model.operators import AttentionWork, CollectiveWork, ForwardPass, operators
from advisor.perf_model.parameters import Parameters
from advisor.perf_model.roofline import attention_cost
from advisor.prediction.prediction import Prediction
from catalog.engines import command, valid_dcp
from catalog.engines.defaults import resolve
from catalog.gpus import find_gpu
from catalog.models.find import find_model
from catalog.schema import Cluster, Deployment
from search.parallelism import context_degrees

H200 = find_gpu("H200").value
NODE = Cluster(gpu=H200, gpus_per_node=8)
LATENT, GROUPED = find_model("deepseek-v3").value, find_model("qwen3-235b-a22b").value
PARAMETERS = Parameters.typical()
ONE, MANY = ({"batch": batch, "input_len": 1024, "output_len": 256} for batch in (1, 32))
DEGREES = {LATENT: (1, 2, 4, 8), GROUPED: (1, 2)}
"""Of eight GPUs: all of them have the latent cache, and two have each of four KV heads."""


def layouts(model, **columns):
    fixed = {"tp": 8, "max_num_seqs": 256, "max_num_batched_tokens": 8192}
    return DeploymentArrays.from_columns({**fixed, "dcp": list(DEGREES[model]), **columns}, model, H200)


@pytest.mark.parametrize("model", DEGREES)
def test_degrees_are_those_that_leave_no_rank_without_a_head_of_its_own(model):
    assert valid_dcp(model, 8) == DEGREES[model]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("llama-3.1-8b", "each of meta-llama/Meta-Llama-3.1-8B's 8 KV heads is held by 1 of 8 GPUs"),
        ("gpt-oss-20b", "sliding-window layers"),
        ("granite-4.0-h-tiny", "recurrent layers"),
    ],
)
def test_what_is_not_spread_is_refused_in_a_line(model, reason):
    with pytest.raises(advisor.InputError, match=reason) as refused:
        advisor.estimate(model, "8xH200", tp=4 if "granite" in model else 8, dcp=2, **ONE)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("model", "gpus", "dcp", "reason"),
    [
        ("llama-3.1-8b", "8xH200", 2, "8 KV heads is held by 1 of 8"),
        ("deepseek-v3", "16xH200", 16, "has to divide tp=8"),
    ],
)
def test_a_degree_that_no_layout_has_is_refused_with_the_reason(model, gpus, dcp, reason):
    with pytest.raises(advisor.InputError, match=reason):
        advisor.recommend(model, gpus, dcp=dcp)


def test_long_contexts_bring_the_largest_degree_into_the_search():
    """Nothing is spread in the search for short requests; a stated degree is that of all layouts."""
    degrees = partial(context_degrees, LATENT, 8, supported=True)
    assert degrees(stated=None, length=8191) == (1,)
    assert set(degrees(stated=None, length=8192)) == {1, 8}
    assert degrees(stated=4, length=1) == (4,)
    assert context_degrees(LATENT, 8, stated=None, length=8192, supported=False) == (1,)
    question = {"input_len": 32768, "output_len": 512, "confidence": 0.5, "top": 40}
    found = advisor.recommend("deepseek-v3", "8xH200", **question)
    assert {estimate.deployment.dcp for estimate in found.candidates} >= {1, 8}
    stated = advisor.recommend("deepseek-v3", "8xH200", dcp=8, **question)
    assert {estimate.deployment.dcp for estimate in stated.candidates} == {8}
    assert "--decode-context-parallel-size 8" in " ".join(stated.command)


@pytest.mark.parametrize("engine", ["sglang", "tensorrt-llm"])
def test_other_engines_ways_are_not_guessed(engine):
    with pytest.raises(advisor.InputError, match=f"modelled as vllm has it, not {engine}"):
        advisor.estimate("deepseek-v3", "8xH200", tp=8, dcp=8, engine=engine, **ONE)


def test_drafts_beside_it_are_refused():
    for ask in (advisor.estimate, advisor.recommend):
        stated = {"tp": 8, **ONE} if ask is advisor.estimate else {}
        with pytest.raises(advisor.InputError, match="drafts are not modelled beside decode context parallelism"):
            ask("deepseek-v3", "8xH200", dcp=8, speculate="mtp", **stated)


def test_a_degree_of_one_is_the_plain_case():
    plain, one = (advisor.estimate("deepseek-v3", "8xH200", tp=8, **MANY, **stated) for stated in ({}, {"dcp": 1}))
    assert json.dumps(plain.to_dict()) == json.dumps(one.to_dict())


@pytest.mark.parametrize("model", DEGREES)
def test_a_context_is_kept_once(model):
    """Twice the ranks that share it keep twice the tokens, in blocks of as many more."""
    layout = layouts(model)
    room = memory(model, NODE, layout)
    degrees = np.array(DEGREES[model], dtype=float)
    assert room.kv_capacity_tokens == pytest.approx(room.kv_capacity_tokens[0] * degrees, rel=1e-3)
    assert room.block_tokens == pytest.approx(16.0 * degrees)
    assert room.kv_bytes_per_token * degrees == pytest.approx(room.kv_bytes_per_token[0])


@settings(max_examples=30)
@given(
    model=st.sampled_from(list(DEGREES)),
    tokens=st.integers(1, 100_000),
    seqs=st.integers(1, 1024),
    kv=st.sampled_from(["auto", "fp8"]),
)
def test_no_degree_holds_fewer_requests(model, tokens, seqs, kv):
    """Blocks of more tokens waste more of the last one, but never more than the copies took."""
    layout = layouts(model, max_num_seqs=seqs, kv_dtype=kv)
    held = max_concurrency(model, memory(model, NODE, layout), layout, np.full(len(layout), float(tokens)))
    assert (np.diff(held) >= 0).all()


@settings(max_examples=30)
@given(
    model=st.sampled_from(list(DEGREES)),
    sequences=st.integers(1, 512),
    context=st.integers(1, 200_000),
)
def test_attention_itself_never_takes_longer(model, sequences, context):
    """Of one GPU, links aside: fewer bytes of the cache, and as many operations."""
    layout = layouts(model)
    step = decode_pass(model, np.full(len(layout), float(sequences)), np.full(len(layout), float(context)))
    (work,) = (part for part in operators(model, layout, step) if isinstance(part, AttentionWork))
    assert work.read_bytes * layout.dcp == pytest.approx(work.read_bytes[0])
    assert work.decode_flops == pytest.approx(work.decode_flops[0])
    times = attention_cost(work, layout, H200, PARAMETERS).by_operator()[ATTENTION]
    assert (np.diff(times) < 0).all()


@pytest.mark.parametrize("regime", ["static", "steady"])
@pytest.mark.parametrize("model", DEGREES)
def test_nothing_is_below_its_floor(model, regime):
    layout = layouts(model)
    found = Prediction.of(
        model,
        NODE,
        layout,
        batch=np.full(len(layout), 64.0),
        input_len=16000,
        output_len=500,
        regime=regime,
        parameters=PARAMETERS,
    )
    floors = found.floors()
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        assert (getattr(found.times, name) >= floors[name]).all(), name
    exchanged = found.times.decode.by_operator()[CONTEXT_EXCHANGE]
    assert exchanged[0] == 0
    assert (exchanged[1:] > 0).all()


def test_queries_and_outputs_of_all_heads_are_exchanged():
    """61 layers of DeepSeek-V3: 128 queries of 576 numbers, as many logarithms of each rank, 128 outputs of 512, in 16 bits."""
    layout = layouts(LATENT)
    collectives = exchanges(LATENT, layout, decode_pass(LATENT, np.full(4, 10.0), np.full(4, 1000.0)))
    sizes: dict[tuple[str, float], float] = defaultdict(float)
    for _, op, size, group, layers in collectives:
        sizes[op, float(size[-1])] += layers * (group[-1] == 8)
    assert sizes == {
        ("all_gather", 10 * 128 * 576 * 2.0): 61.0,
        ("all_gather", 10 * 128 * 8 * 4.0): 61.0,
        ("reduce_scatter", 10 * 128 * 512 * 2.0): 61.0,
        ("all_gather", 0.0): 0.0,  # of prompts there are none
    }


def test_prompts_gather_what_comes_before_their_chunk():
    """The second full chunk of a prompt gathers the first one's 8192 vectors of 576 numbers in 16 bits; the first gathers nothing."""
    layout = layouts(LATENT)
    full, zero = np.full(4, 8192.0), np.zeros(4)

    def gathered(pairs: float) -> float:
        step = ForwardPass(
            tokens=full,
            sequences=np.ones(4),
            decodes=zero,
            context=zero,
            windowed_context=zero,
            pairs=np.full(4, pairs),
            windowed_pairs=zero,
        )
        works = [work for work in operators(LATENT, layout, step) if isinstance(work, CollectiveWork)]
        return max(
            float(work.message_bytes[-1])
            for work in works
            if work.name == CONTEXT_EXCHANGE and np.broadcast_to(work.group, 4)[-1] > 1
        )

    with pytest.raises(ValueError, match="empty"):
        gathered(8192 * 8193 / 2)
    assert gathered(8192 * 8193 / 2 + 8192 * 8192) == pytest.approx(8192 * 576 * 2)


def test_the_answer_says_that_nothing_of_it_was_measured():
    plain, spread = (advisor.estimate("deepseek-v3", "8xH200", tp=8, dcp=dcp, **MANY) for dcp in (1, 8))
    assert any("decode context parallelism" in note.text and note.kind == "warning" for note in spread.notes)

    def width(estimate):
        low, high = estimate.interval("tpot_ms")
        return math.log(high / low)

    assert width(spread) > 1.5 * width(plain)


def test_what_starts_it_has_vllms_option():
    deployment = resolve(Deployment(tp=8, dcp=8), LATENT, NODE).value
    assert "--decode-context-parallel-size 8" in " ".join(command(deployment, LATENT, NODE))
    plain = resolve(replace(deployment, dcp=1), LATENT, NODE).value
    assert "context-parallel" not in " ".join(command(plain, LATENT, NODE))
