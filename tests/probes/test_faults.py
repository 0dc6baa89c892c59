"""Faults: what a sweep leaves when a process hangs or is killed, memory runs out or the disk is full. Real processes.

Elsewhere: another process than the first killed (test_torch_static), collectives alone that hang (test_collective_times),
two sweeps into one store (test_sweep, test_probing), a store cut off at any byte (tests/catalog/test_runs.py), workers
that crash and overrun (test_vllm_static), memory that runs out on one of two processes (test_torch_findings).
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from catalog.runs import append_runs, read_runs
from catalog.schema import Measurement
from probes.file_lock import take_lock
from probes.sweep import outcomes

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 256,
    "torch_dtype": "float32",
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs limits that Linux keeps, and /proc")


def a_model(folder, name="tiny", **changes):
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return str(folder / name)


def a_plan(folder, loads, **changes):
    plan = {
        "prefix": "cpu",
        "source": "a test",
        "gpu": "CPU",
        "agreement": False,
        "deployment": {"engine": "torch", "compiled": False, "max_model_len": 32, "max_num_seqs": 4},
        "loads": [{"role": "fit", **load} for load in loads],
        **changes,
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    return path


def begun(plan, gpus, limit=None):
    """A sweep of a plan; ``limit`` is a limit of the system and its value, for it and its workers."""
    command = [sys.executable, "-m", "probes.torch_engine.static", str(plan), str(plan.parent / "out"), "--gpus", gpus]
    return subprocess.Popen(
        [*command, "--device", "cpu"],
        cwd=plan.parent,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(limited, *limit) if limit else None,  # noqa: PLW1509  there are no threads here
    )


def limited(kind, value):
    resource.setrlimit(kind, (value, value))


def told(sweep, seconds=90):
    """What a sweep that must end well said, line by line; nothing goes wrong but lines that were cut off."""
    said, errors = sweep.communicate(timeout=seconds)
    assert sweep.returncode == 0, errors
    assert all("is unfinished, as a stopped writer leaves it" in line for line in errors.splitlines()), errors
    return said.splitlines()


def until(condition, seconds=60.0):
    last = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < last
        time.sleep(0.02)
    return found


def alive(session):
    """Processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


def records(out):
    return {record["load"]: record for record in map(json.loads, (out / "loads.jsonl").read_text().splitlines())}


@linux
@pytest.mark.slow
def test_a_process_that_hangs_and_a_first_one_that_is_killed_end_their_load_only(tmp_path):
    pytest.importorskip("torch")
    model, out = a_model(tmp_path), tmp_path / "out"
    long = {"shapes": [[1, 8, 24]], "repeats": 10**6, "start_s": 25, "measure_s": 1}
    plan = a_plan(
        tmp_path,
        [
            {"model": model, "label": "hangs", "deployment": {"tp": 2}, **long},
            {"model": model, "label": "killed", "deployment": {"pp": 2}, **long},
            {"model": model, "label": "fine", "deployment": {"pp": 2}, "shapes": [[1, 8, 9], [4, 8, 9]]},
        ],
    )
    hangs, killed, fine = "cpu-tiny-tp2pp1dp1-hangs", "cpu-tiny-tp1pp2dp1-killed", "cpu-tiny-tp1pp2dp1-fine"
    sweep = begun(plan, "0,1,2,3")

    def second_process(name):
        """Of a load that is being measured."""
        log = out / "logs" / f"{name}.log"
        text = log.read_text() if log.exists() else ""
        return int(text.split("rank 1 is process ")[1].split()[0]) if "started in" in text else None

    stopped = until(lambda: second_process(hangs))
    os.kill(stopped, signal.SIGSTOP)  # the first process now waits for it in a collective
    other = until(lambda: second_process(killed))
    sessions = [os.getsid(stopped), os.getsid(other)]
    assert [len(alive(session)) for session in sessions] == [2, 2]
    os.kill(sessions[1], signal.SIGKILL)
    said = told(sweep)
    assert outcomes(out) == {hangs: "failed", killed: "failed", fine: "done"}
    assert [alive(session) for session in sessions] == [[], []]
    ends = [line.split(" after ")[0] for line in said if " after " in line]
    assert sorted(ends) == sorted([f"{killed} failed", f"{fine} done", f"{hangs} failed"])
    kept = records(out)
    assert kept[hangs]["late"]
    assert kept[hangs]["log"][-1] == "ended after the 26 s that it may take (start_s and measure_s)"
    assert (kept[killed]["late"], kept[killed]["log"][-1]) == (False, "its first process was ended by SIGKILL")
    assert kept[killed]["seconds"] < 25
    assert [(run.batch, run.pp) for run in read_runs(out / "runs.jsonl")] == [(1, 2), (4, 2)]


@linux
def test_running_out_of_memory_is_measured_at_the_load_and_at_a_batch(tmp_path):
    pytest.importorskip("torch")
    wide = a_model(tmp_path, "wide", intermediate_size=2**17, num_hidden_layers=1)
    huge = a_model(tmp_path, "huge", hidden_size=256, vocab_size=9_999_360)
    shapes = {"shapes": [[1, 64, 1], [128, 64, 1], [128, 64, 2], [2, 64, 1]], "repeats": 1, "point_s": 1e4}
    knobs = {"engine": "torch", "compiled": False, "max_model_len": 80, "max_num_seqs": 128}
    plan = a_plan(
        tmp_path,
        [{"model": huge}, {"model": wide}, {"model": wide, "deployment": {"tp": 2}}],
        deployment=knobs,
        **shapes,
    )
    out = tmp_path / "out"
    said = told(begun(plan, "0,1", (resource.RLIMIT_AS, 3 * 2**30)))
    assert outcomes(out) == dict.fromkeys(
        (f"cpu-{name}dp1" for name in ("huge-tp1pp1", "wide-tp1pp1", "wide-tp2pp1")), "done"
    ), said
    runs = read_runs(out / "runs.jsonl")
    found = {(Path(run.model).name, run.tp, run.batch): run for run in runs}
    assert len(found) == len(runs)
    assert {key: run.oom for key, run in found.items()} == {
        ("huge", 1, 1): True,
        ("wide", 1, 1): False,
        ("wide", 1, 128): True,
        ("wide", 1, 2): False,
        ("wide", 2, 1): False,
        ("wide", 2, 128): True,
        ("wide", 2, 2): False,
    }
    assert all((run.e2e_ms is None) == bool(run.oom) for run in runs)
    why = json.loads(found["wide", 2, 128].fingerprint)["oom"]
    assert why == "out of GPU memory: 128 sequences with prompts of 64 tokens"
    log = (out / "logs" / "cpu-wide-tp1pp1dp1.log").read_text()
    assert "cpu-wide-tp1pp1dp1-b128-i64-o2 left out: a smaller one ran out of memory" in log


@linux
def test_on_a_full_disk_loads_fail_and_what_was_there_stays_and_later_it_goes_on(tmp_path):
    pytest.importorskip("torch")
    model, out = a_model(tmp_path), tmp_path / "out"
    shapes = [[batch, 8, 9] for batch in (1, 2, 3, 4)]
    plan = a_plan(
        tmp_path, [{"model": model, "label": label, "shapes": shapes} for label in ("store", "log")], repeats=1
    )
    store, log = "cpu-tiny-tp1pp1dp1-store", "cpu-tiny-tp1pp1dp1-log"
    earlier = Measurement(
        run_id="earlier",
        role="fit",
        source="x" * 40_000,
        gpu="CPU",
        gpus=1,
        engine="torch",
        model="tiny",
        dtype="float32",
        batch=1,
        input_len=8,
        output_len=9,
        e2e_ms=1.0,
    )
    append_runs(out / "runs.jsonl", [earlier])
    before = (out / "runs.jsonl").read_bytes()
    room = len(before) + 2000  # for a row or two, and logs
    (out / "logs").mkdir()
    (out / "logs" / f"{log}.log").write_text(("." * 99 + "\n") * (room // 100) + "." * (room % 100))
    said = told(begun(plan, "0,1", (resource.RLIMIT_FSIZE, room)))
    assert outcomes(out) == {store: "failed", log: "failed"}
    assert [line for line in said if line.startswith(f"{log} failed after ")]
    (line,) = [line for line in said if line.startswith(f"{store} failed after ")]
    full = f"cannot add runs to {out / 'runs.jsonl'}: "
    assert full in line
    assert line.endswith("; nothing was added")
    assert records(out)[store]["log"][-1].startswith(full)
    runs = read_runs(out / "runs.jsonl")
    assert (out / "runs.jsonl").read_bytes().startswith(before)
    assert runs[0] == earlier
    assert 0 < len([run for run in runs if "-store-" in run.run_id]) < 4

    # there is room again; meanwhile the last row and the last record were cut off
    data = (out / "runs.jsonl").read_bytes()
    (out / "runs.jsonl").write_bytes(data[:-7])
    with (out / "loads.jsonl").open("a") as file:
        file.write(f'{{"load":"{store}","outc')
    said = told(begun(plan, "0,1"))
    assert outcomes(out) == {store: "done", log: "done"}
    kept = read_runs(out / "runs.jsonl")
    assert kept[: len(runs) - 1] == runs[:-1]
    wanted = [f"{name}-b{batch}-i8-o9" for name in (store, log) for batch, _, _ in shapes]
    assert sorted(run.run_id for run in kept[1:]) == sorted(wanted)


SWEEP = """
import sys
from probes.sweep_command import run_sweep, sweep_parser
parser = sweep_parser("a test", "")
args = parser.parse_args(sys.argv[2:])
sys.exit(run_sweep(parser, args, worker=[sys.executable, sys.argv[1]], environment={}))
"""
WORKER = """
import os, sys, time
from probes.sweep_command import take_order
order = take_order()
if order is None:
    raise SystemExit
print("session", os.getsid(0), flush=True)
time.sleep(60 * order.load.name.endswith("slow"))
"""


@linux
def test_without_room_for_what_became_of_a_load_a_sweep_says_so_and_leaves_nothing_running(tmp_path):
    model, out = a_model(tmp_path), tmp_path / "out"
    shapes = {"model": model, "shapes": [[1, 8, 9]]}
    a_plan(tmp_path, [{**shapes, "label": "slow"}, {**shapes, "label": "quick"}])
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "sweep.py").write_text(SWEEP)
    out.mkdir()
    before = json.dumps({"load": "another", "outcome": "done", "seconds": 1.0, "log": ["." * 20_000]}) + "\n"
    (out / "loads.jsonl").write_text(before)
    names = [str(tmp_path / name) for name in ("sweep.py", "worker.py", "plan.json", "out")]
    start = partial(
        subprocess.run,
        [sys.executable, *names, "--gpus", "0,1"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ended = start(preexec_fn=partial(limited, resource.RLIMIT_FSIZE, len(before) + 10))
    (line,) = ended.stderr.splitlines()
    assert (ended.returncode, line.rpartition(": ")[0]) == (2, f"cannot write {out / 'loads.jsonl'}")
    assert (out / "loads.jsonl").read_text() == before
    slow, quick = (out / "logs" / f"cpu-tiny-tp1pp1dp1-{label}.log" for label in ("slow", "quick"))
    began = [
        log.read_text().split() for log in (slow, quick) if log.exists()
    ]  # one may have been ended before its first word
    assert began
    assert [alive(int(words[1])) for words in began if len(words) > 1] in ([[], []], [[]], [])
    for log in (slow, quick):
        claim = take_lock(out / "claims" / f"{log.stem}.lock")
        assert claim is not None
        claim.release()
    (tmp_path / "worker.py").write_text(WORKER.replace("60 *", "0 *"))
    ended = start()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert outcomes(out) == {"another": "done", slow.stem: "done", quick.stem: "done"}


def test_a_claim_is_free_again_though_there_was_no_room_for_the_outcome(tmp_path, monkeypatch):
    from catalog.errors import InputError
    from probes import sweep

    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "worker.py").write_text("import sys; sys.stdin.readline()")
    plan = a_plan(tmp_path, [{"model": a_model(tmp_path), "shapes": [[1, 8, 9]]}])
    ours = sweep.Sweep(plan, tmp_path / "out", [0], worker=[sys.executable, str(tmp_path / "worker.py")])
    monkeypatch.setattr(sweep, "append_lines", full)
    with pytest.raises(InputError, match=r"cannot write .*loads\.jsonl: No space left on device"):
        ours.run()
    claim = take_lock(tmp_path / "out" / "claims" / "cpu-tiny-tp1pp1dp1.lock")
    assert claim is not None
    claim.release()
