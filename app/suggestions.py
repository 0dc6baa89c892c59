"""Changes of a question that ``advisor`` suggests, as buttons that make them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.plain_text import capitalised, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WIDGETS: Mapping[str, tuple[str, Callable[[Any], object]]] = {
    "ttft_ms": ("ttft", float),
    "tpot_ms": ("tpot", float),
    "e2e_ms": ("e2e", float),
    "concurrency": ("concurrency", int),
    "rate": ("rate", float),
    "max_model_len": ("context", int),
    "gpu_memory_utilization": ("memory_share", lambda share: round(100 * share)),
    "dtype": ("weights", str),
    "dtypes": ("weights", lambda formats: formats[0]),
    "kv_dtype": ("kv", str),
    "kv_dtypes": ("kv", lambda formats: formats[0]),
}
"""Key of the widget for each keyword, and its value."""


def widget_values(changes: Mapping[str, Any]) -> dict[str, object]:
    """Return values of widgets by their keys, of changes by keywords; ``gpus`` is each page's own."""
    known = {keyword: WIDGETS[keyword] for keyword in changes if keyword in WIDGETS}
    return {key: value_of(changes[keyword]) for keyword, (key, value_of) in known.items()}


def suggestions(changes: Mapping[str, Mapping[str, object]], key: str) -> None:
    """Show each change as a button that makes it.

    Args:
        changes: values of widgets by their keys, by what the button says; one without values is only said.
        key: of the buttons.

    """
    for place, (text, values) in enumerate(changes.items()):
        said = plain(capitalised(text))
        if values:
            st.button(
                said, key=f"{key} {place}", icon=":material/tune:", on_click=st.session_state.update, args=(values,)
            )
        else:
            st.markdown(f"- {said}")
