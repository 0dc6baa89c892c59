"""What ``advisor probe`` shows: its plan, its outcome, and what has been measured before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.cli.output import answer
from advisor.cli.program import refuse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from advisor.benchmarking.session import ProbeSession
    from catalog.schema import Measurement


def show_plan(ready: ProbeSession, chosen: str, *, wide: bool) -> None:
    from advisor.render.probings import plan_columns, plan_rows, plan_view  # brings Rich

    answer(
        chosen,
        view=lambda width: plan_view(ready, width, wide=wide),
        body=ready.to_dict,
        rows=lambda: plan_rows(ready),
        columns=lambda: plan_columns(ready),
    )


def show_outcome(
    ready: ProbeSession, measured: Sequence[Measurement], before: int, chosen: str, *, wide: bool, report: bool
) -> None:
    from advisor.render.lines import labelled  # brings Rich
    from advisor.render.measured import measured_columns, measured_rows, measured_view
    from advisor.render.probings import failures, outcome_lines

    if not measured:
        why = "; ".join(failures(ready)) or "the time was over before the first batch was"
        raise refuse(f"nothing was measured: {why}")
    pages = _pages(measured, ready.config.out) if report else []
    lines = outcome_lines(ready, len(measured), before)
    lines += [("report", [str(page) for page in pages])] if pages else []
    answer(
        chosen,
        view=lambda width: [*measured_view(measured, width, wide=wide), "", labelled(lines)],
        body=lambda: {
            "runs": measured_rows(measured), "measured_now": len(measured) - before, "store": str(ready.config.store),
            "left_out": list(ready.left_out), "failed": list(ready.failed()), "report": [str(page) for page in pages],
        },
        rows=lambda: measured_rows(measured),
        columns=lambda: measured_columns(measured),
    )  # fmt: skip


def show_report(out: str | None, runs: str | None, chosen: str, *, wide: bool) -> None:
    """A report of what has been measured before."""
    from advisor.benchmarking.session import output_paths  # brings numpy
    from advisor.render.lines import labelled  # brings Rich
    from advisor.render.measured import measured_columns, measured_rows, measured_view
    from catalog.runs import read_runs

    folder, store = output_paths(out, runs)
    measured = list(read_runs(store))
    pages = _pages(measured, folder)
    answer(
        chosen,
        view=lambda width: [
            *measured_view(measured, width, wide=wide), "", labelled([("report", [str(page) for page in pages])])
        ],
        body=lambda: {"runs": measured_rows(measured), "report": [str(page) for page in pages]},
        rows=lambda: measured_rows(measured),
        columns=lambda: measured_columns(measured),
    )  # fmt: skip


def _pages(measured: Sequence[Measurement], folder: Path) -> list[Path]:
    from advisor.render.measured import report  # brings Matplotlib

    return report(measured, folder / "report")
