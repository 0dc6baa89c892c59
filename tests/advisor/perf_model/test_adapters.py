"""LoRA adapters in estimates of batches: memory, kernels, and agreement with what is simulated."""

import pytest

from advisor import Adapters, Deployment, InputError, Workload, estimate, recommend, simulate

MODEL, GPUS = "llama-3.1-8b", "H100"
LOAD = {"batch": 32, "input_len": 1024, "output_len": 256}
EIGHT = Adapters(number=8, max_loras=8)


def test_slots_come_out_of_the_cache_as_they_do_under_traffic():
    plain, adapted = (estimate(MODEL, GPUS, **LOAD, adapters=adapters) for adapters in (None, EIGHT))
    served = simulate(
        MODEL, GPUS, deployment=Deployment(adapters=EIGHT), workload=Workload(rate=1.0), duration_s=5.0, draws=0
    )
    assert adapted.kv_capacity_tokens == pytest.approx(served.kv_capacity_tokens, abs=32)
    assert adapted.memory["kv_cache"] + adapted.memory["weights"] == pytest.approx(
        plain.memory["kv_cache"] + plain.memory["weights"]
    )


def test_kernels_take_time_that_falls_with_none():
    times = [
        estimate(MODEL, GPUS, **LOAD, adapters=adapters).tpot_ms
        for adapters in (None, Adapters(number=8), EIGHT, Adapters(number=8, max_loras=8, rank=64))
    ]
    assert times == sorted(times)
    assert times[0] < times[1]


def test_a_recommendation_takes_what_is_simulated():
    best = recommend(MODEL, GPUS, concurrency=32, adapters=EIGHT).best
    served = simulate(
        MODEL, GPUS, deployment=Deployment(adapters=EIGHT), workload=Workload(concurrency=32), duration_s=40.0, draws=0
    )
    assert best.deployment.adapters == EIGHT
    assert best.tpot_ms == pytest.approx(served.metrics["tpot_ms"]["mean"], rel=0.05)


def test_other_engines_are_refused():
    with pytest.raises(InputError, match="as vllm keeps them, not sglang"):
        estimate(MODEL, GPUS, **LOAD, engine="sglang", adapters=EIGHT)
