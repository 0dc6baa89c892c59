"""Measured runs as a document and as rows."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from advisor.render.document import Document, Section, Table
from advisor.render.measured.sentences import missing
from advisor.render.measured.series import SeriesLayout, settings_texts, setup_of
from advisor.render.numbers import MS, Unit, share, unit_of
from advisor.render.tables import ESSENTIAL, Column
from advisor.render.vocabulary import E2E, TPOT, TTFT
from catalog.errors import InputError
from catalog.run_quantities import gib_sent, joules_per_token, power_w, tok_s, tok_s_per_gpu
from catalog.schema import Measurement
from catalog.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from advisor.render.measured.series import Setup


def document(runs: Sequence[Measurement]) -> Document:
    """Return the runs: what all share as a heading, the others' differences as columns.

    Raises:
        InputError: there are no runs.

    """
    members = some_runs(runs)
    columns = measured_columns(members)
    constant = {
        column.name: column.cells[0] for column in columns if column.name in SHARED and len(set(column.cells)) == 1
    }
    if len(members) == 1:
        constant = {}
    shared = [f"{name} {value}".strip() for name, value in constant.items()]
    partly = missing(members)
    return Document(
        title=f"Measured: {counted(len(members), 'run')}",
        question=[counted(len(members), "run"), *shared],
        sections=[
            Section(
                table=Table(columns=[column for column in columns if column.name not in constant]),
                lines=[("missing", [", ".join(partly)])] if partly else [],
            )
        ],
    )


SHARED = ("model", "GPU", "engine", "format")
"""Columns that go into the heading where all their cells are alike."""


def some_runs(runs: Iterable[Measurement]) -> list[Measurement]:
    """Return the runs as a list.

    Raises:
        InputError: there are none.

    """
    members = list(runs)
    if not members:
        raise InputError("there are no measured runs to report on; measure some, or name a store that holds some")
    return members


def measured_columns(runs: Sequence[Measurement]) -> list[Column]:
    """Return one row a run, in order of setup, length, parallelism and batch; quantities that no run has are left out."""
    members = ordered(runs)
    settings = _settings(members)
    columns = [
        Column(name="model", cells=[setup_of(run).model_name for run in members], right=False, rank=1),
        Column(name="GPU", cells=[run.gpu for run in members], right=False, rank=2),
        Column(
            name="engine", cells=[f"{run.engine} {run.engine_version}".rstrip() for run in members], right=False, rank=3
        ),
        Column(name="format", cells=[run.dtype for run in members], right=False, rank=7),
        Column(name="parallel", cells=[str(SeriesLayout.of(run)) for run in members], right=False),
        Column(name="settings", cells=settings, right=False, rank=6),
        Column(name="in/out", cells=[f"{run.input_len}/{run.output_len}" for run in members]),
        Column(name="batch", cells=[str(run.batch) if run.batch else "full" for run in members]),
    ]
    columns = [column for column in columns if any(column.cells)]
    measured: list[tuple[str, str, int, Callable[[Measurement], float | None]]] = [
        ("tok/s", "", 4, tok_s),
        ("tok/s", "per GPU", ESSENTIAL, tok_s_per_gpu),
        ("prefill", "ms", 5, lambda run: run.prefill_ms),
        (TTFT, "ms", 10, lambda run: run.ttft_ms),
        (TPOT, "ms", ESSENTIAL, lambda run: run.tpot_ms),
        (E2E, "ms", 11, lambda run: run.e2e_ms),
        ("memory", "GiB", 4, lambda run: run.peak_memory_gib),
        ("sent", "GiB/GPU", 8, gib_sent),
        ("energy", "J/token", 8, joules_per_token),
        ("power", "W/GPU", 9, power_w),
    ]
    for name, unit, rank, value in measured:
        unit_shown = unit_of(map(value, members)) if unit == MS.name else Unit(unit)
        cells = ["OOM" if run.oom and rank == ESSENTIAL else unit_shown.short(value(run)) for run in members]
        columns.append(Column(name=name, unit=unit_shown.name, cells=cells, rank=rank))
    shares: list[tuple[str, str, int, Callable[[Measurement], float | None]]] = [
        ("busy", "", 9, lambda run: run.utilisation),
        ("agrees", "top 1", 9, lambda run: run.top1_agreement),
        ("spread", "", 12, lambda run: run.spread),
    ]
    for name, unit, rank, value in shares:
        columns.append(Column(name=name, unit=unit, cells=[_share(value(run), rank) for run in members], rank=rank))
    facts = {"regime": "requests come", "role": "role", "source": "source"}
    columns += [
        Column(key=key, name=name, cells=[str(getattr(run, key)) for run in members], right=False, rank=13)
        for key, name in facts.items()
    ]
    return [column for column in columns if set(column.cells) not in ({"-"}, {""})]


def _share(value: float | None, rank: int) -> str:
    if value is None:
        return "-"
    return share(value) if rank == 9 else f"{value:.1%}"


def measured_rows(runs: Iterable[Measurement]) -> list[dict[str, Any]]:
    """Return every field of every run, and what follows from them: throughput and power per GPU, energy per token."""
    members = ordered(runs)
    return [
        {
            **body,
            "output_tok_s_per_gpu": tok_s_per_gpu(run),
            "energy_j_per_token": joules_per_token(run),
            "power_w_per_gpu": power_w(run),
        }
        for run, body in zip(members, run_fields(members), strict=True)
    ]


def ordered(runs: Iterable[Measurement]) -> list[Measurement]:
    """Order runs by setup, length, parallelism and batch."""
    return sorted(
        runs,
        key=lambda run: (setup_of(run), run.input_len, run.output_len, SeriesLayout.of(run), run.batch or math.inf),
    )


def _settings(runs: Sequence[Measurement]) -> list[str]:
    """Say in which settings each run differs from most of its setup's."""
    by_setup: dict[Setup, list[int]] = {}
    for i, run in enumerate(runs):
        by_setup.setdefault(setup_of(run), []).append(i)
    texts = [""] * len(runs)
    for rows in by_setup.values():
        for i, text in zip(rows, settings_texts([runs[i] for i in rows]), strict=True):
            texts[i] = text
    return texts


def run_fields(runs: Iterable[Measurement]) -> list[dict[str, Any]]:
    return [{field.name: getattr(run, field.name) for field in fields(Measurement)} for run in ordered(runs)]
