"""Measuring a server that runs already: loads that rise until it gives no more, each kept as a run as soon as it ends."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from advisor.benchmarking.session import check_call, output_paths
from advisor.calibration.importing import read_import
from advisor.prediction.inputs import check_lengths, read_cluster, read_model
from advisor.prediction.presentation import header
from catalog.engines import find_engine
from catalog.errors import InputError, Note
from catalog.importers.engine_settings import settings
from catalog.importers.errors import UnusableRun
from catalog.tables import table
from probes.endpoint import Endpoint, ServedModel, read_endpoint
from probes.endpoint_load import EndpointTraffic, LoadFailed, LoadTarget, find_program, make_traffic
from probes.file_lock import take_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from advisor.benchmarking.benchmark_plan import ProbeQuestion
    from catalog.schema import Cluster, Measurement, Model

LADDER = (1, 4, 16, 64, 256)
"""Requests in flight per replica, unless the user names them."""

RISE = 1.05
"""A closed loop that gives less than this times the best before it is the last one."""

MOST_FAILED = 2
"""Closed loops that the user named and that give nothing, in a row, after which no more are tried: the server is gone."""

SHARES = (0.5, 0.8)
"""Of the requests a second of the best closed loop: rates at which Poisson arrivals are measured."""

START_S = 25.0
"""GuideLLM's own imports, prompts and report (0.8.1, on two cores), before any load has been seen."""

LEAST_S, MOST_S = 10.0, 60.0
"""Seconds of traffic of one load."""

TURNS = 4
"""A closed loop must last so many of its requests: three are kept, the last one is cut off."""

FEWEST = 10
"""Requests of a Poisson process that must be completed for their mean to say something."""

SPARE_S = 5.0
"""So long before the budget's end a load must be over, for what is then left to do."""

TOLD = (
    "tp",
    "pp",
    "dp",
    "ep",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "gpu_memory_utilization",
    "dtype",
    "kv_dtype",
)
"""Settings of a server that runs are kept with."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of the loads, filled while they run."""

    runs: list[Measurement] = field(default_factory=list)
    """Measured now or before."""
    new: int = 0
    left_out: list[str] = field(default_factory=list)

    def late(self, loads: Sequence[EndpointTraffic]) -> None:
        """Note loads for which the budget leaves no time; another call, which finds no report of theirs, takes them up."""
        self.left_out += [f"{load.name}: the budget leaves it no time" for load in loads]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSession:
    """Loads for a server, ready to be run."""

    endpoint: Endpoint
    target: LoadTarget
    cluster: Cluster
    model: Model
    facts: Mapping[str, Any]
    """What the runs are of, as ``advisor.calibration.importing.read_import`` takes it."""
    in_flight: tuple[int, ...]
    """Of the closed loops, over all replicas."""
    fixed: bool
    """Whether the user named them: then all are run."""
    budget_s: float | None
    began: float
    folder: Path
    store: Path
    notes: tuple[Note, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what would run, as plain JSON types."""
        return {
            **header("endpoint-plan/1"),
            "endpoint": self.endpoint.url,
            "served": self.target.model,
            "tokenizer": self.target.tokenizer,
            "input_len": self.target.input_len,
            "output_len": self.target.output_len,
            **self.facts,
            "budget_s": self.budget_s,
            "loads": self.rows(),
            "notes": [note.text for note in self.notes],
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a load, in order."""
        closed = [
            {"load": load.name, "arrivals": "kept in flight", "in_flight": load.in_flight, "done": self._done(load)}
            for load in self._closed()
        ]
        # their rates follow from what the closed loops give, and so does whether they have been measured
        opened = [
            {
                "load": f"poisson at {share:.0%}",
                "arrivals": f"Poisson, {share:.0%} of the best rate",
                "in_flight": None,
                "done": None,
            }
            for share in SHARES
        ]
        return closed + opened

    def run(self, *, outcome: Outcome | None = None, say: Callable[[str], None] = lambda _: None) -> Outcome:
        """Run the loads as far as the budget goes; a run is in the store, and in the outcome, as soon as its load ends.

        Loads whose reports are there from an earlier call are not run again.

        Raises:
            InputError: GuideLLM is missing, another process measures the same, or a file cannot be written.

        """
        outcome = Outcome() if outcome is None else outcome
        find_program()
        claim = take_lock(self.folder / "claim.lock")
        if claim is None:
            raise InputError(f"{self.endpoint.url} is being measured by another advisor probe")
        try:
            self._run(_Clock(self.began, self.budget_s), outcome, say)
        finally:
            claim.release()
        return outcome

    def _run(self, clock: _Clock, outcome: Outcome, say: Callable[[str], None]) -> None:
        best: Measurement | None = None
        before: Measurement | None = None
        failed = 0
        closed = self._closed()
        # Poisson arrivals tell more than one more closed loop: room for them is kept, where there is any to keep
        kept_free = len(SHARES) if clock.room(len(SHARES) + 2) else 0
        for number, load in enumerate(closed):
            loads = kept_free + (len(closed) - number)
            needs_s = 0.0 if before is None else TURNS * (before.e2e_ms or 0.0) / 1e3
            run = self._measured(load, clock, outcome, say, loads=loads, needs_s=needs_s, kept_free=kept_free)
            failed = 0 if run else failed + 1
            if run is None:
                if self.fixed and failed < MOST_FAILED and clock.room(1):
                    continue
                outcome.late(closed[number + 1 :] if not clock.room(kept_free + 1) else ())
                break
            rising = best is None or _tok_s(run) >= RISE * _tok_s(best)
            best = run if best is None or _tok_s(run) > _tok_s(best) else best
            before = run
            if not (rising or self.fixed):
                break
        if best is None:
            return
        for number, share in enumerate(SHARES):
            rate = float(f"{share * _tok_s(best) / best.output_len:.3g}")
            load = EndpointTraffic(name=f"poisson-{rate:g}", rate=rate)
            needs_s = max(FEWEST / rate, TURNS * (best.e2e_ms or 0.0) / 1e3)
            self._measured(load, clock, outcome, say, loads=len(SHARES) - number, needs_s=needs_s, kept_free=0)

    def _measured(
        self,
        load: EndpointTraffic,
        clock: _Clock,
        outcome: Outcome,
        say: Callable[[str], None],
        *,
        loads: int,
        needs_s: float,
        kept_free: int,
    ) -> Measurement | None:
        """Return a load's run, of an earlier report or a new one; None, and the reason in the outcome, where there is none."""
        report = self._report(load.name)
        if not report.exists():
            seconds = clock.seconds(loads, needs_s, kept_free)
            if seconds is None:
                outcome.late([load])
                return None
            say(f"{_told(load)}: {seconds:.0f} s of requests")
            began = time.monotonic()
            try:
                # without a budget too, a server that hangs must not hold everything up
                limit_s = min(clock.left_s, 10 * (clock.start_s + seconds))
                report = make_traffic(self.target, load, self.folder, seconds=seconds, limit_s=limit_s)
            except LoadFailed as error:
                outcome.left_out.append(f"{load.name}: {error}")
                return None
            clock.saw(time.monotonic() - began - seconds)
        return self._kept(load, report, outcome)

    def _kept(self, load: EndpointTraffic, report: Path, outcome: Outcome) -> Measurement | None:
        imported = read_import([report], "guidellm", given=self.facts, store=self.store)
        wanted = "steady" if load.in_flight is not None else "open"
        # as many requests as were kept in flight look as if they had come at once
        fit = [run for run in imported.runs if run.regime == wanted and (run.rate or 0) == (load.rate or 0)]
        if not fit:
            why = str(imported.left_out[0]) if imported.left_out else "too few of its requests were completed"
            outcome.left_out.append(f"{load.name}: {why.removeprefix(report.name).lstrip(': ')}")
            report.replace(report.with_suffix(".unusable"))  # with more time it may do
            return None
        outcome.new += len(imported.new)
        imported.keep()
        outcome.runs += fit
        return fit[0]

    def _closed(self) -> list[EndpointTraffic]:
        return [EndpointTraffic(name=f"closed-{count}", in_flight=count) for count in self.in_flight]

    def _report(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _done(self, load: EndpointTraffic) -> bool:
        return self._report(load.name).exists()


class _Clock:
    """The budget, and what of it a load can have."""

    def __init__(self, began: float, budget_s: float | None) -> None:
        self.ends = None if budget_s is None else began + budget_s
        self.start_s = START_S

    @property
    def left_s(self) -> float:
        return float("inf") if self.ends is None else max(self.ends - time.monotonic(), 0.0)

    def room(self, loads: int) -> bool:
        return self.left_s >= loads * (self.start_s + LEAST_S) + SPARE_S

    def seconds(self, loads: int, needs_s: float, kept_free: int) -> float | None:
        """Return seconds of traffic for the next of so many loads; None if too little is left for what it needs."""
        share = (self.left_s - SPARE_S) / loads - self.start_s
        most = self.left_s - SPARE_S - self.start_s - kept_free * (self.start_s + LEAST_S)
        least = max(LEAST_S, needs_s)
        return None if most < least else min(max(share, least), max(MOST_S, least), most)

    def saw(self, start_s: float) -> None:
        """Note how many seconds a load took beside its traffic."""
        self.start_s = max(start_s, 1.0)


def _tok_s(run: Measurement) -> float:
    return run.output_tok_s or 0.0


def _told(load: EndpointTraffic) -> str:
    if load.in_flight is not None:
        return f"{load.in_flight} in flight"
    return f"Poisson, {load.rate:g} a second"


def prepare_endpoint(
    endpoint: str,
    model: str | Model | None,
    gpus: str | Cluster,
    *,
    question: ProbeQuestion,
    engine: str | None = None,
    tokenizer: str | None = None,
    budget_s: float | None = 180.0,
    role: str = "fit",
    out: str | Path | None = None,
    store: str | Path | None = None,
    began: float | None = None,
) -> EndpointSession:
    """Ask a server what it is, and plan what ``probe`` would run against it; no traffic yet, and nothing written.

    ``question`` names one layout and one pair of lengths; ``engine``: None where the server says it. For the others see
    ``advisor.probe``.

    Raises:
        InputError: the server does not answer, refuses the key or serves another model, or a fact is missing.

    """
    began = time.monotonic() if began is None else began
    if model is None:
        raise InputError("missing --model; for example: --model llama-13b")
    check_call(role, budget_s)
    cluster, gpu_notes = _cluster(gpus)
    resolved = read_model(model)
    lengths = _one("--input-len", question.input_len) or 1024, _one("--output-len", question.output_len) or 256
    server = read_endpoint(endpoint)
    served, notes = _served(server, resolved.value, model if isinstance(model, str) else resolved.value.name)
    check_lengths(resolved.value, *lengths, served.max_model_len or question.max_model_len)
    facts = {
        **_facts(server, served, question, cluster, engine),
        "model": str(model) if isinstance(model, str) else model.name,
        "gpu": cluster.gpu.name,
        "gpus": cluster.num_gpus,
        "role": role,
    }
    reader = tokenizer or resolved.value.name
    target = LoadTarget(
        url=server.url, model=served.name, tokenizer=reader, input_len=lengths[0], output_len=lengths[1]
    )
    folder, runs_file = output_paths(out, store)
    key = json.dumps([asdict(target), facts, server.version], sort_keys=True)
    return EndpointSession(
        endpoint=server,
        target=target,
        cluster=cluster,
        model=resolved.value,
        facts=facts,
        in_flight=tuple(count * facts["dp"] for count in sorted(set(question.batch)) or LADDER),
        fixed=bool(question.batch),
        budget_s=budget_s,
        began=began,
        store=runs_file,
        notes=(*resolved.notes, *gpu_notes, *notes),
        folder=folder / "endpoints" / hashlib.sha256(key.encode()).hexdigest()[:16],
    )


def measure_endpoint(ready: EndpointSession) -> Outcome:
    """Run the loads; the runs are of use only if there are any.

    Raises:
        InputError: nothing was measured.

    """
    outcome = ready.run()
    if not outcome.runs:
        raise InputError(f"nothing was measured: {'; '.join(outcome.left_out)}")
    return outcome


def _cluster(gpus: str | Cluster) -> tuple[Cluster, tuple[Note, ...]]:
    plain = gpus.strip().casefold() if isinstance(gpus, str) else ""
    if isinstance(gpus, str) and (plain == "local" or plain.replace(",", "").isdigit()):
        raise InputError(f"--gpus is {plain}; a server does not tell what it runs on, name it: --gpus 4xH100")
    cluster = read_cluster(gpus)
    return cluster.value, cluster.notes


def _one(name: str, values: Sequence[int]) -> int | None:
    if len(values) > 1:
        raise InputError(f"{name} has {len(values)} values; a server that runs has one")
    return values[0] if values else None


def _served(server: Endpoint, model: Model, typed: str) -> tuple[ServedModel, tuple[Note, ...]]:
    """Return the one of the server's models that is meant."""
    meaning = {served.name: list(_meanings(served)) for served in server.models}
    for served in server.models:
        if typed in (served.name, *served.aliases) or model.name in meaning[served.name]:
            return served, ()
    first = server.models[0]
    if len(server.models) == 1 and not meaning[first.name]:  # a server may call its model anything
        return first, (Note(f'the server\'s model "{first.name}" taken as {model.name}'),)
    names = ", ".join(served.name for served in server.models[:5])
    raise InputError(f"{server.url} serves {names:.200}, not {model.name}; name what it serves with --model")


def _meanings(served: ServedModel) -> Iterator[str]:
    for name in (served.name, *served.aliases):
        meaning = table("models").meaning(name)
        if meaning is not None:
            yield meaning.name


def _facts(
    server: Endpoint, served: ServedModel, question: ProbeQuestion, cluster: Cluster, engine: str | None
) -> dict[str, Any]:
    """Return engine and layout, from the user and the server; they must agree."""
    try:
        stated = settings(server.settings)
    except UnusableRun as error:
        raise InputError(f"{server.url}: {error}") from error
    reported = {name: stated[name] for name in TOLD if name in stated}
    if served.max_model_len is not None:
        reported["max_model_len"] = served.max_model_len
    given = {
        "tp": _one("--tp", question.tp),
        "pp": _one("--pp", question.pp),
        "dtype": None if question.dtype == "auto" else question.dtype,
        "max_model_len": question.max_model_len,
    }
    facts = {name: value for name, value in given.items() if value is not None}
    for name, value in reported.items():
        if facts.setdefault(name, value) != value:
            option = name.replace("_", "-")
            raise InputError(f"--{option} is {facts[name]}, but {server.url} says {value}; leave it out")
    engine_name = served.engine if engine is None else find_engine(engine).name
    if engine_name is None:
        raise InputError(f"{server.url} does not say which engine it is; add for example --engine vllm")
    if served.engine not in (None, engine_name):
        raise InputError(f"--engine is {engine_name}, but {server.url} is {served.engine}; leave it out")
    facts["engine"] = engine_name
    if server.version:
        facts["engine_version"] = server.version
    return {**facts, **_layout(facts, cluster, server.url)}


def _layout(facts: Mapping[str, Any], cluster: Cluster, url: str) -> dict[str, int]:
    tp, pp, gpus = facts.get("tp", 1 if cluster.num_gpus == 1 else None), facts.get("pp", 1), cluster.num_gpus
    if tp is None:
        raise InputError(f"{url} does not say its tensor parallel size; add for example --tp {gpus}")
    dp = facts.get("dp", max(1, gpus // (tp * pp)))
    if tp * pp * dp != gpus:
        raise InputError(f"tp {tp} x pp {pp} x {dp} replicas take {tp * pp * dp} GPUs, but --gpus names {gpus}")
    return {"tp": tp, "pp": pp, "dp": dp}
