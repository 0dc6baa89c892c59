"""One deployment answered: what is said adds up, can be trusted as far as it says, and refuses what cannot be."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.calibration.fit_file import LEVELS
from advisor.perf_model.cost import CAUSES
from advisor.perf_model.parameters import IDEAL, PRIORS
from advisor.prediction.deployment_estimate import Estimate
from advisor.prediction.estimation import estimate
from advisor.prediction.inputs import chosen_price
from advisor.prediction.prediction import TIME_METRICS
from catalog.engines import find_engine, valid_tp
from catalog.errors import InputError
from catalog.models.find import find_model
from tests.advisor.strategies import gpus, models, questions

QUESTION = {"model": "llama-13b", "gpus": "4xA100", "batch": 16, "input_len": 1024, "output_len": 128}


def asked(**changes) -> Estimate:
    return estimate(**{**QUESTION, **changes})


@st.composite
def estimates(draw):
    """Any model on any GPU that vLLM knows how to run it on."""
    model, gpu = draw(models), draw(gpus)
    tp = draw(st.sampled_from(valid_tp(model, most=8)))
    return estimate(
        model, f"1x{tp}x{gpu.name}", tp=tp, batch=draw(st.sampled_from([1, 3, 32, 500])),
        input_len=draw(st.sampled_from([16, 512])), output_len=draw(st.sampled_from([1, 2, 100])),
        max_model_len=1024, max_num_seqs=64, max_num_batched_tokens=draw(st.sampled_from([512, 2048])), price=2.0,
    )  # fmt: skip


def refused(call):
    try:
        return call()
    except InputError:
        return None


@settings(max_examples=40)
@given(st.data())
def test_what_is_said_adds_up(data):
    found = refused(lambda: data.draw(estimates()))
    if found is None:
        return
    parts = {part: size for part, size in found.memory.items() if part != "device"}
    if not found.fits:
        assert found.e2e_ms is found.tpot_ms is found.output_tok_s is found.usd_per_mtok is None
        warned = [note.text for note in found.notes if note.kind == "warning"]
        assert any("out of memory" in text or "will not start" in text for text in warned)
        return
    assert sum(parts.values()) == pytest.approx(found.memory["device"], rel=1e-12)
    assert found.bottleneck == max(found.breakdown["causes"], key=found.breakdown["causes"].get)
    steps = found.output_len - 1
    for cause in CAUSES:
        split = sum(
            times.get(cause, 0.0) * (1 if phase == "prefill" else steps)
            for phase in ("prefill", "decode")
            for times in found.breakdown[phase].values()
        )
        assert split == pytest.approx(found.breakdown["causes"][cause], rel=1e-9, abs=1e-12)
    if found.running == found.batch:
        assert sum(found.breakdown["causes"].values()) == pytest.approx(found.e2e_ms, rel=1e-9)
    assert found.e2e_ms == pytest.approx(found.prefill_ms + steps * found.tpot_ms, rel=1e-9)
    assert found.output_tok_s_per_gpu * found.deployment.num_gpus == pytest.approx(found.output_tok_s)
    assert found.usd_per_mtok == pytest.approx(2.0 * found.deployment.num_gpus / 3600 / found.output_tok_s * 1e6)
    assert found.running <= min(found.batch, found.deployment.max_num_seqs)
    assert found.running == min(found.batch, found.deployment.max_num_seqs, max(found.max_concurrency, 1))
    assert (found.running < found.batch) == any("the others wait" in note.text for note in found.notes)


@settings(max_examples=40)
@given(st.data())
def test_intervals_hold_their_value_and_widen_with_the_level(data):
    found = refused(lambda: data.draw(estimates()))
    if found is None or not found.fits:
        return
    for metric in (*TIME_METRICS, "output_tok_s_per_gpu"):
        value = getattr(found, metric)
        ends = [found.interval(metric, level) for level in (*LEVELS, 0.55, 0.93)]
        for low, high in ends:
            assert 0 <= low <= value <= high < math.inf
        ordered = [found.interval(metric, level) for level in sorted((*LEVELS, 0.55, 0.93))]
        assert all(a[0] >= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(ordered))
        per_gpu = found.deployment.num_gpus if metric == "output_tok_s_per_gpu" else 1
        bound = found.floors[metric.removesuffix("_per_gpu")] / per_gpu
        if metric.startswith("output"):
            assert ends[-1][1] <= bound * (1 + 1e-9), "no faster than the hardware"
        else:
            assert ends[-1][0] >= bound * (1 - 1e-9), "no shorter than the hardware allows"


@settings(max_examples=30)
@given(questions())
def test_floors_are_below_every_value(question):
    for regime in ("static", "steady"):
        evaluation = question.evaluate(regime)
        floors = evaluation.floors()
        for metric, values in evaluation.metrics().items():
            if metric == "output_tok_s":
                question.require(values <= floors[metric] * (1 + 1e-9), f"{metric}, {regime}")
            else:
                question.require(values >= floors[metric] * (1 - 1e-9), f"{metric}, {regime}")


def test_the_ideal_is_better_than_any_parameters():
    for name, prior in PRIORS.items():
        ideal = getattr(IDEAL, name)
        if prior.kind in {"efficiency", "odds"}:
            assert ideal == 1
        elif not name.endswith("sharpness"):
            assert ideal < 1e-6
        else:
            assert ideal > 100


def test_what_if_hardware_moves_the_answer_the_right_way():
    now = asked(runs=[])
    assert asked(runs=[], set_gpu={"memory_bandwidth_gbps": 3000}).tpot_ms < now.tpot_ms
    assert asked(runs=[], set_gpu={"fp16_tflops": 600}).prefill_ms < now.prefill_ms
    assert asked(runs=[], set_gpu={"memory_gib": 60}).kv_capacity_tokens < now.kv_capacity_tokens
    assert asked(runs=[], tp=2, set_gpu={"nvlink_gbps": 50}).prefill_ms > asked(runs=[], tp=2).prefill_ms


def test_every_product_is_reported_with_its_bound():
    found = asked(model="mixtral-8x7b", tp=4)
    names = {(row["phase"], row["product"]) for row in found.products}
    for phase in ("prefill", "decode"):
        assert {name for of, name in names if of == phase} == {
            "qkv", "o", "router", "experts_up", "experts_down", "lm_head",
        }  # fmt: skip
    for row in found.products:
        assert row["ms"] > 0
        assert row["bound"] in CAUSES
        assert row["gflop"] > 0
    decode = next(row for row in found.products if (row["phase"], row["product"]) == ("decode", "qkv"))
    assert (decode["m"], decode["k"], decode["n"], decode["layers"]) == (16, 4096, 1536, 32)
    assert decode["gflop"] == pytest.approx(2 * 16 * 4096 * 1536 / 1e9)
    assert decode["flop_per_byte"] == pytest.approx(16)


def test_products_turn_from_memory_to_compute_at_the_turning_batch():
    """Half as large is memory-bound, twice as large compute-bound."""
    turn = asked(runs=[]).turning_batch
    for batch, bound in ((turn / 2, "memory"), (turn * 2, "compute")):
        found = asked(runs=[], batch=round(batch), max_num_seqs=1024, input_len=16, output_len=2)
        assert found.running == round(batch)
        bounds = {row["product"]: row["bound"] for row in found.products if row["phase"] == "decode"}
        assert bounds["gate_up"] == bounds["down"] == bound


def test_to_dict_is_plain_json():
    for found in (asked(), asked(model="llama-70b", gpus="1xA100")):
        body = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert body["model"] == found.model.name
        assert body["deployment"]["max_num_batched_tokens"] == found.deployment.max_num_batched_tokens
        assert bool(body["intervals"]) == found.fits
        assert body["memory"]["device"] == found.memory["device"]
        for name, ends in body["intervals"].items():
            assert ends == list(found.interval(name))


def test_knobs_left_open_are_the_engine_s_and_said():
    found, gpu = asked(), asked().cluster.gpu
    defaults = find_engine("vllm").batch_defaults(gpu)
    assert found.deployment.max_num_batched_tokens == defaults.max_num_batched_tokens
    assert found.deployment.max_num_seqs == defaults.max_num_seqs
    assert found.deployment.max_model_len == find_model("llama-13b").value.max_position_embeddings
    text = " ".join(note.text for note in found.notes)
    assert "A100-SXM-80GB" in text
    assert str(defaults.max_num_batched_tokens) in text


def test_what_does_not_fit_is_said_in_numbers():
    found = asked(model="llama-70b", gpus="1xA100")
    assert not found.fits
    assert found.running == found.max_concurrency == 0
    (note,) = [note for note in found.notes if note.kind == "warning" and "out of memory" in note.text]
    assert "79.2 GiB" in note.text or f"{found.memory['device']:.1f}" in note.text
    with pytest.raises(InputError, match="does not fit"):
        found.interval("tpot_ms")


def test_a_batch_beyond_the_cache_waits():
    found = asked(gpus="1xA100", batch=500)
    assert found.running == found.max_concurrency < 500
    assert any(f"of 500 requests {found.running} run at once" in note.text for note in found.notes)
    assert found.e2e_ms > asked(gpus="1xA100", batch=found.running).e2e_ms


def test_prices():
    stated = asked(gpus="1xH100", price=3.0)
    assert stated.price.usd_per_gpu_hour == 3.0
    assert stated.usd_per_mtok == pytest.approx(3.0 / 3600 / stated.output_tok_s * 1e6)
    assert chosen_price("H100-SXM (memory_gib=90)", None) == chosen_price("H100-SXM", None)
    dearer = asked(gpus="1xH100", price=6.0)
    assert dearer.usd_per_mtok == pytest.approx(2 * stated.usd_per_mtok)


REFUSALS = [
    ({"model": "lama-13xb"}, "llama-13b"), ({"gpus": "4xA101"}, "A100"), ({"gpus": "0xA100"}, "0"),
    ({"gpus": "-1xA100"}, "-1"), ({"batch": 0}, "batch is 0"), ({"batch": -3}, "batch is -3"),
    ({"batch": 10**9}, "batch is 1000000000"), ({"batch": 1.5}, "batch is 1.5"), ({"batch": True}, "batch is True"),
    ({"input_len": 0}, "input_len is 0"), ({"output_len": -1}, "output_len is -1"), ({"input_len": 5000}, "4096"),
    ({"tp": 3, "gpus": "3xA100"}, "tp can be"), ({"tp": 8}, "8 GPUs"), ({"dp": 5}, "5 GPUs"), ({"pp": 41}, "40 layers"),
    ({"ep": 2}, "no experts"), ({"tp": 0}, "tp is 0"), ({"engine": "vlm"}, "vllm"), ({"dtype": "fp9"}, "fp8"),
    ({"kv_dtype": "int3"}, "kv_dtype"), ({"max_model_len": 99999}, "4096"), ({"gpu_memory_utilization": 1.5}, "1.5"),
    ({"gpu_memory_utilization": 0}, "gpu_memory_utilization is 0"), ({"offload": 1.0}, "offload"),
    ({"max_num_seqs": 0}, "max_num_seqs is 0"), ({"max_num_batched_tokens": -1}, "-1"), ({"price": -1}, "price is -1"),
    ({"price": math.nan}, "nan"), ({"set_gpu": {"memory": 4}}, "memory_gib"), ({"set_gpu": {"memory_gib": "x"}}, "'x'"),
    ({"max_num_seqs": 500, "max_num_batched_tokens": 100}, "100"), ({"tp_size": 2}, "tp_size"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "told"), REFUSALS, ids=lambda value: str(value)[:50])
def test_what_cannot_be_is_refused_in_one_line(changes, told):
    with pytest.raises(InputError) as refusal:
        asked(**changes)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("metric", "level", "told"), [("speed", 0.9, "output_tok_s"), ("tpot_ms", 0.99, "0.98"), ("tpot_ms", 0.1, "0.5")]
)
def test_intervals_that_do_not_exist_are_refused(metric, level, told):
    with pytest.raises(InputError, match=told):
        asked().interval(metric, level)


def test_bfloat16_never_on_a_v100():
    found = asked(model="llama-3.1-8b", gpus="1xV100-32GB", max_model_len=4096)
    assert found.deployment.dtype == "float16"
    assert np.isfinite(found.tpot_ms)


def test_a_measured_capacity_is_inside_its_own_interval():
    """What was measured takes the place of what was predicted, with all that follows from it."""
    shape = {"batch": 64, "input_len": 1024, "output_len": 128}
    answer = estimate("llama-3.1-8b", "1xH200", **shape, engine_version="0.24")
    assert answer.provenance == "measured"
    low, high = answer.kv_capacity_ends
    assert low <= answer.kv_capacity_tokens <= high
    assert answer.max_concurrency == pytest.approx(answer.kv_capacity_tokens / 1152, rel=0.01)


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "deepseek-v3", "gpus": "8xH200", "dp": 8, "ep": 8, "batch": 256},
        {"model": "llama-70b", "gpus": "8xL4", "tp": 8, "batch": 64},
        {"model": "llama-3.1-8b", "gpus": "1xH100", "batch": 512, "output_len": 2},
    ],
)
def test_no_first_token_comes_later_than_the_last(asked):
    found = estimate(**{"input_len": 1024, "output_len": 256} | asked)
    for level in (0.5, 0.9, 0.98):
        last = found.interval("e2e_ms", level)[1]
        for name in ("ttft_ms", "prefill_ms"):
            low, high = found.interval(name, level)
            assert low <= getattr(found, name) <= high
            assert high <= max(last, getattr(found, name))
