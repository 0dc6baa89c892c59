"""Runs that this session has imported and not stored: every answer of the session stands on them, and no other's."""

from __future__ import annotations

import streamlit as st

from advisor import ExtraRuns

KEY = "session runs"


def session_runs() -> ExtraRuns | None:
    """Return what to hand to ``advisor`` as ``runs``; None, for those that ship and the user's own, where nothing was imported."""
    extra: ExtraRuns | None = st.session_state.get(KEY)
    return extra or None


def keep(runs: ExtraRuns) -> None:
    """Let the session's answers stand on these, and on what it has imported before."""
    kept = {run.run_id: run for run in (*(session_runs() or ()), *runs)}
    st.session_state[KEY] = ExtraRuns(kept.values())


def forget() -> None:
    """Let the session's answers stand on none of them."""
    st.session_state.pop(KEY, None)


def left_out(runs: ExtraRuns | None) -> str:
    """Say what a command lacks of a session; nothing where nothing was imported."""
    return "without the runs imported in this session: advisor import FILE" if runs else ""
