"""Tables: columns made of rows by their keys, and which of them fit where space is short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from advisor.render.numbers import Unit, span, unit_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ESSENTIAL = 0
UNIFORM = 99
"""Rank of a column whose cells are all alike, which says little."""
SHORTENED, CRAMPED = 3, 1
"""Ranks down to which names are shortened, and columns moved closer, rather than a column left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column, its cells already text."""

    name: str
    cells: Sequence[str]
    key: str = ""
    """Name of the quantity in the rows that machines read."""
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


@dataclass(frozen=True, slots=True)
class FlatRows:
    """Flat rows of an answer, of which columns are made; a machine's format holds them as they are."""

    rows: Sequence[Mapping[str, Any]]

    def values(self, key: str) -> list[Any]:
        """Return the values of one key, None where a row lacks it."""
        return [row.get(key) for row in self.rows]

    def vary(self, key: str) -> bool:
        """Return whether rows differ in a key."""
        return len(set(self.values(key))) > 1

    def column(self, key: str, name: str, form: Callable[[Any], str] = str, **options: Any) -> Column:
        """Return the column of a key; ``form`` writes a value, ``options`` are fields of ``Column``."""
        return Column(key=key, name=name, cells=[form(value) for value in self.values(key)], **options)

    def text(self, key: str, name: str, form: Callable[[Any], str] = str, **options: Any) -> Column:
        """Return a column of words, which stand to the left."""
        return self.column(key, name, form, right=False, **options)

    def time(self, key: str, name: str, *, of: str = "", rank: int = ESSENTIAL) -> Column:
        """Return a column of milliseconds in the unit that suits them all; ``of`` stands before the unit, such as "p95"."""
        unit = unit_of(self.values(key))
        return self.column(key, name, unit.short, unit=f"{of} {unit.name}".lstrip(), rank=rank)

    def interval(self, key: str, *, name: str = "90% interval", times: bool = False, **options: Any) -> Column:
        """Return a column of the intervals of a key, which stand under ``KEY_low`` and ``KEY_high``.

        ``times``: in the unit of the column of times.
        """
        unit = unit_of(self.values(key)) if times else Unit("")
        ends = zip(self.values(f"{key}_low"), self.values(f"{key}_high"), strict=True)
        cells = ["-" if low is None or high is None else span(unit.of(low), unit.of(high)) for low, high in ends]
        return Column(key=f"{key}_interval", name=name, cells=cells, **options)


def quantity_columns(quantities: Sequence[Mapping[str, str]]) -> list[Column]:
    """Return the columns of quantities with their intervals, one a row."""
    rows = FlatRows(quantities)
    columns = [rows.text("quantity", "quantity"), rows.column("value", "estimate"), rows.text("unit", "unit")]
    return [*columns, rows.column("interval", "90% interval")]


def fitted(columns: Sequence[Column], width: int | None) -> tuple[tuple[Column, ...], int, bool]:
    """Return the columns that fit ``width``, the space between them, and whether their narrow names are needed.

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


def natural_width(columns: Sequence[Column]) -> int:
    """Return what all the columns take."""
    return sum(column.width(narrow=False) for column in columns) + 2 * (len(columns) - 1)


def markdown(columns: Sequence[Column]) -> str:
    """Write all columns as a pipe table, units beside the names."""
    named = [column for column in columns if column.name]
    heads = [f"{column.name} ({column.unit})" if column.unit else column.name for column in named]
    lines = [_row(heads), _row(["---:" if column.right else ":---" for column in named])]
    lines += [_row([column.cells[i] for column in named]) for i in range(len(columns[0].cells) if columns else 0)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_shown, cells))} |"


def _shown(cell: str) -> str:
    """Write a cell so that it stays text: names may be links, images or tags."""
    return " ".join(cell.split()).translate(MARKS)


MARKS = str.maketrans({**{mark: f"\\{mark}" for mark in "\\|`[]"}, "<": "&lt;", ">": "&gt;"})
