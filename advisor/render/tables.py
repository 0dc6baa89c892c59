"""Tables that fit: columns with a rank, the least important left out where the terminal is too narrow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from advisor.render.numbers import unit_of

if TYPE_CHECKING:
    from collections.abc import Sequence

ESSENTIAL = 0
SHORTENED, CRAMPED = 3, 1
"""Ranks down to which names are shortened, and columns moved closer, rather than a column left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column, its cells already text."""

    name: str
    cells: Sequence[str]
    unit: str = ""
    narrow: str = ""
    """Name where space is short."""
    narrow_unit: str = ""
    right: bool = True
    rank: int = ESSENTIAL
    """Larger: left out earlier. ``ESSENTIAL`` ones always stay."""

    def heading(self, *, narrow: bool) -> tuple[str, str]:
        if not narrow:
            return self.name, self.unit
        return self.narrow or self.name, self.narrow_unit or self.unit

    def width(self, *, narrow: bool) -> int:
        return max(map(cell_len, (*self.heading(narrow=narrow), *self.cells)), default=0)


def time_column(name: str, times_ms: Sequence[float | None], *, of: str = "", rank: int = ESSENTIAL) -> Column:
    """Times in the unit that suits them all; ``of`` stands before the unit, such as "p95"."""
    unit = unit_of(times_ms)
    return Column(
        name=name, unit=f"{of} {unit.name}".lstrip(), cells=[unit.short(each) for each in times_ms], rank=rank
    )


def fitted(columns: Sequence[Column], width: int | None) -> tuple[tuple[Column, ...], int, bool]:
    """The columns that fit ``width``, the space between them, and whether their narrow names are needed.

    ``None``: all of them. Space and names give way before a column does, and columns by rank.
    """
    if width is None:
        return tuple(columns), 2, False
    ranks = sorted({column.rank for column in columns} | {ESSENTIAL}, reverse=True)
    for rank in ranks:
        kept = tuple(column for column in columns if column.rank <= rank)
        for narrow, gap, most in ((False, 2, rank), (True, 2, SHORTENED), (True, 1, CRAMPED)):
            if rank > most:
                continue
            if sum(column.width(narrow=narrow) for column in kept) + gap * (len(kept) - 1) <= width:
                return kept, gap, narrow
    return kept, 1, True


def drawn(columns: Sequence[Column], width: int | None, *, emphasised: int | None = None) -> Table:
    """A table without lines; row ``emphasised`` stands out. ``width`` as for ``fitted``."""
    kept, gap, narrow = fitted(columns, width)
    needed = sum(column.width(narrow=narrow) for column in kept) + gap * (len(kept) - 1)
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, show_header=False, min_width=needed)
    headings = [column.heading(narrow=narrow) for column in kept]
    for column in kept:
        table.add_column(justify="right" if column.right else "left", no_wrap=True, overflow="fold")
    table.add_row(*(Text(name, style="bold") for name, _ in headings))
    if any(unit for _, unit in headings):
        table.add_row(*(Text(unit, style="dim") for _, unit in headings))
    for i in range(len(columns[0].cells) if columns else 0):
        style = "bold green" if i == emphasised else ""
        table.add_row(*(Text(column.cells[i], style=style) for column in kept))
    return table


def natural_width(columns: Sequence[Column]) -> int:
    """What all the columns take."""
    return sum(column.width(narrow=False) for column in columns) + 2 * (len(columns) - 1)


def markdown(columns: Sequence[Column]) -> str:
    """All columns as a pipe table, units beside the names."""
    named = [column for column in columns if column.name]
    heads = [f"{column.name} ({column.unit})" if column.unit else column.name for column in named]
    lines = [_row(heads), _row(["---:" if column.right else ":---" for column in named])]
    lines += [_row([column.cells[i] for column in named]) for i in range(len(columns[0].cells) if columns else 0)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    escaped = (" ".join(cell.split()).replace("\\", "\\\\").replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
