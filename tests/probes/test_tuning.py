"""``advisor tune`` as a user runs it, on the CPU over gloo: it is killed, goes on, and later answers stand on its runs."""

import json
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

from catalog.runs import read_runs
from probes.sweep import outcomes

pytestmark = pytest.mark.process


@pytest.fixture
def command(model, tmp_path):
    return [
        sys.executable,
        "-m",
        "advisor",
        "tune",
        "--model",
        model,
        "--gpus",
        "2",
        "--device",
        "cpu",
        "--input-len",
        "8",
        "--output-len",
        "9",
        "--dtype",
        "float32",
        "--max-num-seqs",
        "4",
        "--budget",
        "150s",
        "--storage",
        str(tmp_path / "tune.journal"),
        "--study-name",
        "tiny",
        "--format",
        "json",
    ]


def test_it_goes_on_after_a_kill_until_it_is_certain(command, home):
    store = home / "runs" / "probe.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as killed:
        last = time.monotonic() + 90
        while not store.exists():
            assert time.monotonic() < last
            assert killed.poll() is None, killed.communicate()
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=30)
    kept = read_runs(store)
    assert len(kept) >= 1
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    body = json.loads(done.stdout)
    assert body["ended"] == "the choice is certain"
    assert body["confirmed"]
    runs = read_runs(store)
    assert runs[: len(kept)] == kept
    assert len({run.run_id for run in runs}) == len(runs)
    assert body["runs"] == [run.run_id for run in runs]
    assert body["measured_now"] == len(runs) - len(kept)
    assert {run.engine for run in runs} == {"torch"}
    # two layouts at least were measured, the best one among them; every round's outcome is known
    best = body["best"]["deployment"]
    assert (best["tp"], best["pp"]) in {(run.tp, run.pp) for run in runs}
    assert len({(run.tp, run.pp) for run in runs}) >= 2
    assert set(outcomes(home / "probes").values()) == {"done"}
    assert all(each["took_s"] > 0 and each["measured"] >= 1 for each in body["rounds"])
    value, low, high = body["best"]["metrics"]["tpot_ms"]
    assert low < value < high
