"""Memory of the plain PyTorch engine, against what it took on H200s, and against arithmetic done by hand."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.caching_allocator import CachingAllocator, OutOfDeviceMemoryError
from advisor.perf_model.memory.dispatch import memory
from advisor.perf_model.memory.kv_capacity import max_concurrency
from advisor.perf_model.memory.torch_allocations import Stage, loaded, stages
from advisor.perf_model.memory.torch_engine import is_run, largest_batch, memory_use, streams_used, workspace_bytes
from advisor.perf_model.memory.vllm import TABLES_GIB
from advisor.validation.memory_accuracy import ThresholdFound, main, memory_errors, memory_thresholds
from catalog.engines import valid_tp
from catalog.gpus import find_gpu
from catalog.models.find import all_models, find_model
from catalog.models.rotary import rotary_numbers
from catalog.runs import shipped_runs
from catalog.schema import Cluster, Deployment
from catalog.units import GIB, MIB

H200 = find_gpu("H200-SXM").value
RUN = [model for model in all_models() if is_run(model)]
KNOBS = {
    "engine": "torch",
    "dtype": "bfloat16",
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
    "max_model_len": 9216,
}


def room(name, **knobs):
    model = find_model(name).value
    deployment = Deployment(**{**KNOBS, **knobs})
    return memory(model, Cluster(gpu=H200, gpus_per_node=8), DeploymentArrays.of([deployment], model, H200), "torch")


def part(model, *, tp=1, pp=1, number=0, **changes):
    """One stage of a model; ``changes`` as the fields of ``Stage``."""
    split = stages(model, tp, pp)
    knobs = {
        "itemsize": 2,
        "offload": 0.0,
        "positions": 4096,
        "compiled": True,
        "workspace": 32 * MIB,
        "is_first": number == 0,
        "is_last": number == pp - 1,
        "layers": split[number],
        **changes,
    }
    return Stage(model=model, tp=tp, **knobs)


@pytest.fixture(scope="module")
def errors():
    return memory_errors()


@pytest.mark.parametrize("role", ["fit", "validate"])
@pytest.mark.parametrize(
    ("quantity", "mean", "worst", "least"),
    [("weights", 1e-6, 1e-6, 14), ("kv_tokens", 0.001, 0.003, 11), ("peak", 0.004, 0.0102, 70)],
)
def test_predicted_is_measured(errors, quantity, role, mean, worst, least):
    """Weights to the byte, KV capacity within 0.3%, all that is in use within 1.02%; 3% was asked for.

    "validate" are models of which no number went into the prediction.
    """
    found = [abs(each.relative) for each in errors if (each.part, each.role) == (quantity, role)]
    assert len(found) >= least
    assert np.mean(found) <= mean
    assert max(found) <= worst


@pytest.mark.parametrize("role", ["fit", "validate"])
def test_activations(errors, role):
    """About 1 GiB of 140, within 2% on average, and nowhere wrong by more than 0.11 GiB."""
    found = [each for each in errors if (each.part, each.role) == ("activations", role)]
    assert len(found) >= 14
    assert np.mean([abs(each.relative) for each in found]) <= 0.02
    assert max(abs(each.predicted - each.measured) for each in found) <= 0.11


def test_the_largest_batch_is_where_memory_ended():
    found = memory_thresholds()
    assert found
    for each in found:
        assert each.ran <= each.predicted < each.failed, each
        assert each.within_a_step
    assert not ThresholdFound(name="far", predicted=155, ran=140, failed=146).within_a_step
    assert not ThresholdFound(name="short", predicted=133, ran=140, failed=146).within_a_step


def test_experts_hold_the_cache_that_they_left():
    """Of a model with experts, of which no number went into the prediction."""
    runs = [run for run in shipped_runs() if run.engine == "torch" and "Mixtral" in run.model]
    assert runs
    for run in runs:
        found = room(run.model, tp=run.tp, pp=run.pp).kv_capacity_tokens[0]
        assert found == pytest.approx(run.kv_capacity_tokens, rel=0.01)


def test_the_table_is_printed(capsys):
    assert main() == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()[1:9:2]] == ["weights", "kv_tokens", "activations", "peak"]
    assert "predicted, 140 ran, 146 did not" in text


# Llama 2 13B: 40 layers of 5120, 40 heads of 128, feed-forward 13824, vocabulary 32000; GPipe's two stages are even.
def test_weights_by_hand():
    layer = 4 * 5120 * 5120 + 3 * 5120 * 13824 + 2 * 5120
    whole = 2 * (40 * layer + 2 * 32000 * 5120 + 5120)
    assert float(room("Llama-2-13b-hf").weights_gib[0]) * GIB == pytest.approx(whole, rel=1e-12)
    model = find_model("Llama-2-13b-hf").value
    last = 2 * (20 * layer + 32000 * 5120 + 5120)
    assert part(model, pp=2, number=1).weight_bytes() == last
    resident = part(model, offload=0.25).weight_bytes()
    assert resident == whole - 2 * (10 - 2) * layer  # ten layers lie elsewhere, two buffers are for them


def test_the_head_counts_as_a_layer_when_stages_are_balanced():
    """Llama 3.1 8B: a head of 128256 x 4096 is 2.4 layers of 218 million weights, so that 17 and 15 are most even."""
    assert [len(each) for each in stages(find_model("Llama-3.1-8B").value, 1, 2)] == [17, 15]


def test_a_tied_table_is_on_the_first_and_on_the_last_stage():
    model = find_model("Qwen/Qwen2.5-0.5B").value
    table = 2 * 151936 * 896
    layers = [part(model, pp=2, number=number) for number in (0, 1)]
    without = [sum(map(each.layer_bytes, each.layers)) for each in layers]
    assert [each.weight_bytes() - alone for each, alone in zip(layers, without, strict=True)] == [
        table,
        table + 2 * 896,
    ]
    assert part(model).weight_bytes() == sum(without) + table + 2 * 896


@pytest.mark.parametrize("model", RUN, ids=lambda model: model.name)
def test_weights_are_those_of_every_other_engine_beside_padding(model):
    """vLLM's count from ``layer_elements``, written apart from this one, pads the vocabulary to 64 rows and has encoders of images."""
    cluster = Cluster(gpu=replace(H200, memory_gib=4096.0), gpus_per_node=8)
    layout = DeploymentArrays.from_columns({**KNOBS, "tp": [1, valid_tp(model, most=4)[-1]]}, model, cluster.gpu)
    here, there = (memory(model, cluster, layout, engine).weights_gib for engine in ("torch", "vllm"))
    padding = 2 * 2 * 64 * model.hidden_size / GIB
    encoders = 2 * model.encoder_parameters / layout.tp / GIB
    tables = TABLES_GIB + 2 * rotary_numbers(model) / GIB
    assert np.all(np.abs(here - (there - encoders - tables)) <= padding)


def test_the_cache_is_no_larger_than_sequences_can_use():
    found = room("Qwen/Qwen2.5-0.5B")
    assert found.kv_capacity_tokens[0] == 256 * 9216
    assert found.kv_gib[0] * GIB == pytest.approx(256 * 9216 * found.kv_bytes_per_token[0], rel=1e-12)


def test_tokens_need_no_blocks():
    """A sequence of 1153 tokens takes as many, and not 73 blocks of 16."""
    model, found = find_model("Llama-2-13b-hf").value, room("Llama-2-13b-hf")
    layout = DeploymentArrays.of([Deployment(**KNOBS)], model, H200)
    held = max_concurrency(model, found, layout, np.array([1153.0]))[0]
    assert held == found.kv_capacity_tokens[0] // 1153


def test_whole_prompts_are_what_is_tried():
    """Beyond the budget of tokens a prompt goes through alone; a longer one leaves less for keys and values."""
    short, long = (room("Llama-2-13b-hf", max_model_len=length) for length in (4096, 32768))
    least = 8192 * 2 * (3 * 5120 + 3 * 13824)
    assert short.activations_gib[0] * GIB == pytest.approx(least, rel=0.05)
    assert long.activations_gib[0] * GIB == pytest.approx(4 * least, rel=0.02)
    assert long.kv_gib[0] < short.kv_gib[0]


def test_what_the_engine_does_not_run_is_counted_as_before():
    model = find_model("deepseek-ai/DeepSeek-V2-Lite").value
    assert not is_run(model)
    cluster = Cluster(gpu=H200, gpus_per_node=8)
    knobs = {**KNOBS, "graphs": 0.0, "engine_version": "0.24", "gpu_memory_utilization": 0.9}
    layout = DeploymentArrays.from_columns(knobs, model, H200)
    here, there = (memory(model, cluster, layout, engine) for engine in ("torch", "vllm"))
    assert here.kv_capacity_tokens[0] == there.kv_capacity_tokens[0]


@pytest.mark.slow
@settings(max_examples=25)
@given(
    st.sampled_from(RUN),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([0.3, 0.9]),
    st.sampled_from(["bfloat16", "float32"]),
)
def test_parts_sum_to_the_device(model, pp, offload, share, dtype):
    cluster = Cluster(gpu=H200, gpus_per_node=8)
    columns = {
        **KNOBS,
        "tp": valid_tp(model, most=8),
        "pp": pp,
        "offload": offload,
        "gpu_memory_utilization": share,
        "dtype": dtype,
    }
    found = memory(model, cluster, DeploymentArrays.from_columns(columns, model, H200), "torch")
    parts = (found.weights_gib, found.activations_gib, found.engine_gib, found.kv_gib, found.reserved_gib)
    assert all(np.all(each >= 0) for each in parts)
    assert np.allclose(sum(parts)[found.fits], H200.memory_gib, rtol=1e-12)
    used = sum(parts[:4])[found.fits]
    assert np.all(used <= share * H200.memory_gib + 1e-9)
    sliced = found.weights_gib[1:] <= found.weights_gib[:-1] * (1 + 1e-12)
    assert np.all(sliced), "a slice weighs no more than the whole"


def test_streams_are_counted_as_steps_are_recorded():
    alone, staged = Deployment(**KNOBS), Deployment(**KNOBS, pp=2)
    shapes = [(1, 1024), (16, 1024), (16, 128), (8, 8192)]
    assert streams_used(alone, shapes) == [2, 3, 3, 4]
    assert streams_used(alone, shapes, agreement=False) == [1, 2, 2, 3]
    # one group or two, tried (unless more was) and then recorded
    assert streams_used(staged, shapes, agreement=False) == [2, 6, 6, 10]
    assert streams_used(staged, [(2, 2**k) for k in range(20)], agreement=False)[-1] == 32
    assert streams_used(replace(alone, graphs=False), shapes) == [0, 0, 0, 0]


def test_a_batch_that_does_not_fit_is_said():
    model = find_model("Llama-2-13b-hf").value
    deployment = Deployment(**KNOBS)
    with pytest.raises(OutOfDeviceMemoryError):
        memory_use(model, H200, deployment, 200, 1024, kv_tokens=200 * 1028, streams=1, limit_gib=H200.memory_gib)
    small = replace(H200, memory_gib=24.0)
    assert largest_batch(model, small, deployment, 1024, 4) == 0
    most = [largest_batch(model, replace(H200, memory_gib=gib), deployment, 1024, 4) for gib in (40.0, 80.0, 120.0)]
    assert 0 < most[0] < most[1] < most[2]
    for batch, fits in ((most[1], True), (most[1] + 1, False)):
        needed = memory_use(model, H200, deployment, batch, 1024, kv_tokens=batch * 1028, streams=1)[0].total_gib
        # within what gaps that are given back in need may come to
        assert (needed < 80.0 + 3.0) if fits else (needed > 80.0)


def test_workspaces_are_larger_on_hopper():
    assert workspace_bytes(H200) == 32 * MIB
    assert workspace_bytes(find_gpu("A100-SXM-80GB").value) == 8320 * 1024


def test_segments_are_those_of_pytorch():
    """c10/cuda/CUDACachingAllocator.h: kSmallBuffer 2 MiB, kLargeBuffer 20 MiB, kMinLargeAlloc 10 MiB, kRoundLarge 2 MiB."""
    for size, segment in (
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (11 * MIB, 12 * MIB),
        (33 * MIB, 34 * MIB),
    ):
        allocator = CachingAllocator()
        allocator.take(size)
        assert allocator.reserved == segment


def test_a_block_is_split_used_again_and_joined():
    allocator = CachingAllocator()
    whole = allocator.take(100 * MIB)
    allocator.give(whole)
    first, second = allocator.take(40 * MIB), allocator.take(60 * MIB)
    assert allocator.reserved == 100 * MIB
    allocator.give(first)
    allocator.give_back()
    assert allocator.reserved == 100 * MIB, "the other half is in use"
    allocator.give(second)
    assert allocator.take(100 * MIB) == whole, "both halves are one again"
    allocator.give(whole)
    allocator.give_back()
    assert allocator.reserved == 0


def test_the_smallest_block_that_is_large_enough_is_taken():
    allocator = CachingAllocator()
    large, small = allocator.take(100 * MIB), allocator.take(50 * MIB)
    allocator.give(large, small)
    assert allocator.take(49 * MIB) == small
    assert allocator.take(51 * MIB) == large


def test_unused_segments_are_given_back_before_memory_runs_out():
    allocator = CachingAllocator(limit=100 * MIB)
    allocator.give(allocator.take(60 * MIB))
    kept = allocator.take(80 * MIB)
    assert allocator.reserved == 80 * MIB
    with pytest.raises(OutOfDeviceMemoryError):
        allocator.take(30 * MIB)
    allocator.give(kept)
    allocator.take(30 * MIB)


@given(st.lists(st.tuples(st.integers(1, 64 * MIB), st.booleans()), min_size=1, max_size=60))
def test_blocks_never_overlap_and_all_can_be_given_back(requests):
    allocator, held = CachingAllocator(), {}
    for size, keep in requests:
        address = allocator.take(size)
        held[address] = size
        ranges = sorted((begin, begin + length) for begin, length in held.items())
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ranges))
        assert allocator.reserved >= sum(held.values())
        if not keep:
            allocator.give(address)
            del held[address]
    other = allocator.copy()
    allocator.give(*held)
    allocator.give_back()
    assert allocator.reserved == 0
    assert other.reserved >= sum(held.values()), "a copy is apart"


def test_loading_holds_more_than_the_weights():
    """13B leaves gaps of 2.5 GiB, which a copy of the loaded allocator has too, and the next load does not change."""
    stage = part(find_model("Llama-2-13b-hf").value, positions=9216)
    before = loaded(stage).reserved
    assert 2.0 < (before - stage.weight_bytes()) / GIB < 3.0
    loaded(stage).copy().take(MIB * 1024)
    assert loaded(stage).reserved == before


@pytest.mark.parametrize(("batch", "ahead"), [(1, 0), (2, 1), (3, 2), (8, 4)])
def test_a_stage_keeps_what_the_next_one_has_not_taken(batch, ahead):
    """Prompts of 8192 tokens go one by one; what the last one leaves is sent when the layers' own memory is free."""
    model, deployment = find_model("Llama-2-13b-hf").value, Deployment(**KNOBS, pp=2)
    first, last = memory_use(model, H200, deployment, batch, 8192, kv_tokens=9 * 8192, streams=0)
    state = 8192 * 5120 * 2 / GIB
    logits = 32000 * 2 / GIB * (batch > 2)
    # the last stage holds what came in
    assert first.activations_gib - last.activations_gib == pytest.approx((ahead - 1) * state - logits, abs=1e-9)
