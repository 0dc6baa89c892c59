"""What every engine's adapter promises, each as the program that a user starts: plain PyTorch on the CPU, vLLM (a stand-in
for the package, static batches and under traffic) and a server (the stand-in, with a stand-in for GuideLLM).
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from catalog.runs import check_run, read_runs
from tests.probes import fake_guidellm
from tests.standin_server import Pace, serving

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
MARK = "ADAPTER_UNDER_TEST"
"""In the environment of all that a program starts."""

LLAMA = "meta-llama/Llama-2-7b-hf"


@dataclass(kw_only=True)
class Adapter:
    """A program in a folder of its own."""

    folder: Path
    argv: list[str]
    """Measures several batches, or traffic, one after another."""
    runs: int
    """So many of them."""
    bad: list[str]
    """The same with something that cannot be."""
    faulty: list[str]
    """Measures two things, of which the first ends whatever measures it; ``fault`` in the environment sees to that."""
    fault: dict[str, str] = field(default_factory=dict)
    exit_code: int = 0
    """Of ``faulty``."""
    fingerprint: tuple[str, ...]
    """What is told of where it was measured."""
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, argv, **environment):
        return subprocess.Popen(
            argv,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                MARK: str(self.folder),
                **self.environment,
                **environment,
            },
        )

    def run(self, argv, **environment):
        process = self.start(argv, **environment)
        out, errors = process.communicate(timeout=120)
        return process.returncode, out, errors

    @property
    def store(self):
        return self.folder / "out" / "runs.jsonl"

    def lines(self):
        return self.store.read_text().splitlines() if self.store.exists() else []

    def alive(self):
        """Processes that it started, and those that they did."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                ours = f"{MARK}={self.folder}".encode() in (path / "environ").read_bytes().split(b"\0")
                if ours and (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(path.name))
        return found


def written(folder, name, plan):
    path = folder / name
    path.write_text(json.dumps(plan))
    return str(path)


def sweeping(folder, module, shared, load, *, bad, faulty, **rest):
    """An adapter whose program reads a plan; ``bad`` is a load, ``faulty`` are loads."""
    head = [sys.executable, "-m", module]
    tail = [str(folder / "out"), *rest.pop("options", ())]
    shared = {"source": "a test", "gpu": "CPU", "role": "fit", **shared}
    plans = {"plan": [load], "bad": [{**load, **bad}], "faulty": faulty}
    argvs = {
        name: [*head, written(folder, f"{name}.json", {**shared, "loads": loads}), *tail]
        for name, loads in plans.items()
    }
    return Adapter(folder=folder, argv=argvs["plan"], bad=argvs["bad"], faulty=argvs["faulty"], **rest)


def torch(folder):
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from tests.probes.torch_engine.torch_world import TINY

    config = {**TINY, "max_position_embeddings": 256}
    for name in ("tiny", "broken"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    header = json.dumps({"another": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(4)  # a file of weights, but none of the model's
    (folder / "broken" / "model.safetensors").write_bytes(weights)
    deployment = {"engine": "torch", "compiled": False, "max_num_seqs": 4}
    return sweeping(
        folder,
        "probes.torch_engine.static",
        {"deployment": deployment, "agreement": False, "shapes": [[batch, 16, 64] for batch in (1, 2, 3, 4)]},
        {"model": str(folder / "tiny")},
        bad={"deployment": {"kv_dtype": "fp8"}},
        faulty=[{"model": str(folder / name), "shapes": [[1, 8, 4]]} for name in ("broken", "tiny")],
        options=["--device", "cpu"],
        runs=4,
        fingerprint=("torch",),
    )


def vllm_path(folder, version="0.24.0"):
    """The stand-ins for vLLM and torch, as if they were installed."""
    for name, each in (("vllm", version), ("torch", "2.11.0")):
        (folder / "site" / f"{name}-{each}.dist-info").mkdir(parents=True)
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {each}\n"
        (folder / "site" / f"{name}-{each}.dist-info" / "METADATA").write_text(about)
    return os.pathsep.join(map(str, (ROOT, folder / "site", Path(__file__).with_name("fake_vllm"))))


def vllm(folder):
    return sweeping(
        folder,
        "probes.vllm_engine.static",
        {"shapes": [[batch, 128, 128] for batch in (1, 2, 4, 8)]},
        {"model": LLAMA},
        bad={"deployment": {"offload": 0.5}},
        faulty=[
            {"model": LLAMA, "label": name, "deployment": {"max_num_seqs": seqs}, "shapes": [[4, 64, 8]]}
            for name, seqs in (("crashes", 100), ("fine", 200))
        ],
        fault={"FAKE_VLLM": json.dumps({"crash": 4, "only": 100})},
        environment={"PYTHONPATH": vllm_path(folder)},
        runs=4,
        fingerprint=("vllm", "torch", "cuda", "startup_s"),
    )


def vllm_serving(folder):
    lengths = {"input_len": 32, "output_len": 8, "seconds": 0.6}
    offers = [
        {**lengths, "concurrency": 4},
        {**lengths, "concurrency": 2},
        {**lengths, "share": 0.5},
        {**lengths, "requests": [[0.0, 30, 6], [0.1, 40, 9], [0.3, 50, 12]]},
    ]
    return sweeping(
        folder,
        "probes.vllm_engine.serving",
        {"offers": offers},
        {"model": LLAMA},
        bad={"offers": [{"input_len": 8, "output_len": 8, "seconds": 1}]},
        faulty=[
            {"model": LLAMA, "label": name, "deployment": {"max_num_seqs": seqs}, "offers": offers[:1]}
            for name, seqs in (("crashes", 100), ("fine", 200))
        ],
        fault={"FAKE_VLLM": json.dumps({"crash": 4, "only": 100})},
        environment={"PYTHONPATH": vllm_path(folder)},
        runs=4,
        fingerprint=("vllm", "torch", "cuda", "startup_s"),
    )


def endpoint(folder, url):
    (folder / "bin").mkdir()
    fake_guidellm.script(folder / "bin")

    def argv(url, batches):
        return [
            sys.executable,
            "-m",
            "advisor",
            "probe",
            "--endpoint",
            url,
            "--model",
            LLAMA,
            "--gpus",
            "1xH100",
            "--engine",
            "vllm",
            "--batch",
            batches,
            "--input-len",
            "32",
            "--output-len",
            "16",
            "--budget",
            "10m",
            "--out",
            str(folder / "out"),
            "--format",
            "json",
        ]

    return Adapter(
        folder=folder,
        argv=argv(url, "1,2,4"),
        runs=5,
        bad=argv("ftp://here", "1"),
        faulty=argv(url, "1,2"),
        fault={"FAKE_GUIDELLM": "kind=concurrent,streams=1"},
        exit_code=1,
        environment={
            "PATH": os.pathsep.join((str(folder / "bin"), os.environ["PATH"])),
            "ADVISOR_HOME": str(folder / "home"),
        },
        fingerprint=("guidellm",),
    )


@pytest.fixture(params=["torch", "vllm", "vllm under traffic", "a server"])
def adapter(request, tmp_path):
    if request.param == "a server":
        with serving(Pace(), model=LLAMA) as url:
            yield endpoint(tmp_path, url)
        return
    yield {"torch": torch, "vllm": vllm, "vllm under traffic": vllm_serving}[request.param](tmp_path)


def until(condition, seconds, why):
    last = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < last, why()
        time.sleep(0.01)
    return found


def test_killed_in_the_middle_it_loses_nothing_and_measures_only_the_rest(adapter):
    process = adapter.start(adapter.argv)
    until(lambda: adapter.lines() or process.poll() is not None, 60, lambda: "nothing was measured")
    process.send_signal(signal.SIGKILL)
    said = process.communicate()
    kept = adapter.lines()
    assert 1 <= len(kept) < adapter.runs, ("a run was not on disk before the next was begun", said)
    until(lambda: not adapter.alive(), 10, lambda: f"{adapter.alive()} live on")
    code, out, errors = adapter.run(adapter.argv)
    assert code == 0, (out, errors)
    assert adapter.lines()[: len(kept)] == kept
    runs = read_runs(adapter.store)
    assert len({run.run_id for run in runs}) == len(runs) == adapter.runs
    for run in runs:
        _check_promises(run, adapter)
    assert adapter.alive() == []


def _check_promises(run, adapter):
    """Names, units, and how they hang together; and where it was measured."""
    check_run(run, run.run_id)
    assert not run.oom
    if run.regime == "static":
        assert run.e2e_ms == pytest.approx(_e2e_ms(run), rel=0.01)
    else:  # of means, and a busy machine adds to each
        assert 0.7 < run.e2e_ms / _e2e_ms(run) < 20
    assert 0 < run.ttft_ms <= run.e2e_ms
    if run.regime == "static":
        assert run.tpot_ms == pytest.approx((run.e2e_ms - run.prefill_ms) / (run.output_len - 1), rel=1e-3)
        assert run.output_tok_s == pytest.approx(1e3 * run.batch * run.output_len / run.e2e_ms, rel=1e-3)
        assert run.ttft_ms < run.e2e_ms
    else:
        assert run.prefill_ms is None
        assert (run.rate is None) == (run.regime == "steady")
    told = json.loads(run.fingerprint)
    assert told.keys() >= set(adapter.fingerprint), told


def _e2e_ms(run):
    """From its parts: a request's time, or a batch's, is that of its first token and of the others."""
    first = run.prefill_ms if run.regime == "static" else run.ttft_ms
    return first + run.tpot_ms * (run.output_len - 1)


def test_what_crashes_does_not_end_the_rest(adapter):
    code, out, errors = adapter.run(adapter.faulty, **adapter.fault)
    assert code in (0, adapter.exit_code), (out, errors)
    runs = read_runs(adapter.store) if adapter.store.exists() else ()
    assert runs, (out, errors)
    assert adapter.alive() == []


def test_what_cannot_be_is_refused_in_one_line(adapter):
    code, out, errors = adapter.run(adapter.bad)
    assert (code, out) == (2, "")
    assert len(errors.splitlines()) == 1
    assert "must" in errors or "only" in errors  # it is said what would be right
    assert not adapter.store.exists()
