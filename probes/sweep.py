"""A sweep: many loads, one after another and side by side, each in a process session of its own."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.schema import InputError
from probes.loads import read_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from probes.loads import Load


SPARE = 2
"""Workers kept ready for the loads to come."""

FIRST_PORT = 20_000
PORTS = 200
"""Loads side by side must not fight over ports: each has so many of its own."""


@dataclass(slots=True, kw_only=True)
class Running:
    """A load under way."""

    load: Load
    gpus: tuple[int, ...]
    process: subprocess.Popen[str]
    began: float


class Sweep:
    """Runs the loads of a plan, in order, side by side on the GPUs it may use.

    Each load is run by a worker: a process that reads one order from its standard input, a JSON line with ``plan``,
    ``load`` (its number there), ``out``, ``log``, ``gpus`` and a ``port`` it may count up from, and exits with 0 when
    the load is done. Workers are started ahead of their orders, so that they can import meanwhile.
    """

    def __init__(
        self,
        plan: Path,
        out: Path,
        gpus: Sequence[int],
        *,
        worker: Sequence[str],
        environment: Mapping[str, str] | None = None,
        seconds: float = math.inf,
    ) -> None:
        """Raise ``InputError`` if the plan cannot be read or needs more GPUs than there are.

        ``worker`` is the command that starts one, ``environment`` what it has beside ours, ``seconds`` how long the
        sweep may take.
        """
        self.plan, self.out = plan.resolve(), out.resolve()
        self.loads = read_plan(plan)
        widest = max((load.deployment.num_gpus for load in self.loads), default=0)
        if widest > len(gpus):
            raise InputError(f"a load of {plan} needs {widest} GPUs; --gpus names {len(gpus)}")
        self.free = sorted(gpus)
        self.ends = time.monotonic() + seconds
        self.running: list[Running] = []
        self.workers: list[subprocess.Popen[str]] = []
        self.command = list(worker)
        self.environment = {**os.environ, **(environment or {})}
        (self.out / "logs").mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Run every load that is not done; rows and outcomes are on disk as soon as they are known."""
        over = outcomes(self.out)
        waiting = [load for load in self.loads if over.get(load.name) != "done"]
        try:
            while waiting or self.running:
                self._reap()
                left = self.ends - time.monotonic()
                while waiting and left > 0 and len(self.free) >= waiting[0].deployment.num_gpus:
                    self._start(waiting.pop(0))
                if left <= 0:
                    break
                self._keep_spares(min(SPARE, len(waiting)))
                time.sleep(0.25)
        finally:
            for each in self.running:
                _end(each.process)
            for worker in self.workers:
                _end(worker)

    def _worker(self) -> subprocess.Popen[str]:
        with (self.out / "logs" / "workers.log").open("ab") as log:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
                env=self.environment,
            )

    def _keep_spares(self, count: int) -> None:
        while len(self.workers) < count:
            self.workers.append(self._worker())

    def _start(self, load: Load) -> None:
        number = self.loads.index(load)
        gpus = tuple(self.free[: load.deployment.num_gpus])
        self.free = self.free[len(gpus) :]
        order = {
            "plan": str(self.plan),
            "load": number,
            "out": str(self.out),
            "log": str(self.out / "logs" / f"{load.name}.log"),
            "gpus": gpus,
            "port": FIRST_PORT + (PORTS * number) % 40_000,
        }
        process = self.workers.pop(0) if self.workers else self._worker()
        with suppress(BrokenPipeError):  # a worker that died is reaped as a failed load
            assert process.stdin is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        self.running.append(Running(load=load, gpus=gpus, process=process, began=time.monotonic()))
        print(f"{load.name} on {gpus}", flush=True)

    def _reap(self) -> None:
        for each in tuple(self.running):
            code = each.process.poll()
            seconds = time.monotonic() - each.began
            late = seconds > each.load.start_s + each.load.measure_s
            if code is None and not late:
                continue
            _end(each.process)
            self.running.remove(each)
            self.free = sorted((*self.free, *each.gpus))
            outcome = "done" if code == 0 else "failed"
            log = self.out / "logs" / f"{each.load.name}.log"
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:] if log.exists() else []
            record = {"load": each.load.name, "outcome": outcome, "seconds": round(seconds, 1), "late": late}
            with (self.out / "loads.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record if outcome == "done" else {**record, "log": tail}) + "\n")
            print(f"{each.load.name} {outcome} after {seconds:.0f} s", flush=True)


def outcomes(out: Path) -> dict[str, str]:
    """What became of each load that a sweep into this folder has begun: "done" or "failed"."""
    path = out / "loads.jsonl"
    if not path.exists():
        return {}
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {record["load"]: record["outcome"] for record in records}


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a worker and the engine processes it started, which share its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(BrokenPipeError), process:  # closes its pipe and waits for it
        pass
