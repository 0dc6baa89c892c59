"""What figures show, before anything is drawn: panels of curves by batch, made from measured runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from advisor.render.measured.series import cases
from advisor.render.vocabulary import TPOT
from catalog.run_quantities import gib_sent, joules_per_token, power_w, tok_s, tok_s_per_gpu, tpot_ms
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from advisor.prediction.run_facts import RunFacts
    from advisor.render.measured.series import Series, SeriesCase, SeriesLayout, Setup
    from catalog.schema import Measurement
    from catalog.units import Array

    Value = Callable[[Measurement], float | None]

MOST_COLUMNS = 3
"""Panels side by side in one figure; more lengths of requests than that go on in another one."""
MOST_CURVES = 8
"""Curves one panel can show and a reader tell apart."""
TPOT_AXIS = f"ms per output token ({TPOT})"
DECADE = 8.0
"""A range of values above this factor is drawn on a logarithmic axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotCurve:
    """One line of a panel, labelled where it ends."""

    label: str
    """"" for a line that belongs to the one before it."""
    x: Array
    y: Array
    hue: str
    """What curves of one colour and marker have in common, in all figures: a parallelism such as "TP2", or a name."""
    style: Literal["solid", "dashed", "dotted"] = "solid"
    marked: bool = True
    """A marker at every point: they were measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A single point that is marked: where memory ends."""

    x: float
    y: float
    kind: Literal["oom", "full"]
    hue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    title: str
    ylabel: str
    curves: tuple[PlotCurve, ...]
    marks: tuple[Mark, ...] = ()
    level: float | None = None
    """A horizontal line: the memory of a GPU, or where two things are equal."""
    level_label: str = ""
    log: bool = False
    percent: bool = False
    xlabel: str = "batch (sequences at once per replica)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One figure."""

    name: str
    """Of the file, without its ending."""
    title: str
    note: str
    """What the reader must know to read it right, below the title."""
    rows: tuple[tuple[Panel | None, ...], ...]
    setup: Setup | None = None
    """Whose runs it shows, where they are of one."""


def charts(runs: Iterable[Measurement], facts: Mapping[Measurement, RunFacts]) -> list[Chart]:
    """Return throughput, latency, memory, communication and energy by batch, for each setup what was measured of it."""
    by_setup: dict[Setup, list[SeriesCase]] = {}
    for case in cases(runs):
        by_setup.setdefault(case.setup, []).append(case)
    pages = []
    for setup, members in by_setup.items():
        for part in range(0, len(members), MOST_COLUMNS):
            together = members[part : part + MOST_COLUMNS]
            number = f"-{part // MOST_COLUMNS + 1}" if len(members) > MOST_COLUMNS else ""
            for make in (_throughput, _latency, _memory, _communication, _energy, _settings):
                chart = make(setup, together, facts, number)
                if chart is not None:
                    pages.append(chart)
    return [
        replace(chart, name=f"{chart.name}_{twin}") if (twin := _twins(pages[:i], chart)) else chart
        for i, chart in enumerate(pages)
    ]


def _twins(before: Sequence[Chart], chart: Chart) -> str:
    """Return a number for a chart whose name another one has: of two models that differ in their organisation or folder."""
    count = sum(other.name == chart.name for other in before)
    return str(count + 1) if count else ""


def _throughput(
    setup: Setup, members: Sequence[SeriesCase], _: Mapping[Measurement, RunFacts], number: str
) -> Chart | None:
    rows = [
        _row(members, tok_s, "output tokens/s", log=True),
        _row(members, tok_s_per_gpu, "output tokens/s per GPU"),
    ]
    return _chart(setup, "throughput", "Throughput", number, rows, "Whole runs, prefill included.")


def _latency(
    setup: Setup, members: Sequence[SeriesCase], _: Mapping[Measurement, RunFacts], number: str
) -> Chart | None:
    rows = [
        _row(members, tpot_ms, TPOT_AXIS),
        _row(members, lambda run: run.prefill_ms, "ms to prefill the batch"),
    ]
    return _chart(setup, "latency", "Latency", number, rows, "All requests of a batch arrive at once.")


def _settings(
    setup: Setup, members: Sequence[SeriesCase], _: Mapping[Measurement, RunFacts], number: str
) -> Chart | None:
    """Return runs of one parallelism in several settings: kernel fusion on and off, a budget of tokens, another cache format."""
    chosen = [replace(case, series=_in_several_settings(case)) for case in members]
    chosen = [case for case in chosen if case.series]
    crowded = {series.label for case in chosen for series in case.series[MOST_CURVES:]}
    chosen = [replace(case, series=case.series[:MOST_CURVES]) for case in chosen]
    rows = [_row(chosen, tok_s, "output tokens/s", by_label=True), _row(chosen, tpot_ms, TPOT_AXIS, by_label=True)]
    note = "One parallelism in several settings; unnamed: what most runs here have."
    return _chart(setup, "settings", "Settings", number, rows, note + _only_in_table(crowded))


def _in_several_settings(case: SeriesCase) -> tuple[Series, ...]:
    times = Counter(series.layout for series in case.series if series.runs)
    return tuple(series for series in case.series if times[series.layout] > 1)


def _energy(
    setup: Setup, members: Sequence[SeriesCase], _: Mapping[Measurement, RunFacts], number: str
) -> Chart | None:
    rows = [
        _row(members, joules_per_token, "J per output token, all GPUs"),
        _row(members, power_w, "W, mean of one GPU"),
        _row(members, lambda run: run.utilisation, "time a GPU was busy", percent=True),
    ]
    return _chart(setup, "energy", "Energy", number, rows, "Whole runs, prefill included.")


def _memory(
    setup: Setup, members: Sequence[SeriesCase], facts: Mapping[Measurement, RunFacts], number: str
) -> Chart | None:
    rows = [[memory_panel(case, facts, title=case.lengths) for case in members]]
    note = (
        "GiB on the fullest GPU without the empty part of the cache that the engine took at its start. "
        "Dots were measured, dotted lines go on to where the cache is full (o); x: out of memory."
    )
    return _chart(setup, "memory", "Memory", number, rows, note)


def memory_panel(case: SeriesCase, facts: Mapping[Measurement, RunFacts], *, title: str) -> Panel | None:
    """Return memory needed by batch, up to the threshold; None if nothing is known of it."""
    curves: list[PlotCurve] = []
    marks: list[Mark] = []
    kept = shown(case)
    devices = {facts[run].device_gib for series in kept for run in (*series.runs, *series.failed) if run in facts}
    device = max(devices, default=None)
    for series in kept:
        hue = str(series.layout)
        x, y = series.points(lambda run: facts[run].used_gib(run) if run in facts else run.peak_memory_gib)
        label = ", ".join([series.label, *_ends(series)])
        tops = [run.peak_memory_gib for run in series.runs if run.peak_memory_gib]
        full, more = cache_full(series), None
        if full and len(x) and full > x[-1] and series.runs[-1] in facts:
            batches = np.geomspace(x[-1], full, 40)
            request_gib = (case.input_len + case.output_len) * facts[series.runs[-1]].kv_bytes_per_token / GIB
            more = PlotCurve(
                label=label, x=batches, y=y[-1] + (batches - x[-1]) * request_gib, hue=hue, style="dotted", marked=False
            )
            marks.append(Mark(x=full, y=float(more.y[-1]), kind="full", hue=hue))
        if len(x):
            curves.append(PlotCurve(label="" if more else label, x=x, y=y, hue=hue))
        curves += [more] if more else []
        top = device or max(tops, default=None)
        marks += [Mark(x=run.batch, y=top, kind="oom", hue=hue) for run in series.failed if top is not None]
    if not curves and not marks:
        return None
    label = "" if device is None else f"{case.setup.gpu}: {device:.0f} GiB"
    return Panel(
        title=title,
        ylabel="GiB on the fullest GPU",
        curves=tuple(curves),
        marks=tuple(marks),
        level=device,
        level_label=label,
    )


def _ends(series: Series) -> list[str]:
    full = cache_full(series)
    texts = [f"full at {full:.0f}"] if full else []
    return texts + ([f"OOM at {min(run.batch for run in series.failed)}"] if series.failed else [])


def cache_full(series: Series) -> float | None:
    """Return sequences of this length that the engine's cache holds at once; None where no run states it."""
    # a run without times was only tried for its memory, with a cache of its own size
    held = [run.kv_capacity_tokens for run in series.runs if run.kv_capacity_tokens and run.e2e_ms]
    if not held:
        return None
    return float(np.median(held)) // (series.runs[0].input_len + series.runs[0].output_len) or None


def _communication(
    setup: Setup, members: Sequence[SeriesCase], facts: Mapping[Measurement, RunFacts], number: str
) -> Chart | None:
    rows = [
        _row(members, gib_sent, "GiB that one GPU sent", log=True),
        [share_panel(case, facts, title=case.lengths) for case in members],
    ]
    counted = any(curve.marked for panel in rows[1] if panel for curve in panel.curves)
    note = "Whole runs. "
    if counted:
        note += "Solid: the least time for the bytes counted, at the links' peak bandwidth. Dashed: expected by the model of costs."
    else:
        note += "No bytes were counted: dashed is what the model of costs expects."
    return _chart(setup, "communication", "Communication", number, rows, note)


def share_panel(case: SeriesCase, facts: Mapping[Measurement, RunFacts], *, title: str) -> Panel | None:
    """Return the share of the time that communication takes: the least that the counted bytes need, and the expected one."""
    curves = []
    for series in shown(case):
        if series.layout.gpus == series.layout.dp:
            continue
        hue = str(series.layout)
        least = series.points(lambda run: facts[run].link_share(run) if run in facts else None)
        expected = series.points(lambda run: facts[run].communication if run in facts else None)
        if len(least[0]):
            curves.append(PlotCurve(label=series.label, x=least[0], y=least[1], hue=hue))
        if len(expected[0]):
            label = "" if len(least[0]) else series.label
            curves.append(PlotCurve(label=label, x=expected[0], y=expected[1], hue=hue, style="dashed", marked=False))
    if not curves:
        return None
    return Panel(title=title, ylabel="communication's share of the time", curves=tuple(curves), percent=True)


def curves_of(case: SeriesCase, value: Value, *, by_label: bool = False) -> tuple[PlotCurve, ...]:
    """Return one curve a series that has the value; with ``by_label`` of all series there are, each in its own colour."""
    curves = []
    for series in case.series if by_label else shown(case):
        x, y = series.points(value)
        if len(x):
            hue = series.label if by_label else str(series.layout)
            curves.append(PlotCurve(label=series.label, x=x, y=y, hue=hue))
    return tuple(curves)


def is_wide(curves: Iterable[PlotCurve]) -> bool:
    """Return whether the values span so much that an axis from 0 would hide the smaller ones."""
    values = np.concatenate([curve.y for curve in curves]) if curves else np.array([])
    return bool(len(values) and values.min() > 0 and values.max() > DECADE * values.min())


def shown(case: SeriesCase) -> list[Series]:
    """Return one series a parallelism: in the settings that most runs have, or else those it has most runs in."""
    best: dict[SeriesLayout, Series] = {}
    for series in sorted(case.series, key=lambda series: (bool(series.settings), -len(series.runs))):
        best.setdefault(series.layout, series)
    return sorted(best.values(), key=lambda series: series.layout)[:MOST_CURVES]


def _row(
    members: Sequence[SeriesCase],
    value: Value,
    ylabel: str,
    *,
    log: bool | None = None,
    percent: bool = False,
    by_label: bool = False,
) -> list[Panel | None]:
    """Return one panel a case, the axes alike; ``log`` None: as the values ask for. ``by_label``: settings have colours too."""
    panels = [curves_of(case, value, by_label=by_label) for case in members]
    wide = not percent and (any(map(is_wide, panels)) if log is None else log)
    return [
        Panel(title=case.lengths, ylabel=ylabel, curves=curves, log=wide, percent=percent) if curves else None
        for case, curves in zip(members, panels, strict=True)
    ]


def _chart(
    setup: Setup, kind: str, what: str, number: str, rows: Sequence[Sequence[Panel | None]], note: str
) -> Chart | None:
    filled = tuple(tuple(row) for row in rows if any(row))
    if not filled:
        return None
    return Chart(
        name=f"{setup.slug}_{kind}{number}", title=f"{what}: {setup.title}", note=note, rows=filled, setup=setup
    )


def _only_in_table(labels: Iterable[str]) -> str:
    named = ", ".join(sorted(labels))
    return f" Only in the table: {named}." if named else ""
