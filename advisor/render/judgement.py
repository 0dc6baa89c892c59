"""A validation as a folder: figures of what was predicted beside what was measured, and one page with all of it."""

from __future__ import annotations

import base64
import math
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from advisor.render.answers.validation import ranking_columns, rival_columns, summary_columns
from advisor.render.measured.plots import DPI, GREY, LARGE, SMALL, check_plots
from advisor.render.measured.plots import USUAL as USUAL_POINTS
from advisor.validation.prediction_errors import USUAL, Check
from advisor.validation.published_claims import layer_split_runs
from catalog.borders import write_whole
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from advisor.render.tables import Column
    from advisor.validation.validation import Validation

METRICS = {"prefill_ms": "prefill", "tpot_ms": "TPOT", "e2e_ms": "whole batch", "output_tok_s": "output tok/s"}
SPLITS = {
    "in-sample": ("#BBBBBB", "fitted"),
    "configuration left out": ("#009E73", "configuration left out"),
    "engine left out": ("#E69F00", "engine left out"),
    "GPU left out": ("#CC79A7", "GPU left out"),
    "model left out": ("#56B4E9", "model left out"),
    "not fitted": ("#0072B2", "never fitted"),
}
"""Colour and name, those drawn last on top; Okabe and Ito's palette."""
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:13px;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:.2rem .7rem;border-bottom:1px solid #e4e4e4;text-align:right;white-space:nowrap}
th.l,td.l{text-align:left}img{max-width:100%}small{color:#666}"""


def judgement(found: Validation, folder: Path, *, by: Sequence[str] = USUAL) -> list[Path]:
    """Write ``validation.html``, which needs no other file, and its figures (PNG) into ``folder``, made if it is not there.

    Files of these names are replaced. Returns what was written, the page first.

    Raises:
        InputError: Matplotlib is missing, there is nothing to draw, or a file cannot be written.

    """
    check_plots()
    tables = set(layer_split_runs())  # judged by the claims, and far from everything else
    checks = [
        check
        for check in found.checks
        if check.metric in METRICS and check.regime == "static" and check.run not in tables
    ]
    if not checks:
        raise InputError("there is nothing to draw: none of the runs is a static batch with measured times")
    figures = {
        "parity": ("Predicted against measured", _parity(checks)),
        "residuals": ("Errors by batch and by length", _residuals(checks)),
        "models": ("Errors by model", _models(checks)),
        "coverage": ("How often intervals held, and how wide they were", _coverage(checks)),
    }
    page = folder / "validation.html"
    paths = [folder / f"{name}.png" for name in figures]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, (title, figure) in zip(paths, figures.values(), strict=True):
            figure.savefig(path, dpi=DPI, metadata={"Software": None, "Title": title})
        images = {title: path.read_bytes() for path, (title, _) in zip(paths, figures.values(), strict=True)}
        write_whole(page, _page(found, by, images))
    except OSError as error:
        raise InputError(f"cannot write the report to {folder}: {error.strerror}") from error
    return [page, *paths]


def _page(found: Validation, by: Sequence[str], images: dict[str, bytes]) -> str:
    body = ["<h1>Predictions beside measured runs</h1>"]
    body += [
        f"<p><b>{'holds' if claim.holds else 'FAILS'}</b> {escape(claim.text)}<br><small>{escape(claim.detail)}</small></p>"
        for claim in found.claims
    ]
    for title, image in images.items():
        source = base64.b64encode(image).decode("ascii")
        body.append(f'<h2>{escape(title)}</h2><img alt="{escape(title)}" src="data:image/png;base64,{source}">')
    tables = {
        "Errors": summary_columns(found.summary(by)),
        "Choices among the measured deployments of a model and a workload": ranking_columns(found.rankings()),
    }
    if found.rivals:
        tables["Mean errors beside other methods, on runs that were not fitted"] = rival_columns(
            found.rivals, found.rival_rankings
        )
    if found.ablation:
        tables["The same with one part of the fit taken out"] = rival_columns(found.ablation)
    body += [f"<h2>{escape(title)}</h2>{_table(columns)}" for title, columns in tables.items()]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Predictions beside measured runs</title>'
        f"<style>{STYLE}</style>{''.join(body)}</html>\n"
    )


def _table(columns: Sequence[Column]) -> str:
    def cell(tag: str, column: Column, text: str) -> str:
        side = "" if column.right else ' class="l"'
        return f"<{tag}{side}>{escape(text)}</{tag}>"

    head = "".join(cell("th", column, f"{column.name} {column.unit}".strip()) for column in columns)
    rows = range(len(columns[0].cells) if columns else 0)
    lines = "".join(f"<tr>{''.join(cell('td', column, column.cells[i]) for column in columns)}</tr>" for i in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def _panels(
    title: str, names: Sequence[str], draw: Callable[[Axes, str], None], *, rows: int = 1, height: float = 3.6
) -> Figure:
    """One panel a name, filled column by column."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # an extra, and slow to import
    from matplotlib.figure import Figure

    columns = math.ceil(len(names) / rows)
    figure = Figure(figsize=(3.7 * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, size=LARGE, weight="bold", x=0.01, ha="left")
    for axes, name in zip(figure.subplots(rows, columns, squeeze=False).T.ravel(), names, strict=True):
        axes.tick_params(labelsize=SMALL, color=GREY)
        axes.grid(visible=True, color="#E4E4E4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, name)
    return figure


def _points(axes: Axes, checks: Sequence[Check], x: Callable[[Check], float], y: Callable[[Check], float]) -> None:
    for split, (colour, told) in SPLITS.items():
        members = [check for check in checks if check.split == split]
        if members:
            axes.plot(
                [x(check) for check in members], [y(check) for check in members], linestyle="", marker="o", markersize=3,
                color=colour, alpha=0.65, markeredgewidth=0, label=f"{told} ({len(members)})",
            )  # fmt: skip


def _present(checks: Sequence[Check]) -> list[str]:
    return [metric for metric in METRICS if any(check.metric == metric for check in checks)]


def _parity(checks: Sequence[Check]) -> Figure:
    def draw(axes: Axes, metric: str) -> None:
        members = [check for check in checks if check.metric == metric]
        _points(axes, members, lambda check: check.measured, lambda check: check.predicted)
        ends = [min(check.measured for check in members) / 1.3, max(check.measured for check in members) * 1.3]
        axes.plot(ends, ends, color="#222222", linewidth=0.8, zorder=1)
        for factor in (0.9, 1.1):
            axes.plot(ends, [end * factor for end in ends], color=GREY, linewidth=0.6, linestyle=(0, (5, 2)), zorder=1)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(METRICS[metric], size=USUAL_POINTS + 1, loc="left")
        unit = "tok/s" if metric == "output_tok_s" else "ms"
        axes.set_xlabel(f"measured, {unit}", size=USUAL_POINTS)
        axes.set_ylabel(f"predicted, {unit}", size=USUAL_POINTS)
        axes.legend(fontsize=SMALL - 1, frameon=False)

    return _panels("Predicted against measured; dashed: 10% off", _present(checks), draw)


def _residuals(checks: Sequence[Check]) -> Figure:
    shown = {"batch": lambda check: check.run.batch, "input_len": lambda check: check.run.input_len}
    names = [f"{metric} {by}" for metric in _present(checks)[:3] for by in shown]

    def draw(axes: Axes, name: str) -> None:
        metric, by = name.split()
        members = [check for check in checks if check.metric == metric]
        _points(axes, members, shown[by], lambda check: 100 * check.error)
        _level(axes, [check.error for check in members])
        axes.set_xscale("log", base=2)
        axes.set_title(
            f"{METRICS[metric]} by {'batch' if by == 'batch' else 'tokens in'}", size=USUAL_POINTS, loc="left"
        )
        axes.set_ylabel("error, %", size=USUAL_POINTS)

    return _panels("Errors, predicted over measured", names, draw, rows=2)


def _models(checks: Sequence[Check]) -> Figure:
    def draw(axes: Axes, metric: str) -> None:
        members = [
            check for check in checks if check.metric == metric and check.split in ("not fitted", "model left out")
        ]
        members = members or [check for check in checks if check.metric == metric]
        names = sorted({check.run.model for check in members}, reverse=True)
        where = {name: i for i, name in enumerate(names)}
        _points(axes, members, lambda check: 100 * check.error, lambda check: where[check.run.model])
        axes.axvline(0, color="#222222", linewidth=0.8, zorder=1)
        limit = _limit([check.error for check in members])
        axes.set_xlim(-limit, limit)
        axes.set_yticks(range(len(names)), [name.rsplit("/", maxsplit=1)[-1] for name in names], size=SMALL)
        axes.set_title(METRICS[metric], size=USUAL_POINTS + 1, loc="left")
        axes.set_xlabel("error, %", size=USUAL_POINTS)

    models = len({check.run.model for check in checks})
    return _panels(
        "Errors by model, of predictions that had not seen it", _present(checks), draw, height=1.8 + 0.22 * models
    )


def _coverage(checks: Sequence[Check]) -> Figure:
    """Share inside and mean half width, by metric and split."""
    splits = [split for split in SPLITS if any(check.split == split for check in checks)]

    def draw(axes: Axes, name: str) -> None:
        metrics = _present(checks)
        for j, split in enumerate(splits):
            values = []
            for metric in metrics:
                members = [check for check in checks if check.metric == metric and check.split == split]
                inside = [float(check.inside) for check in members]
                widths = [(check.high - check.low) / 2.0 / check.predicted for check in members]
                values.append(100 * float(np.mean(inside if name == "held" else widths)) if members else 0.0)
            at = np.arange(len(metrics)) + (j - (len(splits) - 1) / 2) * 0.8 / len(splits)
            axes.bar(at, values, 0.75 / len(splits), color=SPLITS[split][0], label=SPLITS[split][1], zorder=2)
        axes.set_xticks(range(len(metrics)), [METRICS[metric] for metric in metrics], size=SMALL)
        if name == "held":
            axes.axhline(90, color="#222222", linewidth=0.8, zorder=3)
            axes.set_ylim(0, 118)
            axes.legend(fontsize=SMALL - 1, frameon=False, ncols=3, loc="upper left")
        else:
            axes.set_yscale("log")
        axes.set_title("held, %" if name == "held" else "mean half width, %", size=USUAL_POINTS + 1, loc="left")

    return _panels("90% intervals", ["held", "width"], draw)


def _limit(errors: Sequence[float]) -> float:
    """Percent to show: nearly all of the errors."""
    return max(110 * float(np.quantile(np.abs(errors), 0.98)), 5.0)


def _level(axes: Axes, errors: Sequence[float]) -> None:
    axes.axhline(0, color="#222222", linewidth=0.8, zorder=1)
    limit = _limit(errors)
    axes.set_ylim(-limit, limit)
