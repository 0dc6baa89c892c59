"""The shipped H200 measurements of plain PyTorch, and of vLLM under traffic, hold together: physics allows them, their
parts add up, and what can be counted is what was counted.
"""

import csv
import json
import math
import statistics
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import catalog
from catalog.kernels import read_kernels
from catalog.models.find import find_model
from catalog.models.sizes import active_parameters, embedding_parameters, norm_parameters, parameters
from catalog.requests import read_requests
from catalog.runs import read_runs
from probes.benchmark_plan import read_plan
from probes.serving_benchmark import lengths, poisson

DATA = Path(catalog.__file__).parent / "data"
RUNS = DATA / "runs"
ALL = read_runs(RUNS / "torch-2.11.0_h200.csv")
EARLY = [run for run in ALL if "-early-" in run.run_id]
"""Of an earlier state of the engine, which counted and timed other things."""
TORCH = [run for run in ALL if run not in EARLY]
TIMED = [run for run in TORCH if run.e2e_ms is not None]
SERVING = read_runs(RUNS / "vllm-0.24.0_h200_serving.csv")
REQUESTS = read_requests(DATA / "requests" / "vllm-0.24.0_h200.csv")
PEAK_TFLOPS, PEAK_TB_S, PCIE_GB_S = 989.0, 4.8, 64.0
GIB, MIB = 2**30, 2**20
ONE_SHOT = {2: MIB, 4: MIB // 2}
"""Largest message that goes to each other GPU whole, by number of GPUs; larger ones go round a ring, or as if."""


def loaded(run):
    """The name of the load that a run is of."""
    return run.run_id.rsplit("-b", 1)[0]


def model_of(run):
    return find_model(run.model).value


def seen(run):
    return json.loads(run.fingerprint)


def memory():
    """By load, the rows of its GPUs, with numbers as numbers."""
    found = defaultdict(list)
    with (DATA / "memory" / "torch-2.11.0_h200.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            words = ("load", "model", "dtype", "kv_dtype", "compiled")
            found[row["load"]].append({k: v if k in words else float(v) for k, v in row.items() if v})
    return found


MEMORY = memory()


def test_every_run_is_of_a_load_in_the_plan_and_once():
    loads = {load.name: load for load in read_plan(RUNS / "torch-2.11.0_h200_plan.json")}
    assert len({run.run_id for run in ALL}) == len(ALL)
    for run in TORCH:
        load = loads[loaded(run).removesuffix("-threshold")]
        knobs, shape = load.deployment, (run.batch, run.input_len, run.output_len)
        assert run.run_id == f"{loaded(run)}-b{run.batch}-i{run.input_len}-o{run.output_len}"
        assert shape in load.shapes or loaded(run).endswith("-threshold")
        assert (run.model, run.role, run.source) == (load.model.name, load.role, load.source)
        assert (run.tp, run.pp, run.gpus) == (knobs.tp, knobs.pp, knobs.tp * knobs.pp)
        assert (run.compiled, run.graphs, run.offload) == (knobs.compiled, knobs.graphs, knobs.offload)
    assert all(loaded(run) not in loads for run in EARLY)
    assert 0 < len(EARLY) < len(TORCH) / 10


@pytest.mark.parametrize("runs", [ALL, SERVING], ids=["torch", "serving"])
def test_small_models_are_for_fitting_and_the_others_for_validating(runs):
    fit = {"meta-llama/Llama-2-7b-hf", "meta-llama/Meta-Llama-3.1-8B", "Qwen/Qwen3-30B-A3B"}
    assert {run.role for run in runs} == {"fit", "validate"}
    assert all((run.role == "fit") == (run.model in fit) for run in runs)


def test_no_prefill_is_faster_than_the_tensor_cores():
    for run in (run for run in ALL if run.prefill_ms is not None):
        model = model_of(run)
        head = model.vocab_size * model.hidden_size  # sees one token a sequence
        tables = embedding_parameters(model) + head
        work = 2 * ((active_parameters(model) - tables) * run.input_len + head) * run.batch / run.gpus
        assert run.prefill_ms > work / PEAK_TFLOPS / 1e9, run.run_id


def test_no_decode_step_is_faster_than_reading_weights_and_context():
    # as many groups as there are stages go round: each GPU reads its weights so many times a step
    for run in TIMED:
        model = model_of(run)
        weights = 2 * (active_parameters(model) - embedding_parameters(model)) / run.tp  # of one sequence's experts
        each = 4 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim
        context = run.input_len + run.output_len / 2
        kept = run.batch * context * each / run.gpus
        groups = min(run.batch, run.pp)
        read = weights * groups / run.pp + kept if groups == run.pp else weights + kept
        assert run.tpot_ms > read / PEAK_TB_S / 1e9, run.run_id
        if run.offload:
            layers = seen(run)["offloaded"][0] / model.num_hidden_layers
            brought = layers * 2 * (parameters(model) - 2 * embedding_parameters(model))
            assert run.tpot_ms > brought / PCIE_GB_S / 1e6


def test_times_add_up():
    for run in TIMED:
        assert run.prefill_ms + run.tpot_ms * (run.output_len - 1) == pytest.approx(run.e2e_ms, rel=1e-4), run.run_id
        assert run.output_tok_s == pytest.approx(run.batch * run.output_len / run.e2e_ms * 1e3, rel=2e-6, abs=0.006)
        assert run.ttft_ms < run.e2e_ms
        # without graphs the host sets the pace, and one turn may be slower than the other
        assert run.spread is None or run.spread < (0.03 if run.deployment.has_graphs else 0.15), run.run_id
        assert (run.repeats > 1) == (run.spread is not None)
        assert run.batch * (run.input_len + run.output_len) <= run.kv_capacity_tokens


def test_power_energy_and_time_agree():
    for run in TIMED:
        mean_w = run.energy_j / run.e2e_ms * 1e3 / run.gpus
        assert 75 < mean_w < 750, run.run_id  # between idle and what the board may draw
        if run.e2e_ms > 500:  # the counter and the readings are a tenth of a second apart
            assert run.power_w == pytest.approx(mean_w * run.gpus, rel=0.35), run.run_id


def messages(run):
    """Of each process: kind, bytes and number of the messages of a whole run, as the engine's layout has them."""
    model, layers = model_of(run), seen(run)["layers"]
    assert sum(layers) == model.num_hidden_layers
    row, part = 2 * model.hidden_size, 2 * math.ceil(model.vocab_size / run.tp)
    short, longer = divmod(run.batch, min(run.pp, run.batch))
    groups = [short + (number < longer) for number in range(min(run.pp, run.batch))]
    at_once = max(1, run.max_num_batched_tokens // run.input_len)
    passes = Counter()  # by sequences and tokens of each
    for group in groups:
        whole, rest = divmod(group, at_once)
        passes[at_once, run.input_len] += whole
        passes[rest, run.input_len] += rest > 0
        passes[group, 1] += run.output_len - 1
    for stage, held in enumerate(layers):
        for (rows, tokens), number in passes.items():
            for _ in range(run.tp):
                if run.tp > 1:
                    yield "all_reduce", rows * tokens * row, number * (2 * held + (stage == 0))
                    if stage == run.pp - 1:
                        yield "all_gather", rows * part, number
                if stage < run.pp - 1:
                    yield "forward", rows * tokens * row, number
        if stage == run.pp - 1 > 0:
            yield "back", 8 * run.batch, run.output_len * run.tp


def sent(run, kind, size):
    """Bytes that leave a process for a message."""
    if kind == "all_reduce":
        in_one_shot = size <= ONE_SHOT[run.tp] and size % (16 * run.tp) == 0
        return size * (run.tp - 1) * (1 if in_one_shot else 2 / run.tp)
    return size * (run.tp - 1) if kind == "all_gather" else size


def test_bytes_sent_are_those_of_the_layout():
    assert len({(run.tp, run.pp) for run in TIMED}) == 6
    for run in TIMED:
        expected = sum(number * sent(run, kind, size) for kind, size, number in messages(run)) / run.gpus
        assert run.comm_bytes == pytest.approx(expected, rel=1e-9), run.run_id


def test_a_known_shape_sends_what_is_worked_out_by_hand():
    # Llama-3.1-8B: 32 layers, width 4096, vocabulary 128256; a prompt of 8192 tokens is 64 MiB, a token 8 KiB
    (run,) = (run for run in TORCH if run.run_id == "h200-torch2.11-llama-3.1-8b-tp4pp1dp1-b1-i8192-o32")
    ring, one_shot = 2 * 3 / 4 * 64 * MIB, 3 * 8192
    logits = 3 * 2 * 128256 / 4
    assert run.comm_bytes == 65 * ring + 31 * 65 * one_shot + 32 * logits
    # two stages of Llama-2-13B, width 5120: the first sends 1024 + 127 activations, the second 128 tokens back
    (run,) = (run for run in TORCH if run.run_id == "h200-torch2.11-llama-2-13b-tp1pp2dp1-b1-i1024-o128")
    assert run.comm_bytes == (1151 * 5120 * 2 + 128 * 8) / 2


def test_the_links_counted_what_the_engine_did():
    ratios = {run: seen(run)["nvlink_ratio"] for run in TIMED if run.gpus > 1}
    assert all("nvlink_ratio" not in seen(run) for run in TIMED if run.gpus == 1)
    for run, ratio in ratios.items():
        parts = [(size, number * sent(run, kind, size)) for kind, size, number in messages(run)]
        large = sum(each for size, each in parts if size >= MIB) / sum(each for _, each in parts)
        # between stages NCCL sends small messages with flags, half as much again
        assert 0.9999 < ratio < (1.51 if run.tp == 1 else 1.13), run.run_id
        if run.tp > 1 and large > 0.9:
            assert ratio < 1.012, run.run_id
    sliced = [ratio for run, ratio in ratios.items() if run.tp > 1]
    assert statistics.median(sliced) < 1.01


def test_the_memory_of_a_gpu_adds_up():
    for load, rows in MEMORY.items():
        assert [row["rank"] for row in rows] == list(range(int(rows[0]["tp"] * rows[0]["pp"])))
        for row in rows:
            used = row["context_gib"] + row["non_torch_gib"] + row["reserved_gib"]
            assert used == pytest.approx(row["used_gib"], abs=1e-5), load
            assert row["used_gib"] + row["free_gib"] == pytest.approx(row["total_gib"], abs=1e-5)
            if "batch" not in row:  # a threshold's row has the share of the load it belongs to there
                share = row["total_gib"] * row["gpu_memory_utilization"]
                assert row["requested_gib"] == pytest.approx(share, abs=1e-5)
            parts = row["weights_gib"] + row["kv_gib"]
            assert parts + row["graph_gib"] < row["reserved_gib"], load
            # stages keep what they have sent, and the allocator's pieces do not fill up: both beyond the plan
            assert row["used_gib"] < row["total_gib"] * row["gpu_memory_utilization"] + 3, load


def test_kv_memory_and_capacity_are_the_same():
    of_runs = {loaded(run): run.kv_capacity_tokens for run in TORCH if not run.oom}
    layers = {loaded(run): seen(run)["layers"] for run in TORCH}
    for run in TORCH:
        # a load that was started twice found a little less room the second time
        assert run.oom or run.kv_capacity_tokens == pytest.approx(of_runs[loaded(run)], rel=1e-3)
    # one was ended before it told of its memory, and one was for its threshold only
    prefix = "h200-torch2.11-llama-"
    assert set(of_runs) - set(MEMORY) == {f"{prefix}3.1-8b-tp1pp4dp1"}
    assert set(MEMORY) - set(of_runs) == {f"{prefix}2-13b-tp1pp1dp1-oom"}
    for load, rows in MEMORY.items():
        model = find_model(rows[0]["model"]).value
        for row in rows:
            assert row["kv_tokens"] == pytest.approx(of_runs.get(load, row["kv_tokens"]), rel=1e-3)
            held = layers.get(load, [model.num_hidden_layers])[int(row["rank"] // row["tp"])]
            each = 4 * held * model.num_key_value_heads / row["tp"] * model.head_dim
            assert row["kv_gib"] * GIB == pytest.approx(row["kv_tokens"] * each, rel=1e-6), load


def test_weights_are_all_there():
    for load, rows in MEMORY.items():
        model = find_model(rows[0]["model"]).value
        whole = 2 * parameters(model)
        # norms are in every slice
        slices = 2 * (model.num_hidden_layers * norm_parameters(model) + model.hidden_size) * (rows[0]["tp"] - 1)
        layer = 2 * (parameters(model) - 2 * embedding_parameters(model)) / model.num_hidden_layers
        offloaded = rows[0]["offload"] * model.num_hidden_layers
        elsewhere = max(offloaded - 2, 0) * layer  # two of them have room on the GPU
        here = sum(row["weights_gib"] for row in rows) * GIB
        assert here == pytest.approx(whole + slices - elsewhere, rel=2e-5), load


def test_a_threshold_lies_between_what_ran_and_what_did_not():
    ran, failed = sorted((run for run in TORCH if loaded(run).endswith("-threshold")), key=lambda run: run.batch)
    assert (ran.oom, failed.oom) == (False, True)
    assert ran.batch < failed.batch <= 1.05 * ran.batch
    assert failed.e2e_ms is None
    (row,) = MEMORY[loaded(ran)]
    assert row["batch"] == ran.batch
    assert ran.peak_memory_gib == pytest.approx(row["used_gib"], abs=0.5)
    # what the larger one lacked is what more sequences need, up to what the allocator cannot put together
    assert ran.peak_memory_gib < seen(failed)["needed_gib"] < 1.02 * row["total_gib"]


def test_random_weights_agree_up_to_near_ties():
    # two of Mixtral's eight experts: near ties of random weights are decided anew in every layer
    told = [run for run in TIMED if run.top1_agreement is not None and "Mixtral" not in run.model]
    assert len(told) > 140
    for run in told:
        assert 0.5 < run.top1_agreement <= 1
        assert 0 < run.max_logit_diff < 2
        assert abs(run.ppl_diff) < 0.06


KERNELS = read_kernels(DATA / "kernels" / "h200_torch-2.11.0.jsonl")


def test_no_kernel_is_below_the_floor():
    assert len(KERNELS) == 994
    for each in KERNELS:
        if each.op == "gemm":
            m, k, n = each.m, each.k, each.n
            assert 2 * m * k * n / each.us / 1e6 < PEAK_TFLOPS, each
            assert 2 * (m * k + k * n + m * n) / each.us / 1e6 < PEAK_TB_S, each
        elif each.op == "attention":
            pairs = each.query * each.context - each.query * (each.query - 1) / 2
            assert 4 * each.batch * each.heads * each.head_dim * pairs / each.us / 1e6 < PEAK_TFLOPS, each
            kept = each.batch * each.context * each.kv_heads * each.head_dim * 4
            if kept > 200e6:  # less than that can come from the L2 cache
                assert kept / each.us / 1e6 < PEAK_TB_S, each
        elif each.op in ("h2d", "d2h"):
            assert each.bytes / each.us / 1e3 < PCIE_GB_S, each
        elif each.op == "copy":
            assert 2 * each.bytes / each.us / 1e6 < PEAK_TB_S, each


def test_kernels_are_there_once_and_steady():
    with (DATA / "kernels" / "h200_torch-2.11.0.jsonl").open() as file:
        rows = [json.loads(line) for line in file]
    keys = {tuple(sorted((k, v) for k, v in row.items() if k not in ("us", "spread"))) for row in rows}
    assert len(keys) == len(rows) == len(KERNELS)
    assert all("torch 2.11.0" in row["fingerprint"] and row["gpu"] == "H200-SXM" for row in rows)
    assert statistics.median(row["spread"] for row in rows) < 0.02


def test_a_decode_step_takes_no_less_than_its_matrix_products():
    # Llama-3.1-8B on one GPU at batch 1: 32 layers of four products, and the head, of the model's shapes
    (run,) = (run for run in TORCH if run.run_id == "h200-torch2.11-llama-3.1-8b-tp1pp1dp1-b1-i128-o128")
    us = {(each.k, each.n): each.us for each in KERNELS if each.op == "gemm" and each.m == 1}
    layer = us[4096, 6144] + us[4096, 4096] + us[4096, 28672] + us[14336, 4096]
    products = (32 * layer + us[4096, 128256]) / 1e3
    assert products < run.tpot_ms < 1.3 * products


OFFERED = [
    load
    for plan in ("vllm-0.24.0_h200_serving_plan.json", "vllm-0.24.0_h200_traffic_plan.json")
    for load in read_plan(RUNS / plan)
]


def offered(run):
    """The offer of the plans that a serving run is of."""
    (offer,) = (offer for load in OFFERED for offer in load.offers if run.run_id == f"{load.name}-{offer.name}")
    return offer


def requests_of(run):
    return [each for each in REQUESTS if each.run_id == run.run_id]


def test_every_serving_run_is_an_offer_of_the_plan():
    assert len({run.run_id for run in SERVING}) == len(SERVING)
    assert {run.run_id for run in SERVING} == {f"{load.name}-{offer.name}" for load in OFFERED for offer in load.offers}
    for run in SERVING:
        offer, told = offered(run), seen(run)
        assert (run.regime, run.rate is None) == (("steady", True) if offer.concurrency else ("open", False))
        assert (told["spread"], told["seconds"], told["seed"]) == (offer.spread, offer.seconds, offer.seed)
        assert (run.input_len, run.output_len) == (offer.input_len, offer.output_len)


def test_requests_are_those_of_the_runs():
    assert {each.run_id for each in REQUESTS} == {run.run_id for run in SERVING}
    for run in SERVING:
        own = requests_of(run)
        assert (len(own), 0) == (seen(run)["requests"], seen(run)["lost"])
        assert statistics.fmean(each.ttft_ms for each in own) == pytest.approx(run.ttft_ms, abs=2e-3)
        assert statistics.fmean(each.e2e_ms for each in own) == pytest.approx(run.e2e_ms, abs=2e-3)
        tpot = statistics.fmean((each.e2e_ms - each.ttft_ms) / (each.output_len - 1) for each in own)
        assert tpot == pytest.approx(run.tpot_ms, abs=2e-4)
        longest = 1e3 * max(each.arrival_s + each.e2e_ms / 1e3 for each in own)
        if run.regime == "open":  # the mean number in flight, by Little's law, and all tokens by the last one
            assert run.batch == round(sum(each.e2e_ms for each in own) / longest)
            tokens = sum(each.output_len for each in own)
            assert run.output_tok_s == pytest.approx(1e3 * tokens / longest, abs=0.01)
        else:
            assert run.batch == offered(run).concurrency
            assert longest <= 1e3 * seen(run)["seconds"]
            steady = [each for each in own if each.arrival_s > 0.5 * seen(run)["seconds"]] or own[-20:]
            in_flight = run.output_tok_s * statistics.fmean(each.e2e_ms for each in steady) / 1e3 / run.output_len
            # of mixed lengths those that end within the window are the shorter ones
            assert in_flight == pytest.approx(run.batch, rel=0.2 if seen(run)["spread"] else 0.12), run.run_id


def test_the_times_of_a_request_are_in_order():
    for each in REQUESTS:
        assert 0 < each.ttft_ms < each.e2e_ms
        assert 0 < each.itl_p50_ms <= each.itl_p95_ms <= each.itl_max_ms <= each.e2e_ms - each.ttft_ms + 2e-3


def test_open_loops_are_the_poisson_processes_that_their_seeds_give():
    for run in (run for run in SERVING if run.regime == "open"):
        own, offer = requests_of(run), offered(run)
        arrivals = poisson(run.rate, offer.seconds, offer.seed)
        assert [each.arrival_s for each in own] == pytest.approx(arrivals, rel=1e-4), run.run_id
        inputs, outputs = lengths(offer, len(own), run.max_model_len)
        assert [(each.input_len, each.output_len) for each in own] == list(zip(inputs, outputs, strict=True))


def test_rates_are_those_asked_for_or_shares_of_what_a_closed_loop_completed():
    for run in (run for run in SERVING if run.regime == "open"):
        offer = offered(run)
        if offer.rate:
            assert run.rate == offer.rate
            continue
        shares = [
            run.rate / (other.output_tok_s / other.output_len)
            for other in SERVING
            if (other.regime, other.input_len, other.output_len) == ("steady", run.input_len, run.output_len)
            and loaded_serving(other) == loaded_serving(run)
        ]
        assert any(share == pytest.approx(offer.share, rel=1e-4) for share in shares), run.run_id


def loaded_serving(run):
    return run.run_id.split("dp1-")[0]


def test_more_traffic_is_slower():
    by_load = defaultdict(list)
    for run in SERVING:
        by_load[loaded_serving(run), run.regime, run.input_len, run.output_len].append(run)
    assert sum(len(runs) > 1 for runs in by_load.values()) >= 10
    for runs in by_load.values():
        runs.sort(key=lambda run: run.rate or run.batch)
        for name in ("ttft_ms", "tpot_ms", "output_tok_s"):
            figures = [getattr(run, name) for run in runs]
            assert figures == sorted(figures), (runs[0].run_id, name)
