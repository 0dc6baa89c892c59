"""The page Capacity: how many GPUs traffic needs."""

from __future__ import annotations

import streamlit as st

from app import inputs


def show() -> None:
    """Ask which model."""
    st.header("Capacity")
    inputs.model()
