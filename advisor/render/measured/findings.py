"""Four findings, each one figure from the runs that ship: tensor parallel against split layers, where memory ends, how
communication grows with the batch, and throughput per GPU.

    python -m advisor.render.measured.findings FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.prediction.run_facts import facts_of
from advisor.render.measured import sentences
from advisor.render.measured.charts import Chart, Panel, PlotCurve, cache_full, curves_of, memory_panel, share_panel
from advisor.render.measured.series import cases
from advisor.render.numbers import share, short
from advisor.render.page import check_figures, draw
from catalog.borders import write_whole
from catalog.errors import InputError
from catalog.run_quantities import gib_sent, tok_s_per_gpu
from catalog.runs import read_runs, shipped_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from advisor.prediction.run_facts import RunFacts
    from advisor.render.measured.series import SeriesCase
    from catalog.schema import Measurement

PREFERRED = "torch"
"""The engine whose runs are shown where it has any for a finding: one program for every parallelism, and its bytes are
counted. Otherwise the one with the most."""
MOST_PANELS = 6
COLUMNS = 3


def findings(runs: Iterable[Measurement], folder: Path) -> list[Path]:
    """Write ``findings.md`` and one PNG a finding into ``folder``; a finding that the runs don't hold is said to be absent.

    Raises:
        InputError: there are no runs, what draws figures is missing, or a file cannot be written.

    """
    members = list(runs)
    if not members:
        raise InputError("there are no measured runs to find anything in")
    check_figures()
    facts = facts_of(members)
    sections = [(name, make(members, facts)) for name, make in FINDINGS.items()]
    parts = ["# What the measured runs show\n"]
    for name, (chart, said) in sections:
        figure = f"![{chart.title}]({chart.name}.png)\n" if chart else "No runs that show it.\n"
        parts.append(f"## {name}\n\n{figure}\n{sentences.listed(said)}")
    page = folder / "findings.md"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        figures = draw([chart for _, (chart, _) in sections if chart], folder)
        write_whole(page, "\n".join(parts))
    except OSError as error:
        raise InputError(f"cannot write the findings to {folder}: {error.strerror}") from error
    return [page, *figures]


def layer_split(runs: Sequence[Measurement], _facts: Mapping[Measurement, RunFacts]) -> tuple[Chart | None, list[str]]:
    """Return output of TP over that of PP on as many GPUs: a panel for each number of GPUs, a curve a model."""
    ratios = {
        (case, gpus): share
        for case in cases(runs)
        for gpus in (2, 4, 8)
        if (share := sentences.split_ratio(case, gpus))
    }
    chosen = _one_engine([case for case, _ in ratios])
    ratios = {(case, gpus): share for (case, gpus), share in ratios.items() if case in chosen}
    if not ratios:
        return None, []
    pairs = Counter[tuple[int, int]]()
    for (case, _), share in ratios.items():
        pairs[case.input_len, case.output_len] += len(share)
    lengths = sorted(lengths_of for lengths_of, _ in pairs.most_common(COLUMNS))
    rows = []
    for gpus in sorted({gpus for _, gpus in ratios}):
        row: list[Panel | None] = []
        for input_len, output_len in lengths:
            curves = [
                PlotCurve(
                    label=case.setup.model_name,
                    x=np.array([batch for batch, _ in share], dtype=float),
                    y=np.array([ratio for _, ratio in share]),
                    hue=case.setup.model_name,
                )
                for (case, count), share in ratios.items()
                if (count, case.input_len, case.output_len) == (gpus, input_len, output_len)
            ]
            title = f"{gpus} GPUs, {input_len} in / {output_len} out"
            panel = Panel(
                title=title,
                ylabel=f"TP{gpus} over PP{gpus}, output tokens/s",
                curves=tuple(curves),
                level=1.0,
                level_label="equal",
            )
            row.append(panel if curves else None)
        rows.append(tuple(row))
    every = [(ratio, gpus, batch, case) for (case, gpus), share in ratios.items() for batch, ratio in share]
    title = f"Tensor parallel is ahead of split layers in {sum(r > 1 for r, *_ in every)} of {len(every)} pairs of runs"
    said = [
        f"{case.setup.model_name}, {case.lengths}, {gpus} GPUs: TP gives {_listed_ratios(share)} the output tokens/s of PP."
        for (case, gpus), share in ratios.items()
    ]
    below = [
        f"{case.setup.model_name} {case.lengths} batch {batch}, {gpus} GPUs" for r, gpus, batch, case in every if r <= 1
    ]
    if below:
        said.append(f"Split layers are level or ahead at: {'; '.join(below)}.")
    said.append(
        "One sequence passes the stages one after another; with more, stages work at once, which a plain split does not."
    )
    return Chart(name="layer-split", title=title, note=_origin(chosen), rows=tuple(rows)), said


def _listed_ratios(ratios: Sequence[tuple[int, float]]) -> str:
    return ", ".join(f"{short(ratio)} (batch {batch})" for batch, ratio in ratios) + " times"


def memory_threshold(
    runs: Sequence[Measurement], facts: Mapping[Measurement, RunFacts]
) -> tuple[Chart | None, list[str]]:
    """Return memory by batch up to where it ends, a panel a model."""
    chosen = _comparable(
        cases(runs),
        lambda case: len(_measured(case, facts)),
    )
    panels = [memory_panel(case, facts, title=case.setup.model_name) for case in chosen]
    if not chosen:
        return None, []
    said = []
    for case in chosen:
        ends = [(series, cache_full(series)) for series in case.plain]
        full = [f"{series.layout} {most:.0f}" for series, most in ends if most]
        failed = [
            f"{series.layout} {min(run.batch for run in series.failed)}" for series in case.plain if series.failed
        ]
        text = f"{case.setup.model_name}, {case.lengths}:"
        text += f" sequences that the cache holds: {', '.join(full)}." if full else ""
        said.append(text + (f" Out of memory at batch: {', '.join(failed)}." if failed else ""))
    title = f"Memory grows with the batch to a threshold, {chosen[0].lengths}"
    note = f"{_origin(chosen)} Empty pages of the cache not counted; dotted: on to where the cache is full (o); x: out of memory."
    return Chart(name="memory-threshold", title=title, note=note, rows=_grid(panels)), said


def _measured(case: SeriesCase, facts: Mapping[Measurement, RunFacts]) -> list[PlotCurve]:
    panel = memory_panel(case, facts, title="")
    return [curve for curve in panel.curves if curve.marked] if panel else []


def communication(runs: Sequence[Measurement], facts: Mapping[Measurement, RunFacts]) -> tuple[Chart | None, list[str]]:
    """Return bytes that a GPU sends and their share of the time, by batch; what the model of costs expects where none were counted."""
    spread = [case for case in cases(runs) if any(series.layout.gpus > series.layout.dp for series in case.plain)]
    counted = [case for case in spread if any(curve.y.max() > 0 for curve in curves_of(case, gib_sent))]
    chosen = _comparable(counted or spread, lambda case: len(case.plain), most=COLUMNS)
    if not chosen:
        return None, []
    sent = []
    for case in chosen:
        curves = curves_of(case, gib_sent)
        panel = Panel(title=case.setup.model_name, ylabel="GiB that one GPU sent", curves=curves, log=True)
        sent.append(panel if curves else None)
    shares = [share_panel(case, facts, title=case.setup.model_name) for case in chosen]
    rows = tuple(tuple(row) for row in (sent, shares) if any(row))
    said = []
    for case in chosen:
        name = f"{case.setup.model_name}, {case.lengths}"
        said += [f"{name}: {text}" for text in sentences.communication(case, facts)]
        said += [f"{name}: {text}" for text in _expected(case, facts)]
    title = f"Communication by batch, {chosen[0].lengths}"
    note = f"{_origin(chosen)} " + (
        "Solid share: the least, at the links' peak bandwidth; dashed: expected by the model of costs."
        if counted
        else "No bytes were counted: dashed is what the model of costs expects."
    )
    return Chart(name="communication", title=title, note=note, rows=rows), said


def _expected(case: SeriesCase, facts: Mapping[Measurement, RunFacts]) -> list[str]:
    texts = []
    for series in case.plain:
        x, y = series.points(lambda run: facts[run].communication if run in facts else None)
        if series.layout.tp > 1 and len(x) > 1:
            texts.append(
                f"the model of costs expects communication to take {share(float(y[0]))} of the time of {series.layout} at "
                f"batch {x[0]:.0f}, {share(float(y[-1]))} at {x[-1]:.0f}."
            )
    return texts


def throughput_per_gpu(
    runs: Sequence[Measurement], _: Mapping[Measurement, RunFacts]
) -> tuple[Chart | None, list[str]]:
    """Return output per GPU by batch, a panel a model."""
    chosen = _comparable(cases(runs), lambda case: len(curves_of(case, tok_s_per_gpu)))
    if not chosen:
        return None, []
    panels = [
        Panel(
            title=case.setup.model_name,
            ylabel="output tokens/s per GPU",
            curves=curves_of(case, tok_s_per_gpu),
            log=True,
        )
        for case in chosen
    ]
    said = [f"{case.setup.model_name}, {case.lengths}: {sentences.best_layout(case)}" for case in chosen]
    title = f"Throughput per GPU by batch, {chosen[0].lengths}"
    return Chart(name="throughput-per-gpu", title=title, note=_origin(chosen), rows=_grid(panels)), said


FINDINGS: dict[
    str, Callable[[Sequence[Measurement], Mapping[Measurement, RunFacts]], tuple[Chart | None, list[str]]]
] = {
    "Tensor parallel against layers split over GPUs": layer_split,
    "Memory grows to a threshold": memory_threshold,
    "Communication by batch": communication,
    "Throughput per GPU": throughput_per_gpu,
}


def _one_engine(cases: Sequence[SeriesCase]) -> list[SeriesCase]:
    """Return the cases of one engine, GPU and number format: the preferred engine's, or what most are of."""
    kinds = Counter(map(_kind, cases))
    if not kinds:
        return []
    chosen = max(kinds, key=lambda kind: (kind[0] == PREFERRED, kinds[kind]))
    return [case for case in cases if _kind(case) == chosen]


def _kind(case: SeriesCase) -> tuple[str, str, str, str]:
    return case.setup.engine, case.setup.version, case.setup.gpu, case.setup.dtype


def _comparable(
    cases: Sequence[SeriesCase], worth: Callable[[SeriesCase], int], *, most: int = MOST_PANELS
) -> list[SeriesCase]:
    """Return the cases of one engine and of the length most of them have, of different models, at most ``most``.

    ``worth``: how many curves a case has; those with fewer than two show nothing and are left out.
    """
    telling = _one_engine([case for case in cases if worth(case) > 1])
    points = Counter[tuple[int, int]]()
    for case in telling:
        points[case.input_len, case.output_len] += sum(len(series.runs) for series in case.plain)
    if not points:
        return []
    lengths = points.most_common(1)[0][0]
    same_lengths = [case for case in telling if (case.input_len, case.output_len) == lengths]
    kept = sorted(same_lengths, key=worth, reverse=True)[:most]
    return [case for case in same_lengths if case in kept]


def _grid(panels: Sequence[Panel | None]) -> tuple[tuple[Panel | None, ...], ...]:
    return tuple(tuple(panels[i : i + COLUMNS]) for i in range(0, len(panels), COLUMNS))


def _origin(chosen: Sequence[SeriesCase]) -> str:
    setup = chosen[0].setup
    return f"{setup.engine} {setup.version} on {setup.gpu}, {setup.dtype}.".replace("  ", " ")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m advisor.render.measured.findings", description="Four findings as figures, from measured runs."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write them; it is made")
    parser.add_argument("--runs", action="append", metavar="FILE", help="these runs instead of those that ship")
    args = parser.parse_args(argv)
    try:
        runs = read_runs(*args.runs) if args.runs else shipped_runs()
        for path in findings(runs, args.folder):
            print(path)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
