"""The page Evidence: the runs behind answers, predictions beside them, runs of other programs, and what to measure next."""

from __future__ import annotations

import streamlit as st

from app import evidence_import, evidence_judged, evidence_next, evidence_tables, inputs

VIEWS = {
    "Runs": evidence_tables.show,
    "Predicted and measured": evidence_judged.show,
    "Import": evidence_import.show,
    "Probe next": evidence_next.show,
}


def show() -> None:
    """Show one of the four views."""
    chosen = st.segmented_control(
        "Evidence",
        list(VIEWS),
        default="Runs",
        required=True,
        key="view",
        bind=inputs.BIND,
        label_visibility="collapsed",
    )
    VIEWS[chosen]()
