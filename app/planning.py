"""Questions whose answers take long: they are asked by a button, a link or a suggestion, and the last answer stays meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import streamlit as st

if TYPE_CHECKING:
    Question = TypeVar("Question")

AT_ONCE = "plan at once"
"""Of the session: a button has changed the question and wants its answer."""
PLANNED = "planned"
"""A parameter of the address, the digest of a question: the link is to its answer, which is worked out at once."""


def question_to_plan(now: Question | None, digest: str, missing: str, *, page: str, does: str) -> Question | None:
    """Return the question that is to be answered, and say where it is not the one that stands above; None where there is none.

    Args:
        now: the question as the widgets stand.
        digest: letters that stand for it.
        missing: what has to be said before it can be answered; empty if nothing.
        page: whose question it is.
        does: what an answer takes, for who has asked nothing yet.

    """
    asked_key = f"{page} question"
    pressed = st.button("Plan", key="plan", type="primary", icon=":material/calculate:", disabled=bool(missing))
    linked = st.query_params.get(PLANNED)
    wanted = st.session_state.pop(AT_ONCE, False) or pressed or (asked_key not in st.session_state and linked)
    if now is not None and not missing and (wanted or linked == digest):
        st.session_state[asked_key] = now
    asked: Question | None = st.session_state.get(asked_key)
    if asked is None:
        st.info(missing or does, icon=":material/info:")
        return None
    if now == asked:
        st.query_params[PLANNED] = digest
    else:
        st.query_params.pop(PLANNED, None)
        todo = missing or "Press Plan to answer the one above."
        st.info(f"This answers the previous question. {todo}", icon=":material/update:")
    return asked
