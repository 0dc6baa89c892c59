"""What a campaign of measurements has learned, as a person reads it and as rows."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from advisor.render.lines import LABEL, hardware, header, labelled, notes
from advisor.render.numbers import MS, Unit, limit, share, short, unit_of
from advisor.render.recommendations import start_lines
from advisor.render.tables import Column, drawn, time_column
from catalog.engines import processes
from catalog.errors import Note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from advisor.tuning.choices import TuningChoice
    from advisor.tuning.tuning_run import Tuning

METRIC = {
    "throughput_per_gpu": ("output_tok_s_per_gpu", "tok/s", "per GPU"),
    "cost": ("output_tok_s_per_gpu", "tok/s", "per GPU"),
    "throughput": ("output_tok_s", "tok/s", ""),
    "latency": ("e2e_ms", "E2E", "ms"),
    "ttft": ("ttft_ms", "TTFT", "ms"),
    "tpot": ("tpot_ms", "TPOT", "ms"),
}
"""What each objective shows: the metric, its name and its unit."""
SOUGHT = {
    "throughput_per_gpu": "most tok/s per GPU", "throughput": "most tok/s", "latency": "least E2E latency",
    "ttft": "least TTFT", "tpot": "least TPOT", "cost": "least cost",
}  # fmt: skip


def tuning_view(found: Tuning, width: int, *, wide: bool = False) -> list[RenderableType]:
    """Everything to print, in order."""
    limits = {"TTFT": found.slo.ttft_ms, "TPOT": found.slo.tpot_ms, "E2E": found.slo.e2e_ms}
    sought = [
        SOUGHT[found.objective],
        *(f"{name} <= {limit(most)}" for name, most in limits.items() if most is not None),
    ]
    lengths = f"{found.workload.input_len} in / {found.workload.output_len} out"
    regime = "kept in flight" if found.regime == "steady" else "whole batches"
    head = [found.model.name, hardware(found.cluster), found.engine, f"{lengths}, {regime}", ", ".join(sought)]
    best = None if found.best is None else found.candidates.index(found.best)
    view: list[RenderableType] = [header(head, width)]
    if found.notes:
        view.append(labelled(notes(found.notes)))
    view += ["", drawn(tuning_columns(found), None if wide else width, emphasised=best), ""]
    if found.rounds:
        view += [labelled([(f"round {i}", [_round(each)]) for i, each in enumerate(found.rounds, 1)]), ""]
    view.append(labelled(_told(found, width)))
    return view


def tuning_columns(found: Tuning) -> list[Column]:
    """One row a layout, best first."""
    metric, name, beside = METRIC[found.objective]
    rows = found.candidates
    values = [value for row in rows for value in (row.before[metric][0], row.metrics[metric][0])]
    unit = unit_of(values) if beside == MS.name else Unit(beside)
    marks = [">" if row is found.best else "" for row in rows]
    return [
        Column(name="", cells=marks, right=False),
        Column(name="DP x TP x PP", cells=[_layout(row) for row in rows], right=False),
        Column(name="batch", cells=[str(row.batch) for row in rows]),
        Column(
            name=f"{name} {unit.name}".strip(), unit="before", cells=[_value(row.before[metric], unit) for row in rows], rank=3
        ),
        Column(name=f"{name} {unit.name}".strip(), unit="now", cells=[unit.short(row.metrics[metric][0]) for row in rows]),
        Column(name="90% interval", cells=[unit.span(*row.metrics[metric][1:]) for row in rows]),
        time_column("TTFT", [row.metrics["ttft_ms"][0] for row in rows], rank=4),
        time_column("TPOT", [row.metrics["tpot_ms"][0] for row in rows], rank=4),
        Column(name="best with", unit="probability", cells=[share(row.chance) for row in rows], rank=2),
        Column(name="measured", unit="batches", cells=[str(row.measured) for row in rows], rank=2),
    ]  # fmt: skip


def tuning_rows(found: Tuning) -> list[dict[str, Any]]:
    """One flat row a layout."""
    rows = []
    for row in found.candidates:
        flat: dict[str, Any] = {
            "engine": row.deployment.engine, "dp": row.deployment.dp, "tp": row.deployment.tp, "pp": row.deployment.pp,
            "batch": row.batch, "feasible": row.feasible, "chance": row.chance, "measured": row.measured,
        }  # fmt: skip
        for when, metrics in (("", row.metrics), ("_before", row.before)):
            for name, (value, low, high) in metrics.items():
                flat |= {f"{name}{when}": value, f"{name}{when}_low": low, f"{name}{when}_high": high}
        rows.append(flat)
    return rows


def _told(found: Tuning, width: int) -> list[tuple[str, Sequence[str]]]:
    metric, name, beside = METRIC[found.objective]
    lines: list[tuple[str, Sequence[str]]] = []
    if found.rounds or found.runs:
        was, value = found.believed, found.candidates[0]
        times = [was.metrics[metric][0], value.metrics[metric][0]]
        unit = unit_of(times) if beside == MS.name else Unit(beside)
        seemed, now = (f"{_value(each.metrics[metric], unit)} {name} {unit.name}".rstrip() for each in (was, value))
        before = f"{_layout(was)} at batch {was.batch} seemed best, {seemed}"
        now = f"{_layout(value)} at batch {value.batch} is best, {now}"
        lines.append(("learned", [f"before: {before}", f"now: {now}"]))
    lines.append(("first", [f"{load['expected_s']:.0f} s: {_loads([load])}" for load in found.upcoming]))
    others = [row for row in found.candidates if row is not found.best]
    second = f"; next best {_layout(others[0])}" if others else ""
    regret = (
        f"{found.regret:.2%} expected, at most {found.regret_95:.1%} with 95%; something else is better by more than 1% with "
        f"a probability of {found.doubt:.0%}{second}"
    )
    lines.append(("regret", [regret]))
    if not found.upcoming:
        confirmed = (
            "the best layout was measured itself" if found.confirmed else "the best layout was not measured itself"
        )
        budget = "" if found.budget_s is None else f" of {short(found.budget_s)} s"
        lines.append(("ended", [f"{found.ended}; {confirmed}; {found.seconds:.0f} s{budget} passed"]))
    if found.regime == "steady":
        lines.append(
            (
                "source",
                [
                    (
                        "static batches are measured; the steady state follows from them by the model of time, whose error there "
                        "is in the intervals and taken to be the same for all layouts"
                    )
                ],
            )
        )
    lines.append(("runs", [f"{found.measured_now} measured now, {len(found.runs)} in all, kept in {found.store}"]))
    lines.append(("relax", found.relaxations))
    lines.append(("skipped", found.left_out))
    lines += notes(Note(f"{name} failed, see its log in {found.logs}", "warning") for name in found.failed)
    if found.best is not None and found.command:
        started = processes(found.best.deployment, found.model, found.cluster)
        lines.append(("run", start_lines(found.command, started, width - LABEL)))
    return [(label, texts) for label, texts in lines if texts]


def _round(each: Mapping[str, Any]) -> str:
    why = ", to confirm" if each["why"] == "confirm" else ""
    return (
        f"{each['took_s']:.0f} s{why}: {_loads(each['loads'])}; then TP{each['best_tp']} PP{each['best_pp']} at batch "
        f"{each['best_batch']} is best, regret {each['regret']:.2%}"
    )


def _loads(loads: Sequence[Mapping[str, Any]]) -> str:
    told = []
    for load in loads:
        shapes = sorted(load["shapes"], key=lambda shape: (shape[1:], shape[0]))
        parts = [
            f"{', '.join(str(shape[0]) for shape in alike)} at {input_len}/{output_len}"
            for (input_len, output_len), alike in groupby(shapes, key=lambda shape: (shape[1], shape[2]))
        ]
        told.append(f"TP{load['tp']} PP{load['pp']}: {'; '.join(parts)}")
    return " | ".join(told)


def _layout(row: TuningChoice) -> str:
    return f"{row.deployment.dp} x {row.deployment.tp} x {row.deployment.pp}"


def _value(metric: tuple[float, float, float], unit: Unit) -> str:
    return f"{unit.short(metric[0])} {unit.span(*metric[1:])}"
