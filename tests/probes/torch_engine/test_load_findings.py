"""What the plain-PyTorch engine finds besides times: agreement with the reference, thresholds, memory; on the CPU."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch

from catalog.errors import InputError
from catalog.models.hf_config import read_config
from catalog.runs import read_runs
from catalog.schema import Deployment
from probes.benchmark_plan import BenchmarkJob
from probes.gpu_telemetry import Meter
from probes.reference import PROMPT, compare, sequences
from probes.static_benchmark import OutOfMemory, fitting, measure
from probes.sweep_command import Order
from probes.torch_engine import load_findings as torch_findings
from probes.torch_engine import load_worker
from probes.torch_engine.engine import TorchEngine
from probes.torch_engine.memory import PARTS, MutedLinks, needed_bytes, together
from probes.torch_engine.plain_reference import reference_logits
from probes.torch_engine.weight_sources import RandomSource
from tests.probes.torch_engine.torch_world import TINY

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[3]
CONFIG = {**TINY, "num_hidden_layers": 4}
PLAIN = Deployment(engine="torch", compiled=False, max_num_seqs=8)


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return read_config(tmp_path)


def a_load(model, **changes):
    load = BenchmarkJob(
        name="load",
        model=model,
        role="fit",
        deployment=PLAIN,
        shapes=((2, 8, 4), (4, 8, 4), (8, 8, 4)),
        gpu="CPU",
        interconnect="",
        source="a test",
        measure_s=60.0,
        point_s=10.0,
        start_s=60.0,
        repeats=1,
    )
    return replace(load, **changes)


def an_order(load, folder):
    return Order(text="", load=load, out=folder, store=folder / "runs.jsonl", log=folder / "log", gpus=(0,), port=0)


class OutWhen:
    """Stands in for a function, and runs out of memory when it is called with arguments that ``why`` holds for."""

    def __init__(self, function, why):
        self.function, self.why = function, why

    def __call__(self, *args, **kwargs):
        if self.why(*args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ...")
        return self.function(*args, **kwargs)


def test_the_reference_is_what_the_engine_computes_at_once(model):
    ids = sequences(CONFIG["vocab_size"])
    logits = reference_logits(model, RandomSource(), torch.tensor(ids), dtype=torch.float32).numpy()
    assert logits.shape == (*ids.shape, CONFIG["vocab_size"])
    engine = TorchEngine(model, PLAIN)
    seen = {}
    tokens, _ = engine.tokens(ids.tolist(), 1, lambda rows, number, each: seen.update({(rows, number): each.numpy()}))
    (last,) = seen.values()
    assert np.abs(last - logits[:, -1]).max() < 1e-5
    assert (tokens[:, 0].numpy() == logits[:, -1].argmax(axis=-1)).all()


def test_forced_tokens_are_followed_whatever_is_chosen(model):
    engine = TorchEngine(model, PLAIN)
    ids = sequences(CONFIG["vocab_size"], 3)
    forced = engine.logits(ids, PROMPT)
    reference = engine.reference(ids, PROMPT)
    assert forced.shape == reference.shape == (3, ids.shape[1] - PROMPT, CONFIG["vocab_size"])
    assert np.abs(forced - reference).max() < 1e-5
    greedy = ids.copy()
    greedy[:, PROMPT:] = engine.tokens(ids[:, :PROMPT].tolist(), ids.shape[1] - PROMPT)[0].numpy()
    assert (greedy != ids).any()
    assert np.abs(engine.logits(greedy, PROMPT) - reference).max() > 1e-3


def test_a_perturbed_deployment_does_not_agree(model):
    engine = TorchEngine(model, PLAIN)
    exact = torch_findings.find_agreement(engine, a_load(model))
    assert exact["max_logit_diff"] < 1e-5
    assert (exact["top1_agreement"], abs(exact["ppl_diff"]) < 1e-6) == (1.0, True)
    next(iter(engine._transformer.weights.layers))[1].down.mul_(1.5)
    wrong = torch_findings.find_agreement(engine, a_load(model))
    assert wrong["max_logit_diff"] > 1e-3
    assert abs(wrong["ppl_diff"]) > 1e-6


def test_agreement_is_found_only_where_it_is_wanted_and_can_be(model):
    engine = TorchEngine(model, PLAIN)
    assert torch_findings.find_agreement(engine, a_load(model, agreement=False)) == {}
    short = TorchEngine(model, replace(PLAIN, max_model_len=31))
    assert torch_findings.find_agreement(short, a_load(model)) == {}


def test_a_batch_that_runs_out_of_memory_is_a_measurement_and_larger_ones_are_left_out(model, monkeypatch):
    engine = TorchEngine(model, PLAIN)
    real = engine._pipeline.generate
    monkeypatch.setattr(engine._pipeline, "generate", OutWhen(real, lambda *_, batch, **__: batch >= 4))
    said = []
    first, second = measure(engine, a_load(model), say=said.append)
    assert (first.oom, first.batch, first.tpot_ms > 0) == (False, 2, True)
    assert (second.oom, second.batch, second.e2e_ms, second.peak_memory_gib) == (True, 4, None, None)
    assert json.loads(second.fingerprint)["oom"].startswith("out of GPU memory: 4 sequences of ")
    assert said[-1] == "load-b8-i8-o4 left out: a smaller one ran out of memory"
    monkeypatch.undo()
    assert len(engine.generate([[1] * 8] * 4, 4)) == 4


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (torch.OutOfMemoryError("Tried to allocate 1.00 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_not_only_the_allocator_runs_out_of_memory(error, out):
    def work(*, hide):
        try:
            raise error
        except RuntimeError:
            if hide:
                raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904  as CUDA does
            raise

    for hide in (False, True):
        with pytest.raises(OutOfMemory if out else RuntimeError) as caught:
            together(lambda hide=hide: work(hide=hide), torch.device("cpu"), alone=True, what="a try")
        assert isinstance(caught.value, OutOfMemory) == out


def test_alone_an_engine_survives_running_out_of_memory_in_the_middle_of_a_batch(model, monkeypatch):
    engine = TorchEngine(model, PLAIN)
    calls = []
    late = OutWhen(engine._transformer.forward, lambda *_: calls.append(0) or len(calls) > 2)
    monkeypatch.setattr(engine._transformer, "forward", late)
    with pytest.raises(OutOfMemory, match="out of GPU memory: 4 sequences of 12 tokens"):
        engine.generate([[1] * 8] * 4, 4)
    assert engine.running == (4, 8, 4)
    monkeypatch.undo()
    assert len(engine.generate([[1] * 8] * 4, 4)) == 4
    assert engine.running is None


def test_what_a_failed_allocation_needed(monkeypatch):
    message = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 139.80 GiB"
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * gib, 140 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 120 * gib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100 * gib)
    gpu = torch.device("cuda", 0)
    assert needed_bytes(message, gpu) == (10 + 100 + 2.5) * gib
    assert needed_bytes("Tried to allocate 512.00 MiB", gpu) == 110.5 * gib
    assert needed_bytes("out of memory", gpu) == float("inf")


def test_a_rehearsal_sends_nothing_and_leaves_the_links_as_they_were(model):
    engine = TorchEngine(model, PLAIN)
    links = engine._transformer.links
    engine._rehearse(4, 8)
    assert engine._transformer.links is links
    assert not links.traffic.calls
    own = torch.arange(6.0).view(2, 3)
    layout = replace(engine.layout, tp=3)
    assert MutedLinks(layout).all_gather(own).tolist() == [[0, 1, 2] * 3, [3, 4, 5] * 3]


class FakeEngine:
    """On a GPU that holds so many tokens."""

    name, version, fingerprint = "torch", "0", {}
    device = torch.device("cuda", 0)
    positions, startup_s = 64, 1.0

    def __init__(self, tokens):
        self.tokens, self.kv_capacity_tokens, self.meter = tokens, 0, Meter(())
        self.taken, self.seconds = [], 0.001

    def take(self, batch, input_len, output_len):
        self.taken.append(batch)
        self.kv_capacity_tokens = 0
        if batch * (input_len + output_len) > self.tokens:
            raise OutOfMemory(f"{batch} do not fit", needed_gib=150.0)
        self.kv_capacity_tokens = batch * (input_len + output_len)

    def prepare(self, batch, input_len):
        pass

    def generate(self, prompts, output_len):
        assert len(prompts) * (len(prompts[0]) + output_len) <= self.kv_capacity_tokens
        time.sleep(self.seconds * output_len)
        return []

    def used_gib(self):
        return 130.0

    def comm_bytes(self):
        return 0.0

    def memory(self):
        return [dict.fromkeys(PARTS, 1.0), dict.fromkeys(PARTS, 2.0)]


def test_a_threshold_is_two_rows_and_looked_for_once(model, tmp_path, capsys):
    load = a_load(model, thresholds=((100, 24, 8), (3, 60, 8)))
    order = an_order(load, tmp_path)
    engine = FakeEngine(tokens=32 * 150 + 5)
    torch_findings.record_thresholds(engine, order, {"top1_agreement": 0.5})
    failed, ran = read_runs(tmp_path / "runs.jsonl")
    assert (failed.oom, ran.oom) == (True, False)
    assert ran.batch <= 150 < failed.batch
    assert failed.batch - ran.batch <= ran.batch // 16
    assert engine.taken[-1] == ran.batch
    assert (ran.max_num_seqs, ran.gpu_memory_utilization, ran.peak_memory_gib) == (ran.batch, 1.0, 130.0)
    assert (ran.kv_capacity_tokens, ran.e2e_ms, ran.top1_agreement) == (ran.batch * 32, None, 0.5)
    assert json.loads(failed.fingerprint)["needed_gib"] == 150
    assert "load-threshold left out: 68 tokens exceed max_model_len 64" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "memory.jsonl").read_text().splitlines()]
    assert [(row["rank"], row["batch"], row["used_gib"]) for row in rows] == [(0, ran.batch, 1.0), (1, ran.batch, 2.0)]
    tried = len(engine.taken)
    torch_findings.record_thresholds(engine, order, {})
    assert len(engine.taken) == tried


def test_a_threshold_is_timed_where_the_load_has_the_time(model, tmp_path):
    order = an_order(a_load(model, thresholds=((100, 24, 8),), shapes=((8, 24, 8),)), tmp_path)
    engine = FakeEngine(tokens=32 * 150)
    engine.take(8, 24, 8)
    for run in measure(engine, order.load):
        torch_findings.store(order, replace(run, prefill_ms=1.0, tpot_ms=0.5, ttft_ms=None, e2e_ms=5.0))
    torch_findings.record_thresholds(engine, order, {})
    *_, ran = read_runs(tmp_path / "runs.jsonl")
    assert ran.run_id == f"load-threshold-b{ran.batch}-i24-o8"
    assert ran.e2e_ms is not None
    assert ran.batch > 140
    short = replace(order.load, point_s=1e-9)
    assert torch_findings.expected_s(read_runs(tmp_path / "runs.jsonl"), short, (16, 24, 8)) == pytest.approx(0.011)


def test_times_that_contradict_each_other_leave_a_threshold_without_times(model, tmp_path, monkeypatch):
    order = an_order(a_load(model, thresholds=((100, 24, 8),)), tmp_path)
    monkeypatch.setattr(torch_findings, "expected_s", lambda *_: 0.0)
    monkeypatch.setattr(
        torch_findings,
        "measure",
        lambda engine, load, **_: [replace(fitting(load, engine, load.shapes[0]), prefill_ms=9.0, e2e_ms=5.0)],
    )
    torch_findings.record_thresholds(FakeEngine(tokens=32 * 150), order, {})
    failed, ran = read_runs(tmp_path / "runs.jsonl")
    assert (failed.oom, ran.oom, ran.e2e_ms) == (True, False, None)


def test_on_a_cpu_no_threshold_is_tried(model, tmp_path, capsys):
    load = a_load(model, thresholds=((100, 24, 8),))
    torch_findings.record_thresholds(TorchEngine(model, PLAIN), an_order(load, tmp_path), {})
    assert "left out: a CPU's memory has no threshold" in capsys.readouterr().out
    assert not (tmp_path / "runs.jsonl").exists()


def test_a_load_that_does_not_start_is_its_smallest_shape_that_failed(model, tmp_path):
    order = an_order(a_load(model, shapes=((4, 8, 4), (1, 8, 4), (2, 16, 4))), tmp_path)
    for _ in range(2):
        torch_findings.record_failure(order, OutOfMemory("too little", needed_gib=160.0))
    (run,) = read_runs(tmp_path / "runs.jsonl")
    assert (run.oom, run.batch, run.input_len, run.run_id) == (True, 1, 8, "load-b1-i8-o4")
    torch_findings.record_failure(order, OutOfMemory("late"), running=(2, 16, 1))
    assert read_runs(tmp_path / "runs.jsonl")[1].run_id == "load-b2-i16-o4"


def test_weights_that_do_not_fit_are_out_of_memory(model, monkeypatch):
    monkeypatch.setattr("probes.torch_engine.engine.read_weights", OutWhen(None, lambda *_, **__: True))
    with pytest.raises(OutOfMemory, match=r"out of GPU memory: the weights of") as caught:
        TorchEngine(model, PLAIN)
    assert isinstance(caught.value, InputError)


def test_a_process_that_runs_out_of_memory_while_others_wait_for_it_leaves_a_row(model, tmp_path, monkeypatch):
    order = an_order(a_load(model), tmp_path)

    def record(engine, *_, **__):
        engine.running = (4, 8, 1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")

    monkeypatch.setattr(load_worker, "record", record)
    with pytest.raises(torch.OutOfMemoryError):
        load_worker.run_load(order, 0, "cpu", meeting="", meter=Meter(()))
    (run,) = read_runs(tmp_path / "runs.jsonl")
    assert (run.oom, run.run_id) == (True, "load-b4-i8-o4")


def test_a_load_that_cannot_start_ends_well_with_a_row(model, tmp_path, monkeypatch):
    monkeypatch.setattr("probes.torch_engine.engine.read_weights", OutWhen(None, lambda *_, **__: True))
    load_worker.run_load(an_order(a_load(model), tmp_path), 0, "cpu", meeting="", meter=Meter(()))
    (run,) = read_runs(tmp_path / "runs.jsonl")
    assert (run.oom, run.run_id, run.engine) == (True, "load-b2-i8-o4", "torch")


SCRIPT = """
import json, sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from catalog.models.hf_config import read_config
from catalog.schema import Deployment
from probes.torch_engine import engine as torch_engine
from probes.reference import PROMPT, sequences
from probes.static_benchmark import OutOfMemory
from probes.torch_engine.engine import TorchEngine

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=30)
)
model = read_config(folder)
real_rehearse, real_weights = torch_engine.rehearse, torch_engine.read_weights


def rehearse(pipeline, batch, input_len):
    if batch > 4 and rank == 1:  # this process alone
        raise torch.OutOfMemoryError("Tried to allocate 1.00 GiB")
    real_rehearse(pipeline, batch, input_len)


def read_weights(*args, **kwargs):
    if rank == 1:
        raise torch.OutOfMemoryError("Tried to allocate 1.00 GiB")
    return real_weights(*args, **kwargs)


for tp, pp in ((2, 1), (1, 2)):
    wanted = Deployment(engine="torch", compiled=False, max_num_seqs=8, tp=tp, pp=pp)
    torch_engine.read_weights, torch_engine.rehearse = read_weights, rehearse
    told = []
    try:
        TorchEngine(model, wanted, rank=rank)
    except OutOfMemory as error:
        told.append(str(error))
    torch_engine.read_weights = real_weights
    engine = TorchEngine(model, wanted, rank=rank)
    if rank:
        engine.follow()
        continue
    ids = sequences(model.vocab_size)
    np.save(folder / f"logits{tp}{pp}.npy", engine.logits(ids, PROMPT))
    np.save(folder / f"reference{tp}{pp}.npy", engine.reference(ids, PROMPT))
    parts = engine.memory()
    engine.prepare(4, 8)
    for attempt in (lambda: engine.prepare(8, 8), lambda: engine.take(6, 8, 4)):
        try:
            attempt()
        except OutOfMemory as error:
            told.append(str(error))
    engine.take(3, 8, 4)
    capacity = engine.kv_capacity_tokens
    firsts = engine.generate([[1] * 8] * 3, 4)
    result = {"told": told, "capacity": capacity, "firsts": len(firsts), "parts": parts}
    (folder / f"result{tp}{pp}.json").write_text(json.dumps(result))
    engine.stop()
distributed.barrier()
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """A folder with what two processes found, sliced and staged; one of them runs out of memory now and then."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder), str(rank)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=90)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return folder


LAYOUTS = pytest.mark.parametrize("layout", ["21", "12"], ids=["tp2", "pp2"])


@LAYOUTS
def test_what_one_process_cannot_hold_all_know_and_go_on(two_processes, layout):
    result = json.loads((two_processes / f"result{layout}.json").read_text())
    start, prepared, taken = result["told"]
    assert start.startswith("out of GPU memory: the weights of ")
    assert prepared == "out of GPU memory: 8 sequences with prompts of 8 tokens"
    assert taken == "out of GPU memory: 6 sequences of 12 tokens"
    assert (result["capacity"], result["firsts"]) == (3 * 12, 3)
    assert [part["weights_gib"] > 0 for part in result["parts"]] == [True, True]


@LAYOUTS
def test_on_two_processes_logits_agree_with_the_reference(two_processes, layout):
    logits, reference = (np.load(two_processes / f"{what}{layout}.npy") for what in ("logits", "reference"))
    ids = sequences(CONFIG["vocab_size"])[:, PROMPT:]
    found = compare(logits, reference, ids)
    assert found.max_logit_diff < 1e-4
    assert found.top1_agreement == 1
    logits[0, 0, 0] += 0.01
    assert compare(logits, reference, ids).max_logit_diff > 1e-3
