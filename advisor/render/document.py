"""An answer as a document: what is shown of it, once, for every renderer (terminal, Markdown, HTML, app).

An answer is turned into a ``Document`` by its module in ``advisor.render.answers``; ``console``, ``page`` and the pages of the app
show it. Figures are Vega-Lite specifications (vega.github.io/vega-lite) as plain data, made when they are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from advisor.render.tables import Column

Lines: TypeAlias = Sequence[tuple[str, Sequence[str]]]
"""Labelled lines: (label, lines)."""
Spec: TypeAlias = dict[str, Any]
"""A figure as Vega-Lite has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns of equal length; row ``emphasised`` stands out."""

    columns: Sequence[Column]
    emphasised: int | None = None
    first: int | None = None
    """Rows that the terminal shows unless it is asked for all."""
    whole: bool = False
    """No column gives way where the terminal is too narrow: its lines wrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure with what it shows; drawn where pictures can be."""

    name: str
    """Of its file, without the ending."""
    caption: str
    make: Callable[[], Spec]
    """Makes the specification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellCommand:
    """A command to be copied: its words, its environment, and what there is to know about it."""

    argv: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    comment: str = ""
    label: str = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with what stands below it, in this order: table, facts, labelled lines, command, figures."""

    title: str = ""
    table: Table | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    """Names and values, a line each."""
    lines: Lines = ()
    command: ShellCommand | None = None
    figures: Sequence[Figure] = ()
    heading: bool = False
    """The terminal shows the title, too; a page always does."""
    detail: bool = False
    """For who asks for all there is: the terminal shows it under ``--wide`` only, with its title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One answer."""

    title: str
    """Of a page of its own."""
    question: Sequence[str] = ()
    """What was asked, in parts: model, GPUs, engine, workload, goal."""
    answer: str = ""
    """The answer in one sentence."""
    alarm: str = ""
    """What is amiss, in a few words, above the first table of the terminal."""
    notes: Lines = ()
    """How the question was read, what is assumed, warnings: last on a page; in the terminal what was asked and warnings stand
    first, and the rest where all there is is asked for, or where there is no ``answer``."""
    sections: Sequence[Section] = ()

    @property
    def columns(self) -> Sequence[Column]:
        """Return the columns of the first table; none where there is no table."""
        return next((section.table.columns for section in self.sections if section.table is not None), ())

    def figure(self, name: str) -> Figure:
        """Return the figure of that name, which there is."""
        return next(figure for section in self.sections for figure in section.figures if figure.name == name)

    def and_lines(self, lines: Lines) -> Document:
        """Return the document with further lines below; the same where there are none."""
        return replace(self, sections=(*self.sections, Section(lines=lines))) if lines else self
