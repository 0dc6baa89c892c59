"""The program that times kernels, on the CPU with real processes: rows, a budget, going on, and what one shape breaks."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from catalog.kernels import AttentionTime, CopyTime, Kernel, read_kernels
from probes.microbench import kernel_times
from probes.microbench.kernel_calls import KernelBench
from probes.microbench.kernel_shapes import Shape
from probes.microbench.kernel_times import measure_kernels
from probes.microbench.timing import time_on_cpu, time_together
from probes.torch_engine import fused_kernels as transformer_kernels
from probes.torch_engine.fused_kernels import add_norm, place_heads, swiglu

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[3]
CONFIG = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 37,
    "max_position_embeddings": 64,
    "torch_dtype": "float32",
}
GEMMS = tuple(Shape(op="gemm", m=m, k=8, n=4, dtype="float32") for m in (1, 2, 3, 4))
IMPOSSIBLE = Shape(op="gemm", m=1, k=1 << 24, n=1 << 24, dtype="float32")
"""A petabyte."""


@pytest.fixture(autouse=True)
def _processes_find_the_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def a_model(folder):
    (folder / "tiny").mkdir()
    (folder / "tiny" / "config.json").write_text(json.dumps(CONFIG))
    return str(folder / "tiny")


def rows(folder):
    return [json.loads(line) for line in (folder / "kernels.jsonl").read_text().splitlines()]


def test_from_a_model_to_rows_with_two_processes(tmp_path, capsys):
    arguments = [str(tmp_path / "out"), "--model", a_model(tmp_path), "--gpus", "0,1", "--device", "cpu"]
    assert kernel_times.main([*arguments, "--seconds", "15"]) == 0
    said = capsys.readouterr().out
    found = rows(tmp_path / "out")
    assert said.startswith(f"{len(found)} measured")
    assert {row["op"] for row in found} >= {"gemm", "attention", "h2d", "d2h", "copy"}
    for row in found:
        assert row["us"] > 0
        assert row["spread"] >= 0
        assert (row["gpu"], row["graph"], row["engine"]) == ("CPU", "eager", "torch")
        assert (row.get("kv_dtype") == row.get("dtype")) == (row["op"] == "attention") or not row.get("dtype")
        assert json.loads(row["fingerprint"])["torch"] == torch.__version__
    assert {path.name for path in (tmp_path / "out" / "logs").iterdir()} == {"kernels0.log", "kernels1.log"}
    kinds = {type(time) for time in read_kernels(tmp_path / "out" / "kernels.jsonl")}
    assert kinds >= {Kernel, AttentionTime, CopyTime}
    keys = [tuple(row.get(name) for name in Shape.__slots__) for row in found]
    assert len(set(keys)) == len(keys)


def test_what_is_there_is_not_timed_again(tmp_path):
    first = measure_kernels(tmp_path, [GEMMS[:3]], device="cpu")
    assert (first.measured, first.there, first.left) == (3, 0, 0)
    before = (tmp_path / "kernels.jsonl").read_text()
    with (tmp_path / "kernels.jsonl").open("a") as file:
        file.write('{"gpu":"CPU","op":"gemm","m":4,"k":8,')  # what a killed writer leaves
    second = measure_kernels(tmp_path, [GEMMS], device="cpu")
    assert (second.measured, second.there) == (1, 3)
    assert (tmp_path / "kernels.jsonl").read_text().startswith(before)
    assert [time.m for time in read_kernels(tmp_path / "kernels.jsonl")] == [1, 2, 3, 4]
    third = measure_kernels(tmp_path, [GEMMS], device="cpu", gpus=(0, 1))
    assert (third.measured, third.there) == (0, 4)


def test_no_memory_for_one_shape_is_its_row_and_nobody_elses(tmp_path):
    summary = measure_kernels(tmp_path, [GEMMS[:1], [IMPOSSIBLE], GEMMS[1:]], device="cpu")
    assert (summary.measured, summary.failed, summary.left, summary.trouble) == (4, 1, 0, "")
    (failed,) = [row for row in rows(tmp_path) if "error" in row]
    assert failed["m"] == 1
    assert "memory" in failed["error"]
    assert "us" not in failed
    assert len(read_kernels(tmp_path / "kernels.jsonl")) == 4
    assert measure_kernels(tmp_path, [[IMPOSSIBLE]], device="cpu").there == 1


def children(of=None):
    """Workers of a process, by default this one, as Linux counts them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == (of or os.getpid()) and b"--worker" in (path.parent / "cmdline").read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["crash", "hang"])
def test_a_process_that_crashes_or_hangs_costs_one_shape(tmp_path, monkeypatch, how):
    monkeypatch.setattr(kernel_times, "SHAPE_S", 3.0)
    struck = []

    class Struck(kernel_times.MicrobenchProgress):
        def step(self):
            if not struck:
                struck.extend(children())
                os.kill(struck[0], how)

    monkeypatch.setattr(kernel_times, "MicrobenchProgress", Struck)
    summary = measure_kernels(tmp_path, [[shape] for shape in GEMMS], device="cpu")
    assert (summary.measured, summary.failed, summary.left) == (3, 1, 0)
    (error,) = [row["error"] for row in rows(tmp_path) if "error" in row]
    assert error == ("a process ended with -9" if how == signal.SIGKILL else "no answer after 3 s")
    assert children() == []


@pytest.mark.slow
def test_the_budget_is_kept_and_what_is_left_is_told(tmp_path):
    long = [Shape(op="copy", bytes=2**20 + number) for number in range(20_000)]
    summary = measure_kernels(tmp_path, [[shape] for shape in long], device="cpu", seconds=15)
    assert 0 < summary.measured < 20_000
    assert summary.measured + summary.left == 20_000
    assert len(rows(tmp_path)) == summary.measured
    assert f"{summary.left} not reached" in str(summary)


def test_processes_that_cannot_start_are_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_times, "_commands", lambda *_: [([sys.executable, "-c", "1/0"], {})])
    summary = measure_kernels(tmp_path, [GEMMS], device="cpu", gpus=(0, 1))
    assert (summary.measured, summary.left) == (0, 4)
    assert summary.trouble.startswith("a process ended with 1 before it was ready; see ")
    assert "ZeroDivisionError" in (tmp_path / "logs" / "kernels0.log").read_text()


def test_a_store_that_cannot_be_written_ends_it_in_one_line(tmp_path, capsys):
    (tmp_path / "out").write_text("a file, not a folder")
    arguments = [str(tmp_path / "out"), "--model", a_model(tmp_path), "--device", "cpu"]
    assert kernel_times.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cannot make {tmp_path / 'out' / 'logs'}: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--model", "llama-9zz"], "llama-9zz"),
        (["--tp", "3"], "tp is 3; it must divide"),
        (["--tp", "two"], "--tp is 'two'; it must be different whole numbers from 1 on, such as 1,2"),
        (["--gpus", "0,0"], "--gpus is '0,0'; it must be different whole numbers from 0 on, such as 1,2"),
        (["--seconds", "-1"], "--seconds is -1.0; it must be a number above 0"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, changes, message, capsys):
    arguments = [str(tmp_path / "out"), "--model", a_model(tmp_path), "--device", "cpu", *changes]
    try:
        code = kernel_times.main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_without_a_gpu_the_cpu_must_be_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert kernel_times.main([str(tmp_path / "out"), "--model", a_model(tmp_path)]) == 2
    assert capsys.readouterr().err == "torch finds no CUDA GPU; --device cpu runs on the CPU\n"


def running_still(process):
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_no_process_outlives_a_command_that_is_killed(tmp_path):
    command = [
        sys.executable,
        "-m",
        "probes.microbench.kernel_times",
        str(tmp_path / "out"),
        "--model",
        a_model(tmp_path),
    ]
    running = subprocess.Popen([*command, "--device", "cpu"])
    last = time.monotonic() + 60
    while not (found := children(running.pid)):
        assert time.monotonic() < last
        time.sleep(0.05)
    os.kill(found[0], signal.SIGSTOP)  # it could not end of its own accord before it goes on
    running.kill()
    running.wait()
    os.kill(found[0], signal.SIGCONT)
    while running_still(found[0]):
        assert time.monotonic() < last
        time.sleep(0.05)


def test_a_command_that_is_stopped_leaves_no_process_and_whole_rows(tmp_path):
    command = [
        sys.executable,
        "-m",
        "probes.microbench.kernel_times",
        str(tmp_path / "out"),
        "--model",
        a_model(tmp_path),
    ]
    running = subprocess.Popen([*command, "--device", "cpu"], stderr=subprocess.PIPE, text=True)
    store = tmp_path / "out" / "kernels.jsonl"
    last = time.monotonic() + 60
    while not store.exists():
        assert time.monotonic() < last
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=30)
    assert (running.returncode, errors) == (143, "")
    assert all("us" in row for row in rows(tmp_path / "out"))


BENCH = KernelBench(torch.device("cpu"))


def test_what_is_timed_is_what_the_engine_computes(monkeypatch):
    torch.manual_seed(3)
    seen = {}

    def remember(_bench, _shape, *sizes):
        seen[sizes] = torch.randn(sizes)
        return seen[sizes]

    monkeypatch.setattr(KernelBench, "_random", remember)
    gemm = BENCH.prepare(Shape(op="gemm", m=3, k=8, n=4, dtype="float32"))
    torch.testing.assert_close(gemm.call(0), seen[3, 8] @ seen[1, 4, 8][0].T)
    prompt = Shape(op="attention", batch=2, query=6, context=6, heads=4, kv_heads=2, head_dim=8, dtype="float32")
    for shape in (prompt, replace(prompt, query=1)):
        result = BENCH.prepare(shape).call(0)
        q, (k, v) = seen[2, shape.query, 4, 8], seen[1, 2, 2, 6, 2, 8][0]
        k, v = (each.repeat_interleave(2, dim=2) for each in (k, v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
        later = torch.arange(6) > torch.arange(6 - shape.query, 6)[:, None]
        expected = torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(later, -torch.inf).softmax(-1), v)
        got = result.transpose(1, 2) if shape.query > 1 else result.reshape(expected.shape)
        torch.testing.assert_close(got, expected)


def test_experts_get_every_token_as_often_as_it_chooses():
    shape = Shape(op="experts", m=50, n=16, k=8, experts=6, top=2, dtype="float32")
    prepared = BENCH.prepare(shape)
    assert prepared.call(0).shape == (100, 8)


def test_element_wise_kernels_are_the_engines():
    called = []
    bench = KernelBench(torch.device("cpu"))
    for name, function in (("add_norm", add_norm), ("swiglu", swiglu), ("place_heads", place_heads)):
        object.__setattr__(bench._plain, name, lambda *args, f=function, n=name: (called.append(n), f(*args))[1])
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 8, "dtype": "float32", "fused": False}
    normed, stream = bench.prepare(Shape(op="norm", m=5, n=8, dtype="float32", fused=False)).call(0)
    assert normed.shape == stream.shape == (5, 8)
    assert bench.prepare(Shape(op="swiglu", m=5, n=8, dtype="float32", fused=False)).call(0).shape == (5, 8)
    for batch, query, context in ((3, 1, 9), (1, 7, 7)):
        shape = Shape(op="rope", batch=batch, query=query, context=context, normed=True, **sizes)
        assert bench.prepare(shape).call(0).shape == (batch, query, 4, 8)
    assert called == ["add_norm", "swiglu", "place_heads", "place_heads"]


@pytest.mark.parametrize(("op", "inputs"), [("norm", 2), ("swiglu", 1)])
def test_one_compiled_kernel_serves_all_numbers_of_tokens_of_a_width(monkeypatch, op, inputs):
    compiled = []

    def backend(graph, _inputs):
        placeholders = [node.meta["example_value"] for node in graph.graph.nodes if node.op == "placeholder"]
        compiled.append([each.shape for each in placeholders if isinstance(each, torch.Tensor) and each.dim() == 2])
        return graph.forward

    monkeypatch.setattr(transformer_kernels.torch, "compile", partial(torch.compile, backend=backend))
    bench = KernelBench(torch.device("cpu"))
    wide = {"norm": 1, "swiglu": 2}[op]
    for width in (8, 24):
        compiled.clear()
        for m in (1, 64, 256, 16):
            shape = Shape(op=op, m=m, n=width, dtype="float32", fused=True)
            prepared = bench.prepare(shape)
            prepared.call(0)
        last = compiled[-1]
        assert len(compiled) == 2  # of one token, and of any number
        assert len(last) == inputs
        assert all(isinstance(tokens, torch.SymInt) for tokens, _ in last)
        assert all(columns == wide * width and isinstance(columns, int) for _, columns in last)


def test_a_slower_call_takes_longer():
    short = time_on_cpu(lambda _: time.sleep(0.001), 2)
    long = time_on_cpu(lambda _: time.sleep(0.01), 2)
    assert short.us >= 1000
    assert long.us > 3 * short.us or short.us > 5000  # a busy machine
    assert not short.graph


def test_processes_that_time_together_call_equally_often():
    calls = []
    for pause in (0.0, 0.02):
        count = []
        time_together(
            lambda _, c=count, p=pause: (c.append(1), time.sleep(p)), 4, torch.device("cpu"), graph=False, repeats=5
        )
        calls.append(len(count))
    assert calls[0] == calls[1]


@pytest.mark.gpu
def test_on_a_gpu_products_are_recorded_and_between_the_floor_and_ten_times_it(tmp_path):
    sizes = {"heads": 32, "kv_heads": 8, "head_dim": 128, "dtype": "bfloat16"}
    shapes = [
        Shape(op="gemm", m=16, k=4096, n=28672, dtype="bfloat16"),
        Shape(op="attention", batch=64, query=1, context=4096, fused=True, **sizes),
        Shape(op="norm", m=8192, n=4096, dtype="bfloat16", fused=True),
        Shape(op="h2d", bytes=2**28),
    ]
    summary = measure_kernels(tmp_path, [[shape] for shape in shapes])
    assert (summary.measured, summary.failed) == (4, 0), rows(tmp_path)
    product, attention, norm, copy = rows(tmp_path)
    assert [row["graph"] for row in (product, attention, norm, copy)] == ["graph"] * 3 + ["eager"]
    moved = {"gemm": 2 * 4096 * 28672, "attention": 4 * 64 * 4096 * 8 * 128, "norm": 8 * 8192 * 4096}
    for row in (product, attention, norm):
        assert 100e9 < moved[row["op"]] / row["us"] * 1e6 < 20e12
