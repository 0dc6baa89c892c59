"""A list of loads that is ready to be run on a user's own GPUs, within a budget, and what all of them have in common."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.benchmarking.benchmark_plan import Candidate, ProbeQuestion, completion_times, start_up
from advisor.benchmarking.devices import check_free, read_target
from advisor.benchmarking.engines import START_S, check_engine, check_installed, environment, version_notes, worker
from advisor.prediction.evidence import Evidence
from advisor.prediction.presentation import header
from catalog.borders import write_whole
from catalog.errors import InputError, Note
from catalog.paths import home, own_runs
from catalog.runs import read_runs
from catalog.schema import Cluster, require_positive
from probes.file_lock import take_lock
from probes.sweep import Sweep, outcomes, seconds_taken, undone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from advisor.benchmarking.devices import ProbeTarget
    from advisor.benchmarking.traffic_plan import Piece
    from advisor.perf_model.parameters import Parameters
    from catalog.schema import Measurement
    from probes.benchmark_plan import BenchmarkJob
    from probes.file_lock import FileLock


PLANNED = 0.9
"""Share of the budget that is planned for; the rest is for loads that take longer than foretold."""

STORE = "probe.jsonl"
"""The store in $ADVISOR_HOME/runs, where every later answer looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """What every load of one call of ``probe`` has in common."""

    engine: str
    """"torch" or "vllm"."""
    device: str
    """"cuda" or "cpu"."""
    target: ProbeTarget
    budget_s: float | None
    """Seconds for everything; None without a limit."""
    began: float
    """When the budget began to count, on the clock of ``time.monotonic``."""
    out: Path
    """The folder of plans, logs and outcomes."""
    store: Path
    """The file of the measurements."""

    @property
    def stored(self) -> tuple[Measurement, ...]:
        """Return what the store holds."""
        return read_runs(self.store) if self.store.exists() else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSession:
    """A list of loads that is ready to be run."""

    config: SessionConfig
    plan: Mapping[str, Any]
    """As ``probes.benchmark_plan.read_plan`` takes it."""
    loads: tuple[BenchmarkJob, ...]
    """In the order in which they will be run."""
    all_loads: tuple[BenchmarkJob, ...]
    """Those too of which everything has been measured before, or for which there is no time."""
    seconds: Mapping[str, Mapping[Piece, float]]
    """By load and shape, or offer, start-up not included."""
    start_s: float
    expected_s: float
    """Until the last load has ended."""
    ends_s: Mapping[str, float]
    """By load, seconds from the beginning of the session until it has ended."""
    notes: tuple[Note, ...]
    left_out: tuple[str, ...]

    @classmethod
    def of(
        cls,
        config: SessionConfig,
        plan: Mapping[str, Any],
        jobs: Sequence[BenchmarkJob],
        able: Sequence[Candidate],
        *,
        all_jobs: Sequence[BenchmarkJob],
        start_s: float,
        notes: tuple[Note, ...],
        left_out: tuple[str, ...] = (),
    ) -> ProbeSession:
        """Return a session of ``jobs``, whose candidates in their order are ``able``; for the others see the fields."""
        ends_s = completion_times(able, start_s=start_s, gpus=config.target.cluster.num_gpus)
        return cls(
            config=config,
            plan=plan,
            loads=tuple(jobs),
            all_loads=tuple(all_jobs),
            start_s=start_s,
            seconds={job.name: candidate.seconds for job, candidate in zip(jobs, able, strict=True)},
            expected_s=max(ends_s, default=0.0),
            ends_s={job.name: end_s for job, end_s in zip(jobs, ends_s, strict=True)},
            notes=notes,
            left_out=left_out,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan, which ``read_plan`` takes."""
        return {**header("probe-plan/1"), **self.plan}

    def runs(self) -> tuple[Measurement, ...]:
        """Return what has been measured of all the loads, now or before."""
        return tuple(run for run in self.config.stored if any(is_of(run, load) for load in self.all_loads))

    @property
    def serving(self) -> bool:
        """Return whether traffic is measured, in place of static batches."""
        return any(load.offers for load in self.all_loads)

    def failed(self) -> tuple[str, ...]:
        """Name the loads that were tried and failed."""
        known = outcomes(self.config.out)
        return tuple(load.name for load in self.loads if known.get(load.name) == "failed")

    def unmeasured(self) -> dict[str, int]:
        """Count the shapes and offers that no time was left for, by load; another run takes them up."""
        stored = {run.run_id for run in self.runs()}
        failed = set(self.failed())
        counts = {
            load.name: sum(load.run_id(piece) not in stored for piece in undone(load, self.config.out))
            for load in self.loads
            if load.name not in failed
        }
        return {name: count for name, count in counts.items() if count}

    def last_lines(self) -> dict[Path, str]:
        """Return the logs of the loads that failed, and the last line of each."""
        last = {}
        for name in self.failed():
            log = self.config.out / "logs" / f"{name}.log"
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
            last[log] = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
        return last

    def startup_s(self) -> list[float]:
        """Return the seconds that engines took to start, rising, one a load whose runs have it in their fingerprint."""
        by_load: dict[str, float] = {}
        for run in self.runs():
            load = next(load.name for load in self.all_loads if is_of(run, load))
            seconds = json.loads(run.fingerprint or "{}").get("startup_s")
            by_load |= {} if seconds is None else {load: seconds}
        return sorted(by_load.values())

    @property
    def request_log(self) -> Path | None:
        """Return the file of single requests; None where there are none."""
        path = self.config.out / "requests.jsonl"
        return path if self.serving and path.exists() else None

    @property
    def is_own_store(self) -> bool:
        """Return whether the runs go where every later answer looks."""
        return any(path.resolve() == self.config.store.resolve() for path in own_runs())

    def run(
        self,
        *,
        watch: Callable[[Sweep], None] | None = None,
        say: Callable[[str], None] = lambda _: None,
        again: bool = False,
    ) -> list[Measurement]:
        """Run the loads, as far as the budget goes, and return what has been measured of them, now or before.

        ``watch`` sees the sweep a few times a second; what happens goes to ``say``. ``again``: this process has just
        measured on these GPUs, so that what is still in use there is its own, which each load waits for.

        Raises:
            InputError: no GPU here, one that is in use or in MIG mode, an engine that is not installed, or a folder that
                cannot be written.

        """
        if self.config.target.indices is None:
            raise InputError(
                f"{self.config.target.cluster} is not looked for here; to measure, say which of this machine's GPUs: "
                "--gpus local or 0,1; --dry-run only lists what would run"
            )
        check_installed(self.config.engine)
        for note in self.notes:
            if note.kind == "warning":
                say(note.text)
        if not self.loads:
            return list(self.runs())
        with ExitStack() as stack:
            if self.config.device == "cuda":
                if not again:
                    check_free(self.config.target.indices)
                for index in self.config.target.indices:
                    stack.callback(_claimed(index).release)
            left = (
                None if self.config.budget_s is None else self.config.budget_s - (time.monotonic() - self.config.began)
            )
            Sweep(
                self._written(),
                self.config.out,
                self.config.target.indices,
                worker=worker(self.config.engine, self.config.device, serving=self.serving),
                environment=environment(self.config.engine),
                store=self.config.store,
                expected=self._expected,
                say=say,
                **({} if left is None else {"seconds": left}),
            ).run(watch)
        return list(self.runs())

    def left_s(self, sweep: Sweep, passed_s: float) -> float:
        """Return the seconds until the sweep should be over, ``passed_s`` after it began."""
        loads = [*sweep.waiting, *(job.load for job in sweep.running)]
        return max((self.ends_s.get(load.name, 0.0) - passed_s for load in loads), default=0.0)

    def _expected(self, load: BenchmarkJob) -> float:
        """Return the seconds of a load as what has been seen by now makes one expect them."""
        stored = self.config.stored
        done = {run.run_id for run in stored}
        pieces = self.seconds.get(load.name, {})
        start_s = start_up(
            seconds_taken(self.config.out), stored, prefix=f"{self.plan.get('prefix', '')}", otherwise=self.start_s
        )
        return start_s + sum(seconds for piece, seconds in pieces.items() if load.run_id(piece) not in done)

    def _written(self) -> Path:
        """Write the plan to a file named by what it holds: another process may write its own at the same time."""
        text = json.dumps(self.plan, indent=1)
        path = self.config.out / "plans" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        return path


def is_of(run: Measurement, load: BenchmarkJob) -> bool:
    """Return whether a run is one of a load's, whichever its shape; or of one of its offers."""
    shape = (run.batch, run.input_len, run.output_len)
    return run.run_id in {load.run_id(shape), *(load.run_id(offer) for offer in load.offers)}


def output_paths(out: str | Path | None, store: str | Path | None) -> tuple[Path, Path]:
    """Return the folder for everything and the file for the runs, as ``probe`` is handed them."""
    folder = home() / "probes" if out is None else Path(out).expanduser()
    if store is not None:
        return folder, Path(store).expanduser()
    return folder, home() / "runs" / STORE if out is None else folder / "runs.jsonl"


def check_call(role: str, budget_s: float | None) -> None:
    """Raise ``InputError`` for a role or a budget (seconds) that cannot be."""
    if role not in ("fit", "validate"):
        raise InputError(f"role is {role!r:.40}; it must be fit or validate")
    if budget_s is not None:
        require_positive("budget_s", budget_s, whole=False)


def session_config(
    question: ProbeQuestion,
    gpus: str | Cluster,
    *,
    budget_s: float | None,
    device: str,
    role: str,
    out: str | Path | None,
    store: str | Path | None,
    began: float | None,
) -> SessionConfig:
    """Check what all loads have in common, and find the GPUs; arguments are those of ``prepare``.

    Raises:
        InputError: an engine that is not measured, a role or budget that cannot be, or GPUs that are not there.

    """
    began = time.monotonic() if began is None else began
    check_engine(question.engine, device, serving=question.serving)
    check_call(role, budget_s)
    folder, runs_file = output_paths(out, store)
    target = read_target(gpus, device=device)
    if target.indices is not None:  # else it is measured on another machine
        target = replace(target, notes=(*target.notes, *version_notes(question.engine)))
    return SessionConfig(
        engine=question.engine,
        device=device,
        target=target,
        budget_s=budget_s,
        began=began,
        out=folder,
        store=runs_file,
    )


def known_parameters(engine: str, cluster: Cluster) -> Parameters:
    """Return the parameters that all evidence for this engine and kind of GPU gives."""
    return Evidence.of(None, engine=engine, gpu=cluster.gpu).marginal(engine, cluster.gpu).parameters


def start_seconds(config: SessionConfig, prefix: str) -> float:
    """Return the seconds from a load's order to its first shape, by earlier loads whose names begin with ``prefix``."""
    otherwise = START_S["cpu" if config.device == "cpu" else config.engine]
    return start_up(seconds_taken(config.out), config.stored, prefix=prefix, otherwise=otherwise)


def _claimed(index: int) -> FileLock:
    """Claim a GPU of this machine, among the commands of one user."""
    path = Path(tempfile.gettempdir(), f"advisor-{os.getuid()}", f"gpu{index}.lock")
    claim = take_lock(path)
    if claim is None:
        raise InputError(f"GPU {index} is being measured on by another advisor probe; name others, such as --gpus 1,")
    return claim
