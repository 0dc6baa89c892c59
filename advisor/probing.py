"""Measuring on a user's own GPUs: what is worth it is planned, run within a budget, and kept for every later answer."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import probes
from advisor.knowledge import Knowledge
from advisor.probe_plans import (
    Candidate,
    Question,
    ends,
    makespan,
    shape_seconds,
    start_up,
)
from advisor.probe_targets import check_free, read_target
from catalog.engines import resolve
from catalog.home import home
from catalog.runs import read_runs
from catalog.schema import Cluster, InputError, Note, require_positive
from probes.claims import take_claim
from probes.loads import config_json, read_plan
from probes.pytorch import static as torch_static
from probes.sweep import Sweep, outcomes, seconds_taken, undone_shapes
from probes.transformer.settings import check_runs, read_settings
from probes.vllm import static as vllm_static

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from advisor.parameters import Parameters
    from advisor.probe_plans import Shape
    from advisor.probe_targets import Target
    from catalog.schema import Deployment, Measurement, Model
    from probes.claims import Claim
    from probes.loads import Load

ENGINES = ("torch", "vllm")
START_S = {"torch": 15.0, "vllm": 90.0, "cpu": 8.0}
"""Seconds from a load's order to its first shape, before any has been seen: imports, weights, CUDA graphs, compiled
kernels. Rough; from the first load on, what loads really took counts."""

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
    seconds: Mapping[str, Mapping[Shape, float]]
    """By load and shape, start-up not included."""
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
        _check_installed(self.engine)
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
                worker=_worker(self.engine, self.device), environment=_environment(self.engine), store=self.store,
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
        shapes = self.seconds.get(load.name, {})
        start_s = start_up(
            seconds_taken(self.out), stored, prefix=f"{self.plan.get('prefix', '')}", otherwise=self.start_s
        )
        return start_s + sum(seconds for shape, seconds in shapes.items() if load.run_id(shape) not in done)

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
    """Whether a run is one of a load's, whichever its shape."""
    return run.run_id == load.run_id((run.batch, run.input_len, run.output_len))


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
    from advisor.offers import best_of, offer_of  # noqa: PLC0415  it needs this module

    return best_of(offer_of(model, question, role, shared))


def shared_of(
    question: Question, gpus: str | Cluster, *, budget_s: float | None, device: str, role: str, out: str | Path | None,
    store: str | Path | None, began: float | None,
) -> dict[str, Any]:  # fmt: skip
    """What all loads have in common, checked."""
    began = time.monotonic() if began is None else began
    if question.engine not in ENGINES:
        raise InputError(f"engine is {question.engine!r:.40}; {' and '.join(ENGINES)} can be measured")
    if question.engine == "vllm" and device == "cpu":
        raise InputError("vllm is measured on GPUs only; --engine torch --device cpu tries things out without one")
    if role not in ("fit", "validate"):
        raise InputError(f"role is {role!r:.40}; it must be fit or validate")
    if budget_s is not None:
        require_positive("budget_s", budget_s, whole=False)
    folder, kept = places(out, store)
    return {
        "engine": question.engine, "device": device, "target": read_target(gpus, device=device), "budget_s": budget_s,
        "began": began, "out": folder, "store": kept,
    }  # fmt: skip


def _from_plan(path: Path, shared: dict[str, Any]) -> Probing:
    """Exactly the loads of a plan file, in its order."""
    loads = read_plan(path)
    plan = json.loads(path.read_text(encoding="utf-8"))
    target = shared["target"]
    widest = max((load.deployment.num_gpus for load in loads), default=0)
    if widest > target.cluster.num_gpus:
        raise InputError(f"a load of {path} needs {widest} GPUs; {target.cluster.num_gpus} are named")
    for load in loads:
        try:
            check_runnable(shared["engine"], load.model, load.deployment, shared["device"])
        except InputError as error:
            raise InputError(f"{path}: {load.name}: {error}") from error
    able = [_foretold(load, shared["engine"], target.cluster) for load in loads]
    start_s = start_seconds(shared, plan.get("prefix", ""))
    undone = [each.only(undone_shapes(load, shared["out"])) for each, load in zip(able, loads, strict=True)]
    kept = [i for i, load in enumerate(loads) if undone_shapes(load, shared["out"])]
    waiting = [undone[i] for i in kept]
    gpus = target.cluster.num_gpus
    return Probing(
        **shared, plan=plan, loads=tuple(loads[i] for i in kept), all_loads=loads, start_s=start_s,
        seconds={loads[i].name: undone[i].seconds for i in kept},
        expected_s=makespan(waiting, start_s=start_s, gpus=gpus),
        ends_s=ends_by_name([loads[i] for i in kept], waiting, start_s, gpus), notes=target.notes, left_out=(),
    )  # fmt: skip


def _foretold(load: Load, engine: str, cluster: Cluster) -> Candidate:
    """A load of a plan with the seconds of the shapes that should fit; the others will be left out when it runs."""
    wanted = replace(load.deployment, engine=engine)
    # as the engines do: positions beyond the model's are only more rotary angles
    longest = max(load.model.max_position_embeddings, wanted.max_model_len or 0)
    model = replace(load.model, max_position_embeddings=longest)
    deployment = resolve(wanted, model, cluster).value
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


def check_runnable(engine: str, model: Model, deployment: Deployment, device: str) -> None:
    """Raise ``InputError`` for what the engine cannot run."""
    if engine == "vllm":
        config_json(model, max_model_len=deployment.max_model_len)
        return
    check_runs(model, deployment, device=device)
    read_settings(model)


def _check_installed(engine: str) -> None:
    if engine == "vllm" and find_spec("vllm") is None:
        raise InputError("vllm is not installed where advisor is; install it there, or measure with --engine torch")
    if find_spec("torch") is None or find_spec("safetensors") is None:
        raise InputError("measuring needs torch and safetensors: pip install 'advisor[probes]'")


def _worker(engine: str, device: str) -> list[str]:
    return vllm_static.worker_command() if engine == "vllm" else torch_static.worker_command(device)


def _environment(engine: str) -> Mapping[str, str]:
    """What workers need beside our own environment; they must find our packages wherever they are started."""
    shared = vllm_static.ENVIRONMENT if engine == "vllm" else torch_static.ENVIRONMENT
    root = str(Path(probes.__file__).parents[1])
    return {**shared, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


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

    Returns:
        What has been measured of these loads, now or before.

    Raises:
        InputError: a name or number that cannot be, no GPU, one in use, torch missing, or a budget too small for a single
            measurement; for an endpoint, one that does not answer, refuses the key or serves another model.

    """
    if endpoint is not None:
        from advisor.probing_endpoint import measured_endpoint, prepared_endpoint  # noqa: PLC0415  it needs this module

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
        engine=engine or "torch", tp=tuple(tp), pp=tuple(pp), batch=tuple(batch), input_len=tuple(input_len),
        output_len=tuple(output_len), dtype=dtype, max_model_len=max_model_len,
    )  # fmt: skip
    ready = prepared(
        model, gpus, budget_s=budget_s, question=question, device=device, role=role, out=out, store=store, plan=plan
    )
    return ready.run()
