"""What surrounds every page: no traceback is ever shown, and what a link asked for in vain is said."""

from __future__ import annotations

import importlib
import logging
import math
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import streamlit as st

from advisor import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("advisor.app")

ASKED = "asked by the link"
"""Where a session keeps the parameters that its link began with."""
PAINTED = "painted"
"""Whether the session's browser has shown anything yet; a value of None: it has been sent something."""
PAINT_S = 0.5
KEPT, HERE = "kept for other pages", "this page"
SHARED = (
    "model",
    "gpu",
    "count",
    "input_len",
    "output_len",
    "concurrency",
    "ttft",
    "tpot",
    "e2e",
    "goal",
    "engine",
    "price",
)
"""Keys of the widgets that ask the same on several pages (``inputs``)."""
MOST = 300
"""Letters of a link's parameter that are shown again."""


def plain(text: str) -> str:
    """Return ``text`` as Markdown that shows it as it is: names and messages may hold anything."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))


def capitalised(text: str) -> str:
    """Return ``text`` as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


@contextmanager
def guarded() -> Iterator[None]:
    """Say in one line what went wrong; to be used around a page, and again inside each fragment, which runs on its own."""
    try:
        yield
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")
    except Exception:
        log.exception("a page failed")
        st.error(
            "A fault in advisor itself: this could not be computed. Everything you entered is still here; "
            "the log of `advisor app` says more.",
            icon=":material/report:",
        )


def framed(name: str) -> Callable[[], None]:
    """Return the module of that name as a page of the app; it is imported when first shown, so that no page waits for another's."""

    def page() -> None:
        st.session_state.setdefault(ASKED, {key: st.query_params.get_all(key) for key in st.query_params})
        if endless := [key for key in st.query_params if _is_endless(st.query_params.get_all(key))]:
            for key in endless:  # Streamlit takes it for a number, and no widget can hold it
                del st.query_params[key]
            st.rerun()
        _carry(name)
        notes = st.container()
        try:
            with guarded():
                importlib.import_module(f"app.{name}").show()
        finally:
            kept = st.session_state.setdefault(KEPT, {})
            kept |= {key: st.session_state[key] for key in SHARED if key in st.session_state}
        with notes:
            _tell_ignored()
        if not painted():
            _once_painted()

    page.__qualname__ = page.__name__ = name  # by which Streamlit tells callables apart
    return page


def painted() -> bool:
    """Return whether charts may be drawn: a new browser shows words, tables and commands first, for their code takes it seconds."""
    return bool(st.session_state.get(PAINTED))


@st.fragment(run_every=PAINT_S)
def _once_painted() -> None:
    """Run the page again, now with its charts, when the browser has time for its timer."""
    if PAINTED in st.session_state:
        st.session_state[PAINTED] = True
        st.rerun()
    st.session_state[PAINTED] = None


def _carry(page: str) -> None:
    """Take the shared questions along from another page, into this one's widgets and address.

    Streamlit gives each page widgets of its own and takes another page's parameters out of the address.
    """
    if st.session_state.get(HERE, page) != page:
        for key, value in st.session_state[KEPT].items():
            if key not in st.query_params:
                st.session_state[key] = value
                if value is not None:
                    st.query_params[key] = str(value)
    st.session_state[HERE] = page


def _tell_ignored() -> None:
    """Say which parameters of the link no widget could take; Streamlit has removed them from the address.

    Once, and again when the page is drawn with its charts.
    """
    asked: dict[str, list[str]] = st.session_state[ASKED]
    for name, values in list(asked.items()):
        if name not in st.session_state:
            continue  # of another page
        given, taken = asked.pop(name) if painted() else values, st.session_state[name]
        if name not in st.query_params and not _same(given, taken):
            shown = plain(", ".join(values)[:MOST])
            st.warning(f"The link sets {plain(name)} to {shown}, which is not possible; the default is used.")


def _is_endless(values: list[str]) -> bool:
    """Return whether a parameter of the link is infinite or no number, written as one: "inf", "1e999", "nan"."""
    try:
        return not all(map(math.isfinite, map(float, values)))
    except ValueError:
        return False


def _same(given: list[str], taken: object) -> bool:
    """Return whether a parameter that left the address did so because it names the default."""
    if isinstance(taken, (list, tuple)):
        return [str(item) for item in taken] == given
    if isinstance(taken, (int, float)) and len(given) == 1:
        try:
            return float(given[0]) == taken
        except ValueError:
            return given[0].casefold() == str(taken).casefold()
    return given == ([""] if taken is None else [str(taken)])
