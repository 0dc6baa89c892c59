"""What surrounds every page: no traceback is ever shown, and what a link asked for in vain is said."""

from __future__ import annotations

import importlib
import logging
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from advisor import InputError
from app.pages import PAGES
from app.plain_text import plain
from app.terms import explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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
    "prices",
    "kinds",
    "weights",
    "kv",
    "context",
    "memory_share",
)
"""Keys of the widgets that ask the same on several pages (``inputs``)."""
OWN_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "capacity": {"ttft": 500.0, "tpot": 40.0, "kinds": ["H100-SXM", "H200-SXM"]},
    "comparison": {"kinds": ["A100-SXM-80GB", "H100-SXM", "H200-SXM", "B200-SXM"]},
}
"""What shared widgets begin with on a page, where it differs from other pages; it stays on that page."""
LIMITS = ("ttft", "tpot", "e2e")
"""Keys of limits: a page that begins with some does so only where a link or another page states none."""
MOST = 300
"""Letters of a link's parameter that are shown again."""


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
        _heading(name)
        notes = st.container()
        try:
            with guarded():
                importlib.import_module(f"app.{name}").show()
        finally:
            kept = st.session_state.setdefault(KEPT, {})
            own = OWN_DEFAULTS.get(name, {})
            here = {key: st.session_state[key] for key in SHARED if key in st.session_state}
            kept |= {key: value for key, value in here.items() if key not in own or own[key] != value}
        with notes:
            _tell_ignored()
        if not painted():
            _once_painted()

    page.__qualname__ = page.__name__ = name  # by which Streamlit tells callables apart
    return page


def _heading(name: str) -> None:
    """Show the page's title, what it answers, and its words."""
    page = next(page for page in PAGES if page.module == name)
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        st.title(page.title, anchor=False, width="content")
        explained(page.terms, trains=page.trains)
    st.markdown(page.does)


def keep_for_other_pages(values: Mapping[str, object]) -> None:
    """Let the shared widgets of other pages begin with these values, by their keys."""
    st.session_state.setdefault(KEPT, {}).update(values)


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
    before = st.session_state.get(HERE)
    back = before not in {None, page} and _restored()
    carried = {} if back or before in {None, page} else st.session_state[KEPT]
    for key, value in carried.items():
        if key not in st.query_params:
            _begin_with(key, value)
    own = OWN_DEFAULTS.get(page, {})
    stated = any(key in st.query_params for key in LIMITS)
    for key in LIMITS if before != page and not stated and not back else ():
        if key in own:
            _begin_with(key, own[key])
    st.session_state[HERE] = page


def _restored() -> bool:
    """Return whether the browser went back or forward in its history; the address is then as the browser has it.

    Streamlit takes out what a widget of the page before is called like, and would give the widgets of this one their defaults.
    """
    context = get_script_run_ctx()
    if context is None or not context.is_history_navigation:
        return False
    with context.session_state.query_params() as address:
        address.populate_from_query_string(context.query_string)
        address.set_initial_query_params(context.query_string)
    st.query_params.from_dict({key: st.query_params.get_all(key) for key in st.query_params})  # the browser's, too
    return True


def _begin_with(key: str, value: object) -> None:
    """Let a widget of the page begin with a value, and write it into the address."""
    if value is None:
        st.session_state.pop(key, None)
    else:
        st.session_state[key] = value
        st.query_params[key] = value if isinstance(value, list) else str(value)


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
