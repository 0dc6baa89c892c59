"""A fit of own runs as a document: what it stands on, how the parameters moved, and how right it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from advisor.perf_model.parameters import PRIORS
from advisor.render.document import Document, Section, Table
from advisor.render.numbers import share, short, span
from advisor.render.tables import Column
from catalog.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.calibration.fingerprint import Platform
    from advisor.calibration.fit_report import FitReport, Outlier, ParameterShift
    from advisor.calibration.surrogate import Surrogate

MOST_MOVES, MOST_OUTLIERS = 6, 10
LEAST_DISTANCE = 0.1
"""Standard deviations from which a parameter is said to have moved."""


def document(answer: Surrogate, *, wide: bool = False, path: str | None = None) -> Document:
    """Return what the fit has learned; ``wide``: every parameter and every outlier; ``path``: where it was written."""
    sections = [section for report in answer.lessons for section in _sections(answer, report, wide=wide)]
    use = f"--fit {path}" if path else "advisor fit -o FILE, then --fit FILE"
    lines = [("use it", [f"with {use}, in recommend, estimate, simulate, plan, export and validate"])]
    return Document(title="A fit of own runs", sections=[*sections, Section(lines=lines)])


def _sections(answer: Surrogate, report: FitReport, *, wide: bool) -> list[Section]:
    start = "the priors" if answer.alone else f"what ships ({report.provenance_before})"
    moves = [move for move in report.moves if wide or move.distance >= LEAST_DISTANCE]
    lines = [*_stands_on(report), *([] if moves else [("moved", ["no parameter"])])]
    title = "  |  ".join([f"{report.engine} on {report.gpu}", *_amount(report), f"from {start}"])
    sections = [Section(title=title, heading=True, lines=lines)]
    if moves:
        sections.append(Section(table=Table(columns=move_columns(moves if wide else moves[:MOST_MOVES]))))
    if report.accuracy:
        sections.append(Section(table=Table(columns=accuracy_columns(answer, report))))
    if report.outliers:
        outliers = report.outliers if wide else report.outliers[:MOST_OUTLIERS]
        rest = len(report.outliers) - len(outliers)
        more = [("more", [f"{rest} (--wide)"])] if rest else []
        sections.append(Section(table=Table(columns=outlier_columns(outliers)), lines=more))
    return sections


def _amount(report: FitReport) -> list[str]:
    kernels = [counted(report.kernels, "kernel time")] if report.kernels else []
    return [counted(report.runs, "run"), *kernels] if report.runs else kernels


def _stands_on(report: FitReport) -> list[tuple[str, Sequence[str]]]:
    lines: list[tuple[str, Sequence[str]]] = [("models", [", ".join(report.models)])] if report.models else []
    platforms = [text for platform in report.platforms if (text := _platform(platform))]
    if platforms:
        lines.append(("with", platforms))
    # Fits that learn nothing of use, or too much, must not look like the others.
    wider = [f"{row.metric} x {row.widening:.2f}" for row in report.accuracy if row.widening > 1.0]
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
    """Return parameters before and after, the farthest first."""
    return [
        Column(name="parameter", cells=[move.name for move in moves], right=False),
        Column(name="before", cells=[short(move.before) for move in moves]),
        Column(name="90%", cells=[span(move.before_low, move.before_high) for move in moves], rank=1),
        Column(name="after", cells=[short(move.after) for move in moves]),
        Column(name="90%", cells=[span(move.after_low, move.after_high) for move in moves]),
        Column(name="moved", unit="sd", cells=[f"{move.distance:.1f}" for move in moves], rank=2),
        Column(name="what it is", cells=[PRIORS[move.name].meaning for move in moves], right=False, rank=5),
    ]


def accuracy_columns(answer: Surrogate, report: FitReport | None = None) -> list[Column]:
    """Return errors and intervals before and after; of every engine and GPU where no ``report`` is named."""
    chosen = answer.lessons if report is None else (report,)
    rows = [(fit, row) for fit in chosen for row in fit.accuracy]
    where = [
        Column(name="engine", cells=[fit.engine for fit, _ in rows], right=False),
        Column(name="GPU", cells=[fit.gpu for fit, _ in rows], right=False),
    ]
    return [
        *(where if report is None else []),
        Column(name="quantity", cells=[row.metric for _, row in rows], right=False),
        Column(name="runs", cells=[str(row.runs) for _, row in rows], rank=3),
        Column(name="error", unit="before", cells=[f"{row.error_before:.1%}" for _, row in rows]),
        Column(name="left out", unit="in turn", cells=[_share(row.error_left_out) for _, row in rows]),
        Column(name="fitted", cells=[f"{row.error_after:.1%}" for _, row in rows], rank=2),
        Column(name="interval", unit="before", cells=[f"+-{share(row.half_width_before)}" for _, row in rows]),
        Column(name="interval", unit="after", cells=[f"+-{share(row.half_width_after)}" for _, row in rows]),
        Column(name="held", cells=["-" if row.held is None else share(row.held) for _, row in rows], rank=1),
    ]


def accuracy_rows(answer: Surrogate) -> list[dict[str, Any]]:
    """Return the same, one row an engine, GPU and quantity."""
    return [
        {"engine": report.engine, "gpu": report.gpu, **asdict(row)}
        for report in answer.lessons
        for row in report.accuracy
    ]


def outlier_columns(outliers: Sequence[Outlier]) -> list[Column]:
    """Return runs that the others contradict."""
    return [
        Column(name="disagrees with the others", cells=[outlier.run_id for outlier in outliers], right=False),
        Column(name="quantity", cells=[outlier.metric for outlier in outliers], right=False),
        Column(name="measured", cells=[short(outlier.measured) for outlier in outliers]),
        Column(name="predicted", cells=[short(outlier.predicted) for outlier in outliers]),
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
