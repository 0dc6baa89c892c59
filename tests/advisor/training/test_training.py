"""Training's memory and step time: formulas by hand, what physics demands, and answers to wrong input."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advisor
from advisor.perf_model.roofline import product_cost
from advisor.training.budget import (
    CHECKPOINT_BYTES,
    CHECKPOINT_GBPS,
    GPU_HOURS_BETWEEN_FAILURES,
    RESTART_S,
    overhead,
)
from advisor.training.efficiencies import Efficiencies, shipped_fit
from advisor.training.fitting import local_times, pretraining, shipped
from advisor.training.layouts import TrainingLayouts, TrainingTask
from advisor.training.step_cost import layer_products, micro_batch_cost, model_flops
from advisor.training.step_time import step_time
from advisor.training.training_memory import memory_by_part
from advisor.validation.training import comparisons, memory_errors, nested_coverage
from catalog.gpus import find_gpu, parse_cluster
from catalog.models.find import find_model
from catalog.models.sizes import parameters
from catalog.training import RECOMPUTATIONS, TrainingLayout, find_framework, frameworks, training_runs

GPT = "nvidia/megatron-gpt-22b"
NAMES = (
    GPT,
    "meta-llama/Meta-Llama-3-8B",
    "mistralai/Mixtral-8x7B-v0.1",
    "deepseek-ai/DeepSeek-V3",
    "Qwen/Qwen3-Next-80B-A3B-Instruct",
)


def task_of(model=GPT, gpus="64xA100-SXM-80GB", *, framework="megatron-core", batch=64, length=2048, **own):
    return TrainingTask(
        model=find_model(model).value,
        cluster=parse_cluster(gpus).value,
        framework=find_framework(framework),
        batch=batch,
        sequence_length=length,
        **own,
    )


def memory_of(task, *layouts):
    return memory_by_part(task, TrainingLayouts.of(layouts))


def time_of(task, *layouts, efficiencies=None):
    return step_time(task, TrainingLayouts.of(layouts), efficiencies or Efficiencies.typical())


def test_published_memory():
    for each in memory_errors():
        limit = 0.5 if each.figure.quantity == "activations_percent" else 3.0
        assert abs(each.difference) < limit, each.figure


TABLE_2 = {
    (1, False, "none"): "s * b * h * (34 + 5 * a * s / h)",
    (8, False, "none"): "s * b * h * (10 + 24 / t + 5 * a * s / (h * t))",
    (8, True, "none"): "s * b * h / t * (34 + 5 * a * s / h)",
    (8, True, "selective"): "34 * s * b * h / t",
    (8, False, "full"): "2 * s * b * h",
}
"""Bytes a layer keeps, arXiv 2205.05198, by tensor and sequence parallelism and what is recomputed."""


@pytest.mark.parametrize("key", TABLE_2)
def test_activations_are_those_of_the_formula(key):
    tp, sliced, recompute = key
    task = task_of(framework="megatron-lm", batch=4)
    layout = TrainingLayout(tp=tp, micro_batch=4, sequence_parallel=sliced, recompute=recompute)
    each = eval(TABLE_2[key], {"s": 2048, "b": 4, "h": 6144, "a": 64, "t": tp})
    assert memory_of(task, layout).activations[0] == pytest.approx(48 * each / 2**30, rel=1e-9)


def test_shipped_efficiencies_reproduce_what_was_published():
    """One set for all publications; left out one by one in ``python -m advisor.validation.training``."""
    errors: dict[str, list[float]] = {}
    for each in pretraining(training_runs()):
        error = abs(np.expm1(local_times(each, shipped_fit().mean)[0] - np.log(each.run.step_s)))
        errors.setdefault(each.run.publication, []).append(error)
    limits = {"korthikanti-2022": 0.036, "narayanan-2021": 0.06, "nemo-2024": 0.08, "llm-foundry": 0.08}
    assert errors.keys() == limits.keys()
    for publication, found in errors.items():
        assert np.mean(found) < limits[publication], publication
    assert max(errors["korthikanti-2022"]) < 0.089


@pytest.mark.slow
def test_the_shipped_file_is_what_the_fit_writes_and_its_intervals_hold():
    fitted, judged = shipped()
    kept = shipped_fit()
    assert fitted.mean == pytest.approx(kept.mean, abs=1e-4)
    assert (fitted.sigma, fitted.unseen_sigma) == pytest.approx((kept.sigma, kept.unseen_sigma), rel=1e-3)
    assert fitted.measured == kept.measured
    covered = [inside for publication in nested_coverage(judged).values() for inside in publication]
    assert 0.85 <= np.mean(covered) <= 0.95
    assert np.mean(comparisons(judged)) >= 0.85


layouts = st.builds(
    TrainingLayout,
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 4, 8]),
    dp=st.sampled_from([1, 2, 4, 8]),
    micro_batch=st.sampled_from([1, 2]),
    sequence_parallel=st.booleans(),
    zero=st.integers(0, 3),
    recompute=st.sampled_from(RECOMPUTATIONS),
)


@settings(max_examples=40, deadline=None)
@given(layout=layouts, name=st.sampled_from(NAMES), framework=st.sampled_from(sorted(frameworks())))
def test_recomputation_and_zero_never_add_memory(layout, name, framework):
    from dataclasses import replace

    task = task_of(name, framework=framework)
    kept = memory_of(task, *(replace(layout, recompute=each) for each in RECOMPUTATIONS)).activations
    assert kept[0] >= kept[1] >= kept[2] > 0
    stages = memory_of(task, *(replace(layout, zero=stage) for stage in range(4)))
    states = stages.weights + stages.gradients + stages.optimizer
    assert np.all(np.diff(states) <= 1e-9)


@settings(max_examples=25, deadline=None)
@given(layout=layouts, name=st.sampled_from(NAMES))
def test_nothing_is_faster_than_the_hardware(layout, name):
    task = task_of(name)
    floor = time_of(task, layout, efficiencies=Efficiencies.ideal()).total
    assert 0 < floor[0] <= time_of(task, layout).total[0]
    assert floor[0] <= time_of(task, layout, efficiencies=shipped_fit().efficiencies).total[0]


@pytest.mark.parametrize("chunks", [1, 3])
def test_bubbles_vanish_as_micro_batches_grow(chunks):
    shares = []
    for batch in (8, 64, 512, 4096):
        time_ = time_of(task_of(batch=batch), TrainingLayout(tp=8, pp=8, interleave=chunks))
        shares.append(float(time_.bubble[0] / time_.total[0]))
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.01 < shares[0]


def test_interleaving_divides_the_bubble():
    task = task_of()
    plain, chunked = (
        time_of(task, TrainingLayout(tp=8, pp=8, interleave=v), efficiencies=Efficiencies.ideal()) for v in (1, 3)
    )
    assert chunked.bubble[0] == pytest.approx(plain.bubble[0] / 3, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_one_gpu_is_the_sum_of_its_operators(name):
    task = task_of(name, "1xH100", batch=2)
    one = TrainingLayouts.of([TrainingLayout()])
    found = step_time(task, one, Efficiencies.typical())
    cost = micro_batch_cost(task, one, Efficiencies.typical())
    by_hand = 2 * (cost.layers_ms + cost.head.total_ms) + found.optimizer
    assert found.total[0] == pytest.approx(float(by_hand[0]), rel=1e-12)
    assert not any(getattr(found, part)[0] for part in ("tensor", "context", "expert", "stages", "bubble", "replicas"))


def test_backward_is_twice_forward_in_products():
    task, one = task_of(), TrainingLayouts.of([TrainingLayout(tp=8)])
    cost = micro_batch_cost(task, one, Efficiencies.typical())
    deployments = one.deployments(task)
    for product in layer_products(task, one):
        alone = product_cost(product, deployments, task.cluster.gpu, Efficiencies.typical().operators).total_ms
        if product.name == "lm_head":
            continue
        assert cost.forward.by_operator()[product.name] == pytest.approx(alone)
        assert cost.backward.by_operator()[product.name] == pytest.approx(2 * alone)


def test_operations_of_a_gpt_are_those_of_the_formula():
    """72 B s l h^2 (1 + s / 6h + V / 12lh), arXiv 2104.04473, equation 3, without recomputation."""
    batch, s, h, layers, vocab = 64, 2048, 6144, 48, 51200
    expected = 72 * batch * s * layers * h**2 * (1 + s / (6 * h) + vocab / (12 * layers * h))
    assert model_flops(task_of()) == pytest.approx(expected, rel=1e-9)


def test_operations_of_adapters_leave_out_gradients_of_frozen_weights():
    """Two passes over the products of the weights, 4 N operations a token for 6 N; the core of attention keeps its three."""
    whole, adapters = model_flops(task_of()), model_flops(task_of(lora_rank=16))
    core = 3 * 64 * 4 * 2048**2 * 6144 * 48
    assert adapters - core == pytest.approx((whole - core) * 2 / 3, rel=1e-9)


def test_adapters_need_less_and_take_less():
    layout = TrainingLayout(dp=8, zero=3)
    full, adapters = (task_of("llama-3-8b", "8xH100", framework="fsdp", lora_rank=rank) for rank in (0, 16))
    assert memory_of(adapters, layout).optimizer[0] < 0.02 * memory_of(full, layout).optimizer[0]
    assert time_of(adapters, layout).total[0] < 0.8 * time_of(full, layout).total[0]


def test_a_search_over_1024_gpus_is_quick_and_keeps_what_is_stated():
    began = time.process_time()
    found = advisor.recommend_training("gpt-3-175b", "1024xA100", batch=1536, pp=8, top=3)
    assert time.process_time() - began < 10
    assert found.best is found.candidates[0]
    assert all(each.layout.pp == 8 and each.layout.num_gpus == 1024 and each.fits for each in found.candidates)
    assert [each.step_s for each in found.candidates] == sorted(each.step_s for each in found.candidates)
    one = advisor.estimate_training("gpt-3-175b", "1024xA100", batch=1536, tp=found.best.layout.tp, pp=8)
    assert one.step_s == pytest.approx(found.best.step_s)


def test_what_does_not_fit_says_what_would():
    found = advisor.recommend_training("llama-3-8b", "2x4090", batch=8, sequence_length=2048)
    assert found.best is None
    assert found.relaxations[0].startswith("--lora-rank")
    adapted = advisor.recommend_training("llama-3-8b", "2x4090", batch=8, sequence_length=2048, lora_rank=16)
    assert adapted.best is not None
    assert adapted.best.memory["used"] <= adapted.best.memory["device"]


def test_intervals_hold_the_estimate_and_never_pass_the_floor():
    found = advisor.estimate_training("gpt-3-175b", "64xA100", tp=8, pp=8, batch=64, tokens=300e9)
    low, high = found.interval("step_s")
    assert found.floor_s <= low < found.step_s < high
    narrow = found.interval("step_s", 0.5)
    assert low < narrow[0] < narrow[1] < high
    slow, fast = found.interval("mfu")
    assert (slow, fast) == pytest.approx((found.mfu * found.step_s / high, found.mfu * found.step_s / low))
    assert found.provenance == "calibrated"
    assert found.budget.days > found.budget.days_undisturbed == pytest.approx(300e9 / found.tokens_s / 86400)
    least, most = found.interval("memory_gib")
    assert least < found.memory_gib == found.memory["used"] < most
    assert found.row()["memory_gib_low"] == least
    with pytest.raises(advisor.InputError, match="metrics that have one"):
        found.interval("memory")


def test_intervals_widen_with_distance_from_what_was_fitted():
    asked = {"batch": 64, "tp": 8, "pp": 8, "framework": "megatron-core"}
    fitted = advisor.estimate_training("gpt-3-175b", "64xA100", **asked)
    other_gpu = advisor.estimate_training("gpt-3-175b", "64xH100", **asked)
    experts = advisor.estimate_training("mixtral-8x7b", "64xA100", **asked)
    adapters = advisor.estimate_training("gpt-3-175b", "64xA100", lora_rank=16, **asked)
    known = [each.provenance for each in (fitted, other_gpu, adapters, experts)]
    assert known == ["calibrated", "transferred", "transferred", "analytic"]
    widths = [each.interval()[1] / each.step_s for each in (fitted, other_gpu, experts)]
    assert widths == sorted(widths)
    assert adapters.interval()[1] / adapters.step_s > widths[0]


def test_layouts_that_fit_with_any_fragmentation_come_first():
    asked = {"batch": 128, "tp": 2, "framework": "megatron-core"}
    tight = advisor.estimate_training("llama-3-8b", "8xH100", micro_batch=4, recompute="none", **asked)
    assert tight.memory_gib < tight.memory["device"] < tight.interval("memory_gib")[1]
    assert any("memory is close" in note.text for note in tight.notes)
    best = advisor.estimate_training("llama-3-8b", "8xH100", **asked)
    assert best.interval("memory_gib")[1] <= best.memory["device"]
    assert best.step_s > tight.step_s
    assert not any("memory is close" in note.text for note in best.notes)


def test_later_gpus_reach_less_of_their_peak():
    shares = {
        name: Efficiencies.typical().on_gpu(find_gpu(name).value, flash_2=False).operators.gemm_compute
        for name in ("A100", "H100", "B200")
    }
    assert shares["A100"] == Efficiencies.typical().operators.gemm_compute
    assert shares["A100"] > shares["H100"] > shares["B200"] > 0.6
    hopper = [Efficiencies.typical().on_gpu(find_gpu("H100").value, flash_2=each).operators for each in (False, True)]
    assert hopper[1].attention_compute < hopper[0].attention_compute
    assert Efficiencies.ideal().on_gpu(find_gpu("H100").value, flash_2=True).operators == Efficiencies.ideal().operators


def test_fsdp_computes_a_layer_again_but_for_its_last_product():
    layout = TrainingLayouts.of([TrainingLayout(dp=8, zero=3, recompute="full")])
    now, before = (
        micro_batch_cost(task_of("llama-3-8b", "8xA100", framework=name), layout, Efficiencies.typical())
        for name in ("fsdp", "fsdp-2022")
    )
    assert before.again.total_ms == pytest.approx(before.forward.total_ms)
    assert now.again.total_ms == pytest.approx(now.forward.total_ms - now.forward.by_operator()["down"])


def test_experts_travel_only_where_they_are_spread():
    alone, spread = (time_of(task_of("mixtral-8x7b", "64xH100"), TrainingLayout(dp=64, ep=ep, zero=1)) for ep in (1, 8))
    assert alone.expert[0] == 0 < spread.expert[0]


def test_checkpoints_are_as_far_apart_as_costs_least():
    """Daly's model: near the interval that is chosen no other one loses less to failures and checkpoints."""
    cluster, model = parse_cluster("256x8xH100-SXM").value, find_model("gpt-3-175b").value
    factor, interval = overhead(10.0, cluster, model)
    between = GPU_HOURS_BETWEEN_FAILURES * 3600 / cluster.num_gpus
    writing = CHECKPOINT_BYTES * parameters(model) / (CHECKPOINT_GBPS * 1e9 * cluster.nodes)

    def lost(seconds):
        return between / seconds * np.exp(RESTART_S / between) * np.expm1((seconds + writing) / between)

    assert factor == pytest.approx(lost(interval))
    assert 1 < factor < min(lost(interval / 2), lost(interval * 2))
    few, _ = overhead(10.0, parse_cluster("8x8xH100-SXM").value, model)
    assert few < factor


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"tp": 8, "pp": 4, "batch": 63}, r"batch 63 does not divide into 2 replicas; use 62 or 64"),
        ({"tp": 8, "pp": 8, "batch": 63, "micro_batch": 2}, r"use 62 or 64"),
        ({"batch": 64, "micro_batch": 5}, r"into 64 replicas x micro-batches of 5; use 320"),
        ({"batch": 63, "dp": 4, "micro_batch": 2}, r"into 4 replicas x micro-batches of 2; use 56 or 64"),
        ({"pp": 128, "batch": 64}, r"128 stages are more than the 96 layers .* at most 96"),
        ({"tp": 7, "batch": 64}, r"does not divide the 96 attention heads .* use 6 or 8"),
        ({"tp": 8, "pp": 6, "batch": 64}, r"needs 48 GPUs or a multiple of it, and there are 64"),
        ({"tp": 8, "pp": 8, "interleave": 5, "batch": 64}, r"use one of 1, 2, 3, 4, 6, 12"),
        ({"ep": 4, "batch": 64}, r"has no experts"),
        ({"batch": 0}, r"batch is 0"),
        ({"batch": 64, "zero": 4}, r"stages of ZeRO"),
        ({"batch": 64, "recompute": "some"}, r"one of none, selective, full"),
        ({"batch": 64, "sequence_length": 4096}, r"longer than the 2048 learned positions"),
        ({"batch": 64, "precision": "fp8"}, r"no fp8 units"),
        ({"batch": 64, "framework": "megatrom-core"}, r"closest: megatron-core"),
        ({"batch": 64, "tokens": -1.0}, r"tokens"),
    ],
)
def test_wrong_input_is_answered_in_one_line(question, message):
    with pytest.raises(advisor.InputError, match=message) as raised:
        advisor.estimate_training("gpt-3-175b", "64xA100", **question)
    assert "\n" not in str(raised.value)


def test_an_encoder_that_is_left_out_is_said():
    answer = advisor.recommend_training("qwen2.5-vl-7b", "8xH200", batch=64)
    (warning,) = (note.text for note in answer.notes if note.kind == "warning")
    assert "encoder of its images, 677 M parameters, is left out" in warning
    assert not any(
        "encoder" in note.text for note in advisor.recommend_training("llama-3.1-8b", "8xH200", batch=64).notes
    )
