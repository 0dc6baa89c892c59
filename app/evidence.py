"""The page Evidence: the runs behind an answer."""

from __future__ import annotations

import streamlit as st

from app import inputs


def show() -> None:
    """Ask which model."""
    st.header("Evidence")
    inputs.model()
