"""What a campaign of measurements has learned, as a document and as rows."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from advisor.render.answers.recommendation import launch
from advisor.render.document import Document, Section, Table
from advisor.render.lines import hardware, notes
from advisor.render.numbers import MS, Unit, share, short, unit_of
from advisor.render.tables import Column, FlatRows
from advisor.render.vocabulary import E2E, TPOT, TTFT, goal_and_limits
from catalog.errors import Note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.render.document import Lines
    from advisor.tuning.tuning_choice import TuningChoice
    from advisor.tuning.tuning_run import Tuning

METRIC = {
    "throughput_per_gpu": ("output_tok_s_per_gpu", "tok/s", "per GPU"),
    "cost": ("output_tok_s_per_gpu", "tok/s", "per GPU"),
    "throughput": ("output_tok_s", "tok/s", ""),
    "latency": ("e2e_ms", E2E, "ms"),
    "ttft": ("ttft_ms", TTFT, "ms"),
    "tpot": ("tpot_ms", TPOT, "ms"),
}
"""What each objective shows: the metric, its name and its unit."""


def document(answer: Tuning) -> Document:
    """Return what was measured, what it changed, and what is best now."""
    goal = goal_and_limits(answer.objective, answer.slo)
    lengths = f"{answer.workload.input_len} in / {answer.workload.output_len} out"
    regime = "kept in flight" if answer.regime == "steady" else "whole batches"
    best = None if answer.best is None else answer.candidates.index(answer.best)
    rounds = [(f"round {i}", [_round(tuning_round)]) for i, tuning_round in enumerate(answer.rounds, 1)]
    command = None
    if answer.best is not None:
        command = launch(answer.command, answer.best.deployment, answer.model, answer.cluster)
    return Document(
        title=f"What measuring {answer.model.name} changed",
        question=[answer.model.name, hardware(answer.cluster), answer.engine, f"{lengths}, {regime}", goal],
        notes=notes(answer.notes),
        sections=[
            Section(title="Answer", table=Table(columns=tuning_columns(answer), emphasised=best), lines=rounds),
            Section(lines=_lines(answer), command=command),
        ],
    )


def tuning_columns(answer: Tuning) -> list[Column]:
    """Return one layout a row, best first."""
    metric, name, beside = METRIC[answer.objective]
    flat = [
        row | {"mark": ">" if choice is answer.best else "", "layout": choice.deployment.layout}
        for row, choice in zip(tuning_rows(answer), answer.candidates, strict=True)
    ]
    rows = FlatRows(flat)
    values = [*rows.values(metric), *rows.values(f"{metric}_before")]
    unit = unit_of(values) if beside == MS.name else Unit(beside)
    before = [_value(choice.before[metric], unit) for choice in answer.candidates]
    name = f"{name} {unit.name}".strip()
    return [
        rows.text("mark", ""),
        rows.text("layout", "layout"),
        rows.column("batch", "batch"),
        Column(key=f"{metric}_before", name=name, unit="before", cells=before, rank=3),
        rows.column(metric, name, unit.short, unit="now"),
        Column(name="90% interval", cells=[unit.span(*choice.metrics[metric][1:]) for choice in answer.candidates]),
        rows.time("ttft_ms", TTFT, rank=4),
        rows.time("tpot_ms", TPOT, rank=4),
        rows.column("chance", "best with", share, unit="probability", rank=2),
        rows.column("measured", "measured", unit="batches", rank=2),
    ]


def tuning_rows(answer: Tuning) -> list[dict[str, Any]]:
    """Return one flat row a layout."""
    rows = []
    for choice in answer.candidates:
        row: dict[str, Any] = {name: getattr(choice.deployment, name) for name in ("engine", "dp", "tp", "pp")}
        row |= {name: getattr(choice, name) for name in ("batch", "feasible", "chance", "measured")}
        for when, metrics in (("", choice.metrics), ("_before", choice.before)):
            for name, (value, low, high) in metrics.items():
                row |= {f"{name}{when}": value, f"{name}{when}_low": low, f"{name}{when}_high": high}
        rows.append(row)
    return rows


def _lines(answer: Tuning) -> Lines:
    lines: list[tuple[str, Sequence[str]]] = []
    if answer.rounds or answer.runs:
        lines.append(("learned", _learned(answer)))
    lines.append(("first", [f"{load['expected_s']:.0f} s: {_loads([load])}" for load in answer.upcoming]))
    others = [choice for choice in answer.candidates if choice is not answer.best]
    second = f"; next best {others[0].deployment.layout}" if others else ""
    regret = (
        f"{answer.regret:.2%} expected, at most {answer.regret_95:.1%} with 95%; something else is better by more than 1% with "
        f"a probability of {answer.doubt:.0%}{second}"
    )
    lines.append(("regret", [regret]))
    if not answer.upcoming:
        confirmed = f"the best layout was {'' if answer.confirmed else 'not '}measured itself"
        budget = "" if answer.budget_s is None else f" of {short(answer.budget_s)} s"
        lines.append(("ended", [f"{answer.ended}; {confirmed}; {answer.seconds:.0f} s{budget} passed"]))
    if answer.regime == "steady":
        source = (
            "static batches are measured; the steady state follows from them by the model of time, whose error there "
            "is in the intervals and taken to be the same for all layouts"
        )
        lines.append(("source", [source]))
    lines.append(("runs", [f"{answer.measured_now} measured now, {len(answer.runs)} in all, kept in {answer.store}"]))
    lines += [("relax", answer.relaxations), ("skipped", answer.left_out)]
    lines += notes(Note(f"{name} failed, see its log in {answer.logs}", "warning") for name in answer.failed)
    return [(label, texts) for label, texts in lines if texts]


def _learned(answer: Tuning) -> list[str]:
    metric, name, beside = METRIC[answer.objective]
    was, best = answer.believed, answer.candidates[0]
    times = [was.metrics[metric][0], best.metrics[metric][0]]
    unit = unit_of(times) if beside == MS.name else Unit(beside)

    def reached(choice: TuningChoice) -> str:
        return f"{_value(choice.metrics[metric], unit)} {name} {unit.name}".rstrip()

    return [
        f"before: {was.deployment.layout} at batch {was.batch} seemed best, {reached(was)}",
        f"now: {best.deployment.layout} at batch {best.batch} is best, {reached(best)}",
    ]


def _round(outcome: Mapping[str, Any]) -> str:
    why = ", to confirm" if outcome["why"] == "confirm" else ""
    return (
        f"{outcome['took_s']:.0f} s{why}: {_loads(outcome['loads'])}; then TP{outcome['best_tp']} PP{outcome['best_pp']} at batch "
        f"{outcome['best_batch']} is best, regret {outcome['regret']:.2%}"
    )


def _loads(loads: Sequence[Mapping[str, Any]]) -> str:
    texts = []
    for load in loads:
        shapes = sorted(load["shapes"], key=lambda shape: (shape[1:], shape[0]))
        parts = [
            f"{', '.join(str(shape[0]) for shape in members)} at {input_len}/{output_len}"
            for (input_len, output_len), members in groupby(shapes, key=lambda shape: (shape[1], shape[2]))
        ]
        texts.append(f"TP{load['tp']} PP{load['pp']}: {'; '.join(parts)}")
    return " | ".join(texts)


def _value(metric: tuple[float, float, float], unit: Unit) -> str:
    return f"{unit.short(metric[0])} {unit.span(*metric[1:])}"
