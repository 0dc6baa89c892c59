"""A model of the user's: what an uploaded ``config.json`` describes. The file is packed into the address, so that a link holds it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import streamlit as st

import advisor
from app.links import LONGEST, packed, unpacked
from app.plain_text import plain

if TYPE_CHECKING:
    from collections.abc import Callable

UPLOADED = "uploaded config.json"
"""How the list of models calls it."""
UPLOADED_PATH = "/path/to/model"
"""What stands in launch commands for its folder, which only the user knows."""
PARAMETER = "own"
"""Of the address: the packed file."""
MODEL, REFUSED, PACKED = "own model", "config refused", "own model packed"
"""Of the session: the model, why a file cannot be one, and the file as it stands in the address."""


def restored() -> advisor.Model | None:
    """Return the session's own model; that of the address where it names another."""
    text = st.query_params.get(PARAMETER)
    if text and text != st.session_state.get(PACKED):
        _take(lambda: unpacked(text, "the model"), "the link's config.json", text)
    own: advisor.Model | None = st.session_state.get(MODEL)
    return own


def linked(chosen: str) -> None:
    """Write the model into the address where it is the one chosen; say where that is too long."""
    text = st.session_state.get(PACKED, "") if chosen == UPLOADED else ""
    if text and len(text) <= LONGEST:
        st.query_params[PARAMETER] = text
    else:
        st.query_params.pop(PARAMETER, None)
    if len(text) > LONGEST:
        st.caption("This configuration is too long for a link: whoever opens one has to upload it.")


def uploader(otherwise: str) -> None:
    """Offer to upload a file, and say why the last one is no model; ``otherwise``: what is chosen where the file is removed."""
    with st.popover("Upload", icon=":material/upload_file:", help="Upload a config.json"):
        st.file_uploader(
            "A model's config.json from Hugging Face (at most 1 MB; it is read, nothing in it is run)",
            type="json",
            key="config",
            max_upload_size=1,
            on_change=_uploaded,
            args=(otherwise,),
        )
    refused = st.session_state.get(REFUSED)
    if refused:
        st.error(refused, icon=":material/error:")


def _uploaded(otherwise: str) -> None:
    file = st.session_state["config"]
    st.session_state[REFUSED] = ""
    if file is None:
        if st.session_state.get("model") == UPLOADED:
            st.session_state["model"] = otherwise
        for name in (MODEL, PACKED):
            st.session_state.pop(name, None)
        st.query_params.pop(PARAMETER, None)
    elif _take(file.getvalue, file.name, ""):
        st.session_state["model"] = UPLOADED


def _take(content: Callable[[], bytes], name: str, text: str) -> bool:
    """Make a file the session's model, or keep why it cannot be; ``text``: the file packed, if it is."""
    try:
        data = content()
        st.session_state[MODEL] = advisor.parse_config(data, name=UPLOADED_PATH, where=name)
    except advisor.InputError as error:
        st.session_state[REFUSED] = plain(str(error))
        return False
    st.session_state[PACKED] = text or packed(json.loads(data))
    st.session_state[REFUSED] = ""
    return True
