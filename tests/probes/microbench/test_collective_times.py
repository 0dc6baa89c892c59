"""The program that times collectives, with two real processes over gloo: rows, going on, and processes that hang or die."""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from catalog.kernels import Collective, read_kernels
from probes.microbench import collective_times
from probes.microbench.collective_cases import KIB, SUMS_BYTES, CollectiveCase, collective_cases

pytest.importorskip("torch")

import torch

from probes.microbench.collective_times import measure_collectives

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[3]
OPS = ("allreduce", "allgather", "reducescatter", "alltoall", "sendrecv")


@pytest.fixture(autouse=True)
def _processes_find_the_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def cases(*sizes, ops=OPS, group=2):
    return [CollectiveCase(op=op, group=group, bytes=size, impl="gloo", graph="eager") for size in sizes for op in ops]


def rows(folder):
    return [json.loads(line) for line in (folder / "collectives.jsonl").read_text().splitlines()]


def test_cases_are_complete_and_those_of_tensor_parallelism_come_first():
    found = collective_cases(4, ("nccl", "symm"), graphs=True)
    assert len(set(found)) == len(found)
    nccl = {(case.op, case.group, case.bytes, case.graph) for case in found if case.impl == "nccl"}
    sizes, ways = {1024 * kib for kib in KIB}, ("graph", "eager")
    assert nccl == {
        (op, group, size, way)
        for op in OPS
        for group in ((2,) if op == "sendrecv" else (2, 4))
        for size in sizes
        for way in ways
    }
    assert (min(sizes), max(sizes)) == (2 << 10, 256 << 20)
    sums = [case for case in found if case.impl == "symm"]
    assert {case.op for case in sums} == {"allreduce"}
    assert max(case.bytes for case in sums) == SUMS_BYTES
    assert {(case.op, case.graph) for case in found[:10]} == {("allreduce", "graph")}
    assert found[-1].graph == "eager"


def test_groups_are_doubled_up_to_all():
    assert {case.group for case in collective_cases(6, ("nccl",), graphs=False)} == {2, 4, 6}
    assert {case.graph for case in collective_cases(2, ("gloo",), graphs=False)} == {"eager"}


def test_every_collective_of_two_processes_has_a_time(tmp_path):
    summary = measure_collectives(tmp_path, cases(4096, 65536), gpus=(0, 1), device="cpu")
    assert (summary.measured, summary.failed, summary.left, summary.trouble) == (10, 0, 0, "")
    times = read_kernels(tmp_path / "collectives.jsonl")
    assert {type(time) for time in times} == {Collective}
    assert {(time.op, time.bytes) for time in times} == {(op, size) for op in OPS for size in (4096, 65536)}
    assert {(time.group, time.impl, time.graph, time.gpu) for time in times} == {(2, "gloo", "eager", "CPU")}
    assert json.loads(times[0].fingerprint)["torch"] == torch.__version__
    again = measure_collectives(tmp_path, cases(4096, 65536), gpus=(0, 1), device="cpu")
    assert (again.measured, again.there) == (0, 10)


def test_a_group_may_be_a_part_of_all(tmp_path):
    some = [*cases(4096, ops=("allreduce", "sendrecv")), *cases(4096, ops=("allreduce", "alltoall"), group=3)]
    summary = measure_collectives(tmp_path, some, gpus=(0, 1, 2), device="cpu")
    assert (summary.measured, summary.failed) == (4, 0)


def test_the_program_says_what_it_did(tmp_path, capsys):
    began = time.monotonic()
    assert collective_times.main([str(tmp_path), "--gpus", "0,1", "--device", "cpu", "--seconds", "15"]) == 0
    assert time.monotonic() - began < 15 + 5 + 3
    measured = len(rows(tmp_path))
    assert measured > 0
    assert capsys.readouterr().out.startswith(f"{measured} measured, ")


def workers():
    """Process ids of this process's workers by rank, as Linux counts them."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            told = (path.parent / "environ").read_bytes() if parent == os.getpid() else b""
            if b"MASTER_PORT=" in told and b"collective_times" in (path.parent / "cmdline").read_bytes():
                found[int(told.partition(b"\0RANK=")[2].partition(b"\0")[0])] = int(path.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["one dies", "one hangs"])
def test_one_process_ends_one_case_only_and_what_was_measured_is_kept(tmp_path, monkeypatch, how):
    struck = []

    class Struck(collective_times.MicrobenchProgress):
        def step(self):
            if not struck:
                struck.append(workers()[1])
                os.kill(struck[0], how)

    monkeypatch.setattr(collective_times, "MicrobenchProgress", Struck)
    some = cases(4096, ops=("allreduce", "allgather", "sendrecv"))
    summary = measure_collectives(tmp_path, some, gpus=(0, 1), device="cpu", case_s=4.0)
    assert (summary.measured, summary.failed, summary.left) == (2, 1, 0)
    kept, broken, after = rows(tmp_path)
    assert [row["op"] for row in (kept, broken, after)] == [case.op for case in some]
    expected = ("a process ended with -9", "RuntimeError") if how == signal.SIGKILL else ("no answer after 4 s",)
    assert broken["error"].startswith(expected)
    assert workers() == {}


def test_processes_that_do_not_meet_are_told_of(tmp_path, monkeypatch):
    lonely = [([sys.executable, "-c", "raise SystemExit(3)"], {}), ([sys.executable, "-c", "input()"], {})]
    monkeypatch.setattr(collective_times, "_commands", lambda *_: lonely)
    summary = measure_collectives(tmp_path, cases(4096), gpus=(0, 1), device="cpu")
    assert (summary.measured, summary.left) == (0, 5)
    assert summary.trouble.startswith("a process ended with 3 before it was ready; see ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--gpus", "0"], "--gpus names 1 GPU; collectives take two or more, such as 0,1"),
        (["--gpus", "0;1"], "--gpus is '0;1'; it must be different whole numbers from 0 on, such as 1,2"),
        (["--seconds", "nan"], "--seconds is nan; it must be a number above 0"),
        (["--sizes", "1"], "unrecognized arguments: --sizes 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, changes, message, capsys):
    try:
        code = collective_times.main([str(tmp_path / "out"), "--gpus", "0,1", "--device", "cpu", *changes])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu(count=2)
def test_on_gpus_collectives_are_recorded_and_the_engines_own_sums_are_quicker(tmp_path):
    wanted = [
        CollectiveCase(op=op, group=2, bytes=65536, impl=impl, graph="graph")
        for op, impl in (*((op, "nccl") for op in OPS), ("allreduce", "symm"))
    ]
    summary = measure_collectives(tmp_path, wanted, gpus=(0, 1))
    assert (summary.measured, summary.failed) == (6, 0), rows(tmp_path)
    us = {(row["op"], row["impl"]): row["us"] for row in rows(tmp_path)}
    assert us["allreduce", "symm"] < us["allreduce", "nccl"]
    assert all(1 < each < 1000 for each in us.values())
