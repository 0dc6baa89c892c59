"""Processes that torchrun has started, as one machine or two would: over gloo, on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

from catalog.runs import read_runs
from probes.file_lock import take_lock
from probes.ports import free_port
from probes.sweep import outcomes
from tests.probes.torch_engine.torch_world import TINY

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[3]
NAME = "tiny-tp1pp2dp1"


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(TINY))
    path = tmp_path / "plan.json"
    deployment = {"engine": "torch", "compiled": False, "max_model_len": 64, "max_num_seqs": 2}
    loads = [{"model": str(tmp_path / "tiny"), "role": "fit", "deployment": {"pp": 2}}]
    shared = {"source": "a test", "gpu": "CPU", "deployment": deployment, "shapes": [[2, 8, 5]], "loads": loads}
    path.write_text(json.dumps(shared))
    return path


def node(plan, rank, port, *, nodes=2, name=NAME):
    """One machine's torchrun, with one process."""
    launch = ["-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc-per-node", "1", "--node-rank", str(rank)]
    launch += ["--master-addr", "127.0.0.1", "--master-port", str(port), "--max-restarts", "0"]
    program = [
        "-m",
        "probes.torch_engine.static",
        str(plan),
        str(plan.parent / "out"),
        "--device",
        "cpu",
        "--load",
        name,
    ]
    return subprocess.Popen(
        [sys.executable, *launch, *program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=plan.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def told(nodes):
    texts = [each.communicate(timeout=120)[0] for each in nodes]
    return [each.returncode for each in nodes], "\n".join(texts)


@pytest.mark.slow
def test_two_machines_run_one_load_and_it_is_not_run_again(plan):
    port = free_port()
    codes, text = told([node(plan, rank, port) for rank in range(2)])
    assert codes == [0, 0], text
    out = plan.parent / "out"
    assert outcomes(out) == {NAME: "done"}
    (run,) = read_runs(out / "runs.jsonl")
    assert (run.tp, run.pp, run.gpus, run.batch, run.output_len) == (1, 2, 2, 2, 5)
    assert 0 < run.prefill_ms < run.e2e_ms
    assert text.count(f"{NAME} done after") == 1
    port = free_port()
    codes, text = told([node(plan, rank, port) for rank in range(2)])
    assert codes == [0, 0], text
    assert f"{NAME} is done" in text
    assert len(read_runs(out / "runs.jsonl")) == 1


def test_a_load_of_another_width_is_refused(plan):
    codes, text = told([node(plan, 0, free_port(), nodes=1)])
    assert codes != [0]
    assert f"{NAME} is tp 1 x pp 2: it takes 2 processes, torchrun has started 1" in text
    assert not (plan.parent / "out").exists()


@pytest.mark.parametrize(
    ("environment", "name", "message"),
    [
        ({}, NAME, "--load is for processes that torchrun starts (there is no RANK); without it all loads are run"),
        ({"RANK": "0"}, "tiny-tp1pp2dp", "has no load 'tiny-tp1pp2dp'; closest: tiny-tp1pp2dp1"),
        ({"RANK": "0"}, NAME, f"{NAME} is being run by another process"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(plan, environment, name, message, monkeypatch, capsys):
    from probes.torch_engine import static as torch_static

    rest = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    for key, value in ({**environment, **rest} if environment else {}).items():
        monkeypatch.setenv(key, value)
    claim = take_lock(plan.parent / "out" / "claims" / f"{NAME}.lock")
    arguments = [str(plan), str(plan.parent / "out"), "--device", "cpu", "--load", name]
    assert torch_static.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    claim.release()
