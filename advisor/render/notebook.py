"""Answers in a notebook and in Python: one line, a text, an HTML table, a figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.render.console import command_lines, text
from catalog.errors import InputError
from catalog.names import suggestion

if TYPE_CHECKING:
    from advisor.render.document import Document, Spec
    from advisor.render.tables import Column

WIDTH = 100
"""Letters of a line of a summary."""
LONGEST = 160
"""Letters of a representation."""
ROWS = 12
"""Rows of a table in a notebook."""
VEGA = "application/vnd.vegalite.v5+json"
DOCUMENTS = {
    "Estimate": "estimation",
    "Recommendation": "recommendation",
    "Comparison": "comparison",
    "Simulation": "simulation",
    "CapacityPlan": "capacity",
    "Autoscaling": "autoscaling",
    "FleetPlan": "fleet",
    "Observation": "observation",
    "Exploration": "technology",
    "TrainingEstimate": "training",
    "TrainingRecommendation": "training:recommendation_document",
}
"""Module of ``advisor.render.answers`` that makes the document of each answer, and its function where that is not ``document``."""


def document(answer: Any) -> Document:
    """Return an answer's document."""
    kind = type(answer).__name__
    module, _, function = DOCUMENTS[kind].partition(":")
    make = getattr(import_module(f"advisor.render.answers.{module}"), function or "document")
    whole: Document = make([answer] if kind == "Simulation" else answer)
    return whole


def summary(answer: Any) -> str:
    """Return what the terminal shows."""
    return text(document(answer), WIDTH)


def line(answer: Any) -> str:
    """Return the answer in one line, not long."""
    shown = document(answer)
    said = shown.answer or "  |  ".join(shown.question)
    said = f"{type(answer).__name__}: {said}"
    return said if len(said) <= LONGEST else said[: LONGEST - 3] + "..."


def html(answer: Any) -> str:
    """Return the answer as HTML: its sentence, its first table, and the command."""
    shown = document(answer)
    parts = [f"<p>{escape('  |  '.join(shown.question))}</p>"]
    parts += [f"<p><b>{escape(shown.answer)}</b></p>"] if shown.answer else []
    parts += [_table(shown.columns)] if shown.columns else []
    commands = [section.command for section in shown.sections if section.command is not None]
    parts += [f"<pre>{escape(chr(10).join(command_lines(command, WIDTH)))}</pre>" for command in commands[:1]]
    return "\n".join(parts)


def _table(columns: Any) -> str:
    named: list[Column] = [column for column in columns if column.name]
    heads = "".join(
        f"<th>{escape(f'{column.name} ({column.unit})' if column.unit else column.name)}</th>" for column in named
    )
    rows = [
        "".join(f"<td>{escape(column.cells[i])}</td>" for column in named)
        for i in range(min(len(named[0].cells), ROWS))
    ]
    return f"<table><tr>{heads}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure: a notebook draws its specification."""

    name: str
    caption: str
    spec: Spec = field(repr=False)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002  IPython's
        return {VEGA: self.spec, "text/plain": f"{self.name}: {self.caption}"}

    def save(self, path: str | Path) -> Path:
        """Write it as a PNG.

        Raises:
            InputError: what draws it is not installed, or the file cannot be written.

        """
        from advisor.render.page import write_png  # brings what draws figures

        return write_png(self.spec, Path(path))


def plot(answer: Any, name: str | None) -> Plot:
    """Return a figure of an answer; ``name`` None: the first."""
    figures = {figure.name: figure for section in document(answer).sections for figure in section.figures}
    if not figures:
        raise InputError(f"a {type(answer).__name__} has no figure")
    if name is not None and name not in figures:
        raise InputError(f"no figure {name!r:.60}; {suggestion(name, figures, otherwise=', '.join(figures))}")
    figure = next(iter(figures.values())) if name is None else figures[name]
    return Plot(figure.name, figure.caption, cache(figure.make)())
