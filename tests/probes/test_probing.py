"""``advisor probe`` as a user runs it, from a model to runs that later answers stand on: on the CPU, over gloo."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import advisor
from catalog.runs import read_runs
from probes.sweep import outcomes

pytestmark = pytest.mark.process

LENGTHS = ["--batch", "1,2", "--input-len", "8", "--output-len", "9", "--dtype", "float32"]


def command(model, *rest):
    return [
        sys.executable,
        "-m",
        "advisor",
        "probe",
        "--model",
        model,
        "--gpus",
        "2",
        "--device",
        "cpu",
        *LENGTHS,
        *rest,
    ]


def start(model, *rest, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command(model, *rest), **options)


def run(model, *rest):
    done = subprocess.run(command(model, *rest), capture_output=True, text=True, timeout=180, check=False)
    return done.returncode, done.stdout, done.stderr


def until(condition, process, seconds=90.0):
    last = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < last
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return found


def begun(out):
    """Logs in which a load says that it has started."""
    return [log for log in (out / "logs").glob("*-tp*.log") if "started in" in log.read_text()]


def workers(out):
    """Living processes that were handed this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            logs = {str((path / "fd" / "1").readlink())} if b"--worker" in words else set()
            if any(log.startswith(str(out)) for log in logs) and "Z" not in (path / "stat").read_text().split()[2]:
                found.append(int(path.name))
    return found


def test_from_a_model_to_answers_that_stand_on_its_runs(model, home):
    code, text, errors = run(model, "--budget", "150s", "--format", "json")
    assert (code, errors) == (0, ""), text
    body = json.loads(text)
    assert body["failed"] == []
    assert body["measured_now"] == len(body["runs"]) == 6
    assert {(row["tp"], row["pp"]) for row in body["runs"]} == {(1, 1), (2, 1), (1, 2)}
    runs = read_runs(home / "runs" / "probe.jsonl")
    assert {run.model for run in runs} == {model}
    assert {run.gpu for run in runs} == {"CPU"}
    assert {run.engine for run in runs} == {"torch"}
    # what was measured is not measured again, and told again
    code, text, errors = run(model)
    assert (code, errors) == (0, ""), text
    assert "0 measured now, 6 before" in text
    assert "advisor recommend and estimate stand on them from now on" in text
    assert len(read_runs(home / "runs" / "probe.jsonl")) == 6
    # and answers stand on it
    one = next(run for run in runs if (run.tp, run.pp, run.batch) == (1, 1, 2))
    estimate = advisor.estimate(
        model,
        "2xCPU",
        batch=2,
        input_len=8,
        output_len=9,
        engine="torch",
        dtype="float32",
        compiled=False,
        max_model_len=64,
    )
    if estimate.provenance == "measured":
        assert estimate.tpot_ms == one.tpot_ms
    else:  # a busy CPU measures what contradicts the prediction, and both are told
        assert estimate.measured["tpot_ms"] == one.tpot_ms
        assert any("one of the two is wrong" in note.text for note in estimate.notes)
    advice = advisor.recommend(
        model,
        "2xCPU",
        workload=advisor.Workload(input_len=8, output_len=9),
        engine="torch",
        dtypes=["float32"],
        max_batch=4,
    )
    best = advice.best
    assert best is not None
    if best.provenance != "calibrated":  # runs of a busy CPU may contradict one another, which is then said
        assert best.provenance == "transferred"
        assert any("contradict" in note.text for note in advice.assumptions)


@pytest.mark.slow
def test_a_report_is_written_of_what_was_measured(model, tmp_path):
    pytest.importorskip("vl_convert")
    out = tmp_path / "out"
    words = ["--tp", "1", "--pp", "1", "--out", str(out), "--report"]
    code, text, errors = run(model, *words)
    assert (code, errors) == (0, ""), text
    assert str(out / "report" / "summary.md") in "".join(line.strip() for line in text.splitlines())
    assert list((out / "report").glob("*.png"))
    again = subprocess.run(
        [sys.executable, "-m", "advisor", "probe", "--report", "--out", str(out), "--format", "json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    body = json.loads(again.stdout)
    assert len(body["runs"]) == 2
    assert all(Path(page).exists() for page in body["report"])


@pytest.mark.slow
def test_two_commands_finish_one_list_together(model, tmp_path):
    out = tmp_path / "out"
    both = [start(model, "--budget", "150s", "--out", str(out), "--format", "json") for _ in range(2)]
    ended = [each.communicate(timeout=180) for each in both]
    assert [each.returncode for each in both] == [0, 0], ended
    runs = read_runs(out / "runs.jsonl")
    assert len(runs) == len({run.run_id for run in runs}) == 6
    records = [json.loads(line) for line in (out / "loads.jsonl").read_text().splitlines()]
    assert sorted(record["load"] for record in records) == sorted(set(outcomes(out)))
    assert len(records) == 3


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_command_that_is_ended_leaves_no_process_and_the_next_goes_on(model, tmp_path, how, code):
    out = tmp_path / "out"
    options = ["--tp", "2", "--pp", "1", "--out", str(out), "--budget", "100s"]
    ended = start(model, *options)
    until(lambda: begun(out), ended)
    assert len(workers(out)) >= 2
    ended.send_signal(how)
    text, errors = ended.communicate(timeout=30)
    assert ended.returncode == code, (text, errors)
    last = time.monotonic() + 10
    while workers(out) and time.monotonic() < last:
        time.sleep(0.05)
    assert workers(out) == []
    assert outcomes(out) == {}
    code, text, errors = run(model, *options, "--format", "json")
    assert code == 0, errors
    assert len(json.loads(text)["runs"]) == 2
    assert set(outcomes(out).values()) == {"done"}


def test_a_budget_of_a_few_seconds_is_kept(model, tmp_path):
    out = tmp_path / "out"
    code, _, errors = run(model, "--budget", "2s", "--out", str(out))
    assert code == 2
    assert "budget is 2 s; starting and measuring one batch takes about" in errors
    assert not out.exists()
    # what takes longer than foretold is ended in time; torch alone takes a second or two to be imported
    began = time.monotonic()
    code, text, errors = run(model, "--budget", "9s", "--tp", "1", "--pp", "1", "--batch", "1", "--out", str(out))
    assert time.monotonic() - began < 90
    assert code in (0, 1)
    assert workers(out) == []
    assert (code == 1) == ("nothing was measured: the time was over" in errors), text


def test_a_load_that_fails_is_said_and_the_others_are_measured(model, tmp_path):
    out = tmp_path / "out"
    plan = {
        "prefix": "cpu-torch",
        "source": "a test",
        "gpu": "CPU",
        "deployment": {"engine": "torch", "compiled": False, "max_model_len": 32, "dtype": "float32"},
        "shapes": [[1, 8, 9]],
        "loads": [
            {"model": model, "role": "fit", "label": "hurried", "start_s": 0.001, "measure_s": 0.001},
            {"model": model, "role": "validate"},
        ],
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    words = ["--plan", str(tmp_path / "plan.json"), "--out", str(out), "--gpus", "1", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "advisor", "probe", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "1 measured now" in told
    assert "cpu-torch-tiny-tp1pp1dp1-hurried failed:" in told
    assert [run.role for run in read_runs(out / "runs.jsonl")] == ["validate"]


def test_a_terminal_sees_how_it_goes_on(model, tmp_path):
    ours, theirs = pty.openpty()
    words = ["--tp", "1", "--pp", "1", "--out", str(tmp_path / "out"), "--budget", "60s"]
    with start(model, *words, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "COLUMNS": "120"}) as process:
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # the other end has closed
            while chunk := os.read(ours, 65536):
                seen += chunk
        text = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0
    assert "cpu-torch-tiny-tp1pp1dp1-float32 on (0,)" in seen.decode()
    assert "s left" in seen.decode()
    assert "cpu-torch-tiny-tp1pp1dp1-float32 done after" in seen.decode()
    assert "measured now" in text
