"""Back ends between replicas that share experts: bytes by hand, published times, laws, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advisor
from advisor.perf_model.cost import EXPERT_EXCHANGE
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.expert_exchange import buffer_gib, exchange_cost, exchanges_of
from advisor.perf_model.forward_pass import decode_pass
from advisor.perf_model.parameters import IDEAL, Parameters
from advisor.perf_model.roofline import gpu_cost
from catalog.engines import command
from catalog.engines.defaults import resolve
from catalog.gpus import find_gpu
from catalog.models.find import find_model
from catalog.schema import Cluster, Deployment

H200 = find_gpu("H200").value
NODE, TWO = Cluster(gpu=H200, gpus_per_node=8), Cluster(gpu=H200, gpus_per_node=8, nodes=2)
MODEL = find_model("deepseek-v3").value
PARAMETERS = Parameters.typical()
BACK_ENDS = ("", "deepep_high_throughput", "deepep_low_latency", "deepep")
WIDE = {"dp": 8, "ep": 8}
BATCH = {"batch": 16, "input_len": 1024, "output_len": 256}
PUBLISHED = pd.read_csv(Path(__file__).parents[3] / "benchmarks" / "published" / "expert_exchange.csv")


def layout(backends=BACK_ENDS, ranks=8, **columns):
    columns = {"max_num_seqs": 256, "max_num_batched_tokens": 256, **columns}
    return DeploymentArrays.from_columns(
        {"tp": 1, "dp": ranks, "ep": ranks, "all2all_backend": list(backends), **columns}, MODEL, H200
    )


def test_bytes_are_those_counted_by_hand():
    """Low latency: 8 messages of 7168 numbers, 7 in 8 of them to others; normal: one to each of 8 (1 - (7/8)^8) GPUs; 8 bits and scales there."""
    arrays = layout()
    dispatch, combine = exchanges_of(MODEL, arrays, np.full(4, 100.0), NODE)
    there, back = 100 * 7168 * (1 + 4 / 128), 100 * 7168 * 2.0
    gpus = 8 * (1 - (7 / 8) ** 8) * 7 / 8
    assert dispatch.inside_bytes == pytest.approx([0, there * gpus, there * 7, there * 7])
    assert combine.inside_bytes == pytest.approx([0, back * gpus, back * 7, back * 7])
    assert (dispatch.across_bytes == 0).all()
    (over, _) = exchanges_of(MODEL, layout(ranks=16), np.full(4, 100.0), TWO)
    assert over.across_bytes == pytest.approx([0, there * 2 * (1 - 0.5**8) / 2, there * 4, there * 4])


def test_published_times_of_h200s_are_met():
    """48 kernels timed alone: half of them within a tenth."""
    rows = PUBLISHED[PUBLISHED.gpu == "H200-SXM"]
    errors = []
    for row in rows.itertuples():
        model = replace(MODEL, hidden_size=int(row.hidden), num_experts_per_tok=int(row.top))
        arrays = DeploymentArrays.from_columns(
            {"tp": 1, "dp": 8, "ep": 8, "dtype": "bfloat16", "all2all_backend": f"deepep_{row.kernels}"}, model, H200
        )
        ways = exchanges_of(model, arrays, np.array([float(row.tokens)]), NODE)
        (way,) = (way for way in ways if way.phase == row.phase)
        predicted = exchange_cost(way, NODE, PARAMETERS).total_ms[0] / way.layers * 1e3
        errors.append(abs(np.log(predicted / row.time_us)))
    assert len(errors) == 48
    assert np.median(errors) < 0.1


@settings(max_examples=30)
@given(tokens=st.floats(1, 1e5), more=st.floats(1, 10), nodes=st.sampled_from([NODE, TWO]))
def test_more_tokens_never_go_quicker_nor_any_below_the_floor(tokens, more, nodes):
    arrays = layout(BACK_ENDS[1:3], ranks=nodes.num_gpus)

    def times(count, parameters):
        ways = exchanges_of(MODEL, arrays, np.full(2, count), nodes)
        return sum(exchange_cost(way, nodes, parameters).total_ms for way in ways)

    assert (times(tokens * more, PARAMETERS) >= times(tokens, PARAMETERS)).all()
    assert (times(tokens, PARAMETERS) > times(tokens, IDEAL)).all()
    assert (times(tokens, IDEAL) > 0).all()


def test_sglangs_deepep_is_the_quick_kernels_up_to_128_tokens():
    for tokens, same_as in ((128.0, 2), (129.0, 1)):
        step = decode_pass(MODEL, np.full(4, tokens), np.full(4, 1000.0))
        exchanged = gpu_cost(MODEL, layout(), step, NODE, PARAMETERS).by_operator()[EXPERT_EXCHANGE]
        assert exchanged[3] == exchanged[same_as]


def test_buffers_are_those_of_deepep():
    """256 tokens: twice send and receive, each 256 experts x 256 tokens x (14,336 + 224) bytes, beside 1 GiB for NVLink."""
    gib = buffer_gib(MODEL, layout(), NODE)
    assert gib == pytest.approx([0, 1, 1 + 4 * 256 * 256 * (14336 + 224) / 2**30, 0])
    assert buffer_gib(MODEL, layout(ranks=16), TWO)[1] == 2


def test_the_engines_default_is_the_plain_answer():
    plain = advisor.estimate("deepseek-v3", "8xH200", **WIDE, **BATCH)
    named = advisor.estimate("deepseek-v3", "8xH200", **WIDE, **BATCH, all2all_backend="allgather_reducescatter")
    assert json.dumps(plain.to_dict()) == json.dumps(named.to_dict())


def test_what_an_engine_does_with_a_back_end_is_done():
    """No CUDA graphs with high throughput, 256 tokens a step with low latency; the answer says that neither was measured."""
    high, low = (
        advisor.estimate("deepseek-v3", "8xH200", **WIDE, **BATCH, all2all_backend=name) for name in BACK_ENDS[1:3]
    )
    assert not high.deployment.has_graphs
    assert low.deployment.max_num_batched_tokens == 256
    assert low.deployment.has_graphs
    for estimate in (high, low):
        assert any("DeepEP between replicas" in note.text for note in estimate.notes)
    stated = resolve(Deployment(**WIDE, all2all_backend="deepep_high_throughput"), MODEL, NODE).value
    assert "--all2all-backend deepep_high_throughput" in " ".join(command(stated, MODEL, NODE))
    sglang = resolve(Deployment(engine="sglang", **WIDE, all2all_backend="deepep"), MODEL, NODE).value
    assert "--moe-a2a-backend deepep" in " ".join(command(sglang, MODEL, NODE))


def test_recommend_has_layouts_alone_that_use_it():
    found = advisor.recommend("deepseek-v3", "8xH200", all2all_backend="deepep_low_latency", top=3)
    assert found.candidates
    for estimate in found.candidates:
        assert estimate.deployment.ranks > 1
        assert estimate.deployment.max_num_batched_tokens == 256


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"tp": 8, "all2all_backend": "deepep_low_latency"}, "experts that several replicas share"),
        ({**WIDE, "all2all_backend": "nixl_ep"}, "those with published times are modelled"),
        ({**WIDE, "all2all_backend": "deepep", "engine": "tensorrt-llm"}, "chooses by itself"),
    ],
)
def test_what_has_no_ground_is_refused_in_a_line(stated, reason):
    with pytest.raises(advisor.InputError, match=reason) as refused:
        advisor.estimate("deepseek-v3", "8xH200", **stated, **BATCH)
    assert "\n" not in str(refused.value)


def test_links_that_deepep_cannot_use_are_refused():
    with pytest.raises(advisor.InputError, match="DeepEP takes NVLink between all GPUs of a node"):
        advisor.estimate("qwen3-30b-a3b", "8xL40S", **WIDE, **BATCH, all2all_backend="deepep_low_latency")
