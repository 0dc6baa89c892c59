"""Answers to take away: a table as CSV, everything as JSON, or a file as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import streamlit as st

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    Content = Callable[[], str | bytes]

MIME = {"csv": "text/csv", "json": "application/json", "yaml": "application/yaml", "sh": "text/x-shellscript"}


def downloads(name: str, *, frame: pd.DataFrame | None = None, body: Callable[[], Mapping[str, Any]] | None = None,
              files: Mapping[str, Content] | None = None) -> None:  # fmt: skip
    """Buttons side by side; nothing is written before one is pressed.

    Args:
        name: of the files, without ending.
        frame: table for the CSV file.
        body: makes what the JSON file holds, plain JSON types.
        files: further ones by their ending.

    """
    made: dict[str, Content] = {}
    if frame is not None:
        made["csv"] = lambda: frame.to_csv(index=False)
    if body is not None:
        made["json"] = lambda: json.dumps(body(), indent=2, allow_nan=False)
    made |= files or {}
    with st.container(horizontal=True):
        for ending, content in made.items():
            st.download_button(
                ending.upper(), content, file_name=f"{name}.{ending}", mime=MIME.get(ending, "text/plain"),
                on_click="ignore", icon=":material/download:", key=f"download {name}.{ending}",
            )  # fmt: skip
