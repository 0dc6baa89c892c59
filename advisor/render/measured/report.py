"""Measured runs as a folder: the runs, what they say, and figures of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.prediction.run_facts import facts_of
from advisor.render.answers.measured import measured_columns, ordered, run_fields, some_runs
from advisor.render.formats import as_csv
from advisor.render.measured.charts import charts
from advisor.render.measured.sentences import listed, missing, sentences
from advisor.render.measured.series import cases, setup_of
from advisor.render.page import check_figures, draw
from advisor.render.tables import markdown
from catalog.borders import write_whole
from catalog.errors import InputError
from catalog.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from advisor.render.measured.charts import Chart
    from advisor.render.measured.series import Setup
    from catalog.schema import Measurement


def report(runs: Iterable[Measurement], folder: Path) -> list[Path]:
    """Write ``runs.csv``, ``summary.md`` and the figures (PNG) into ``folder``, which is made if it is not there.

    Files of these names are replaced. Returns what was written, the summary first.

    Raises:
        InputError: there are no runs, what draws figures is missing (nothing is written then), or a file cannot be written.

    """
    members = some_runs(runs)
    check_figures()
    facts = facts_of(members)
    pages = charts(members, facts)
    summary, table = folder / "summary.md", folder / "runs.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(table, as_csv(run_fields(members)))
        figures = draw(pages, folder)
        write_whole(summary, _summary(members, pages))
    except OSError as error:
        raise InputError(f"cannot write the report to {folder}: {error.strerror}") from error
    return [summary, table, *figures]


def _summary(runs: Sequence[Measurement], figures: Sequence[Chart]) -> str:
    """Return the summary in Markdown: for each setup what its runs say, its figures, its table."""
    facts = facts_of(runs)
    by_setup: dict[Setup, list[Measurement]] = {}
    for run in ordered(runs):
        by_setup.setdefault(setup_of(run), []).append(run)
    parts = [f"# Measured: {counted(len(runs), 'run')}\n"]
    parts.append(
        "Every number below was measured, or follows from measured ones, unless it is said to be expected. Throughput counts\n"
        "output tokens of whole runs, prefill included; per GPU is over the GPUs used. All rows: [runs.csv](runs.csv).\n"
    )
    for setup, members in by_setup.items():
        parts.append(f"## {setup.title}\n")
        if absent := missing(members):
            parts.append(f"Not measured: {', '.join(absent)}.\n")
        for case in cases(members):
            said = sentences(case, facts) or ["Too few runs to compare anything."]
            parts.append(f"### {case.lengths}\n\n{listed(said)}")
        parts += [f"![{chart.title}]({chart.name}.png)\n" for chart in figures if chart.setup == setup]
        parts.append(markdown(measured_columns(members)))
    return "\n".join(parts)
