"""Tabulated step times are those of the model of time, for every step a scheduler can make up."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.perf_model.cost_model import CostModel
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.forward_pass import forward_pass_cost
from advisor.perf_model.memory.dispatch import memory
from advisor.perf_model.operators import ForwardPass, causal_pairs
from advisor.prediction.evidence import Evidence
from advisor.simulator import step_duration as kernel
from advisor.simulator.step_table import tabulate
from catalog.engines import resolve
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.schema import Deployment

BUDGET, CAP = 4096, 512
CASES = [
    ("llama-3.1-8b", "1xH200", {}),
    ("qwen2.5-32b", "2xH200", {"tp": 2}),
    ("llama-70b", "4xA100", {"tp": 2, "pp": 2}),
    ("mixtral-8x7b", "4xH100", {"tp": 4}),
    ("deepseek-v3", "8xH200", {"tp": 8, "dtype": "fp8"}),
    ("mistral-7b", "1xA100", {}),
    ("llama-3.1-8b", "1xH200", {"compiled": False}),
    ("llama-70b", "4xA100", {"tp": 4, "offload": 0.3}),
]
_known = {}


def cost_model_of(case):
    name, gpus, knobs = CASES[case]
    if case not in _known:
        model, cluster = find_model(name).value, parse_cluster(gpus).value
        wanted = Deployment(max_num_seqs=CAP, max_num_batched_tokens=BUDGET, max_model_len=4096, **knobs)
        chosen = resolve(wanted, model, cluster).value
        layout = DeploymentArrays.of([chosen], model, cluster.gpu)
        marginal = Evidence.of(None, engine="vllm", gpu=cluster.gpu).marginal("vllm", cluster.gpu)
        cost_model = CostModel(
            model=model,
            cluster=cluster,
            layout=layout,
            memory=memory(model, cluster, layout, "vllm"),
            parameters=marginal.parameters,
        )
        _known[case] = cost_model, tabulate(cost_model, budget=BUDGET, cap=CAP)
    return _known[case]


@settings(max_examples=150)
@given(
    case=st.integers(0, len(CASES) - 1),
    decodes=st.integers(0, CAP),
    context=st.floats(1, 4096),
    prompts=st.integers(0, 7),
    prompt=st.integers(1, 512),
)
def test_any_step_takes_what_the_model_of_time_says(case, decodes, context, prompts, prompt):
    tokens = decodes + prompts * prompt
    sequences = min(max(decodes + prompts, 1), CAP)
    if not 1 <= tokens <= BUDGET:
        return
    cost_model, times = cost_model_of(case)
    window = float(cost_model.model.sliding_window)
    one = np.ones(1)
    pairs, windowed = prompts * causal_pairs(prompt * one), prompts * causal_pairs(prompt * one, window)
    step = ForwardPass(
        tokens=tokens * one,
        sequences=sequences * one,
        decodes=decodes * one,
        context=context * one,
        windowed_context=np.minimum(context, window or np.inf) * one,
        pairs=pairs,
        windowed_pairs=windowed,
    )
    expected = forward_pass_cost(cost_model, step, prefills=float(prompts > 0)).total_ms[0]
    found = kernel.step_ms(
        times.by_tokens,
        times.by_sequences,
        times.by_context,
        times.constants._replace(mixed_attention=1.0),
        tokens,
        sequences,
        decodes,
        decodes * context,
        pairs[0],
        windowed[0],
        int(prompts > 0),
    )
    assert found == pytest.approx(expected, rel=0.005)


def test_prompts_in_a_step_slow_decode_attention_down_where_one_kernel_takes_both():
    cost_model, times = cost_model_of(0)
    others = tabulate(replace(cost_model, engine="tensorrt-llm"), budget=BUDGET, cap=CAP)
    assert (times.constants.mixed_attention, others.constants.mixed_attention) == (1.25, 1.0)

    def step_ms(decodes, prefills, constants):
        tables = times.by_tokens, times.by_sequences, times.by_context
        return kernel.step_ms(*tables, constants, 2048, 65, decodes, decodes * 1024.0, 0.0, 0.0, prefills)

    plain = times.constants._replace(mixed_attention=1.0)
    attention = step_ms(64, 1, plain) - step_ms(0, 1, plain)
    assert step_ms(64, 1, times.constants) - step_ms(64, 1, plain) == pytest.approx(0.25 * attention)
    assert step_ms(64, 0, times.constants) == step_ms(64, 0, plain)
    assert step_ms(0, 1, times.constants) == step_ms(0, 1, plain)


def test_stages_share_a_pass_by_their_layers():
    _, times = cost_model_of(2)
    assert times.shares.tolist() == [0.5, 0.5]


def test_scaling_scales_every_time_and_no_other_constant():
    _, times = cost_model_of(0)
    twice = times.scaled(2.0)
    for name in ("by_tokens", "by_sequences", "by_context"):
        assert getattr(twice, name) == pytest.approx(2 * getattr(times, name))
    for name in set(times.constants._fields) - {"captured_tokens", "mixed_attention"}:
        assert getattr(twice.constants, name) == pytest.approx(2 * getattr(times.constants, name)), name
    assert twice.constants.captured_tokens == times.constants.captured_tokens == 512
    assert twice.constants.mixed_attention == times.constants.mixed_attention


def test_causal_pairs_are_the_model_s():
    for length, window in ((10, 4.0), (3, 8.0), (8, 8.0)):
        assert kernel.causal(float(length), window) == causal_pairs(np.array([float(length)]), window)[0]
    assert kernel.causal(10.0, np.inf) == 55.0
