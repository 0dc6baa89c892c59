"""Measuring on a user's own GPUs until it is certain which deployment serves a workload best, or a budget is spent.

The one place where probes and the search meet: what competes comes from the search's space, what is believed of it from the
fit, and what is measured next is what would change the choice most.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from advisor.benchmarking.benchmark_plan import ProbeQuestion
from advisor.benchmarking.candidates import probe_candidates
from advisor.benchmarking.devices import read_target
from advisor.benchmarking.engines import ENGINES
from advisor.benchmarking.session import PLANNED
from advisor.calibration.intervals import LEVEL
from advisor.calibration.observations import impossible
from advisor.calibration.surrogate import shipped_surrogate
from advisor.prediction.evidence import Evidence
from advisor.prediction.inputs import check_lengths, objective_price, plain_fields, read_model
from advisor.prediction.presentation import header
from advisor.recommendation.problem import MOST_SEQUENCES, DeploymentSearch, checked
from advisor.recommendation.question import check_question
from advisor.tuning.acquisition import wall_s
from advisor.tuning.decision import NothingFits, candidate_set
from advisor.tuning.gp_belief import Belief
from advisor.tuning.loop import TuningStep, believed, prior_of, steps
from advisor.tuning.runner import Machine, own_runs
from advisor.tuning.tuning_choice import TuningChoice, choices_of, relaxations_of
from catalog.engines import command as launch_command
from catalog.engines import find_engine
from catalog.errors import InputError, Note
from catalog.schema import Cluster, Model, Slo, Workload, require_positive
from search.external_study import ExternalStudy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from advisor.benchmarking.benchmark_plan import Candidate, Shape
    from advisor.benchmarking.candidates import ProbeCandidates
    from advisor.benchmarking.session import ProbeSession
    from advisor.calibration.intervals import Regime
    from advisor.tuning.decision import CandidateSet
    from catalog.schema import Measurement
    from probes.sweep import Sweep

REGIMES = ("steady", "static")
BATCHES = (1, 4, 16, 64, 256)
"""Measured beside the batches that compete."""
SHORT = (128, 64)
"""Prompt and output of batches that cost little and tell the decode steps."""
MOST_OUTPUT = 64
"""Longest output that is measured: a decode step at the workload's context is known after so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What was measured, what that says of the deployments, and how sure it is which is best."""

    model: Model
    cluster: Cluster
    engine: str
    workload: Workload
    slo: Slo
    objective: str
    regime: Regime
    best: TuningChoice | None
    """None where nothing keeps the limits."""
    candidates: tuple[TuningChoice, ...]
    """Each layout with its best batch, best first."""
    believed: TuningChoice
    """What seemed best before anything was measured."""
    certain: bool
    confirmed: bool
    """Whether the layout that is best was measured itself."""
    doubt: float
    """Probability that another deployment is better by more than 1%."""
    regret: float
    """By what share the really best deployment is expected to be better."""
    regret_95: float
    """By what share it is better at most, with a probability of 95%."""
    rounds: tuple[Mapping[str, Any], ...]
    """What was run, when, why, and what was known after it."""
    runs: tuple[Measurement, ...]
    """What has been measured of this model, now or before."""
    measured_now: int
    seconds: float
    budget_s: float | None
    ended: str
    """Why measuring ended, or that it has not begun."""
    upcoming: tuple[Mapping[str, Any], ...]
    """What would be run next, as a dry run lists it."""
    relaxations: tuple[str, ...]
    """Where nothing keeps the limits, what would, in numbers."""
    command: tuple[str, ...]
    """argv that starts ``best``; empty if there is none."""
    notes: tuple[Note, ...]
    left_out: tuple[str, ...]
    failed: tuple[str, ...]
    """Loads, whose logs are in ``logs``."""
    logs: str
    store: str
    study_name: str
    steps: tuple[TuningStep, ...] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types; of the runs their names, they are in ``store``."""
        return {**header("tuning/1"), **plain_fields(self, "steps", "runs")} | {
            "model": self.model.name,
            "cluster": str(self.cluster),
            "interval_level": LEVEL,
            "runs": [run.run_id for run in self.runs],
        }


def tune(
    model: str | Model,
    gpus: str | Cluster = "local",
    *,
    workload: Workload | None = None,
    slo: Slo | None = None,
    objective: str = "throughput_per_gpu",
    regime: Regime = "steady",
    engine: str = "torch",
    dtype: str = "auto",
    budget_s: float | None = 300.0,
    device: str = "cuda",
    max_batch: int | None = None,
    price: float | None = None,
    storage: str | None = None,
    study_name: str | None = None,
    out: str | Path | None = None,
    store: str | Path | None = None,
    dry_run: bool = False,
    began: float | None = None,
    watch: Callable[[ProbeSession], Callable[[Sweep], None] | None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Tuning:
    """Measure what would change the choice of a deployment most, until that is certain or the budget is spent.

    Loads of an engine run side by side on disjoint GPUs; after each round everything is estimated again from what was
    measured, the next round is the one worth most for a second, and the best two layouts are measured before the end.
    Every measurement is kept as soon as it is taken: the same call after an end of any kind goes on, and later answers stand
    on the runs. Needs torch, and GPUs that nobody else uses.

    Args:
        model: catalog name or alias, Hugging Face id, path to a ``config.json``, or a ``Model``.
        gpus: "local" for all of this machine's, "2" for two of them, "0,3" for these; for a dry run also "4xH200".
        workload: lengths and, if wanted, the number of requests kept in flight; 1024 in and 256 out by default.
        slo: limits on the mean latencies.
        objective: one of ``advisor.recommendation.problem.OBJECTIVES``.
        regime: "steady": the batch is kept in flight, which static probes tell by way of the model of time; "static": whole
            batches that arrive at once, which are exactly what is measured.
        engine: "torch" (plain PyTorch) or "vllm".
        dtype: weight format, or "auto" for the checkpoint's own.
        budget_s: seconds from the call on; None: no limit.
        device: "cuda", or "cpu" for trying things out with tiny models, a process in place of each GPU.
        max_batch: largest batch per replica to consider; 1024 if None.
        price: dollars per GPU-hour; None for the cheapest offer in the catalog.
        storage: URL or path that keeps the Optuna study of the rounds.
        study_name: name of the study there.
        out: folder for everything; None for $ADVISOR_HOME.
        store: file of the measurements; None for OUT/runs.jsonl, or the one in $ADVISOR_HOME/runs.
        dry_run: measure nothing; say what is believed and what would be measured first.
        began: when the budget began to count, on the clock of ``time.monotonic``; None: now.
        watch: makes of a round what sees its sweep a few times a second.
        say: takes a line about what happens.

    Raises:
        InputError: a name, number or combination that cannot be, no GPU or one in use, or a budget too small for a single
            measurement; the message says what would be right.

    """
    began = time.monotonic() if began is None else began
    workload, slo = workload or Workload(), slo or Slo()
    here: dict[str, Any] = {"regime": regime, "dtype": dtype, "device": device}
    search, notes = _search(
        model,
        gpus,
        **here,
        workload=workload,
        slo=slo,
        objective=objective,
        engine=engine,
        max_batch=max_batch,
        price=price,
    )
    able, candidates, batches = _measurable(
        search, model, gpus, **here, budget_s=budget_s, out=out, store=store, began=began
    )
    mine, others = own_runs(able)
    machine = Machine(able, mine, watch=watch, say=say)
    gpu = search.cluster.gpu.name
    start = shipped_surrogate().marginal(search.engine, gpu)
    prior = prior_of(start, others, model=able.model.name, engine=search.engine, gpu=gpu)
    most = {f"tp{tp}pp{pp}": batches for tp, pp in (load.layout for load in able.loads)}
    study = ExternalStudy(most, storage=storage, study_name=study_name)
    taken: list[TuningStep] = []
    for step in steps(candidates, machine, prior, runs=mine, study=study):
        taken.append(step)
        if len(taken) > 1:
            say(_progress_line(candidates, step))
        if dry_run:
            break
    last = taken[-1]
    upcoming = tuple(_expected(load, machine.start_s) for load in last.upcoming if dry_run)
    waiting = machine.waiting()
    if waiting and len(taken) == 1 and not (last.runs or upcoming):
        raise _too_small(budget_s, waiting, machine.start_s)
    return Tuning(
        model=able.model,
        cluster=able.cluster,
        workload=workload,
        slo=slo,
        objective=objective,
        regime=regime,
        **_choice(search, candidates, last, believed(prior, ())),
        rounds=tuple(_round(candidates, step) for step in taken[1:]),
        runs=last.runs,
        measured_now=len(last.runs) - len(mine),
        seconds=time.monotonic() - began,
        budget_s=budget_s,
        ended=_ended(last, dry_run=dry_run, waiting=bool(waiting)),
        upcoming=upcoming,
        notes=(*able.notes, *notes, *_doubts(last.runs)),
        left_out=able.left_out,
        failed=tuple(machine.failed),
        logs=str(able.config.out / "logs"),
        store=str(able.config.store),
        study_name=study.study.study_name,
        steps=tuple(taken),
    )


def _too_small(budget_s: float | None, waiting: Sequence[Candidate], start_s: float) -> InputError:
    """Return what to raise where a budget does not suffice for a single batch."""
    least = min(wall_s([load.only(list(load.seconds)[:1])], start_s) for load in waiting) / PLANNED
    return InputError(
        f"budget is {budget_s:g} s; starting and measuring one batch takes about {least:.0f} s, give more"
    )


def _measurable(
    search: DeploymentSearch,
    model: str | Model,
    gpus: str | Cluster,
    *,
    regime: Regime,
    dtype: str,
    device: str,
    **session: Any,
) -> tuple[ProbeCandidates, CandidateSet, int]:
    """Find the layouts that compete and can be measured here, and how many batches there are of each.

    ``session``: further arguments of ``probe_candidates``.

    Raises:
        NothingFits: no layout can be measured.

    """
    degrees = list(dict.fromkeys(zip(*(search.space().columns()[name].tolist() for name in ("tp", "pp")), strict=True)))
    compiled = device == "cuda"
    competing = candidate_set(search, degrees, regime=regime, compiled=compiled)
    start = shipped_surrogate().marginal(search.engine, search.cluster.gpu.name)
    shapes = _shapes(competing, Belief.of(start), search.workload)
    most = max(
        find_engine(search.engine).batch_defaults(search.cluster.gpu).max_num_seqs, *(shape[0] for shape in shapes)
    )
    question = ProbeQuestion(engine=search.engine, dtype=dtype, listed=shapes, max_num_seqs=most, compiled=compiled)
    able = probe_candidates(model, gpus, question=question, device=device, **session)
    layouts = [load.layout for load in able.loads]
    if not layouts:
        raise NothingFits(f"nothing can be measured: {'; '.join(able.left_out)}")
    measured = [degree for degree in degrees if degree in layouts]
    return able, candidate_set(search, measured, regime=regime, compiled=compiled), len(shapes)


def _command(search: DeploymentSearch, best: TuningChoice | None) -> tuple[str, ...]:
    """Return the argv that starts the best deployment; empty for plain PyTorch, which has none."""
    if best is None or find_engine(search.engine).no_command:
        return ()
    return tuple(launch_command(best.deployment, search.model, search.cluster))


def _search(
    model: str | Model,
    gpus: str | Cluster,
    *,
    workload: Workload,
    slo: Slo,
    objective: str,
    regime: str,
    engine: str,
    dtype: str,
    device: str,
    max_batch: int | None,
    price: float | None,
) -> tuple[DeploymentSearch, list[Note]]:
    """Check the question, and put it with the fit as it was before."""
    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r:.40}; {' and '.join(ENGINES)} can be measured")
    if regime not in REGIMES:
        raise InputError(f"regime is {regime!r:.40}; it must be {' or '.join(REGIMES)}")
    check_question(workload, slo, objective)
    resolved = read_model(model)
    check_lengths(resolved.value, workload.input_len, workload.output_len, None)
    if max_batch is not None:
        require_positive("max_batch", max_batch, most=65536)
    cluster = read_target(gpus, device=device).cluster
    kind = find_engine(engine)
    search = DeploymentSearch(
        model=resolved.value,
        cluster=cluster,
        workload=workload,
        slo=slo,
        objective=objective,
        engine=kind.name,
        dtypes=(dtype,),
        budgets=(kind.batch_defaults(cluster.gpu).max_num_batched_tokens,),
        max_batch=max_batch or MOST_SEQUENCES,
        knowledge=Evidence.of(None, engine=kind.name, gpu=cluster.gpu),
        price=objective_price(objective, cluster.gpu.name, price),
    )
    search, by_formats = checked(search)
    return search, [note for notes in by_formats.values() for note in notes]


def _shapes(candidates: CandidateSet, belief: Belief, workload: Workload) -> tuple[Shape, ...]:
    """List static batches that may be measured: at the workload's prompt the best of each layout by what ships, and some smaller
    ones; and short ones, which cost little.
    """
    longest = workload.output_len if candidates.points.regime == "static" else min(workload.output_len, MOST_OUTPUT)
    utility = candidates.decide(belief).utility
    best: dict[tuple[int, int], int] = {}
    for i, layout in enumerate(candidates.layouts()):
        if layout not in best or utility[i] > utility[best[layout]]:
            best[layout] = i
    competing = {int(candidates.points.batch[i]) for i in best.values()}
    short = (min(SHORT[0], workload.input_len), min(SHORT[1], workload.output_len))
    wanted = [(batch, workload.input_len, longest) for batch in sorted(competing.union(BATCHES))]
    return tuple(dict.fromkeys([*wanted, *((batch, *short) for batch in BATCHES)]))


def _doubts(runs: Sequence[Measurement]) -> list[Note]:
    """Name the runs that cannot be what they say."""
    return [Note(f"{name} is not believed: {why}", "warning") for name, why in impossible(runs).items()]


def _choice(search: DeploymentSearch, candidates: CandidateSet, last: TuningStep, blank: Belief) -> dict[str, Any]:
    """Return what is chosen after the ``last`` step, and how sure that is, by the names of ``Tuning``'s fields; ``blank``: the
    belief before anything was measured.
    """
    choices = choices_of(candidates, last.decision, last.belief, blank, last.runs, search)
    best = next((choice for choice in choices if choice.feasible), None)
    return {
        "engine": search.engine,
        "best": best,
        "candidates": choices,
        "believed": choices_of(candidates, candidates.decide(blank), blank, blank, (), search)[0],
        "relaxations": () if best else relaxations_of(choices[0], search.slo),
        "command": _command(search, best),
        "certain": last.certain,
        "confirmed": candidates.layouts()[last.decision.best] in {(run.tp, run.pp) for run in last.runs},
        "doubt": last.decision.doubt,
        "regret": math.expm1(last.decision.regret),
        "regret_95": math.expm1(last.decision.regret_95),
    }


def _round(candidates: CandidateSet, step: TuningStep) -> dict[str, Any]:
    tp, pp = candidates.layouts()[step.decision.best]
    return {
        "loads": [_load(load) for load in step.loads],
        "why": step.why,
        "expected_s": round(step.expected_s, 1),
        "took_s": round(step.took_s, 1),
        "measured": len(step.runs),
        "best_tp": tp,
        "best_pp": pp,
        "best_batch": int(candidates.points.batch[step.decision.best]),
        "doubt": step.decision.doubt,
        "regret": math.expm1(step.decision.regret),
    }


def _expected(load: Candidate, start_s: float) -> dict[str, Any]:
    return _load(load) | {"expected_s": round(wall_s([load], start_s), 1)}


def _load(candidate: Candidate) -> dict[str, Any]:
    return {"tp": candidate.layout[0], "pp": candidate.layout[1], "shapes": [list(shape) for shape in candidate.shapes]}


def _progress_line(candidates: CandidateSet, step: TuningStep) -> str:
    tp, pp = candidates.layouts()[step.decision.best]
    batch = int(candidates.points.batch[step.decision.best])
    return (
        f"{len(step.runs)} batches measured: TP{tp} PP{pp} at batch {batch} is best, with a probability of "
        f"{step.decision.doubt:.0%} something else is better by more than 1%"
    )


def _ended(last: TuningStep, *, dry_run: bool, waiting: bool) -> str:
    if dry_run:
        return "nothing was measured"
    if last.certain:
        return "the choice is certain"
    if last.settled:
        return "what is left to be measured would not change the choice"
    return "the budget is spent" if waiting else "everything that can be has been measured"
