"""Documents in a terminal, with Rich."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table as Grid
from rich.text import Text

from advisor.render.tables import fitted, natural_width

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from advisor.render.document import Document, Lines, Section, ShellCommand, Table

LABEL = 9
"""Width of the label with the space after it."""


def console(document: Document, width: int, *, wide: bool = False) -> list[RenderableType]:
    """Return everything to print, in order; ``wide``: all columns and the sections of detail."""
    parts: list[list[RenderableType]] = [_head(document, width, wide=wide)]
    parts += [_section(section, width, wide=wide) for section in document.sections if wide or not section.detail]
    if document.alarm:
        parts.insert(1, [Text(document.alarm, style="bold red")])
    view = [line for part in parts for line in part]
    blanks = [line == "" for line in view]
    return [line for i, line in enumerate(view) if not blanks[i] or not all(blanks[i : i + 2])]


def text(document: Document, width: int) -> str:
    """Write a document as text without colours, ``width`` letters wide."""
    from rich.console import Console  # Rich's own width and colours are the terminal's

    terminal = Console(width=width, color_system=None, highlight=False, markup=False, emoji=False)
    with terminal.capture() as captured:
        for part in console(document, width):
            terminal.print(part)
    return "\n".join(line.rstrip() for line in captured.get().split("\n"))


def _head(document: Document, width: int, *, wide: bool) -> list[RenderableType]:
    view: list[RenderableType] = [header(document.question, width)] if document.question else []
    notes = [(kind, texts) for kind, texts in document.notes if kind != "note" or wide or not document.answer]
    view += [labelled(notes)] if notes else []
    view += [labelled([("answer", [document.answer])])] if document.answer else []
    return [*view, ""] if view else []


def _section(section: Section, width: int, *, wide: bool) -> list[RenderableType]:
    view: list[RenderableType] = []
    if section.title and (section.heading or section.detail):
        view += ["", Text(f"{section.title}:", style="bold")]
    lines = [(label, texts) for label, texts in section.lines if texts]
    if section.command is not None:
        lines.append((section.command.label, command_lines(section.command, width - LABEL)))
    if section.table is not None:
        view += [drawn(section.table, None if wide else width, rows=None if wide else section.table.first), ""]
    view += [facts_grid(section.facts)] if section.facts else []
    return [*view, labelled(lines)] if lines else view


def drawn(table: Table, width: int | None, *, rows: int | None = None) -> Grid:
    """Draw a table without lines; ``width`` None: all columns, however wide; ``rows`` None: all of them."""
    columns = [column if rows is None else replace(column, cells=column.cells[:rows]) for column in table.columns]
    if table.whole and width is not None:
        width = max(width, natural_width(columns))
    selected, gap, narrow = fitted(columns, width)
    needed = sum(column.width(narrow=narrow) for column in selected) + gap * (len(selected) - 1)
    grid = Grid(box=None, padding=(0, gap, 0, 0), pad_edge=False, show_header=False, min_width=needed)
    headings = [column.heading(narrow=narrow) for column in selected]
    for column in selected:
        grid.add_column(justify="right" if column.right else "left", no_wrap=True, overflow="fold")
    grid.add_row(*(Text(name, style="bold") for name, _ in headings))
    if any(unit for _, unit in headings):
        grid.add_row(*(Text(unit, style="dim") for _, unit in headings))
    for i in range(len(columns[0].cells) if columns else 0):
        style = "bold green" if i == table.emphasised else ""
        grid.add_row(*(Text(column.cells[i], style=style) for column in selected))
    return grid


def labelled(lines: Lines) -> Grid:
    """Draw lines with their label to the left, wrapped beside it."""
    grid = Grid.grid()
    grid.add_column(width=LABEL, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, texts in lines:
        for i, text in enumerate(texts):
            style = "yellow" if label == "warning" else ""
            grid.add_row(Text(label if i == 0 else "", style=style or "bold cyan"), Text(text, style=style))
    return grid


def facts_grid(facts: Mapping[str, str]) -> Grid:
    """Draw names and values, long values wrapped beside their names."""
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        grid.add_row(Text(name, style="bold cyan"), Text(value))
    return grid


def header(parts: Sequence[str], width: int) -> Text:
    """Put the parts on as few lines as they need, broken between them."""
    lines: list[str] = []
    for part in parts:
        joined = f"{lines[-1]}  |  {part}" if lines else part
        if lines and cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    return Text("\n".join(lines), style="bold")


def command_lines(command: ShellCommand, width: int) -> list[str]:
    r"""Write the command as a shell reads it, broken with a ``\`` where it is longer than ``width``: before options, else between words."""
    pieces: list[list[str]] = []
    for word in command.argv:
        if word.startswith("-") or not pieces:
            pieces.append([])
        pieces[-1].append(word)
    quoted = [[f"{name}={shlex.quote(value)}"] for name, value in command.variables.items()]
    quoted += [list(map(shlex.quote, piece)) for piece in pieces]
    texts = list(map(" ".join, quoted))
    comment = [f"# {command.comment}"] if command.comment else []
    whole = " ".join(texts)
    if len(whole) <= width:
        return [whole, *comment]
    lines: list[str] = []
    room = width - len("  ") - len(" \\")
    fitting = [
        part for text, words in zip(texts, quoted, strict=True) for part in ([text] if len(text) <= room else words)
    ]
    for text in fitting:
        joined = f"{lines[-1]} {text}" if lines else text
        if lines and len(joined) + 2 <= width:
            lines[-1] = joined
        else:
            lines.append(f"  {text}" if lines else text)
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1], *comment]
