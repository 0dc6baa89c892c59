"""Training as a document: one layout's estimate, and the fastest layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.render.document import Document, Section, Table
from advisor.render.lines import hardware, notes
from advisor.render.numbers import count, dollars, share, short, span
from advisor.render.tables import Column, FlatRows, quantity_columns
from advisor.render.vocabulary import TRAINING_MEMORY, TRAINING_PROVENANCE, TRAINING_TIME
from catalog.models.sizes import parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.render.document import Lines
    from advisor.training.training_estimate import TrainingEstimate, TrainingRecommendation

QUANTITIES = {
    "step_s": ("step", "s"),
    "tokens_s": ("tokens", "tok/s"),
    "tokens_s_per_gpu": ("tokens per GPU", "tok/s"),
    "tflops_per_gpu": ("model operations per GPU", "TFLOP/s"),
    "mfu": ("model FLOPs utilisation", "%"),
}


def document(estimate: TrainingEstimate) -> Document:
    """Return one layout's answer."""
    return Document(
        title=f"Training {estimate.model.name} on {estimate.cluster}",
        question=_question(estimate),
        alarm="" if estimate.fits else "does not fit",
        notes=notes(estimate.notes),
        sections=_sections(estimate),
    )


def recommendation_document(answer: TrainingRecommendation) -> Document:
    """Return the fastest layouts, and the best one's details."""
    first = answer.candidates[0]
    table = Table(columns=candidate_columns(answer.candidates), emphasised=0 if answer.best else None)
    searched = f"{answer.evaluated} layouts, of which {answer.fitting} fit"
    ranking = Section(
        title="Fastest layouts", table=table, lines=[("tried", [searched]), ("relax", answer.relaxations)]
    )
    details = [] if answer.best is None else _sections(first)
    lines = [] if answer.best else [("memory", [_memory(first)])]
    return Document(
        title=f"Training {first.model.name} on {first.cluster}",
        question=_question(first, layout=False),
        alarm="" if answer.best else "nothing fits",
        notes=notes(first.notes),
        sections=[ranking, *details, Section(lines=lines)],
    )


def sentence(answer: TrainingRecommendation) -> str:
    """Say which layout is fastest, what a step takes, and days and cost where tokens were stated; or that nothing fits."""
    best = answer.best
    if best is None:
        return f"{answer.candidates[0].model.name} does not fit {answer.candidates[0].cluster}."
    low, high = best.interval()
    words = f"{best.layout.label} with {best.framework}: {short(best.step_s)} s a step {span(low, high)}, MFU {share(best.mfu)}"
    if best.budget is not None:
        words += f"; {short(best.budget.days)} days"
        words += "" if best.budget.usd is None else f" and ${count(best.budget.usd)}"
        words += f" for {count(best.budget.tokens)} tokens"
    return f"{words}."


def _question(estimate: TrainingEstimate, *, layout: bool = True) -> list[str]:
    what = f"LoRA of rank {estimate.lora_rank}" if estimate.lora_rank else "all weights"
    asked = [
        f"{estimate.model.name}  {count(parameters(estimate.model))}, {what}, {estimate.precision}",
        hardware(estimate.cluster),
    ]
    if layout:
        asked.append(f"{estimate.framework}  {_layout(estimate)}")
    steps = f"batch {estimate.batch} x {estimate.sequence_length} tokens"
    return [*asked, steps + (", optimizer in CPU memory" if estimate.offload else "")]


def _layout(estimate: TrainingEstimate) -> str:
    layout = estimate.layout
    again = "nothing recomputed" if layout.recompute == "none" else f"{layout.recompute} recomputation"
    sliced = ", sequence parallel" if layout.sequence_parallel else ""
    return f"{layout.label}, micro-batch {layout.micro_batch}, {again}{sliced}"


def _sections(estimate: TrainingEstimate) -> list[Section]:
    parts = FlatRows(
        [
            {"part": TRAINING_TIME[part], "seconds": seconds, "share": seconds / estimate.step_s}
            for part, seconds in estimate.breakdown.items()
            if seconds > 0
        ]
    )
    columns = [
        parts.text("part", "part"),
        parts.column("seconds", "time", short, unit="s"),
        parts.column("share", "share", share),
    ]
    return [
        Section(title="Answer", table=Table(columns=metric_columns(estimate)), lines=_lines(estimate)),
        Section(title="A step's time by part", table=Table(columns=columns), detail=True),
    ]


def metric_columns(estimate: TrainingEstimate) -> list[Column]:
    """Return the quantities, one a row, with their intervals."""
    rows = []
    for metric, (name, unit) in QUANTITIES.items():
        factor = 100.0 if unit == "%" else 1.0
        low, high = estimate.interval(metric)
        rows.append(
            {
                "quantity": name,
                "value": short(factor * getattr(estimate, metric)),
                "unit": unit,
                "interval": span(factor * low, factor * high),
            }
        )
    return quantity_columns(rows)


def candidate_columns(candidates: Sequence[TrainingEstimate]) -> list[Column]:
    """Return the layouts, one a row."""
    rows = FlatRows(
        [
            {
                "framework": candidate.framework,
                "layout": candidate.layout.label,
                "micro": candidate.layout.micro_batch,
                "again": candidate.layout.recompute,
                "step": candidate.step_s,
                "step_low": candidate.interval()[0],
                "step_high": candidate.interval()[1],
                "tokens": candidate.tokens_s_per_gpu,
                "mfu": candidate.mfu,
                "memory": candidate.memory["used"],
            }
            for candidate in candidates
        ]
    )
    return [
        rows.text("layout", "layout"),
        rows.column("micro", "micro-batch", narrow="micro"),
        rows.text("again", "recomputed", narrow="recomp", rank=2),
        rows.column("step", "step", short, unit="s"),
        rows.interval("step", rank=1),
        rows.column("tokens", "per GPU", short, unit="tok/s", rank=2),
        rows.column("mfu", "MFU", share),
        rows.column("memory", "memory", short, unit="GiB"),
        rows.text("framework", "framework", rank=3),
    ]


def _memory(estimate: TrainingEstimate) -> str:
    parts = [
        f"{name} {short(estimate.memory[part])}" for part, name in TRAINING_MEMORY.items() if estimate.memory[part] > 0
    ]
    used = f"{short(estimate.memory_gib)} {span(*estimate.interval('memory_gib'))}"
    return f"{' | '.join(parts)}: {used} of {short(estimate.memory['device'])} GiB a GPU"


def _lines(estimate: TrainingEstimate) -> Lines:
    ranked = sorted(estimate.breakdown.items(), key=lambda item: -item[1])
    shares = [
        f"{TRAINING_TIME[part]} {share(seconds / estimate.step_s)}"
        for part, seconds in ranked
        if seconds / estimate.step_s >= 0.005
    ]
    lines: list[tuple[str, Sequence[str]]] = [("layout", [f"{estimate.framework}: {_layout(estimate)}"])]
    lines += [("why", [", ".join(shares)]), ("memory", [_memory(estimate)])]
    if estimate.budget is not None:
        lines += _budget(estimate)
    floor = f"no implementation of this layout takes less than {short(estimate.floor_s)} s a step"
    return [*lines, ("floor", [floor]), ("source", [TRAINING_PROVENANCE[estimate.provenance]])]


def _budget(estimate: TrainingEstimate) -> Lines:
    budget = estimate.budget
    assert budget is not None
    low, high = (budget.days * end / estimate.step_s for end in estimate.interval())
    days = (
        f"{short(budget.days)} days {span(low, high)} for {count(budget.tokens)} tokens, {short(budget.days_undisturbed)} without "
        f"failures and checkpoints"
    )
    failures = (
        f"{short(budget.failures)} interruptions to be expected; a checkpoint every {short(budget.checkpoint_minutes)} minutes "
        f"costs least"
    )
    cost = f"{count(budget.gpu_hours)} GPU-hours"
    if budget.usd is not None and estimate.price is not None:
        cost += (
            f", ${count(budget.usd)} at {dollars(estimate.price.usd_per_gpu_hour)} per GPU-hour: {estimate.price.offer}"
        )
    energy = (
        "" if budget.energy_mwh is None else f"at most {short(budget.energy_mwh)} MWh, the GPUs at their power limit"
    )
    return [("time", [days, failures]), ("cost", [cost]), ("energy", [energy] if energy else [])]
