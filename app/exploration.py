"""The page Explore: what changes with batch, lengths, parallelism and hardware."""

from __future__ import annotations

import streamlit as st

from app import inputs


def show() -> None:
    """Ask which model."""
    st.header("Explore")
    inputs.model()
