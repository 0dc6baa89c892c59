"""The laws that time keeps to: physical floors, more of anything is never worse, parts sum to wholes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.calibration.observations import METRICS, group_runs
from advisor.calibration.surrogate import shipped_surrogate
from advisor.perf_model.cost_model import CostModel
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.forward_pass import HOST_LINK, forward_pass_cost, prefill_pass
from advisor.perf_model.operators import causal_pairs
from advisor.perf_model.parameters import Parameters, scaled_odds
from advisor.perf_model.static_batch import AT_ONCE, put_off
from advisor.prediction.prediction import Prediction, request_causes
from catalog.gpus import find_gpu
from catalog.models.find import find_model
from catalog.models.sizes import attention_parameters, expert_parameters, mlp_parameters
from catalog.runs import shipped_runs
from catalog.schema import Cluster
from tests.advisor.strategies import ROWS, faster, questions

SAME = 1e-9
TIMES = ("prefill_ms", "ttft_ms", "tpot_ms", "e2e_ms")
BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5, "mxfp4": 0.5}


def floors(question, row, running):
    """Least milliseconds of (prefill of the batch, one decode step, one reading of the weights), and most tokens/s.

    Every weight a token meets is read once a step at peak bandwidth by the GPUs that share it, every cached token of every
    sequence too; every product takes its FLOPs at the peak. No efficiency, no overhead, no communication.
    """
    model, gpu, of = question.model, question.cluster.gpu, {k: v[row].item() for k, v in question.columns.items()}
    layers, moe = model.num_hidden_layers, model.moe_layers
    dense = layers * attention_parameters(model) + (layers - moe) * mlp_parameters(model, model.intermediate_size)
    if model.shared_expert_intermediate_size:
        dense += moe * mlp_parameters(model, model.shared_expert_intermediate_size)
    dense, expert = 0.99 * dense, 0.99 * moe * model.num_experts_per_tok * expert_parameters(model)  # no biases
    kind, tp, pp = of["dtype"], of["tp"], of["pp"]
    half_peak = gpu.fp16_tflops * 1e9 / (16 if kind == "float32" else 1)  # FLOPs a millisecond
    peak = {"fp8": gpu.fp8_tflops, "int8": gpu.int8_tops}.get(kind, 0.0) * 1e9 or half_peak
    bandwidth = gpu.memory_bandwidth_gbps * 1e6  # bytes a millisecond
    weights_ms = BYTES[kind] * (dense / tp + expert / max(tp, of["ep"])) / bandwidth

    length, windowed = question.input_len, model.num_windowed_layers
    window = min(length, model.sliding_window) if windowed else length
    numbers = model.kv_lora_rank + model.qk_rope_head_dim  # of MLA, on every GPU
    if model.attention == "gqa":
        numbers = model.num_key_value_heads * (model.head_dim + model.value_dim) / tp
    width = 1.0 if of["kv_dtype"] == "fp8" else max(BYTES[kind], 2.0)
    kv_ms = ((layers - windowed) * length + windowed * window) * numbers * width / bandwidth  # of one sequence
    pairs = (layers - windowed) * length * (length + 1) / 2
    pairs += windowed * (window * (window + 1) / 2 + (length - window) * window)
    attention = 2 * model.num_attention_heads * (model.head_dim + model.value_dim) * pairs
    token_ms = 2 * (dense + expert) / peak / (tp * pp)
    prompt_ms = length * token_ms + attention / half_peak / (tp * pp)

    # the stages of a pipeline read their caches side by side, each for its own micro-batch
    reading_ms = weights_ms + running * kv_ms if pp == 1 else max(weights_ms, running * kv_ms / pp)
    return (
        max(weights_ms, question.batch[row] * prompt_ms),
        max(reading_ms, running * token_ms),
        weights_ms,
        of["dp"] / (prompt_ms / question.output_len + (1 - 1 / question.output_len) * token_ms) * 1e3,
    )


@settings(max_examples=40)
@given(questions())
def test_never_below_the_physical_floor(question):
    static, steady = question.evaluate("static").times, question.evaluate("steady").times
    prefill, step, weights, most = np.array([floors(question, *each) for each in enumerate(static.running)]).T * (
        1 - SAME
    )
    steps = question.output_len - 1
    question.require(static.prefill_ms >= prefill, "prefill takes its FLOPs and its weights once")
    question.require(static.ttft_ms >= prefill / 2, "the mean first token is past half the prefill")
    question.require(static.decode.total_ms >= step, "a decode step reads weights and cache")
    question.require(static.e2e_ms >= prefill + steps * step, "the whole takes its parts")
    if steps:
        question.require(static.tpot_ms >= step, "a token takes its step")
        question.require(steady.tpot_ms >= weights, "and in the steady state reads the weights")
    question.require(steady.ttft_ms >= weights, "so does the first")
    for times in (static, steady):
        question.require(times.output_tok_s * (1 - SAME) <= most / (1 - SAME), "no more tokens than the FLOPs allow")


RESOURCES = ["bandwidth", "flops", "fp16 alone", "fp8 alone", "link", "pcie", "network"]


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["static", "steady"])
@given(question=questions(), what=st.sampled_from(RESOURCES), factor=st.sampled_from([1.01, 1.3, 3.0]))
def test_a_faster_part_is_never_worse(regime, question, what, factor):
    now, then = (
        question.evaluate(regime, cluster=where) for where in (question.cluster, faster(question.cluster, what, factor))
    )
    for metric in TIMES:
        before, after = getattr(now.times, metric), getattr(then.times, metric)
        question.require(after <= before * (1 + SAME) + SAME, f"{metric} with {factor} times the {what}, {regime}")
    question.require(
        then.times.output_tok_s >= now.times.output_tok_s * (1 - SAME),
        f"tokens/s with {factor} times the {what}, {regime}",
    )


SMALL_STEP, ROOM = 512, 0.01


@given(question=questions(), factor=st.sampled_from([1.01, 1.3, 3.0, 100.0]))
def test_more_memory_is_never_worse_in_the_steady_state(question, factor):
    """More sequences then run at once, so each token of each may come later; requests as a whole come no later. Of steps of at most 512 tokens
    a rise of half a hundredth is known (phi-2 on V100s, 121 to 129 sequences).
    """
    now = question.evaluate("steady")
    then = question.evaluate("steady", cluster=faster(question.cluster, "memory", factor))
    fits = now.cost_model.memory.fits
    room = np.where(np.asarray(question.columns["max_num_batched_tokens"]) <= SMALL_STEP, ROOM, SAME)
    for metric in ("ttft_ms", "e2e_ms"):
        before, after = getattr(now.times, metric), getattr(then.times, metric)
        question.require(~fits | (after <= before * (1 + room)), f"{metric} with {factor} times the memory")
    question.require(~fits | (then.times.output_tok_s >= now.times.output_tok_s * (1 - room)), "tokens/s with memory")
    same = fits & (now.times.running == then.times.running)
    question.require(
        ~same | np.isclose(then.times.tpot_ms, now.times.tpot_ms, rtol=1e-12), "memory to spare is no change"
    )


@pytest.mark.slow
@given(question=questions())
def test_enough_memory_for_the_whole_batch_is_never_worse(question):
    """One wave against several: reading the weights once for all is never slower than once for each wave."""
    now = question.evaluate("static")
    then = question.evaluate("static", cluster=faster(question.cluster, "memory", 1e4))
    whole = now.cost_model.memory.fits & (then.times.running == question.batch)
    for metric in TIMES:
        before, after = getattr(now.times, metric), getattr(then.times, metric)
        question.require(~whole | (after <= before * (1 + SAME)), f"{metric} in one wave")


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["static", "steady"])
@given(question=questions())
def test_a_single_gpu_does_not_mind_its_neighbours(regime, question):
    one = question.without("tp", "pp", "dp", "ep")
    alone = Cluster(gpu=question.cluster.gpu, gpus_per_node=1)
    here, there = one.evaluate(regime), one.evaluate(regime, cluster=alone)
    for metric in (*TIMES, "output_tok_s"):
        assert np.array_equal(getattr(here.times, metric), getattr(there.times, metric)), metric
    assert np.array_equal(here.cost_model.memory.kv_capacity_tokens, there.cost_model.memory.kv_capacity_tokens)
    for cost in (here.times.prefill, here.times.decode):
        assert cost.by_cause()["communication"].max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["static", "steady"])
@given(question=questions(), replicas=st.integers(2, 64))
def test_replicas_multiply_throughput_and_nothing_else(regime, question, replicas):
    """As long as no experts are shared between them."""
    apart = question.without("dp", "ep")
    one, many = apart.evaluate(regime), apart.evaluate(regime, dp=np.full(ROWS, replicas))
    assert many.times.output_tok_s == pytest.approx(replicas * one.times.output_tok_s, rel=1e-14)
    for metric in TIMES:
        assert np.array_equal(getattr(one.times, metric), getattr(many.times, metric)), metric


@pytest.mark.slow
@given(questions())
def test_causes_sum_to_the_request(question):
    evaluation = question.evaluate("static")
    times = evaluation.times
    causes = sum(request_causes(evaluation).values())
    parts = times.prefill.total_ms + times.decode.total_ms * (question.output_len - 1)
    assert causes == pytest.approx(parts, rel=1e-12)
    at_once = times.running == question.batch
    question.require(~at_once | np.isclose(causes, times.e2e_ms, rtol=1e-12), "causes sum to the whole time")
    assert times.prefill.total_ms == pytest.approx(times.prefill_ms, rel=1e-12)


@pytest.mark.slow
@given(questions())
def test_little_s_law(question):
    """Throughput times latency is what is in flight (Little, 1961), in tokens."""
    for regime in ("static", "steady"):
        times = question.evaluate(regime).times
        in_flight = question.columns["dp"] * question.batch * question.output_len
        assert times.output_tok_s * times.e2e_ms / 1e3 == pytest.approx(in_flight, rel=1e-12)
        steps = question.output_len - 1
        if regime == "steady":
            assert times.ttft_ms + steps * times.tpot_ms == pytest.approx(times.e2e_ms, rel=1e-12)
        else:
            assert times.prefill_ms + steps * times.tpot_ms == pytest.approx(times.e2e_ms, rel=1e-12)
        if not steps:
            assert times.tpot_ms.max() == 0


def ladder(question, batches):
    """The first deployment of a question at many batches, nothing in its way: memory and caps for all of them."""
    one = {name: np.repeat(values[:1], len(batches)) for name, values in question.columns.items()}
    one |= {"max_num_seqs": np.full(len(batches), 512), "compiled": np.zeros(len(batches))}
    one["max_num_batched_tokens"] = np.maximum(one["max_num_batched_tokens"], 2048)
    cluster = faster(question.cluster, "memory", 1e4)
    return one, cluster


def run(question, columns, cluster, regime, *, batch, input_len, output_len, engine="vllm"):
    layout = DeploymentArrays.from_columns(columns, question.model, cluster.gpu)
    return Prediction.of(
        question.model,
        cluster,
        layout,
        batch=batch,
        input_len=input_len,
        output_len=output_len,
        regime=regime,
        parameters=question.parameters,
        engine=engine,
    ).times


@pytest.mark.parametrize(
    ("gpu", "version", "tokens"),
    [
        ("B200", "", 1024),
        ("B200", "0.24", 512),
        ("H200", "", 512),
        ("RTX PRO 6000", "0.33", 512),
        ("L40S", "0.33", 512),
    ],
)
def test_passes_are_captured_up_to_the_size_of_gpu_and_release(gpu, version, tokens):
    """A prefill of as many tokens is launched with its graph; of one more the host launches each kernel."""
    cluster, model = Cluster(gpu=find_gpu(gpu).value, gpus_per_node=1), find_model("llama-3.1-8b").value
    layout = DeploymentArrays.from_columns({"engine_version": version}, model, cluster.gpu)
    cost_model = CostModel.of(model, cluster, layout, replace(Parameters.typical(), layer_host_us=5000.0))
    assert cost_model.captured_tokens.tolist() == [tokens]
    costs = []
    for length in (tokens, tokens + 1):
        size = np.array([float(length)])
        step = prefill_pass(size, np.ones(1), causal_pairs(size), causal_pairs(size))
        costs.append(float(forward_pass_cost(cost_model, step, prefills=1.0).total_ms[0]))
    assert costs[0] < 100.0
    assert costs[1] > 150.0


@given(question=questions())
def test_a_larger_static_batch_takes_longer_and_serves_more(question):
    """Within one number of prefill chunks: one more chunk is one more pass, for however few tokens.

    What was put off until a step of its own is one more pass, too, for however few tokens.
    With experts a chunk of few tokens reads few of them, so throughput falls while a new chunk fills up; that is left out.
    Eager mode: a captured pass of 512 tokens is faster than an eager one of 513, and that is so in the engine too.
    """
    batches = np.arange(2.0, 513.0)
    columns, cluster = ladder(question, batches)
    times = run(
        question,
        columns,
        cluster,
        "static",
        batch=batches,
        input_len=question.input_len,
        output_len=question.output_len,
    )
    chunks = np.ceil(batches * question.input_len / columns["max_num_batched_tokens"])
    later = np.ceil(np.maximum(batches - AT_ONCE, 0.0) * question.input_len / columns["max_num_batched_tokens"])
    together = (chunks[1:] == chunks[:-1]) & (later[1:] == later[:-1])
    for metric in ("prefill_ms", "tpot_ms", "e2e_ms"):
        values = getattr(times, metric)
        falls = values[1:] < values[:-1] * (1 - SAME)
        assert not (falls & together).any(), (
            f"{metric} falls at batch {batches[1:][falls & together][0]}: {question.row(0)}"
        )
    alike = together & ((chunks[1:] == 1) | (question.model.num_experts == 0))
    layout = DeploymentArrays.from_columns(columns, question.model, cluster.gpu)
    lengths = np.full(len(batches), question.input_len), np.full(len(batches), question.output_len)
    _, another = put_off(layout, batches, *lengths, np.maximum(later + 1.0, chunks))
    alike &= another[1:] == another[:-1]
    falls = (times.output_tok_s[1:] < times.output_tok_s[:-1] * (1 - SAME)) & alike
    assert not falls.any(), f"tokens/s fall at batch {batches[1:][falls][0]}: {question.row(0)}"


@given(question=questions(lengths=st.sampled_from([1, 16, 100, 500, 1024])))
def test_a_larger_steady_batch_takes_longer_and_serves_more(question):
    """Where a request and its answer fit the budget of one step, so that no prompt is cut.

    Of an engine whose decode attention is no slower beside prompts: where it is, as vLLM's, and all that counts, more requests bring more
    such steps, and tokens a second fall. Where every round of a pipeline carries a chunk, more of a request's life comes before its first
    token: the others may come a hundredth sooner.
    """
    batches = np.arange(1.0, 513.0)
    columns, cluster = ladder(question, batches)
    output_len = min(question.output_len, 1000)
    lengths = {"input_len": question.input_len, "output_len": output_len}
    times = run(question, columns, cluster, "steady", batch=batches, **lengths, engine="tensorrt-llm")
    for metric in TIMES:
        values = getattr(times, metric)
        sooner = 0.01 if metric == "tpot_ms" and np.max(columns["pp"]) > 1 else SAME
        falls = values[1:] < values[:-1] * (1 - sooner)
        assert not falls.any(), f"{metric} falls at batch {batches[1:][falls][0]}: {question.row(0)}"
    falls = times.output_tok_s[1:] < times.output_tok_s[:-1] * (1 - SAME)
    assert not falls.any(), f"tokens/s fall at batch {batches[1:][falls][0]}: {question.row(0)}"


@pytest.mark.parametrize("regime", ["static", "steady"])
@given(question=questions(), longer=st.integers(1, 900))
def test_longer_answers_are_never_faster(regime, question, longer):
    """But for the mean wait for a step to end, half of one: a saturated engine's queue hides it for some lengths only."""
    columns, cluster = ladder(question, np.ones(1))
    batch = question.batch[:1]
    outputs = (min(question.output_len, 100), min(question.output_len, 100) + longer)
    short, long = (
        run(question, columns, cluster, regime, batch=batch, input_len=1024, output_len=each) for each in outputs
    )
    wait = short.decode.total_ms[0] / 2 if regime == "steady" else 0.0
    assert long.e2e_ms[0] >= short.e2e_ms[0] * (1 - SAME) - wait, question.row(0)


@given(question=questions(), length=st.integers(1, 2000), longer=st.integers(1, 2000))
def test_longer_prompts_are_never_faster(question, length, longer):
    """A single request, whose chunks are full but for the last."""
    columns, cluster = ladder(question, np.ones(1))
    short, long = (
        run(question, columns, cluster, "static", batch=np.ones(1), input_len=each, output_len=17)
        for each in (length, length + longer)
    )
    for metric in TIMES:
        assert getattr(long, metric)[0] >= getattr(short, metric)[0] * (1 - SAME), f"{metric}: {question.row(0)}"


MODEL, GPU = find_model("llama-3.1-8b").value, find_gpu("H100-SXM").value
PARAMETERS = Parameters.typical()


def times_of(regime="static", *, batch, input_len=1024, output_len=256, parameters=PARAMETERS, **columns):
    cluster = Cluster(gpu=GPU, gpus_per_node=8)
    knobs = {"max_num_seqs": 1024, "max_num_batched_tokens": 8192, "max_model_len": 16384, **columns}
    layout = DeploymentArrays.from_columns({name: [value] for name, value in knobs.items()}, MODEL, GPU)
    return Prediction.of(
        MODEL,
        cluster,
        layout,
        batch=np.array([float(batch)]),
        input_len=input_len,
        output_len=output_len,
        regime=regime,
        parameters=parameters,
    ).times


def test_a_pipeline_gains_one_sequence_nothing():
    for stages in (2, 4):
        assert times_of(batch=1, pp=stages).tpot_ms >= times_of(batch=1).tpot_ms
        assert times_of(batch=1, pp=stages).ttft_ms >= times_of(batch=1).ttft_ms


def test_the_host_s_turns_set_the_pace_of_a_pipeline_that_the_gpus_outrun():
    """A token takes as many turns as there are micro-batches; a single micro-batch, and a single stage, have none to wait for."""
    quick, slow = (replace(PARAMETERS, turn_ms=turn) for turn in (0.001, 40.0))

    def tpot_ms(parameters, *, regime="static", pp, batch):
        return float(times_of(regime, batch=batch, pp=pp, parameters=parameters).tpot_ms[0])

    assert tpot_ms(slow, pp=2, batch=64) == pytest.approx(80.0, rel=0.01)
    assert tpot_ms(slow, regime="steady", pp=2, batch=2) == pytest.approx(80.0, rel=0.05)
    assert tpot_ms(quick, pp=2, batch=64) < 40.0
    for alone in ({"pp": 1, "batch": 64}, {"pp": 2, "batch": 1}):
        assert tpot_ms(slow, **alone) == tpot_ms(quick, **alone)


def test_without_graphs_the_host_launches_decode_steps_kernel_by_kernel():
    times = [times_of(batch=1, **knobs).tpot_ms[0] for knobs in ({}, {"graphs": 0.0}, {"compiled": 0.0})]
    launched = MODEL.num_hidden_layers * PARAMETERS.layer_host_us * 1e-3
    assert times[1] == times[2] > launched > times[0]
    assert times_of(batch=1, compiled=0.0, graphs=1.0).tpot_ms[0] == times[0]


@pytest.mark.parametrize("stages", [2, 4])
def test_many_chunks_fill_a_pipeline(stages):
    """c chunks through pp stages take (c + pp - 1) / pp passes of one chunk, but for the host's part."""
    chunk = times_of(batch=8, output_len=1, max_num_batched_tokens=8192).prefill_ms[0]
    for chunks in (2, 8, 32):
        found = times_of(batch=8 * chunks, output_len=1, pp=stages, max_num_batched_tokens=8192).prefill_ms[0]
        assert found == pytest.approx(chunk * (chunks + stages - 1) / stages, rel=0.05)


def test_a_batch_beyond_the_cap_runs_in_waves():
    """Each wave of 16 decodes like a batch of 16, and the mean first token waits for half the other waves."""
    one, four = times_of(batch=16), times_of(batch=64, max_num_seqs=16)
    assert four.running[0] == 16
    assert four.decode.total_ms == pytest.approx(one.decode.total_ms, rel=1e-12)
    assert four.e2e_ms - four.prefill_ms == pytest.approx(4 * (one.e2e_ms - one.prefill_ms), rel=1e-12)
    assert four.ttft_ms[0] > 1.5 * (one.e2e_ms - one.prefill_ms)[0]


def test_a_wave_that_is_left_over_waits_too():
    full, left = times_of(batch=32, max_num_seqs=16), times_of(batch=17, max_num_seqs=16)
    assert times_of(batch=16, max_num_seqs=16).ttft_ms < left.ttft_ms < full.ttft_ms


def test_one_request_alone_is_alike_in_both_regimes():
    static, steady = times_of(batch=1), times_of("steady", batch=1)
    assert steady.e2e_ms[0] == pytest.approx(static.e2e_ms[0], rel=0.05)
    assert steady.tpot_ms[0] == pytest.approx(static.tpot_ms[0], rel=0.02)


def test_steady_steps_keep_to_the_token_budget():
    """Past saturation a step is full: throughput is the budget's, whatever else is in flight."""
    budget = 2048
    few, many = (
        times_of("steady", batch=batch, input_len=4000, output_len=8, max_num_batched_tokens=budget)
        for batch in (64, 128)
    )
    assert many.output_tok_s == pytest.approx(few.output_tok_s, rel=0.01)
    steps_per_s = 1e3 / many.decode.total_ms[0]
    assert many.output_tok_s[0] <= budget / (4000 + 8 - 1) * 8 * steps_per_s * (1 + 1e-9)


def test_offload_streams_its_share_once_a_pass():
    """Half of 32 layers of 218 million two-byte weights over 55 GB/s is what a decode step then takes."""
    times = times_of(batch=1, offload=0.5)
    layer = 2 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096)
    stream_ms = 0.5 * 32 * layer / (HOST_LINK * GPU.pcie_gbps * 1e6)
    assert times.tpot_ms[0] == pytest.approx(stream_ms + PARAMETERS.step_ms + PARAMETERS.sequence_us * 1e-3, rel=1e-9)


def test_expert_parallel_over_replicas_pays_for_the_exchange():
    model = find_model("qwen3-30b-a3b").value
    cluster = Cluster(gpu=GPU, gpus_per_node=8)
    columns = {"tp": [2, 2], "dp": [4, 4], "ep": [2, 8], "max_num_seqs": 256, "max_num_batched_tokens": 8192}
    layout = DeploymentArrays.from_columns(columns, model, GPU)
    found = Prediction.of(
        model,
        cluster,
        layout,
        batch=np.full(2, 64.0),
        input_len=512,
        output_len=128,
        regime="steady",
        parameters=PARAMETERS,
    )
    exchange = found.times.decode.parts["expert_exchange"].sum(axis=0)
    assert exchange[0] == 0
    assert exchange[1] > 0
    assert found.cost_model.memory.weights_gib[1] < found.cost_model.memory.weights_gib[0]


def test_the_cache_is_read_at_most_at_peak_bandwidth():
    """A long context makes decode read its cache: no faster than the datasheet's bandwidth."""
    short, long = times_of(batch=32, input_len=128), times_of(batch=32, input_len=8192)
    extra = 32 * (8192 - 128) * 32 * 2 * 8 * 128 * 2 / (GPU.memory_bandwidth_gbps * 1e6)
    assert long.decode.total_ms[0] - short.decode.total_ms[0] >= extra


# -- formats of the cache --------------------------------------------------------------------------------------------


def test_an_8_bit_cache_is_read_faster_though_not_twice_as_fast():
    """By its bytes, at the efficiency that its odds leave."""
    model, cluster = find_model("llama-3.1-8b").value, Cluster(gpu=find_gpu("H200").value, gpus_per_node=1)
    typical = Parameters.typical()

    def attention(kv_dtype):
        layout = DeploymentArrays.from_columns({"kv_dtype": kv_dtype, "max_num_seqs": 256}, model, cluster.gpu)
        times = Prediction.of(
            model,
            cluster,
            layout,
            batch=np.array([64.0]),
            input_len=8192,
            output_len=64,
            regime="static",
            parameters=typical,
        ).times
        return float(times.decode.parts["attention"].sum())

    slower = typical.kv_memory / scaled_odds(typical.kv_memory, typical.narrow_kv_memory)
    assert attention("fp8") / attention("auto") == pytest.approx(0.5 * slower, rel=0.05)


def test_the_runs_with_an_8_bit_cache_bear_it_out():
    shipped = shipped_surrogate()
    (group,) = group_runs(run for run in shipped_runs() if run.kv_dtype == "fp8")
    parameters = shipped.marginal(group.engine, group.cluster.gpu.name).parameters
    tpot = METRICS.index("tpot_ms")
    by_bytes = replace(parameters, narrow_kv_memory=1.0)
    with_, without = (group.predict(each)[tpot] / group.measured[tpot] - 1.0 for each in (parameters, by_bytes))
    assert np.mean(np.abs(with_)) < 0.035
    assert np.mean(np.abs(without)) > 0.06
