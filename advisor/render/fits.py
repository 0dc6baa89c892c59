"""A fit of own runs as a person reads it: what it stands on, how the parameters moved, and how right it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from advisor.perf_model.parameters import PRIORS
from advisor.render.lines import header, labelled
from advisor.render.numbers import share, short, span
from advisor.render.tables import Column, drawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from advisor.calibration.fingerprint import Platform
    from advisor.calibration.fit_report import FitReport, Outlier, ParameterShift
    from advisor.calibration.surrogate import Surrogate

MOST_MOVES, MOST_OUTLIERS = 6, 10
LEAST_DISTANCE = 0.1
"""Standard deviations from which a parameter is said to have moved."""


def fit_view(found: Surrogate, width: int, *, wide: bool = False, written: str | None = None) -> list[RenderableType]:
    """Everything to print, in order; ``wide``: every parameter and every outlier."""
    room = None if wide else width
    view: list[RenderableType] = []
    for lesson in found.lessons:
        start = "the priors" if found.alone else f"what ships ({lesson.provenance_before})"
        view.append(header([f"{lesson.engine} on {lesson.gpu}", *_amount(lesson), f"from {start}"], width))
        view.append(labelled(_stands_on(lesson)))
        moved = [move for move in lesson.moves if wide or move.distance >= LEAST_DISTANCE]
        shown = moved if wide else moved[:MOST_MOVES]
        view += ["", drawn(move_columns(shown), room), ""] if shown else ["", "no parameter moved", ""]
        view += [drawn(accuracy_columns(found, lesson), room), ""] if lesson.accuracy else []
        if lesson.outliers:
            told = lesson.outliers if wide else lesson.outliers[:MOST_OUTLIERS]
            view += [drawn(outlier_columns(told), room)]
            rest = len(lesson.outliers) - len(told)
            view += [f"and {rest} more (--wide)" if rest else "", *([""] if rest else [])]
    used = f"--fit {written}" if written else "advisor fit -o FILE, then --fit FILE"
    view.append(labelled([("use it", [f"with {used}, in recommend, estimate, simulate, plan, export and validate"])]))
    return view


def _amount(lesson: FitReport) -> list[str]:
    kernels = [_counted(lesson.kernels, "kernel time")] if lesson.kernels else []
    return [_counted(lesson.runs, "run"), *kernels] if lesson.runs else kernels


def _stands_on(lesson: FitReport) -> list[tuple[str, Sequence[str]]]:
    lines: list[tuple[str, Sequence[str]]] = [("models", [", ".join(lesson.models)])] if lesson.models else []
    platforms = [told for platform in lesson.platforms if (told := _platform(platform))]
    if platforms:
        lines.append(("with", platforms))
    # Fits that learn nothing of use, or too much, must not look like the others.
    wider = [f"{each.metric} x {each.widening:.2f}" for each in lesson.accuracy if each.widening > 1.0]
    if wider:
        lines.append(("wider", [f"intervals, as left-out errors ask: {', '.join(wider)}"]))
    return lines


def _platform(platform: Platform) -> str:
    parts = [
        f"version {platform.engine_version}" if platform.engine_version else "",
        f"driver {platform.driver}" if platform.driver else "",
        f"{platform.sm_mhz} MHz" if platform.sm_mhz else "",
    ]
    return ", ".join(filter(None, parts))


def move_columns(moves: Sequence[ParameterShift]) -> list[Column]:
    """Parameters before and after, the farthest first."""
    return [
        Column(name="parameter", cells=[move.name for move in moves], right=False),
        Column(name="before", cells=[short(move.before) for move in moves]),
        Column(name="90%", cells=[span(move.before_low, move.before_high) for move in moves], rank=1),
        Column(name="after", cells=[short(move.after) for move in moves]),
        Column(name="90%", cells=[span(move.after_low, move.after_high) for move in moves]),
        Column(name="moved", unit="sd", cells=[f"{move.distance:.1f}" for move in moves], rank=2),
        Column(name="what it is", cells=[PRIORS[move.name].meaning for move in moves], right=False, rank=5),
    ]


def accuracy_columns(found: Surrogate, lesson: FitReport | None = None) -> list[Column]:
    """Errors and intervals before and after; of every engine and GPU where no ``lesson`` is named."""
    chosen = found.lessons if lesson is None else (lesson,)
    rows = [(each, row) for each in chosen for row in each.accuracy]
    where = [
        Column(name="engine", cells=[each.engine for each, _ in rows], right=False),
        Column(name="GPU", cells=[each.gpu for each, _ in rows], right=False),
    ]
    return [
        *(where if lesson is None else []),
        Column(name="quantity", cells=[row.metric for _, row in rows], right=False),
        Column(name="runs", cells=[str(row.runs) for _, row in rows], rank=3),
        Column(name="error", unit="before", cells=[f"{row.error_before:.1%}" for _, row in rows]),
        Column(name="left out", unit="in turn", cells=[_share(row.error_left_out) for _, row in rows]),
        Column(name="fitted", cells=[f"{row.error_after:.1%}" for _, row in rows], rank=2),
        Column(name="interval", unit="before", cells=[f"+-{share(row.half_width_before)}" for _, row in rows]),
        Column(name="interval", unit="after", cells=[f"+-{share(row.half_width_after)}" for _, row in rows]),
        Column(name="held", cells=["-" if row.held is None else share(row.held) for _, row in rows], rank=1),
    ]


def accuracy_rows(found: Surrogate) -> list[dict[str, Any]]:
    """The same, one row an engine, GPU and quantity."""
    return [{"engine": each.engine, "gpu": each.gpu, **asdict(row)} for each in found.lessons for row in each.accuracy]


def outlier_columns(outliers: Sequence[Outlier]) -> list[Column]:
    """Runs that the others contradict."""
    return [
        Column(name="disagrees with the others", cells=[each.run_id for each in outliers], right=False),
        Column(name="quantity", cells=[each.metric for each in outliers], right=False),
        Column(name="measured", cells=[short(each.measured) for each in outliers]),
        Column(name="predicted", cells=[short(each.predicted) for each in outliers]),
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + "s" * (number != 1)
