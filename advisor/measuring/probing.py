"""Measuring on a user's own GPUs: what is worth it is planned, run within a budget, and kept for every later answer."""

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

from advisor.knowledge import Knowledge
from advisor.measuring.engines import (
    START_S,
    check_deployment,
    check_engine,
    check_installed,
    environment,
    version_notes,
    worker,
)
from advisor.measuring.offers import read_requests
from advisor.measuring.plans import (
    Candidate,
    Question,
    ends,
    makespan,
    shape_seconds,
    start_up,
)
from advisor.measuring.targets import check_free, read_target
from catalog.engines import resolve
from catalog.home import home
from catalog.runs import read_runs
from catalog.schema import Cluster, InputError, Note, require_positive
from probes.claims import take_claim
from probes.loads import read_plan
from probes.serving import DRAIN_S
from probes.sweep import Sweep, outcomes, seconds_taken, undone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from advisor.measuring.offers import Piece
    from advisor.measuring.targets import Target
    from advisor.physics.parameters import Parameters
    from catalog.schema import Measurement, Model
    from probes.claims import Claim
    from probes.loads import Load

PLANNED = 0.9
"""Share of the budget that is planned for; the rest is for loads that take longer than foretold."""

STORE = "probe.jsonl"
"""The store in $ADVISOR_HOME/runs, where every later answer looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """A list of loads that is ready to be run."""

    engine: str
    device: str
    target: Target
    plan: Mapping[str, Any]
    """As ``probes.loads.read_plan`` takes it."""
    loads: tuple[Load, ...]
    """In the order in which they will be run."""
    all_loads: tuple[Load, ...]
    """Those too of which everything has been measured before, or for which there is no time."""
    seconds: Mapping[str, Mapping[Piece, float]]
    """By load and shape, or offer, start-up not included."""
    start_s: float
    expected_s: float
    """Until the last load has ended."""
    ends_s: Mapping[str, float]
    budget_s: float | None
    began: float
    """When the budget began to count, on the clock of ``time.monotonic``."""
    out: Path
    store: Path
    notes: tuple[Note, ...]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plan, which ``read_plan`` takes."""
        return dict(self.plan)

    def runs(self) -> tuple[Measurement, ...]:
        """What has been measured of all the loads, now or before."""
        stored = read_runs(self.store) if self.store.exists() else ()
        return tuple(run for run in stored if any(is_of(run, load) for load in self.all_loads))

    @property
    def serving(self) -> bool:
        """Whether traffic is measured, in place of static batches."""
        return any(load.offers for load in self.all_loads)

    def failed(self) -> tuple[str, ...]:
        """The loads that were tried and failed."""
        known = outcomes(self.out)
        return tuple(load.name for load in self.loads if known.get(load.name) == "failed")

    def run(
        self,
        *,
        watch: Callable[[Sweep], None] | None = None,
        say: Callable[[str], None] = lambda _: None,
        again: bool = False,
    ) -> list[Measurement]:
        """Run the loads, as far as the budget goes, and return what has been measured of them, now or before.

        ``watch`` sees the sweep a few times a second; what happens is told to ``say``. ``again``: this process has just
        measured on these GPUs, so that what is still in use there is its own, which each load waits for.

        Raises:
            InputError: no GPU here, one that is in use or in MIG mode, an engine that is not installed, or a folder that
                cannot be written.

        """
        if self.target.indices is None:
            raise InputError(
                f"{self.target.cluster} is not looked for here; to measure, say which of this machine's GPUs: "
                "--gpus local or 0,1; --dry-run only lists what would run"
            )
        check_installed(self.engine)
        for note in self.notes:
            if note.kind == "warning":
                say(note.text)
        if not self.loads:
            return list(self.runs())
        with ExitStack() as stack:
            if self.device == "cuda":
                if not again:
                    check_free(self.target.indices)
                for index in self.target.indices:
                    stack.callback(_claimed(index).release)
            left = None if self.budget_s is None else self.budget_s - (time.monotonic() - self.began)
            Sweep(
                self._written(), self.out, self.target.indices,
                worker=worker(self.engine, self.device, serving=self.serving), environment=environment(self.engine),
                store=self.store,
                expected=self._expected, say=say, **({} if left is None else {"seconds": left}),
            ).run(watch)  # fmt: skip
        return list(self.runs())

    def left_s(self, sweep: Sweep, passed_s: float) -> float:
        """Seconds until the sweep should be over, so many after it began."""
        loads = [*sweep.waiting, *(each.load for each in sweep.running)]
        return max((self.ends_s.get(load.name, 0.0) - passed_s for load in loads), default=0.0)

    def _expected(self, load: Load) -> float:
        """Seconds of a load as what has been seen by now makes one expect them."""
        stored = read_runs(self.store) if self.store.exists() else ()
        done = {run.run_id for run in stored}
        pieces = self.seconds.get(load.name, {})
        start_s = start_up(
            seconds_taken(self.out), stored, prefix=f"{self.plan.get('prefix', '')}", otherwise=self.start_s
        )
        return start_s + sum(seconds for piece, seconds in pieces.items() if load.run_id(piece) not in done)

    def _written(self) -> Path:
        """The plan as a file, named by what it holds: another process may write its own at the same time."""
        text = json.dumps(self.plan, indent=1)
        path = self.out / "plans" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = path.with_suffix(f".{os.getpid()}")
            whole.write_text(text, encoding="utf-8")
            whole.replace(path)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        return path


def is_of(run: Measurement, load: Load) -> bool:
    """Whether a run is one of a load's, whichever its shape; or of one of its offers."""
    shape = (run.batch, run.input_len, run.output_len)
    return run.run_id in {load.run_id(shape), *(load.run_id(offer) for offer in load.offers)}


def places(out: str | Path | None, store: str | Path | None) -> tuple[Path, Path]:
    """The folder for everything and the file for the runs, as ``probe`` is handed them."""
    folder = home() / "probes" if out is None else Path(out).expanduser()
    if store is not None:
        return folder, Path(store).expanduser()
    return folder, home() / "runs" / STORE if out is None else folder / "runs.jsonl"


def prepared(
    model: str | Model | None,
    gpus: str | Cluster = "local",
    *,
    budget_s: float | None = 180.0,
    question: Question | None = None,
    device: str = "cuda",
    role: str = "fit",
    out: str | Path | None = None,
    store: str | Path | None = None,
    plan: str | Path | None = None,
    began: float | None = None,
) -> Probing:
    """Plan what ``probe`` would run; nothing is started and nothing written.

    Arguments are those of ``probe``; the budget counts from ``began`` on the clock of ``time.monotonic``, by default now.
    """
    question = question or Question()
    shared = shared_of(question, gpus, budget_s=budget_s, device=device, role=role, out=out, store=store, began=began)
    if plan is not None:
        return _from_plan(Path(plan).expanduser(), shared)
    if model is None:
        raise InputError("no model named; give one (llama-13b) or a plan")
    from advisor.measuring.measurables import best_of, measurable_of  # noqa: PLC0415  it needs this module

    return best_of(measurable_of(model, question, role, shared))


def shared_of(
    question: Question, gpus: str | Cluster, *, budget_s: float | None, device: str, role: str, out: str | Path | None,
    store: str | Path | None, began: float | None,
) -> dict[str, Any]:  # fmt: skip
    """What all loads have in common, checked."""
    began = time.monotonic() if began is None else began
    check_engine(question.engine, device, serving=question.serving)
    if role not in ("fit", "validate"):
        raise InputError(f"role is {role!r:.40}; it must be fit or validate")
    if budget_s is not None:
        require_positive("budget_s", budget_s, whole=False)
    folder, kept = places(out, store)
    target = read_target(gpus, device=device)
    if target.indices is not None:  # else it is measured on another machine
        target = replace(target, notes=(*target.notes, *version_notes(question.engine)))
    return {
        "engine": question.engine, "device": device, "target": target, "budget_s": budget_s, "began": began,
        "out": folder, "store": kept,
    }  # fmt: skip


def _from_plan(path: Path, shared: dict[str, Any]) -> Probing:
    """Exactly the loads of a plan file, in its order."""
    loads = read_plan(path)
    plan = json.loads(path.read_text(encoding="utf-8"))
    target = shared["target"]
    serving = {bool(load.offers) for load in loads}
    if len(serving) > 1:
        raise InputError(f"{path} has loads with offers and loads without; traffic and static batches are plans apart")
    check_engine(shared["engine"], shared["device"], serving=True in serving)
    widest = max((load.deployment.num_gpus for load in loads), default=0)
    if widest > target.cluster.num_gpus:
        raise InputError(f"a load of {path} needs {widest} GPUs; {target.cluster.num_gpus} are named")
    for load in loads:
        try:
            check_deployment(shared["engine"], load.model, load.deployment, shared["device"])
        except InputError as error:
            raise InputError(f"{path}: {load.name}: {error}") from error
    able = [_foretold(load, shared["engine"], target.cluster) for load in loads]
    start_s = start_seconds(shared, plan.get("prefix", ""))
    left = [undone(load, shared["out"]) for load in loads]
    rest = [each.only(pieces) for each, pieces in zip(able, left, strict=True)]
    kept = [i for i, pieces in enumerate(left) if pieces]
    waiting = [rest[i] for i in kept]
    gpus = target.cluster.num_gpus
    return Probing(
        **shared, plan=plan, loads=tuple(loads[i] for i in kept), all_loads=loads, start_s=start_s,
        seconds={loads[i].name: rest[i].seconds for i in kept},
        expected_s=makespan(waiting, start_s=start_s, gpus=gpus),
        ends_s=ends_by_name([loads[i] for i in kept], waiting, start_s, gpus), notes=target.notes, left_out=(),
    )  # fmt: skip


def _foretold(load: Load, engine: str, cluster: Cluster) -> Candidate:
    """A load of a plan with the seconds of its offers, drained, or of the shapes that should fit; the others will be left
    out when it runs.
    """
    wanted = replace(load.deployment, engine=engine)
    # as the engines do: positions beyond the model's are only more rotary angles
    longest = max(load.model.max_position_embeddings, wanted.max_model_len or 0)
    model = replace(load.model, max_position_embeddings=longest)
    deployment = resolve(wanted, model, cluster).value
    if load.offers:
        return Candidate(deployment=deployment, seconds={offer: offer.seconds + DRAIN_S for offer in load.offers})
    seconds = shape_seconds(
        model, cluster, deployment, load.shapes, known_parameters(engine, cluster), most_s=load.point_s
    )
    return Candidate(deployment=deployment, seconds=seconds)


def known_parameters(engine: str, cluster: Cluster) -> Parameters:
    return Knowledge.of(None, engine=engine, gpu=cluster.gpu).marginal(engine, cluster.gpu).parameters


def ends_by_name(loads: Sequence[Load], able: Sequence[Candidate], start_s: float, gpus: int) -> dict[str, float]:
    found = ends(able, start_s=start_s, gpus=gpus)
    return {load.name: end for load, end in zip(loads, found, strict=True)}


def start_seconds(shared: Mapping[str, Any], prefix: str) -> float:
    stored = read_runs(shared["store"]) if shared["store"].exists() else ()
    otherwise = START_S["cpu" if shared["device"] == "cpu" else shared["engine"]]
    return start_up(seconds_taken(shared["out"]), stored, prefix=prefix, otherwise=otherwise)


def _claimed(index: int) -> Claim:
    """A claim on a GPU of this machine, among the commands of one user."""
    path = Path(tempfile.gettempdir(), f"advisor-{os.getuid()}", f"gpu{index}.lock")
    claim = take_claim(path)
    if claim is None:
        raise InputError(f"GPU {index} is being measured on by another advisor probe; name others, such as --gpus 1,")
    return claim


def probe(
    model: str | Model | None = None,
    gpus: str | Cluster = "local",
    *,
    budget_s: float | None = 180.0,
    tp: Sequence[int] = (),
    pp: Sequence[int] = (),
    batch: Sequence[int] = (),
    input_len: Sequence[int] = (),
    output_len: Sequence[int] = (),
    dtype: str = "auto",
    max_model_len: int | None = None,
    engine: str | None = None,
    device: str = "cuda",
    role: str = "fit",
    out: str | Path | None = None,
    store: str | Path | None = None,
    plan: str | Path | None = None,
    endpoint: str | None = None,
    tokenizer: str | None = None,
    serving: bool = False,
    trace: str | Path | None = None,
) -> list[Measurement]:
    """Measure a model on this machine's GPUs in the layouts and batches that tell most, within a budget of seconds.

    Needs torch, and NVIDIA GPUs that nobody else uses. Every measurement is kept as soon as it is taken, where
    ``estimate`` and ``recommend`` find it; what has been measured before is not measured again. Several calls, in several
    processes or on several machines that share ``out``, finish one list together.

    With an ``endpoint``, what is measured is that server, under rising numbers of requests in flight and then Poisson
    arrivals, which GuideLLM makes (``pip install guidellm``); a key that it wants is read from $OPENAI_API_KEY.

    Args:
        model: catalog name or alias, Hugging Face id, path to a ``config.json``, or a ``Model``; weights are those beside
            the ``config.json``, else random. None if a ``plan`` says it.
        gpus: "local" for all of this machine's, "2" for two of them, "0,3" for these; for an endpoint, what it runs on:
            "4xH100".
        budget_s: seconds from the call on; nothing is begun that is not expected to end in time, and what overruns is
            ended. None: no limit.
        tp: tensor-parallel degrees to measure; empty for all that are worth it, here and below.
        pp: pipeline-parallel degrees.
        batch: sequences at once.
        input_len: tokens of a prompt.
        output_len: tokens generated for each request.
        dtype: weight format, or "auto" for the checkpoint's own.
        max_model_len: longest prompt and answer together, in tokens; None for the longest that is measured.
        engine: "torch" (plain PyTorch; also None) or "vllm"; for an endpoint what it is, where it does not say itself.
        device: "cuda", or "cpu" for trying things out with tiny models, a process in place of each GPU.
        role: "fit", or "validate" for runs that are kept out of the fit to judge it.
        out: folder for everything; None for $ADVISOR_HOME.
        store: file of the measurements; None for OUT/runs.jsonl, or the one in $ADVISOR_HOME/runs.
        plan: file with exactly the loads to run (``probes.loads.read_plan``), in place of a model.
        endpoint: address of a server with OpenAI's interface, to measure that; one ``tp``, ``pp``, ``input_len`` (1024) and
            ``output_len`` (256) then, and ``batch`` are requests in flight per replica.
        tokenizer: Hugging Face id or folder of the tokenizer that prompts for an endpoint are made with; None: the model's.
        serving: measure vLLM under traffic in place of static batches: ``batch`` requests kept in flight, then Poisson
            arrivals at shares of the best of these; each request is kept too, in OUT/requests.jsonl.
        trace: with ``serving``, a file of requests (as ``simulate`` reads) whose arrivals take the place of the Poisson ones.

    Returns:
        What has been measured of these loads, now or before.

    Raises:
        InputError: a name or number that cannot be, no GPU, one in use, torch missing, or a budget too small for a single
            measurement; for an endpoint, one that does not answer, refuses the key or serves another model.

    """
    if endpoint is not None:
        from advisor.measuring.endpoint import measured_endpoint, prepared_endpoint  # noqa: PLC0415  it needs this module

        if serving or trace is not None:
            raise InputError(
                "serving and trace are for an engine that is started; an endpoint is measured under traffic anyway"
            )
        if plan is not None:
            raise InputError(
                "endpoint and plan are both given; a plan is for this machine's GPUs, leave out one of the two"
            )
        return measured_endpoint(
            prepared_endpoint(
                endpoint, model, gpus, tp=tp, pp=pp, batch=batch, input_len=input_len, output_len=output_len,
                dtype=dtype, max_model_len=max_model_len, engine=engine, tokenizer=tokenizer, budget_s=budget_s,
                role=role, out=out, store=store,
            )
        ).runs  # fmt: skip
    question = Question(
        engine=engine or ("vllm" if serving else "torch"), tp=tuple(tp), pp=tuple(pp), batch=tuple(batch),
        input_len=tuple(input_len), output_len=tuple(output_len), dtype=dtype, max_model_len=max_model_len,
        serving=serving, trace=read_requests(trace, serving=serving),
    )  # fmt: skip
    ready = prepared(
        model, gpus, budget_s=budget_s, question=question, device=device, role=role, out=out, store=store, plan=plan
    )
    return ready.run()
