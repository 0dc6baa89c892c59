"""Measured runs as a table, and as a folder: the runs, what they say, and figures of it."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from advisor.render.charts import charts
from advisor.render.facts import facts_of
from advisor.render.formats import as_csv, as_json, as_yaml
from advisor.render.lines import header, labelled
from advisor.render.numbers import MS, Unit, share, unit_of
from advisor.render.plots import check_plots, draw
from advisor.render.sentences import listed, missing, sentences
from advisor.render.series import (
    SeriesLayout,
    cases,
    gib_sent,
    joules_per_token,
    power_w,
    settings_told,
    setup_of,
    tok_s,
    tok_s_per_gpu,
)
from advisor.render.tables import ESSENTIAL, Column, drawn, markdown
from catalog.borders import write_whole
from catalog.errors import InputError
from catalog.schema import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from advisor.render.charts import Chart
    from advisor.render.series import Setup

FORMATS = ("table", "json", "csv", "yaml", "markdown")
WIDTH = 100


def report(runs: Iterable[Measurement], folder: Path) -> list[Path]:
    """Write ``runs.csv``, ``summary.md`` and the figures (PNG) into ``folder``, which is made if it is not there.

    Files of these names are replaced. Returns what was written, the summary first.

    Raises:
        InputError: there are no runs, Matplotlib is missing (nothing is written then), or a file cannot be written.

    """
    members = _some(runs)
    check_plots()
    facts = facts_of(members)
    found = charts(members, facts)
    summary, table = folder / "summary.md", folder / "runs.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(table, as_csv(_fields(members)))
        figures = draw(found, folder)
        write_whole(summary, _summary(members, found))
    except OSError as error:
        raise InputError(f"cannot write the report to {folder}: {error.strerror}") from error
    return [summary, table, *figures]


def measured_table(runs: Iterable[Measurement], format: str = "table", width: int = WIDTH) -> str:  # noqa: A002  the option's name
    """The runs in one of ``FORMATS``; a table for people is ``width`` columns wide.

    Raises:
        InputError: there are no runs, or no such format.

    """
    members = _some(runs)
    if format == "table":
        from rich.console import Console  # not for the machines' formats

        console = Console(width=width, color_system=None, highlight=False, markup=False, emoji=False)
        with console.capture() as captured:
            for part in measured_view(members, width):
                console.print(part)
        return "\n".join(line.rstrip() for line in captured.get().split("\n"))
    if format == "markdown":
        return markdown(measured_columns(members))
    if format == "csv":
        return as_csv(measured_rows(members))
    if format in ("json", "yaml"):
        body = {"runs": measured_rows(members)}
        return as_json(body) if format == "json" else as_yaml(body)
    raise InputError(f"format is {format!r:.40}; it must be {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")


def measured_view(runs: Sequence[Measurement], width: int, *, wide: bool = False) -> list[RenderableType]:
    """Everything to print: what all runs share as a heading, the others' differences as columns; ``wide``: every column."""
    members = _some(runs)
    columns = measured_columns(members)
    alike = [column for column in columns if column.rank != ESSENTIAL and _alike(column)] if len(members) > 1 else []
    shared = [f"{column.name} {column.cells[0]}".strip() for column in alike if column.name in SHARED]
    kept = [column for column in columns if column.name not in SHARED or column not in alike]
    told = [f"{len(members)} runs" if len(members) > 1 else "1 run", *shared]
    view: list[RenderableType] = [header(told, width), "", drawn(kept, None if wide else width)]
    if unmeasured := missing(members):
        view += ["", labelled([("partly", [f"measured {', '.join(unmeasured)}"])])]
    return view


SHARED = ("model", "GPU", "engine", "format")
"""Columns that go into the heading where all their cells are alike."""


def _alike(column: Column) -> bool:
    return len(set(column.cells)) == 1


def measured_columns(runs: Sequence[Measurement]) -> list[Column]:
    """One row a run, in order of setup, length, parallelism and batch; quantities that no run has are left out."""
    members = ordered(runs)
    told = _settings(members)
    columns = [
        Column(name="model", cells=[setup_of(run).model_name for run in members], right=False, rank=1),
        Column(name="GPU", cells=[run.gpu for run in members], right=False, rank=2),
        Column(name="engine", cells=[f"{run.engine} {run.engine_version}".rstrip() for run in members], right=False, rank=3),
        Column(name="format", cells=[run.dtype for run in members], right=False, rank=7),
        Column(name="parallel", cells=[str(SeriesLayout.of(run)) for run in members], right=False),
        Column(name="settings", cells=told, right=False, rank=6),
        Column(name="in/out", cells=[f"{run.input_len}/{run.output_len}" for run in members]),
        Column(name="batch", cells=[str(run.batch) if run.batch else "full" for run in members]),
    ]  # fmt: skip
    columns = [column for column in columns if any(column.cells)]
    measured: list[tuple[str, str, int, Callable[[Measurement], float | None]]] = [
        ("tok/s", "", 4, tok_s),
        ("tok/s", "per GPU", ESSENTIAL, tok_s_per_gpu),
        ("prefill", "ms", 5, lambda run: run.prefill_ms),
        ("TTFT", "ms", 10, lambda run: run.ttft_ms),
        ("TPOT", "ms", ESSENTIAL, lambda run: run.tpot_ms),
        ("E2E", "ms", 11, lambda run: run.e2e_ms),
        ("memory", "GiB", 4, lambda run: run.peak_memory_gib),
        ("sent", "GiB/GPU", 8, gib_sent),
        ("energy", "J/token", 8, joules_per_token),
        ("power", "W/GPU", 9, power_w),
    ]
    for name, unit, rank, value in measured:
        told_in = unit_of(map(value, members)) if unit == MS.name else Unit(unit)
        cells = ["OOM" if run.oom and rank == ESSENTIAL else told_in.short(value(run)) for run in members]
        columns.append(Column(name=name, unit=told_in.name, cells=cells, rank=rank))
    shares: list[tuple[str, str, int, Callable[[Measurement], float | None]]] = [
        ("busy", "", 9, lambda run: run.utilisation),
        ("agrees", "top 1", 9, lambda run: run.top1_agreement),
        ("spread", "", 12, lambda run: run.spread),
    ]
    for name, unit, rank, value in shares:
        columns.append(Column(name=name, unit=unit, cells=[_share(value(run), rank) for run in members], rank=rank))
    return [column for column in columns if set(column.cells) != {"-"}]


def _share(value: float | None, rank: int) -> str:
    if value is None:
        return "-"
    return share(value) if rank == 9 else f"{value:.1%}"


def measured_rows(runs: Iterable[Measurement]) -> list[dict[str, Any]]:
    """Every field of every run, and what follows from them: throughput and power per GPU, energy per token."""
    members = ordered(runs)
    return [
        {
            **body,
            "output_tok_s_per_gpu": tok_s_per_gpu(run),
            "energy_j_per_token": joules_per_token(run),
            "power_w_per_gpu": power_w(run),
        }
        for run, body in zip(members, _fields(members), strict=True)
    ]


def ordered(runs: Iterable[Measurement]) -> list[Measurement]:
    """By setup, length, parallelism and batch."""
    return sorted(
        runs,
        key=lambda run: (setup_of(run), run.input_len, run.output_len, SeriesLayout.of(run), run.batch or math.inf),
    )


def _settings(runs: Sequence[Measurement]) -> list[str]:
    """In which settings each run differs from most of its setup's."""
    by_setup: dict[Setup, list[int]] = {}
    for i, run in enumerate(runs):
        by_setup.setdefault(setup_of(run), []).append(i)
    told = [""] * len(runs)
    for rows in by_setup.values():
        for i, text in zip(rows, settings_told([runs[i] for i in rows]), strict=True):
            told[i] = text
    return told


def _fields(runs: Iterable[Measurement]) -> list[dict[str, Any]]:
    return [{each.name: getattr(run, each.name) for each in fields(Measurement)} for run in ordered(runs)]


def _some(runs: Iterable[Measurement]) -> list[Measurement]:
    members = list(runs)
    if not members:
        raise InputError("there are no measured runs to report on; measure some, or name a store that holds some")
    return members


def _summary(runs: Sequence[Measurement], figures: Sequence[Chart]) -> str:
    """The summary in Markdown: for each setup what its runs say, its figures, its table."""
    facts = facts_of(runs)
    by_setup: dict[Setup, list[Measurement]] = {}
    for run in ordered(runs):
        by_setup.setdefault(setup_of(run), []).append(run)
    parts = [f"# Measured: {len(runs)} {'run' if len(runs) == 1 else 'runs'}\n"]
    parts.append(
        "Every number below was measured, or follows from measured ones, unless it is said to be expected. Throughput counts\n"
        "output tokens of whole runs, prefill included; per GPU is over the GPUs used. All rows: [runs.csv](runs.csv).\n"
    )
    for setup, members in by_setup.items():
        parts.append(f"## {setup.title}\n")
        if absent := missing(members):
            parts.append(f"Not measured everywhere: {', '.join(absent)}.\n")
        for case in cases(members):
            said = sentences(case, facts) or ["Too few runs to compare anything."]
            parts.append(f"### {case.lengths}\n\n{listed(said)}")
        parts += [f"![{chart.title}]({chart.name}.png)\n" for chart in figures if chart.setup == setup]
        parts.append(markdown(measured_columns(members)))
    return "\n".join(parts)
