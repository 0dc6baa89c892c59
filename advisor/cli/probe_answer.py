"""What ``advisor probe`` shows: its plan, its outcome, and what has been measured before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.cli.output import answer
from advisor.cli.program import refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from advisor.benchmarking.session import ProbeSession
    from advisor.cli.options.output import Output
    from advisor.render.document import Document
    from catalog.schema import Measurement


def show_plan(ready: ProbeSession, output: Output) -> None:
    """Show what would run; nothing is started."""
    from advisor.render.answers.probing import plan_document, plan_rows

    answer(output, lambda: plan_document(ready), body=ready.to_dict, rows=lambda: plan_rows(ready))


def show_outcome(
    ready: ProbeSession, measured: Sequence[Measurement], before: int, output: Output, *, report: bool
) -> None:
    """Show what was measured, and write the report of it where it is asked for."""
    from advisor.render.answers.probing import failures, outcome_document

    if not measured:
        why = "; ".join(failures(ready)) or "the time was over before the first batch was"
        raise refuse(f"nothing was measured: {why}")
    pages = written_report(measured, ready.config.out) if report else []
    answer_runs(
        output,
        measured,
        lambda: outcome_document(ready, measured, before).and_lines([("report", pages)] if pages else []),
        measured_now=len(measured) - before,
        store=str(ready.config.store),
        left_out=list(ready.left_out),
        failed=list(ready.failed()),
        unmeasured=ready.unmeasured(),
        report=pages,
    )


def show_report(out: str | None, runs: str | None, output: Output) -> None:
    """Write a report of what has been measured before, and show the runs."""
    from advisor.benchmarking.session import output_paths  # brings numpy
    from advisor.render.answers.measured import document
    from catalog.runs import read_runs

    folder, store = output_paths(out, runs)
    measured = list(read_runs(store))
    pages = written_report(measured, folder)
    answer_runs(output, measured, lambda: document(measured).and_lines([("report", pages)]), report=pages)


def answer_runs(
    output: Output, measured: Sequence[Measurement], document: Callable[[], Document], **outcome: Any
) -> None:
    """Write runs in the format chosen; ``outcome``: what JSON and YAML hold beside them."""
    from advisor.prediction.presentation import header
    from advisor.render.answers.measured import measured_columns, measured_rows

    answer(
        output,
        document,
        body=lambda: {**header("runs/1"), "runs": measured_rows(measured), **outcome},
        rows=lambda: measured_rows(measured),
        columns=lambda: measured_columns(measured),
    )


def written_report(measured: Sequence[Measurement], folder: Path) -> list[str]:
    """Write the report of runs beside them, and return its files."""
    from advisor.render.measured.report import report  # brings what draws figures

    return [str(page) for page in report(measured, folder / "report")]
