"""One deployment over many batches: the same numbers as one at a time, and what physics demands of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advisor

QUESTION = {"input_len": 700, "output_len": 120}


@pytest.mark.parametrize(("tp", "pp", "dp"), [(1, 1, 1), (2, 1, 2), (1, 2, 1)])
def test_a_static_curve_is_estimate_at_each_batch(tp, pp, dp):
    gpus = f"{tp * pp * dp}xH100"
    curve = advisor.curve("llama-13b", gpus, batches=[3, 70], regime="static", tp=tp, pp=pp, dp=dp, **QUESTION)
    for i, batch in enumerate((3, 70)):
        found = advisor.estimate("llama-13b", gpus, tp=tp, pp=pp, dp=dp, batch=batch, **QUESTION)
        for metric in ("prefill_ms", "ttft_ms", "tpot_ms", "e2e_ms", "output_tok_s", "output_tok_s_per_gpu"):
            ends = (curve.low[metric][i], curve.high[metric][i])
            assert curve.metrics[metric][i] == pytest.approx(getattr(found, metric))
            assert ends == pytest.approx(found.interval(metric))
        assert curve.metrics["usd_per_mtok"][i] == pytest.approx(found.usd_per_mtok)
        assert curve.turning_batch == pytest.approx(found.turning_batch)
        assert curve.provenance == found.provenance


def test_a_steady_curve_is_recommend_at_its_batch():
    best = advisor.recommend("llama-13b", "2xA100", workload=advisor.Workload(concurrency=60)).best
    made = best.deployment
    curve = advisor.curve(
        "llama-13b",
        "2xA100",
        batches=[best.batch],
        tp=made.tp,
        pp=made.pp,
        dp=made.dp,
        max_model_len=made.max_model_len,
    )
    for metric in ("ttft_ms", "tpot_ms", "output_tok_s_per_gpu"):
        assert curve.metrics[metric][0] == pytest.approx(getattr(best, metric))
        assert (curve.low[metric][0], curve.high[metric][0]) == pytest.approx(best.interval(metric))
    assert curve.full_batch == pytest.approx(best.max_concurrency, abs=1)


@settings(max_examples=15)
@given(
    gpu=st.sampled_from(["A100", "H200", "L40S", "MI300X"]), tp=st.sampled_from([1, 2, 4]),
    input_len=st.integers(1, 3000), output_len=st.integers(1, 1000), regime=st.sampled_from(["steady", "static"]),
)  # fmt: skip
def test_parts_sum_and_ends_enclose(gpu, tp, input_len, output_len, regime):
    curve = advisor.curve("llama-2-7b", f"{tp}x{gpu}", tp=tp, input_len=input_len,
                          output_len=output_len, regime=regime)  # fmt: skip
    assert curve.fits
    assert np.all(np.diff(curve.batches) > 0)
    np.testing.assert_allclose(sum(curve.memory.values()), curve.device_gib)
    assert all(np.all(part >= -1e-9) for part in curve.memory.values())
    for metric, value in curve.metrics.items():
        assert np.all(curve.low[metric] <= value * (1 + 1e-12))
        assert np.all(value <= curve.high[metric] * (1 + 1e-12))
    assert np.all(curve.running <= curve.batches)
    held = curve.batches <= curve.full_batch
    if regime == "steady":
        assert np.all(curve.running[held & (curve.batches <= 256)] == curve.batches[held & (curve.batches <= 256)])


@settings(max_examples=10)
@given(factor=st.floats(1.1, 4.0))
def test_faster_memory_is_never_slower(factor):
    bandwidth = 2039.0
    one, other = (
        advisor.curve("llama-13b", "A100", set_gpu={"memory_bandwidth_gbps": each}, regime="static")
        for each in (bandwidth, bandwidth * factor)
    )
    assert np.all(other.metrics["tpot_ms"] <= one.metrics["tpot_ms"] * (1 + 1e-9))
    assert other.turning_batch < one.turning_batch


def test_the_cache_ends_where_the_curve_says():
    curve = advisor.curve("llama-13b", "A100")
    below, above = (advisor.curve("llama-13b", "A100", batches=[times * curve.full_batch]) for times in (1, 2))
    assert below.running[0] == curve.full_batch
    assert (
        curve.full_batch < above.running[0] < 2 * curve.full_batch
    )  # admitted by their prompts, which are not all at their end
    reserved = advisor.curve("llama-13b", "A100", batches=[2 * curve.full_batch], engine="tensorrt-llm")
    assert reserved.running[0] == pytest.approx(reserved.full_batch, abs=1)
    assert curve.full_batch in curve.batches


def test_what_does_not_fit_has_memory_but_no_times():
    curve = advisor.curve("llama-70b", "A100")
    assert not curve.fits
    assert curve.full_batch == 0
    assert np.all(np.isnan(curve.metrics["tpot_ms"]))
    assert curve.memory["weights"][0] > curve.device_gib
    assert all(point["tpot_ms"] is None for point in curve.to_dict()["points"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": []}, "from 1 to 4096"),
        ({"batches": [0]}, "batch is 0"),
        ({"regime": "open"}, "steady or static"),
        ({"tp": 3}, "tensor_parallel|attention heads|tp"),
        ({"input_len": 10**6}, "above the positions"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(advisor.InputError, match=message):
        advisor.curve("llama-13b", "4xA100", **change)


def test_a_frame_has_a_row_a_batch():
    curve = advisor.curve("llama-13b", "A100", batches=[1, 8])
    frame = curve.to_frame()
    assert list(frame["batch"]) == [1, 8]
    assert {"tpot_ms", "tpot_ms_low", "tpot_ms_high", "weights_gib", "memory_ms"} <= set(frame.columns)


def test_no_first_token_of_a_curve_comes_later_than_the_last():
    found = advisor.curve("deepseek-v3", "8xH200", dp=8, ep=8, input_len=1024, output_len=64)
    for name in ("ttft_ms", "prefill_ms"):
        first, fits = found.high[name], ~np.isnan(found.metrics[name])
        assert (first[fits] <= np.maximum(found.high["e2e_ms"], found.metrics[name])[fits]).all()
