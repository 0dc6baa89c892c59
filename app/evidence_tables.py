"""Measured runs to choose from and to look at: those that ship, the user's own, and what this session has imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

import advisor
from advisor import Evidence
from advisor.render.answers.measured import measured_columns, measured_rows, ordered
from advisor.render.measured.series import SeriesLayout
from advisor.render.tables import Column
from advisor.render.vocabulary import PROVENANCE, counted, short_name
from app import inputs
from app.downloads import downloads
from app.evidence_runs import session_runs
from app.plain_text import plain
from app.tables import table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHIPPED, OWN, SESSION = "ships", "own", "this session"


@dataclass(frozen=True, slots=True)
class Kept:
    """A run and where it is kept."""

    run: advisor.Measurement
    origin: str


FILTERS: dict[str, tuple[str, Callable[[Kept], str]]] = {
    "of_model": ("Model", lambda kept: kept.run.model),
    "on_gpu": ("GPU", lambda kept: kept.run.gpu),
    "by_engine": ("Engine", lambda kept: kept.run.engine),
    "layout": ("Parallelism", lambda kept: str(SeriesLayout.of(kept.run))),
    "origin": ("Kept", lambda kept: kept.origin),
    "role": ("Role", lambda kept: kept.run.role),
}
"""Widget key, label, and what it chooses by."""


def all_runs() -> list[Kept]:
    """Return everything that answers of this session can stand on."""
    return [
        *(Kept(run, SHIPPED) for run in advisor.shipped_runs()),
        *(Kept(run, OWN) for run in advisor.user_runs()),
        *(Kept(run, SESSION) for run in session_runs() or ()),
    ]


def chosen_runs() -> list[Kept]:
    """Return the runs that the filters leave, which are shown; none chosen in a filter means all."""
    runs = all_runs()
    with st.container(horizontal=True):
        for key, (label, value) in FILTERS.items():
            options = sorted({value(kept) for kept in runs})
            picked = st.multiselect(
                label, options, key=key, bind=inputs.BIND, placeholder="all", format_func=short_name
            )
            runs = [kept for kept in runs if not picked or value(kept) in picked]
    return runs


def show() -> None:
    """Choose runs and list them."""
    runs = chosen_runs()
    if not runs:
        st.info("No run matches all filters. Remove one, or import runs.", icon=":material/filter_alt_off:")
        return
    _tell_behind(runs)
    runs_table(runs, height=430)
    downloads(
        "runs",
        frame=pd.DataFrame(measured_rows(kept.run for kept in runs)),
        body=lambda: {"runs": measured_rows(kept.run for kept in runs)},
    )


def runs_table(kept_runs: Sequence[Kept], **options: Any) -> None:
    """Show one row a run, with where it is kept; quantities that none has are left out."""
    origins = {kept.run.run_id: kept.origin for kept in kept_runs}
    runs = [kept.run for kept in kept_runs]
    kept = Column(key="kept", name="kept", cells=[origins[run.run_id] for run in ordered(runs)], right=False)
    table([*measured_columns(runs), kept], **options)


def _tell_behind(runs: Sequence[Kept]) -> None:
    """Say how many there are, and for one engine on one GPU what an answer stands on."""
    members = [kept.run for kept in runs]
    pairs = {(run.engine, run.gpu) for run in members}
    models = {run.model for run in members}
    text = f"{counted(len(members), 'run')} of {counted(len(models), 'model')}"
    if len(pairs) > 1:
        st.caption(plain(f"{text}. Choose one GPU and one engine to see what an answer for them stands on."))
        return
    ((engine, gpu),) = pairs
    fitted = sum(run.role == "fit" for run in members)
    known = inputs.gpus().get(gpu)
    text += f" with {engine} on {gpu}: {fitted} may be fitted, {len(members) - fitted} are kept out to judge the fit. "
    if known is not None:
        knowledge = Evidence.of(session_runs(), engine=engine, gpu=known)
        text += f"An answer is {PROVENANCE[knowledge.marginal(engine, known).provenance]}"
        text += "; one of exactly a measured configuration is the measurement itself."
        text += "".join(f" {note.text[:1].upper()}{note.text[1:]}." for note in knowledge.notes)
    st.caption(plain(text))
