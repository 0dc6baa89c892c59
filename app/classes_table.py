"""Classes of requests on the page Capacity: their shares, lengths, limits and priorities, as a table that can be edited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from advisor.render.vocabulary import E2E, TPOT, TTFT
from app.editable_tables import LinkedTables, rows_of, table_of

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELDS = ("name", "share", "input_len", "output_len", "spread", "priority", "ttft", "tpot", "e2e")
LIMITS = ("ttft", "tpot", "e2e")
START: Mapping[str, Any] = {
    "classes": [
        {
            "name": "chat",
            "share": 0.8,
            "input_len": 1200,
            "output_len": 250,
            "spread": 0.6,
            "priority": 0,
            "ttft": 1000.0,
            "tpot": 80.0,
        },
        {
            "name": "summaries",
            "share": 0.2,
            "input_len": 12_000,
            "output_len": 600,
            "spread": 0.4,
            "priority": 10,
            "e2e": 300_000.0,
        },
    ]
}
"""Interactive chat and batch summaries, as the guide on classes has them."""
TABLES = LinkedTables(
    parameter="classes",
    noun="the classes",
    too_long="These classes are too long for a link; take their YAML file along.",
    file="The file of advisor plan --classes",
    parts=("classes",),
    start=START,
)


def classes() -> Mapping[str, Any]:
    """Return the classes as the table stands, as ``advisor.plan`` takes them."""
    base, number = TABLES.base()
    table = st.data_editor(
        table_of(base["classes"], FIELDS),
        key=f"rows of {number}",
        num_rows="dynamic",
        hide_index=True,
        column_order=list(dict.fromkeys([*FIELDS, *(name for row in base["classes"] for name in row)])),
        column_config=_columns(),
        placeholder="-",
        alt="Classes of requests with their shares, lengths, limits and priorities",
    )
    st.caption(
        "What a class leaves out is that of all: the lengths of this page, and its limits where a class states none."
    )
    TABLES.uploader()
    stated = {**base, "classes": rows_of(table)}
    TABLES.write(stated)
    return stated


def all_limited(stated: Mapping[str, Any]) -> bool:
    """Return whether every class states limits of its own, so that none is left for those of the page."""
    return all(any(name in row for name in LIMITS) for row in stated["classes"])


def limited(stated: Mapping[str, Any]) -> bool:
    """Return whether a class states a limit of its own."""
    return any(name in row for row in stated["classes"] for name in LIMITS)


def _columns() -> dict[str, Any]:
    column = st.column_config
    of_a_class = "What the requests of this class are promised; empty: no limit of its own."
    return {
        "name": column.TextColumn("class", required=True, max_chars=60),
        "share": column.NumberColumn(
            "share", min_value=0.0, help="Of the requests: 3 and 1 are 75% and 25%. Empty: equal parts."
        ),
        "input_len": column.NumberColumn("prompt, tokens", min_value=1, step=1),
        "output_len": column.NumberColumn("answer, tokens", min_value=1, step=1),
        "spread": column.NumberColumn(
            "spread", min_value=0.0, max_value=3.0, help="Standard deviation of both lengths over their mean."
        ),
        "priority": column.NumberColumn(
            "priority", step=1, help="The lowest is served first, where the queue goes by priority."
        ),
        "ttft": column.NumberColumn(f"{TTFT}, ms", min_value=0.1, help=of_a_class),
        "tpot": column.NumberColumn(f"{TPOT}, ms", min_value=0.1, help=of_a_class),
        "e2e": column.NumberColumn(f"{E2E}, ms", min_value=0.1, help=of_a_class),
    }
