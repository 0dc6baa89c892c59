"""What a campaign of measurements has learned, as a person reads it and as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.report.lines import command_lines, hardware, header, labelled, notes
from advisor.report.numbers import share, short, span
from advisor.report.tables import Column, drawn
from catalog.schema import Note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from advisor.tuning import Choice, Tuning

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
        *(f"{name} <= {limit:g} ms" for name, limit in limits.items() if limit is not None),
    ]
    lengths = f"{found.workload.input_len} in / {found.workload.output_len} out"
    regime = "kept in flight" if found.regime == "steady" else "whole batches"
    head = [found.model.name, hardware(found.cluster), found.engine, f"{lengths}, {regime}", ", ".join(sought)]
    best = None if found.best is None else found.candidates.index(found.best)
    view: list[RenderableType] = [header(head, width)]
    if found.notes:
        view.append(labelled(notes(found.notes)))
    view += ["", drawn(tuning_columns(found), None if wide else width, emphasised=best), ""]
    if found.upcoming:
        view += [drawn(_upcoming_columns(found.upcoming), None if wide else width), ""]
    if found.rounds:
        view += [drawn(_round_columns(found.rounds), None if wide else width), ""]
    view.append(labelled(_told(found, width)))
    return view


def tuning_columns(found: Tuning) -> list[Column]:
    """One row a layout, best first."""
    metric, name, unit = METRIC[found.objective]
    rows = found.candidates
    marks = [">" if row is found.best else "" for row in rows]
    return [
        Column(name="", cells=marks, right=False),
        Column(name="DP x TP x PP", cells=[_layout(row) for row in rows], right=False),
        Column(name="batch", cells=[str(row.batch) for row in rows]),
        Column(name=f"{name} {unit}".strip(), unit="before", cells=[_value(row.before[metric]) for row in rows], rank=3),
        Column(name=f"{name} {unit}".strip(), unit="now", cells=[short(row.metrics[metric][0]) for row in rows]),
        Column(name="90% interval", cells=[span(*row.metrics[metric][1:]) for row in rows]),
        Column(name="TTFT", unit="ms", cells=[short(row.metrics["ttft_ms"][0]) for row in rows], rank=4),
        Column(name="TPOT", unit="ms", cells=[short(row.metrics["tpot_ms"][0]) for row in rows], rank=4),
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
    metric, name, unit = METRIC[found.objective]
    lines: list[tuple[str, Sequence[str]]] = []
    if not found.upcoming:
        was, value = found.believed, found.candidates[0]
        lines.append(
            (
                "learned",
                [
                    f"before: {_layout(was)} at batch {was.batch}, {name} {unit} {_value(was.before[metric])}",
                    f"now: {_layout(value)} at batch {value.batch}, {name} {unit} {_value(value.metrics[metric])}",
                ],
            )
        )
    others = [row for row in found.candidates if row is not found.best]
    second = f"; next best {_layout(others[0])}" if others else ""
    regret = (
        f"{found.regret:.2%} expected, at most {found.regret_95:.1%} with 95%; something else is better by more than 1% with "
        f"a probability of {found.doubt:.0%}{second}"
    )
    lines.append(("regret", [regret]))
    confirmed = "its layout was measured" if found.confirmed else "its layout was not measured itself"
    budget = "" if found.budget_s is None else f" of {short(found.budget_s)} s"
    ended = f"{found.ended}; {confirmed}; {found.seconds:.0f} s{budget}"
    lines.append(("ended" if not found.upcoming else "plan", [ended]))
    if found.regime == "steady":
        lines.append(
            ("source", ["static batches were measured; the steady state follows from them by the model of time"])
        )
    lines.append(("runs", [f"{found.measured_now} measured now, {len(found.runs)} in all, kept in {found.store}"]))
    lines.append(("skipped", found.left_out))
    lines += notes(Note(f"{name} failed", "warning") for name in found.failed)
    lines.append(("run", command_lines(found.command, width - 8) if found.command else []))
    return [(label, texts) for label, texts in lines if texts]


def _round_columns(rounds: Sequence[Mapping[str, Any]]) -> list[Column]:
    return [
        Column(name="round", cells=[str(i) for i, _ in enumerate(rounds, 1)]),
        Column(name="loads: batches at in/out", cells=[_loads(each["loads"]) for each in rounds], right=False),
        Column(name="for", cells=[each["why"] for each in rounds], right=False, rank=2),
        Column(name="took", unit="s", cells=[f"{each['took_s']:.0f}" for each in rounds]),
        Column(
            name="best after", cells=[f"TP{r['best_tp']} PP{r['best_pp']} b{r['best_batch']}" for r in rounds], rank=1
        ),
        Column(name="regret", cells=[f"{each['regret']:.2%}" for each in rounds]),
    ]


def _upcoming_columns(loads: Sequence[Mapping[str, Any]]) -> list[Column]:
    return [
        Column(name="first: batches at in/out", cells=[_loads([each]) for each in loads], right=False),
        Column(name="takes", unit="s", cells=[f"{each['expected_s']:.0f}" for each in loads]),
    ]


def _loads(loads: Sequence[Mapping[str, Any]]) -> str:
    told = []
    for load in loads:
        shapes = ", ".join(f"{batch} at {input_len}/{output_len}" for batch, input_len, output_len in load["shapes"])
        told.append(f"TP{load['tp']} PP{load['pp']}: {shapes}")
    return "; ".join(told)


def _layout(row: Choice) -> str:
    return f"{row.deployment.dp} x {row.deployment.tp} x {row.deployment.pp}"


def _value(metric: tuple[float, float, float]) -> str:
    return f"{short(metric[0])} {span(*metric[1:])}"
