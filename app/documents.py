"""Whole answers on the pages: a document's sections one below the other, as reports have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from advisor.render.console import command_lines
from app.figures import draw
from app.plain_text import capitalised, plain
from app.tables import table

if TYPE_CHECKING:
    from collections.abc import Callable

    from advisor.render.document import Document, Lines, Section

CLASSES = "Classes"
"""How the sections of answers on classes of requests begin."""
COMMAND_WIDTH = 100
"""Letters of a line of a command."""


def show_document(made: Document, key: str, *, pick: Callable[[int], None] | None = None) -> None:
    """Show an answer: its sentence, warnings, sections, and how the question was read.

    Args:
        made: the answer.
        key: of its tables on the page.
        pick: is called with the number of the row of the first table that a reader selects.

    """
    if made.answer or made.alarm:
        st.markdown(f"## {plain(made.answer or capitalised(made.alarm) + '.')}")
    kinds = dict(made.notes)
    for text in kinds.get("warning", []):
        st.warning(plain(text), icon=":material/warning:")
    for place, section in enumerate(made.sections):
        _show_section(section, f"{key} {place}", pick if section.table is not None else None)
        pick = None if section.table is not None else pick
    with st.expander("How the question was read"):
        asked = [*made.question, *(text for label, texts in kinds.items() if label != "warning" for text in texts)]
        st.markdown("\n".join(f"- {plain(text)}" for text in asked))


def _show_section(section: Section, key: str, pick: Callable[[int], None] | None) -> None:
    lines = [(label, texts) for label, texts in section.lines if texts]
    if not (section.table or section.facts or lines or section.command or section.figures):
        return
    if section.title:
        st.markdown(f"### {plain(capitalised(section.title))}")
    if section.table is not None:
        table(section.table.columns, key, alt=section.title, pick=pick)
    show_lines([*((name, [value]) for name, value in section.facts.items()), *lines])
    if section.command is not None:
        st.code("\n".join(command_lines(section.command, COMMAND_WIDTH)), language="bash", wrap_lines=True)
    for figure in section.figures:
        st.caption(plain(figure.caption))
        draw(figure.make(), f"{key} {figure.name}", alt=figure.caption)


def show_lines(lines: Lines) -> None:
    """Show labelled lines as a list."""
    if lines:
        st.markdown("\n".join(f"- **{plain(label)}** {plain(text)}" for label, texts in lines for text in texts))


def class_tables(made: Document) -> None:
    """Show what each class of requests meets, where an answer has classes."""
    for section in made.sections:
        if section.table is not None and section.title.startswith(CLASSES):
            st.markdown(f"### {plain(section.title)}")
            table(section.table.columns, alt=section.title)


def show_command(text: str) -> None:
    """Show the command that gives the same answer, to be copied."""
    with st.expander("This question on the command line", icon=":material/terminal:"):
        st.code(text, language="bash", wrap_lines=True)
