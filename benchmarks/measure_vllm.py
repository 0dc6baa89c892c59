"""Measure static batches on many vLLM engines that share a few GPUs: started at once, timed one after another.

    python -m benchmarks.measure_vllm run LOADS.json OUT --seconds 590
    python -m benchmarks.measure_vllm table OUT RUNS.csv MEMORY.csv

Most of a load's time is its start (imports, compilation), which keeps the CPU busy and not the GPU. So all engines of
LOADS.json start side by side, each with its own share of a GPU's memory, and none is timed before the last has started or
given up; then each is timed alone on its GPUs. What an engine finds out about its memory is its own all the same: memory
in use by other processes is counted as free (``count_own_memory``).

LOADS.json is a list of objects: ``name``, ``role`` (fit or validate), ``model``, ``config`` (what the model's
``config.json`` says), ``gpus``, ``share`` (``gpu_memory_utilization``), ``dtype`` (the format of the weights), and, where
they are not the usual ones, ``tp``, ``pp``, ``shapes`` ([batch, input, output] each), ``args`` (more of ``vllm.LLM``) and
``environment``. The protocol of a shape is that of ``probes.static_benchmark``. OUT then holds ``runs.jsonl`` and
``memory.jsonl``, to which each row is added as soon as it is known, ``loads.jsonl`` (what became of each load) and
``logs/``. Weights and prompts are random, no tokenizer is needed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.jsonl_store import append_lines
from catalog.runs import append_runs, read_runs
from catalog.schema import Deployment, Measurement, Model
from probes.benchmark_plan import BenchmarkJob
from probes.gpu_telemetry import Meter
from probes.static_benchmark import measure
from probes.vllm_engine.exported import logged_tokens
from probes.vllm_engine.static import MEASURED_SIZES, VllmEngine, engine_fingerprint, gib_by_part, graph_gib

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHAPES = (
    *((1, 128, 128), (16, 1024, 128), (64, 1024, 128), (1, 1024, 128), (32, 128, 128), (256, 128, 128)),
    *((1, 8192, 32), (8, 8192, 32), (4, 1024, 128)),
)
ENVIRONMENT = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_MOE_ROUTING_SIMULATION_STRATEGY": "uniform_random",
    "MEASURE_VLLM_OWN_MEMORY": "1",
}
ENDED = ("done", "failed")
LEFT = "own memory"
"""The note that ``count_own_memory`` leaves on the function it puts in place of PyTorch's."""


def count_own_memory() -> None:
    """Make ``torch.accelerator.get_memory_info``, by which vLLM sizes itself, count other processes' memory as free.

    NVML tells the memory of each process on a GPU; where it does not, nothing changes.
    """
    accelerator = import_module("torch").accelerator
    whole = accelerator.get_memory_info
    if getattr(whole, "__doc__", None) == LEFT:
        return
    nvml = import_module("pynvml")

    def own(device: Any = None, /) -> tuple[int, int]:
        nvml.nvmlInit()
        index = getattr(device, "index", device)
        place = accelerator.current_device_index() if index is None else int(index)
        gpu = int(os.environ["CUDA_VISIBLE_DEVICES"].split(",")[place])
        handle = nvml.nvmlDeviceGetHandleByIndex(gpu)
        for _ in range(200):
            free, total = whole(device)
            seen = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            if whole(device)[0] == free:  # nobody took or gave back memory meanwhile
                break
            time.sleep(0.01)
        others = sum(process.usedGpuMemory or 0 for process in seen if process.pid != os.getpid())
        return min(free + others, total), total

    own.__doc__ = LEFT
    accelerator.get_memory_info = own


if os.environ.get("MEASURE_VLLM_OWN_MEMORY"):
    # vLLM's workers import this module for OwnMemory before they look at their GPU
    with suppress(ImportError):
        count_own_memory()


class OwnMemory:
    """Mixed into vLLM's workers (``worker_extension_cls``), each of which then tells how it uses its GPU's memory."""

    def memory_report(self) -> dict[str, float]:
        """Return GiB by part, as the worker found them while it profiled itself (``vllm/v1/worker/gpu_worker.py``)."""
        measured = {name: source for name, source in MEASURED_SIZES.items() if name != "non_torch_gib"}
        measured["consumed_gib"] = "total_consumed"
        return gib_by_part(self, import_module("torch").accelerator.get_memory_info, measured)


def job_of(load: Mapping[str, Any], *, measure_s: float) -> BenchmarkJob:
    """Return the load as ``probes.static_benchmark`` knows it; of the model only what the protocol asks for is filled
    in.
    """
    config = load["config"]
    experts = next((config[k] for k in ("num_experts", "num_local_experts", "n_routed_experts") if k in config), 0)
    model = Model(
        name=load["model"],
        model_type=config["model_type"],
        hidden_size=config["hidden_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        num_key_value_heads=config["num_key_value_heads"],
        head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        intermediate_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        max_position_embeddings=config["max_position_embeddings"],
        num_experts=experts,
    )
    deployment = Deployment(
        tp=load.get("tp", 1),
        pp=load.get("pp", 1),
        max_num_seqs=256,
        max_num_batched_tokens=16384,
        max_model_len=9216,
        gpu_memory_utilization=load["share"],
        dtype=load["dtype"],
    )
    return BenchmarkJob(
        name=load["name"],
        model=model,
        role=load["role"],
        deployment=deployment,
        shapes=tuple((b, i, o) for b, i, o in load.get("shapes", SHAPES)),
        gpu="H200-SXM",
        interconnect="NVSwitch",
        source="measured 2026-11, static batches, dummy weights, sampled at temperature 1",
        measure_s=measure_s,
        point_s=15.0,
        start_s=600.0,
        repeats=2,
    )


class SharedGpuEngine(VllmEngine):
    """``vllm.LLM`` on its share of its GPUs, of any model that vLLM reads."""

    def __init__(self, load: Mapping[str, Any], job: BenchmarkJob, folder: str, log: Path) -> None:
        vllm = import_module("vllm")
        knobs = job.deployment
        self.meter = Meter(load["gpus"])
        self._sampling = vllm.SamplingParams
        self.running = None
        began = time.perf_counter()
        self._llm = vllm.LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            enable_prefix_caching=False,
            disable_log_stats=False,
            worker_extension_cls="benchmarks.measure_vllm.OwnMemory",
            tensor_parallel_size=knobs.tp,
            pipeline_parallel_size=knobs.pp,
            gpu_memory_utilization=knobs.gpu_memory_utilization,
            max_num_seqs=knobs.max_num_seqs,
            max_num_batched_tokens=knobs.max_num_batched_tokens,
            max_model_len=knobs.max_model_len,
            **({"distributed_executor_backend": "mp"} if knobs.num_gpus > 1 else {}),
            **load.get("args", {}),
        )
        self.startup_s = time.perf_counter() - began
        self.version: str = vllm.__version__
        text = log.read_text(encoding="utf-8", errors="replace")
        self.fingerprint = {
            **engine_fingerprint(self.meter, self._llm.llm_engine.vllm_config, self.startup_s),
            **({"routing": "uniform_random"} if job.model.num_experts else {}),
            **backends(text),
        }
        self.kv_capacity_tokens = kv_tokens(text)


def kv_tokens(log: str) -> int:
    """Read KV tokens, as vLLM's log states them: those of the stage that holds fewest.

    Raises:
        ValueError: the log does not say.
    """
    counts = logged_tokens(log)
    if not counts:
        raise ValueError("the log does not say how many KV tokens there are")
    return min(counts)


def backends(log: str) -> dict[str, str]:
    """Read which attention and expert kernels the engine says it runs, as far as its log tells."""
    patterns = {
        "attention": r"Using (?:AttentionBackendEnum\.)?(\w+) (?:attention )?backend",
        "experts": r"Using '?([\w ]+?)'? (?:Unquantized|Fp8|MxFp4|Mxfp4|WNA16)?\s*MoE backend",
        "linear": r"Selected (\w+) for (?:\w+)",
    }
    kernels = {name: re.findall(pattern, log) for name, pattern in patterns.items()}
    return {name: " ".join(sorted(set(seen))) for name, seen in kernels.items() if seen}


def work(order: Mapping[str, Any]) -> None:
    """Be a worker: start the engine of one load, say ``READY`` on descriptor 3, wait there for a line, measure, end."""
    load, out, log = order["load"], Path(order["out"]), Path(order["log"])
    count_own_memory()
    job = job_of(load, measure_s=order["measure_s"])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(load["config"]), encoding="utf-8")
        engine = SharedGpuEngine(load, job, folder, log)
        text = log.read_text(encoding="utf-8", errors="replace")
        known = {"load": job.name, "model": job.model.name, **asdict(job.deployment)}
        known |= {"graph_gib": graph_gib(text), "startup_s": round(engine.startup_s, 1)}
        known |= {"kv_tokens": engine.kv_capacity_tokens}
        for report in engine.memory():
            append_lines(out / "memory.jsonl", json.dumps({**known, **report}) + "\n")
        os.write(int(order["ready"]), b"READY\n")
        sys.stdin.readline()
        for run in measure(engine, job, say=lambda text: print(text, flush=True)):
            append_runs(out / "runs.jsonl", [run])
    sys.stdout.flush()
    os._exit(0)  # an orderly end takes the engine several seconds; its processes are ended by who started it


class Worker:
    """A process that runs one load, in a session of its own."""

    def __init__(self, load: Mapping[str, Any], number: int, out: Path, logs: Path, *, measure_s: float) -> None:
        self.name: str = load["name"]
        self.gpus = frozenset(load["gpus"])
        self.state = "starting"
        self.began = time.monotonic()
        self.log = logs / f"{self.name}.txt"
        ready, write_end = os.pipe()
        self.ready = ready
        order = {"load": load, "out": str(out), "log": str(self.log), "measure_s": measure_s, "ready": write_end}
        environment = {
            **os.environ,
            **ENVIRONMENT,
            **load.get("environment", {}),
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, load["gpus"])),
            "MASTER_PORT": str(29500 + 200 * number),
            "VLLM_PORT": str(29600 + 200 * number),
        }
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.measure_vllm", "work", json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(write_end,),
                start_new_session=True,
            )
        os.close(write_end)

    def look(self) -> None:
        """Bring ``state`` up to date: starting, ready, measuring, done, failed."""
        if self.state == "starting" and select.select([self.ready], [], [], 0)[0] and os.read(self.ready, 16):
            self.state = "ready"
        if self.process.poll() is not None and self.state not in ENDED:
            self.end("done" if self.process.returncode == 0 else "failed")

    def go(self) -> None:
        """Let it measure."""
        self.state = "measuring"
        assert self.process.stdin
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def end(self, state: str) -> None:
        """End the processes of the load."""
        self.state = state
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run(
    loads: Sequence[Mapping[str, Any]],
    out: Path,
    logs: Path,
    *,
    seconds: float,
    start_s: float,
    measure_s: float,
    alone: bool = False,
) -> None:
    """Start all loads, then measure them, at most one at a time on a GPU; give up what is not over in time.

    ``alone``: start a load only when nothing else is on its GPUs.
    """
    last = time.monotonic() + seconds
    out.mkdir(parents=True, exist_ok=True)
    logs.mkdir(parents=True, exist_ok=True)
    waiting = list(enumerate(loads))
    workers: list[Worker] = []
    messages: dict[str, str] = {}
    try:
        while time.monotonic() < last:
            live = [worker for worker in workers if worker.state not in ENDED]
            if not waiting and not live:
                break
            taken = frozenset[int]().union(*(worker.gpus for worker in live))
            for number, load in list(waiting):
                if alone and taken & set(load["gpus"]):
                    continue
                waiting.remove((number, load))
                workers.append(Worker(load, number, out, logs, measure_s=measure_s))
                taken |= workers[-1].gpus
            for worker in workers:
                worker.look()
                passed = time.monotonic() - worker.began
                if worker.state == "starting" and passed > start_s:
                    worker.end("failed")
                if messages.get(worker.name) != worker.state:
                    messages[worker.name] = worker.state
                    line = {"load": worker.name, "state": worker.state, "after_s": round(passed, 1)}
                    append_lines(out / "loads.jsonl", json.dumps(line) + "\n")
                    print(line, flush=True)
            _let_go(workers, alone=alone)
            time.sleep(0.2)
    finally:
        for worker in workers:
            if worker.state not in ENDED:
                worker.end("failed")


def _let_go(workers: Sequence[Worker], *, alone: bool) -> None:
    """Let the loads measure whose turn it is: none before the last has started, one at a time on a GPU."""
    if not alone and any(worker.state == "starting" for worker in workers):
        return
    busy = frozenset[int]().union(*(worker.gpus for worker in workers if worker.state == "measuring"))
    for worker in workers:
        if worker.state == "ready":
            if not busy & worker.gpus:
                worker.go()
            busy |= worker.gpus  # those that wait keep their turn


def table(out: Path, runs_csv: Path, memory_csv: Path) -> None:
    """Write what OUT holds as CSV, the columns of ``Measurement`` that have a value, and memory by part."""
    runs = [asdict(run) for run in read_runs(out / "runs.jsonl")]
    names = [f.name for f in fields(Measurement) if any(row[f.name] not in (None, "") for row in runs)]
    memory = [json.loads(line) for line in (out / "memory.jsonl").read_text(encoding="utf-8").splitlines()]
    for path, columns, rows in (
        (runs_csv, names, runs),
        (memory_csv, list(dict.fromkeys(name for row in memory for name in row)), memory),
    ):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: str(v).lower() if isinstance(v, bool) else v for k, v in row.items()} for row in rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measure_vllm")
    steps = parser.add_subparsers(dest="step", required=True)
    start = steps.add_parser("run", help="start the loads and measure them")
    start.add_argument("loads", type=Path)
    start.add_argument("out", type=Path)
    start.add_argument("--seconds", type=float, default=590.0, help="stop after this long")
    start.add_argument("--start-s", type=float, default=330.0, help="give up a load that has not started by then")
    start.add_argument("--measure-s", type=float, default=45.0, help="begin no new shape of a load after this long")
    start.add_argument("--logs", type=Path, help="folder for the engines' output; OUT/logs if not given")
    start.add_argument("--alone", action="store_true", help="start a load only when nothing else is on its GPUs")
    start.add_argument("--only", default="", help="names of loads, with commas between; all if empty")
    write = steps.add_parser("table", help="write what was measured as CSV")
    for name in ("out", "runs", "memory"):
        write.add_argument(name, type=Path)
    steps.add_parser("work").add_argument("order", type=json.loads)
    args = parser.parse_args(argv)
    if args.step == "work":
        work(args.order)
    elif args.step == "run":
        loads = json.loads(args.loads.read_text(encoding="utf-8"))
        wanted = set(filter(None, args.only.split(",")))
        chosen = [load for load in loads if not wanted or load["name"] in wanted]
        run(
            chosen,
            args.out,
            args.logs or args.out / "logs",
            seconds=args.seconds,
            start_s=args.start_s,
            measure_s=args.measure_s,
            alone=args.alone,
        )
    else:
        table(args.out, args.runs, args.memory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
