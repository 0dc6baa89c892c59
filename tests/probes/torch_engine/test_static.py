"""The program that measures plain PyTorch, from a plan to files, with real processes on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

from catalog.runs import read_runs
from probes.sweep import outcomes
from probes.torch_engine import static as torch_static
from tests.probes.torch_engine.torch_world import TINY

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[3]
PLAIN = {"engine": "torch", "compiled": False, "max_model_len": 32, "max_num_seqs": 4}


def a_plan(folder, loads, **changes):
    """A plan of loads, (label, deployment) each, of a tiny model in a folder of its own."""
    (folder / "tiny").mkdir()
    (folder / "tiny" / "config.json").write_text(json.dumps(TINY))
    plan = {
        "prefix": "cpu",
        "source": "a test",
        "gpu": "CPU",
        "deployment": PLAIN,
        "shapes": [[2, 8, 17], [6, 8, 1]],
        "loads": [
            {"model": str(folder / "tiny"), "role": "fit", "label": label, "deployment": deployment}
            for label, deployment in loads
        ],
        **changes,
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    return path


def a_command(plan, out, gpus):
    return [sys.executable, "-m", "probes.torch_engine.static", str(plan), str(out), "--gpus", gpus, "--device", "cpu"]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_from_a_plan_to_runs_with_two_processes_over_gloo(tmp_path):
    plan = a_plan(tmp_path, [("sliced", {"tp": 2}), ("staged", {"pp": 2})])
    out = tmp_path / "out"
    command = a_command(plan, out, "0,1")
    ended = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    logs = "\n".join(path.read_text() for path in (out / "logs").glob("*.log"))
    assert ended.returncode == 0, ended.stderr
    assert set(outcomes(out).values()) == {"done"}, logs
    sliced, waves, staged, _ = read_runs(out / "runs.jsonl")
    assert {run.engine for run in (sliced, waves, staged)} == {"torch"}
    assert (sliced.tp, sliced.pp, sliced.gpus, sliced.batch, sliced.compiled) == (2, 1, 2, 2, False)
    assert (staged.tp, staged.pp, staged.gpus) == (1, 2, 2)
    for run in (sliced, staged):
        assert 0 < run.prefill_ms < run.e2e_ms
        assert 0 < run.ttft_ms < run.e2e_ms
        assert run.tpot_ms > 0
        assert run.kv_capacity_tokens == 4 * 32
        assert 0.05 < run.peak_memory_gib < 10
        assert json.loads(run.fingerprint)["weights"] == "random"
        assert run.max_logit_diff < 1e-4
        assert run.top1_agreement == 1
        assert abs(run.ppl_diff) < 1e-6
        assert (run.utilisation, run.power_w, run.energy_j) == (None, None, None)
    width, vocabulary, size = 32, 51, 4
    tokens = 2 * (8 + 16)
    # tp 2, sent by each process: half of 2 x (embedding and 2 a layer), and its part of the logits of each token
    assert sliced.comm_bytes == tokens * width * size * (1 + 2 * 2) + 2 * 17 * vocabulary * size
    assert waves.comm_bytes == 6 * 8 * width * size * (1 + 2 * 2) + 6 * vocabulary * size
    # pp 2, mean of the two: activations forward, eight bytes a token back
    assert staged.comm_bytes == (tokens * width * size + 2 * 17 * 8) / 2
    assert waves.tpot_ms is None
    memory = [json.loads(line) for line in (out / "memory.jsonl").read_text().splitlines()]
    assert [(row["tp"], row["pp"], row["rank"]) for row in memory] == [(2, 1, 0), (2, 1, 1), (1, 2, 0), (1, 2, 1)]
    assert all(row["kv_tokens"] == 4 * 32 and row["weights_gib"] > 0 for row in memory)
    again = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (again.returncode, again.stdout) == (0, "")
    assert len(read_runs(out / "runs.jsonl")) == 4


def alive(session):
    """Processes of a session that have not ended, as Linux counts them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(path.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_when_one_process_is_killed_the_load_fails_and_none_is_left(tmp_path):
    long = {"shapes": [[1, 8, 24]], "repeats": 10**6, "measure_s": 100}
    plan = a_plan(tmp_path, [("killed", {"tp": 2})], **long)
    out = tmp_path / "out"
    sweep = subprocess.Popen(
        a_command(plan, out, "0,1"), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    log = out / "logs" / "cpu-tiny-tp2pp1dp1-killed.log"
    last = time.monotonic() + 60
    while not (log.exists() and "started in" in log.read_text()):
        assert time.monotonic() < last, log.read_text() if log.exists() else "no log"
        time.sleep(0.05)
    other = int(log.read_text().split("rank 1 is process ")[1].split()[0])
    session = os.getsid(other)
    assert len(alive(session)) == 2
    os.kill(other, signal.SIGKILL)
    began = time.monotonic()
    _, errors = sweep.communicate(timeout=60)
    assert (sweep.returncode, errors) == (0, b"")
    assert time.monotonic() - began < 10
    assert list(outcomes(out).values()) == ["failed"]
    assert alive(session) == []


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        ({"tp": 3}, "tp is 3; it must divide"),
        ({"dp": 2}, "dp is 2; this engine runs 1 only"),
        ({"compiled": True}, "there are no CUDA graphs on a CPU"),
        ({"dtype": "fp8"}, "fp8 weights are not run"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(tmp_path, deployment, message, capsys):
    plan = a_plan(tmp_path, [("", deployment)])
    assert torch_static.main([str(plan), str(tmp_path / "out"), "--gpus", "0,1,2", "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cpu-tiny-tp" in line
    assert message in line


def test_without_a_gpu_the_cpu_must_be_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert torch_static.main([str(tmp_path / "plan.json"), str(tmp_path)]) == 2
    assert capsys.readouterr().err == "torch finds no CUDA GPU; --device cpu runs on the CPU\n"
