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
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError
from catalog.jsonl_store import append_lines, json_rows, line_of
from probes.benchmark_plan import read_plan
from probes.file_lock import FileLock, take_lock
from probes.ports import take_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from probes.benchmark_plan import BenchmarkJob
    from probes.ports import Ports
    from probes.serving_benchmark import TrafficProfile


SPARE = 2
"""Workers kept ready for the loads to come."""

LEFT_OUT = "left out"
"""Outcome of the shapes and offers of a load for which no time was left."""

PAUSE_S = 0.25
"""Time between two looks at what is running."""

LAST_LINES, LONGEST_LINE = 40, 1000
"""So much of its log is kept of a load that failed: lines, and characters of each."""


@dataclass(slots=True, kw_only=True)
class Running:
    """A load under way."""

    load: BenchmarkJob
    gpus: tuple[int, ...]
    process: subprocess.Popen[str]
    began: float
    claim: FileLock
    ports: Ports


class Sweep:
    """Runs the loads of a plan, in order, side by side on the GPUs it may use.

    Each load is run by a worker: a process that reads one order from its standard input, a JSON line with ``plan``,
    ``load`` (its number there), ``out``, ``store``, ``log``, ``gpus`` and a ``port`` it may count up from, and exits with
    0 when the load is done. Workers are started ahead of their orders, so that they can import meanwhile. When their
    standard input ends, the sweep is gone and they must end too.

    Several sweeps, on one machine or on several that share the folder, may run loads of the same names into it at the
    same time: each load is claimed by one of them, and a sweep ends when the last load is over.
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
        store: Path | None = None,
        expected: Callable[[BenchmarkJob], float] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """Raise ``InputError`` if the plan cannot be read, needs more GPUs than there are, or ``out`` cannot be written.

        ``worker`` is the command that starts one, ``environment`` what it has beside ours, ``seconds`` how long the sweep
        may take: what still runs then is ended. ``expected`` foretells the seconds of a load: one that would not end in
        time is left out. Measurements go to ``store``, OUT/runs.jsonl if it is None; what happens goes to ``say``.
        """
        self.plan, self.out = plan.resolve(), out.resolve()
        self.store = self.out / "runs.jsonl" if store is None else store.resolve()
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
        self._expected, self._say = expected, say
        self._told: set[str] = set()
        try:
            (self.out / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write into {out}: {error.strerror}") from error
        self._began_with = _records(self.out)
        self.waiting = [load for load in self.loads if not _is_done(load, self._began_with)]

    @property
    def seconds_left(self) -> float:
        return max(self.ends - time.monotonic(), 0.0)

    def run(self, watch: Callable[[Sweep], None] | None = None) -> None:
        """Run every load that is not done; rows and outcomes are on disk as soon as they are known.

        ``watch`` sees the sweep a few times a second.
        """
        try:
            while True:
                self._reap()
                if self.seconds_left > 0:
                    self._begin()
                if watch:
                    watch(self)
                if self.seconds_left <= 0 or not (self.waiting or self.running):
                    break
                self._keep_spares(min(SPARE, len(self.waiting)) if self.free or self.running else 0)
                time.sleep(PAUSE_S)
        finally:
            for job in self.running:
                _end(job.process)
                self._say(f"{job.load.name} ended before it was done")
            for worker in self.workers:
                _end(worker)
            for job in self.running:
                job.claim.release()
                job.ports.release()

    def _begin(self) -> None:
        """Start what can start, in the plan's order: a load that waits for GPUs is not overtaken."""
        for load in tuple(self.waiting):
            if len(self.free) < load.deployment.num_gpus:
                return
            claim = self._claim(load)
            if claim is None:
                continue
            self.waiting.remove(load)
            if self._is_over(load):
                claim.release()
            elif why := self._too_long(load):
                claim.release()
                self._say(f"{load.name} left out: {why}")
            else:
                self._start(load, claim)

    def _too_long(self, load: BenchmarkJob) -> str:
        if self._expected is None or math.isinf(self.ends):
            return ""
        expected, left = self._expected(load), self.seconds_left
        return f"about {expected:.0f} s are needed and {left:.0f} s left" if expected > left else ""

    def _claim(self, load: BenchmarkJob) -> FileLock | None:
        claim = take_lock(self.out / "claims" / f"{load.name}.lock")
        if claim is None and load.name not in self._told:
            self._told.add(load.name)
            self._say(f"{load.name} is being run by another process")
        return claim

    def _is_over(self, load: BenchmarkJob) -> bool:
        """Return whether somebody else has run a load since this sweep began, or done it before."""
        records = _records(self.out)
        own = [record for record in records if record["load"] == load.name]
        earlier = [record for record in self._began_with if record["load"] == load.name]
        return _is_done(load, records) or len(own) > len(earlier)

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

    def _start(self, load: BenchmarkJob, claim: FileLock) -> None:
        number = self.loads.index(load)
        ports = take_ports()
        gpus = tuple(self.free[: load.deployment.num_gpus])
        self.free = self.free[len(gpus) :]
        order = {
            "plan": str(self.plan),
            "load": number,
            "out": str(self.out),
            "store": str(self.store),
            "log": str(self.out / "logs" / f"{load.name}.log"),
            "gpus": gpus,
            "port": ports.first,
        }
        process = self.workers.pop(0) if self.workers else self._worker()
        with suppress(BrokenPipeError):  # a worker that died is reaped as a failed load
            assert process.stdin is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        began = time.monotonic()
        self.running.append(Running(load=load, gpus=gpus, process=process, began=began, claim=claim, ports=ports))
        self._say(f"{load.name} on {gpus}")

    def _reap(self) -> None:
        for job in tuple(self.running):
            code = job.process.poll()
            seconds = time.monotonic() - job.began
            late = seconds > job.load.start_s + job.load.measure_s
            if code is None and not late:
                continue
            _end(job.process)
            self.running.remove(job)
            self.free = sorted((*self.free, *job.gpus))
            outcome = "done" if code == 0 else "failed"
            tail = () if code == 0 else _tail(self.out / "logs" / f"{job.load.name}.log", _ending(job, code))
            try:
                add_record(self.out, job.load, outcome, seconds, late=late, log=tail)
            finally:
                job.claim.release()
                job.ports.release()
            why = f": {tail[-1]:.300}" if tail else ""
            self._say(f"{job.load.name} {outcome} after {seconds:.0f} s{why}")
            if code == 0 and (left := undone(job.load, self.out)):
                self._say(
                    f"{job.load.name}: no time was left for {len(left)} of its measurements; run it again for these"
                )


def _ending(ended: Running, code: int | None) -> str:
    """Say why a load that failed says nothing of it itself; empty if it may have."""
    if code is None:
        limit = ended.load.start_s + ended.load.measure_s
        return f"ended after the {limit:g} s that it may take (start_s and measure_s)"
    return f"its first process was ended by {signal.Signals(-code).name}" if code < 0 else ""


def _tail(log: Path, ending: str) -> Sequence[str]:
    """Return the last lines of a load's log, the one on its ending included, which is added to it."""
    if ending:
        with suppress(OSError), log.open("a", encoding="utf-8") as file:  # without room, it is printed all the same
            file.write(f"{ending}\n")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    if ending and lines[-1:] != [ending]:
        lines.append(ending)
    return [line[:LONGEST_LINE] for line in lines if line.strip()][-LAST_LINES:]


def add_record(
    out: Path, load: BenchmarkJob, outcome: str, seconds: float, *, late: bool = False, log: Sequence[str] = ()
) -> None:
    """Note what became of a load in OUT/loads.jsonl.

    Raises:
        InputError: the disk is full or not to be written to.

    """
    record = {
        "load": load.name,
        "outcome": outcome,
        "seconds": round(seconds, 1),
        "late": late,
        "shapes": load.shapes,
        **({"offers": [offer.name for offer in load.offers]} if load.offers else {}),
        "log": list(log) or None,
    }
    try:
        append_lines(out / "loads.jsonl", line_of(record))
    except OSError as error:
        raise InputError(f"cannot write {out / 'loads.jsonl'}: {error.strerror}") from error


def outcomes(out: Path) -> dict[str, str]:
    """Say what became of each load that a sweep into this folder has begun: "done" or "failed"."""
    return {record["load"]: record["outcome"] for record in _records(out)}


def seconds_taken(out: Path) -> dict[str, float]:
    """Return the seconds of each load that was done in this folder, start-up included; of several times the last."""
    return {record["load"]: record["seconds"] for record in _records(out) if record["outcome"] == "done"}


def undone(load: BenchmarkJob, out: Path) -> tuple[tuple[int, int, int] | TrafficProfile, ...]:
    """Return the shapes and offers of a load that no sweep into this folder has been through yet."""
    seen = _seen(load, _records(out))
    offers = tuple(offer for offer in load.offers if offer.name not in seen)
    return (*(shape for shape in load.shapes if shape not in seen), *offers)


def _is_done(load: BenchmarkJob, records: Sequence[Mapping[str, Any]]) -> bool:
    done = any(record["load"] == load.name and record["outcome"] == "done" for record in records)
    return done and _seen(load, records).issuperset((*load.shapes, *(offer.name for offer in load.offers)))


def _seen(load: BenchmarkJob, records: Sequence[Mapping[str, Any]]) -> set[tuple[int, int, int] | str]:
    """Return its shapes, and the names of its offers, that loads of its name have been through."""
    names = [offer.name for offer in load.offers]
    seen: set[tuple[int, int, int] | str] = set()
    left: set[tuple[int, int, int] | str] = set()
    for record in records:
        if record["load"] == load.name and record["outcome"] == LEFT_OUT:  # by the worker, before its load is done
            left = {*map(tuple, record["shapes"]), *record.get("offers", ())}
        elif record["load"] == load.name and record["outcome"] == "done":
            # records did not always say which shapes and offers: then they were all there were
            seen |= {*map(tuple, record.get("shapes", load.shapes)), *record.get("offers", names)} - left
            left = set()
    return seen


def _records(out: Path) -> list[dict[str, Any]]:
    path = out / "loads.jsonl"
    return [row for _, row in json_rows(path)] if path.exists() else []


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a worker and the engine processes it started, which share its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(BrokenPipeError), process:  # closes its pipe and waits for it
        pass
