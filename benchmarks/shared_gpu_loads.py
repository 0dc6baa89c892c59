"""Loads of one engine that share a few GPUs: started side by side, measured one after another.

Most of a load's time is its start (imports, compilation), which keeps the CPU busy and not the GPU. So all engines of a
file of loads start side by side, each with its own share of a GPU's memory, and none is timed before the last has started
or given up; then each is timed alone on its GPUs.

A file of loads is a list of objects: ``name``, ``role`` (fit or validate), ``model``, ``config`` (what the model's
``config.json`` says), ``gpus``, ``share`` (of a GPU's memory), ``dtype`` (the format of the weights), and, where they are
not the usual ones, ``tp``, ``pp``, ``dp`` and ``ep`` (where ``args`` ask the engine for them), ``shapes`` ([batch, input, output]
each), ``offers`` (traffic, see
``probes.serving_benchmark.TrafficProfile``), ``sessions`` (see ``benchmarks.sessions.SessionProfile``), ``repeats``,
``max_model_len``, ``max_num_batched_tokens``, ``args`` (more of the engine's), ``environment``, and ``after``, the name of
a load that must have started before this one begins to.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.jsonl_store import append_lines
from catalog.schema import Deployment, Model
from probes.benchmark_plan import BenchmarkJob
from probes.serving_benchmark import read_offer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

SHAPES = (
    *((1, 128, 128), (16, 1024, 128), (64, 1024, 128), (1, 1024, 128), (32, 128, 128), (256, 128, 128)),
    *((1, 8192, 32), (8, 8192, 32), (4, 1024, 128)),
)
ENVIRONMENT = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
ENDED = ("done", "failed")
FIRST_PORT, PORTS = 29500, 200
"""Each load has so many ports of its own, from the first on."""


def job_of(load: Mapping[str, Any], *, measure_s: float) -> BenchmarkJob:
    """Return the load as ``probes.static_benchmark`` knows it; of the model only what the protocol asks for is filled in."""
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
        engine=load.get("engine", "vllm"),
        tp=load.get("tp", 1),
        pp=load.get("pp", 1),
        dp=load.get("dp", 1),
        ep=load.get("ep", 1),
        max_num_seqs=load.get("max_num_seqs", 256),
        max_num_batched_tokens=load.get("max_num_batched_tokens", 16384),
        max_model_len=load.get("max_model_len", 9216),
        gpu_memory_utilization=load["share"],
        dtype=load["dtype"],
    )
    return BenchmarkJob(
        name=load["name"],
        model=model,
        role=load["role"],
        deployment=deployment,
        shapes=tuple((b, i, o) for b, i, o in load.get("shapes", SHAPES)),
        offers=tuple(
            read_offer(offer, f"{load['name']} offer {n}") for n, offer in enumerate(load.get("offers", ()), 1)
        ),
        gpu="H200-SXM",
        interconnect="NVSwitch",
        source=load.get("source", "measured 2026-11, static batches, dummy weights, sampled at temperature 1"),
        measure_s=measure_s,
        point_s=15.0,
        start_s=600.0,
        repeats=load.get("repeats", 2),
    )


class Worker:
    """A process that runs one load, in a session of its own."""

    def __init__(
        self, load: Mapping[str, Any], number: int, out: Path, logs: Path, *, module: str, measure_s: float
    ) -> None:
        self.name: str = load["name"]
        self.gpus = frozenset(load["gpus"])
        self.state = "starting"
        self.began = time.monotonic()
        self.log = logs / f"{self.name}.txt"
        ready, told = os.pipe()
        self.ready = ready
        order = {"load": load, "out": str(out), "log": str(self.log), "measure_s": measure_s, "ready": told}
        environment = {
            **os.environ,
            **load.get("environment", {}),
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, load["gpus"])),
            "MASTER_PORT": str(FIRST_PORT + PORTS * number),
            "VLLM_PORT": str(FIRST_PORT + PORTS * number + PORTS // 2),
        }
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, "work", json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(told,),
                start_new_session=True,
            )
        os.close(told)

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
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        os.close(self.ready)


def run(
    loads: Sequence[Mapping[str, Any]],
    out: Path,
    logs: Path,
    *,
    seconds: float,
    start_s: float,
    measure_s: float,
    module: str,
    alone: bool = False,
) -> None:
    """Start all loads, then measure them, at most one at a time on a GPU; give up what is not over in time.

    ``module`` is started once a load as ``python -m MODULE work ORDER``. ``alone``: start a load only when nothing else is
    on its GPUs.
    """
    last = time.monotonic() + seconds
    out.mkdir(parents=True, exist_ok=True)
    logs.mkdir(parents=True, exist_ok=True)
    waiting = list(enumerate(loads))
    workers: list[Worker] = []
    told: dict[str, str] = {}
    try:
        while time.monotonic() < last:
            live = [worker for worker in workers if worker.state not in ENDED]
            if not waiting and not live:
                break
            taken = frozenset[int]().union(*(worker.gpus for worker in live))
            for number, load in list(waiting):
                if (alone and taken & set(load["gpus"])) or _must_wait(load, workers):
                    continue
                waiting.remove((number, load))
                workers.append(Worker(load, number, out, logs, module=module, measure_s=measure_s))
                taken |= workers[-1].gpus
            for worker in workers:
                worker.look()
                passed = time.monotonic() - worker.began
                if worker.state == "starting" and passed > start_s:
                    worker.end("failed")
                if told.get(worker.name) != worker.state:
                    told[worker.name] = worker.state
                    line = {"load": worker.name, "state": worker.state, "after_s": round(passed, 1)}
                    append_lines(out / "loads.jsonl", json.dumps(line) + "\n")
                    print(line, flush=True)
            if alone or not waiting:
                _let_go(workers, alone=alone)
            time.sleep(0.2)
    finally:
        for worker in workers:
            if worker.state not in ENDED:
                worker.end("failed")


def _must_wait(load: Mapping[str, Any], workers: Sequence[Worker]) -> bool:
    """Say whether the load is to start after one that has not started yet."""
    before = load.get("after")
    return before is not None and not any(worker.name == before and worker.state != "starting" for worker in workers)


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


def add_run_arguments(steps: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the steps ``run`` and ``work``, which every program of this kind has."""
    start = steps.add_parser("run", help="start the loads and measure them")
    start.add_argument("loads", type=Path)
    start.add_argument("out", type=Path)
    start.add_argument("--seconds", type=float, default=590.0, help="stop after this long")
    start.add_argument("--start-s", type=float, default=330.0, help="give up a load that has not started by then")
    start.add_argument("--measure-s", type=float, default=45.0, help="begin no new shape of a load after this long")
    start.add_argument("--logs", type=Path, help="folder for the engines' output; OUT/logs if not given")
    start.add_argument("--alone", action="store_true", help="start a load only when nothing else is on its GPUs")
    start.add_argument("--only", default="", help="names of loads, with commas between; all if empty")
    steps.add_parser("work").add_argument("order", type=json.loads)


def run_chosen(args: argparse.Namespace, module: str, environment: Mapping[str, str]) -> None:
    """Run the loads that the arguments of ``run`` name."""
    loads = json.loads(args.loads.read_text(encoding="utf-8"))
    os.environ |= {**ENVIRONMENT, **environment}
    wanted = set(filter(None, args.only.split(",")))
    run(
        [load for load in loads if not wanted or load["name"] in wanted],
        args.out,
        args.logs or args.out / "logs",
        seconds=args.seconds,
        start_s=args.start_s,
        measure_s=args.measure_s,
        module=module,
        alone=args.alone,
    )
