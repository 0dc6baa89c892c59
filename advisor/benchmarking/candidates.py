"""What could be measured of a model on some GPUs, for a plan or a campaign to choose from."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.benchmarking.benchmark_plan import (
    Candidate,
    ProbeQuestion,
    candidates,
    chosen,
    plan_of,
    prefix_of,
)
from advisor.benchmarking.engines import check_deployment
from advisor.benchmarking.session import (
    PLANNED,
    ProbeSession,
    SessionConfig,
    known_parameters,
    session_config,
    start_seconds,
)
from advisor.benchmarking.traffic_plan import CLOSED_FIRST, SHARES
from advisor.prediction.inputs import read_model
from catalog.errors import InputError, Note
from probes.benchmark_plan import jobs_of
from probes.sweep import undone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.schema import Cluster, Model


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCandidates:
    """What could be measured of a model, before anything is chosen."""

    model: Model
    loads: tuple[Candidate, ...]
    """Layouts that fit with all their shapes, the most telling first."""
    left_out: tuple[str, ...]
    notes: tuple[Note, ...]
    role: str
    label: str
    serving: bool = False
    """Whether traffic is measured, in place of static batches."""
    config: SessionConfig
    """What all loads have in common."""

    @property
    def cluster(self) -> Cluster:
        """Return the GPUs to measure on."""
        return self.config.target.cluster

    @property
    def start_s(self) -> float:
        """Return the seconds until a load measures, by those seen so far."""
        return start_seconds(self.config, prefix_of(self.cluster, self.config.engine))

    def undone(self) -> list[Candidate]:
        """Return the layouts with the shapes that no sweep has been through yet."""
        jobs = jobs_of(self._plan(self.loads), "the plan")
        remaining = [
            candidate.only(undone(job, self.config.out)) for candidate, job in zip(self.loads, jobs, strict=True)
        ]
        return [candidate for candidate in remaining if candidate.seconds]

    def probing(self, loads: Sequence[Candidate], late: Sequence[str] = ()) -> ProbeSession:
        """Plan these loads in this order, ready to be run; ``late`` says which others there is no time for."""
        plan = self._plan(loads)
        return ProbeSession.of(
            self.config,
            plan,
            jobs_of(plan, "the plan"),
            loads,
            all_jobs=jobs_of(self._plan(self.loads), "the plan"),
            start_s=self.start_s,
            notes=self.notes,
            left_out=(*self.left_out, *late),
        )

    def _plan(self, loads: Sequence[Candidate]) -> dict[str, Any]:
        what = "under traffic" if self.serving else "static batches"
        source = f"advisor probe, {time.strftime('%Y-%m', time.gmtime())}, {what}"
        return plan_of(
            loads, self.model, self.cluster, role=self.role, source=source, label=self.label, start_s=self.start_s
        )


def candidates_of(model: str | Model, question: ProbeQuestion, role: str, config: SessionConfig) -> ProbeCandidates:
    """List what could be measured of a model: its layouts that fit, with all their shapes.

    Raises:
        InputError: a model that is not known, or one of which no layout or shape can be run.

    """
    target, device = config.target, config.device
    resolved = read_model(model)
    named = resolved.value
    if named.source.endswith(".json"):  # later answers may be asked for from another folder
        named = replace(named, name=str(Path(named.name).expanduser().resolve()))
    if question.trace:
        longest = question.max_model_len or named.max_position_embeddings
        question = replace(question, trace=question.trace.within(longest))
    able, left_out = candidates(
        named,
        target.cluster,
        replace(question, compiled=device == "cuda"),
        known_parameters(question.engine, target.cluster),
        check=lambda deployment: check_deployment(question.engine, named, deployment, device),
    )
    notes = (*resolved.notes, *target.notes, *(question.trace.notes if question.trace else ()))
    label = "-".join(("" if question.dtype == "auto" else question.dtype, "serving" * question.serving)).strip("-")
    return ProbeCandidates(
        model=named,
        loads=tuple(able),
        left_out=tuple(left_out),
        notes=notes,
        role=role,
        label=label,
        serving=question.serving,
        config=config,
    )


def best_of(within: ProbeCandidates) -> ProbeSession:
    """Choose as much of what has not been measured yet as the budget allows, the most telling first.

    Raises:
        InputError: the budget is too small for a single measurement.

    """
    budget_s, start_s = within.config.budget_s, within.start_s
    waiting = within.undone()
    planned_s = math.inf if budget_s is None else PLANNED * budget_s
    at_once = CLOSED_FIRST + len(SHARES) if within.serving else 1
    loads, late = chosen(waiting, budget_s=planned_s, start_s=start_s, gpus=within.cluster.num_gpus, at_once=at_once)
    if waiting and not loads:
        least = min(start_s + min(candidate.seconds.values()) for candidate in waiting) / PLANNED
        raise InputError(
            f"budget is {budget_s:g} s; starting and measuring one batch takes about {least:.0f} s, give more"
        )
    return within.probing(loads, late)


def probe_candidates(
    model: str | Model,
    gpus: str | Cluster = "local",
    *,
    question: ProbeQuestion,
    budget_s: float | None = None,
    device: str = "cuda",
    out: str | Path | None = None,
    store: str | Path | None = None,
    began: float | None = None,
) -> ProbeCandidates:
    """List what could be measured of a model, for the caller to choose from; arguments are those of ``probe``."""
    config = session_config(
        question, gpus, budget_s=budget_s, device=device, role="fit", out=out, store=store, began=began
    )
    return candidates_of(model, question, "fit", config)
