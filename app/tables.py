"""Tables of documents on the pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from advisor.render.tables import UNIFORM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advisor.render.tables import Column


def table(
    columns: Sequence[Column],
    key: str | None = None,
    *,
    alt: str = "",
    pick: Callable[[int], None] | None = None,
    **options: Any,
) -> None:
    """Show the columns that have a name and whose cells differ; numbers are sorted as numbers.

    Args:
        columns: of a document's table.
        key: the table's identity on the page.
        alt: text for a reader who cannot see it.
        pick: is called with the number of the row that a reader selects.
        options: further ones of ``st.dataframe``.

    """
    named = {column.key or column.name: column for column in columns if column.name and column.rank < UNIFORM}
    config = {name: _config(column) for name, column in named.items()}
    if pick is not None:

        def picked() -> None:
            rows = st.session_state[key].selection.rows
            if rows:
                pick(rows[0])

        options |= {"on_select": picked, "selection_mode": "single-row"}
    st.dataframe(
        {name: _cells(column) for name, column in named.items()},
        column_config=config,
        hide_index=True,
        placeholder="-",
        key=key,
        alt=alt or None,
        **options,
    )


def _config(column: Column) -> Any:
    """Return how a column is shown: numbers with separators where the document has them."""
    heading, side = f"{column.name} {column.unit}".strip(), "right" if column.right else "left"
    if any("," in cell for cell in column.cells) and _cells(column) is not column.cells:
        return st.column_config.NumberColumn(heading, alignment=side, format="localized")
    return st.column_config.Column(heading, alignment=side)


def _cells(column: Column) -> Sequence[Any]:
    if not column.right:
        return column.cells
    try:
        return [None if cell in {"-", ""} else float(cell.replace(",", "")) for cell in column.cells]
    except ValueError:
        return column.cells
