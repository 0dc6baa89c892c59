"""Answers to take away: a table as CSV, everything as JSON, a report to hand round, or a file as it is."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import streamlit as st

from advisor.render.page import figures_can_be_drawn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    Content = Callable[[], str | bytes]
    Report = Callable[[], Mapping[str, bytes]]

MIME = {"csv": "text/csv", "json": "application/json", "html": "text/html", "zip": "application/zip"}
PAGE = "report.html"
"""Of a report's files the one that needs no other."""


def downloads(
    name: str,
    *,
    frame: pd.DataFrame | None = None,
    body: Callable[[], Mapping[str, Any]] | None = None,
    files: Mapping[str, Content] | None = None,
    report: Report | None = None,
) -> None:
    """Show buttons side by side; nothing is written before one is pressed.

    Args:
        name: of the files, without ending.
        frame: table for the CSV file.
        body: makes what the JSON file holds, plain JSON types.
        files: further ones by their ending.
        report: makes the files of a report, ``PAGE`` among them; offered as that page alone, and as the others in an archive.

    """
    made: dict[str, tuple[str, Content]] = {}
    if frame is not None:
        made["csv"] = "CSV", lambda: frame.to_csv(index=False)
    if body is not None:
        made["json"] = "JSON", lambda: json.dumps(body(), indent=2, allow_nan=False)
    made |= {ending: (ending.upper(), content) for ending, content in (files or {}).items()}
    if report is not None:
        made["html"] = "Report, HTML", lambda: report()[PAGE]
        made["zip"] = "Report, Markdown", lambda: archive(report())
    drawable = figures_can_be_drawn()
    with st.container(horizontal=True):
        for ending, (label, content) in made.items():
            lacking = ending in ("html", "zip") and not drawable
            st.download_button(
                label,
                content,
                file_name=f"{name}.{ending}",
                mime=MIME.get(ending, "text/plain"),
                disabled=lacking,
                on_click="ignore",
                icon=":material/download:",
                key=f"download {name}.{ending}",
                help="It needs: pip install 'advisor[plots]'" if lacking else None,
            )


def archive(files: Mapping[str, bytes]) -> bytes:
    """Return the Markdown of a report and its figures as a ZIP file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            if name != PAGE:
                made.writestr(name, data)
    return content.getvalue()
