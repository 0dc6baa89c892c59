"""Sweeps that share a list, are killed, and keep to their time; with fake workers."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import InputError
from catalog.jsonl_store import append_lines
from probes.benchmark_plan import read_plan
from probes.file_lock import take_lock
from probes.sweep import LEFT_OUT, Sweep, add_record, outcomes, seconds_taken, undone

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
LLAMA = "meta-llama/Llama-2-7b-hf"

WORKER = """
import os, sys, time
from probes.sweep_command import take_order
order = take_order()
if order is None:
    raise SystemExit
with open(order.out / "seen.txt", "a") as file:
    file.write(f"{order.load.name} {os.getpid()}\\n")
time.sleep(SECONDS)
"""

PROGRAM = """
import signal, sys
from pathlib import Path
from probes.sweep import Sweep
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
plan, out, worker = sys.argv[1:]
Sweep(Path(plan), Path(out), [0], worker=[sys.executable, worker]).run()
"""


def written(tmp_path, count, *, seconds, **changes):
    """A plan of so many loads and the script of a worker that takes so long for each."""
    plan = {
        "source": "a test",
        "gpu": "H200-SXM",
        "shapes": [[1, 8, 8]],
        "loads": [{"model": LLAMA, "role": "fit", "label": f"n{number}"} for number in range(count)],
        **changes,
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "worker.py").write_text(WORKER.replace("SECONDS", str(seconds)))
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "plan.json", [sys.executable, str(tmp_path / "worker.py")]


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def started(tmp_path):
    names = ("program.py", "plan.json", "out", "worker.py")
    return subprocess.Popen(
        [sys.executable, *(str(tmp_path / name) for name in names)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def seen(tmp_path):
    path = tmp_path / "out" / "seen.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def until(condition, seconds=30.0):
    last = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < last
        time.sleep(0.02)
    return found


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_two_sweeps_finish_one_list_and_no_load_is_run_twice(tmp_path):
    written(tmp_path, 8, seconds=0.3)
    sweeps = [started(tmp_path) for _ in range(2)]
    told = [sweep.communicate(timeout=60)[0] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], told
    names = sorted(name for name, _ in seen(tmp_path))
    assert names == [f"llama-2-7b-tp1pp1dp1-n{number}" for number in range(8)]
    assert set(outcomes(tmp_path / "out").values()) == {"done"}
    assert [text.count(" done after ") > 0 for text in told] == [True, True]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_is_ended_leaves_no_worker_and_frees_its_load(tmp_path, how):
    plan, worker = written(tmp_path, 1, seconds=600)
    sweep = started(tmp_path)
    ((name, pid),) = until(lambda: seen(tmp_path))
    assert is_alive(pid)
    assert take_lock(tmp_path / "out" / "claims" / f"{name}.lock") is None
    sweep.send_signal(how)
    sweep.communicate(timeout=30)
    assert sweep.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: -2}[how]
    until(lambda: not is_alive(pid))
    assert outcomes(tmp_path / "out") == {}
    written(tmp_path, 1, seconds=0)
    Sweep(plan, tmp_path / "out", [0], worker=worker).run()
    assert outcomes(tmp_path / "out") == {name: "done"}


def test_a_sweep_waits_for_what_another_is_at_and_takes_over_when_that_is_killed(tmp_path):
    plan, worker = written(tmp_path, 1, seconds=600)
    first = started(tmp_path)
    until(lambda: seen(tmp_path))
    (tmp_path / "quick.py").write_text(WORKER.replace("SECONDS", "0"))
    told = []
    second = Sweep(plan, tmp_path / "out", [1], worker=[worker[0], str(tmp_path / "quick.py")], say=told.append)

    def watch(sweep):
        if told and first.poll() is None:
            assert sweep.waiting
            first.kill()
            first.wait()

    second.run(watch)
    first.stdout.close()
    assert told[0] == "llama-2-7b-tp1pp1dp1-n0 is being run by another process"
    assert len(seen(tmp_path)) == 2
    assert set(outcomes(tmp_path / "out").values()) == {"done"}


def test_what_would_not_end_in_time_is_left_out_and_what_overruns_is_ended(tmp_path):
    plan, worker = written(tmp_path, 3, seconds=600)
    told = []
    expected = {"llama-2-7b-tp1pp1dp1-n0": 100.0}
    began = time.monotonic()
    sweep = Sweep(
        plan,
        tmp_path / "out",
        [0],
        worker=worker,
        seconds=3.0,
        say=told.append,
        expected=lambda load: expected.get(load.name, 0.5),
    )
    sweep.run()
    assert time.monotonic() - began < 300  # of the 600 s that it would take
    assert told[0] == "llama-2-7b-tp1pp1dp1-n0 left out: about 100 s are needed and 3 s left"
    assert told[1] == "llama-2-7b-tp1pp1dp1-n1 on (0,)"
    assert told[-1] == "llama-2-7b-tp1pp1dp1-n1 ended before it was done"
    assert [name for name, _ in seen(tmp_path)] == ["llama-2-7b-tp1pp1dp1-n1"]
    assert outcomes(tmp_path / "out") == {}


def test_a_load_is_done_when_all_its_shapes_have_been_gone_through(tmp_path):
    plan, worker = written(tmp_path, 1, seconds=0)
    Sweep(plan, tmp_path / "out", [0], worker=worker).run()
    (load,) = read_plan(plan)
    assert undone(load, tmp_path / "out") == ()
    assert 0 < seconds_taken(tmp_path / "out")[load.name] < 60
    again = Sweep(plan, tmp_path / "out", [0], worker=worker)
    assert again.waiting == []
    plan, worker = written(tmp_path, 1, seconds=0, shapes=[[1, 8, 8], [2, 8, 8]])
    (load,) = read_plan(plan)
    assert undone(load, tmp_path / "out") == ((2, 8, 8),)
    again = Sweep(plan, tmp_path / "out", [0], worker=worker)
    again.run()
    assert len(seen(tmp_path)) == 2
    assert undone(load, tmp_path / "out") == ()


def test_shapes_for_which_no_time_was_left_are_taken_up_by_the_next_run(tmp_path):
    plan, worker = written(tmp_path, 1, seconds=0, shapes=[[1, 8, 8], [2, 8, 8], [4, 8, 8]])
    (load,) = read_plan(plan)
    out = tmp_path / "out"
    add_record(out, replace(load, shapes=((2, 8, 8), (4, 8, 8))), LEFT_OUT, 0.0)  # as a worker notes it
    add_record(out, load, "done", 9.0)
    assert outcomes(out) == {load.name: "done"}
    assert undone(load, out) == ((2, 8, 8), (4, 8, 8))
    add_record(out, replace(load, shapes=((4, 8, 8),)), LEFT_OUT, 0.0)
    add_record(out, load, "done", 9.0)
    assert undone(load, out) == ((4, 8, 8),)
    again = Sweep(plan, out, [0], worker=worker)
    assert again.waiting == [load]
    again.run()
    assert undone(load, out) == ()


def test_a_record_that_was_cut_off_and_one_without_shapes_are_read(tmp_path):
    plan, worker = written(tmp_path, 2, seconds=0)
    first, second = read_plan(plan)
    out = tmp_path / "out"
    append_lines(out / "loads.jsonl", json.dumps({"load": first.name, "outcome": "done", "seconds": 3.0}) + "\n")
    with (out / "loads.jsonl").open("a") as file:
        file.write('{"load":"' + second.name)
    assert outcomes(out) == {first.name: "done"}
    add_record(out, second, "failed", 1.0, log=["a line"])
    assert outcomes(out) == {first.name: "done", second.name: "failed"}
    assert [load.name for load in Sweep(plan, out, [0], worker=worker).waiting] == [second.name]


def test_a_claim_is_one_s_until_it_is_released(tmp_path):
    path = tmp_path / "claims" / "one.lock"
    claim = take_lock(path)
    assert claim is not None
    assert take_lock(path) is None
    claim.release()
    again = take_lock(path)
    assert again is not None
    again.release()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    plan, worker = written(tmp_path, 1, seconds=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write into .*file/out"):
        Sweep(plan, tmp_path / "file" / "out", [0], worker=worker)
    with pytest.raises(InputError, match=r"cannot make .*one\.lock"):
        take_lock(tmp_path / "file" / "one.lock")
