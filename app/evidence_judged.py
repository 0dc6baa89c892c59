"""Predictions beside measured runs: a parity chart with intervals, errors by group, and how often the intervals hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

import advisor
from advisor import holdout_errors
from advisor.render.answers.validation import check_columns, summary_columns
from advisor.render.figures.validation import parity
from advisor.render.menus import HOLDOUT_COMMAND, HOLDOUT_SPLITS
from advisor.render.numbers import share
from advisor.render.vocabulary import TPOT, TTFT
from app import inputs
from app.downloads import downloads
from app.evidence_tables import all_runs, chosen_runs
from app.figures import draw
from app.plain_text import plain
from app.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor import Check

METRICS = {
    "tpot_ms": TPOT,
    "prefill_ms": "prefill",
    "ttft_ms": TTFT,
    "e2e_ms": "whole batch",
    "output_tok_s": "output tokens",
}
SEEN, UNSEEN = "in-sample", "not fitted"


@st.cache_resource(max_entries=4, ttl=600, show_spinner="Predicting every run")
def validation(_runs: Sequence[advisor.Measurement], names: tuple[str, ...]) -> advisor.Validation:
    """Return ``advisor.validate`` without refits and other methods; ``names`` are the runs', which tell two calls apart."""
    assert len(names) == len(_runs)
    return advisor.validate(_runs, refit=False, compare=False)


def show() -> None:
    """Judge the runs that the filters leave."""
    kept = chosen_runs()
    metric = st.segmented_control(
        "Quantity",
        list(METRICS),
        default="tpot_ms",
        required=True,
        key="metric",
        bind=inputs.BIND,
        format_func=METRICS.__getitem__,
    )
    every = [kept_run.run for kept_run in all_runs()]
    judged = validation(every, tuple(run.run_id for run in every))
    wanted = {kept_run.run.run_id for kept_run in kept}
    checks = tuple(check for check in judged.checks if check.run.run_id in wanted)
    here = [check for check in checks if check.metric == metric]
    if not here:
        st.info("No run that matches the filters has this quantity. Remove a filter.", icon=":material/filter_alt_off:")
        return
    st.markdown(plain(_summary(here, METRICS[metric])))
    draw(parity(here, METRICS[metric]), "parity", height=520, alt="Predicted against measured, with 90% intervals")
    st.markdown("### Errors")
    errors = replace(judged, checks=tuple(here)).summary()
    table(
        summary_columns(
            [
                row
                for row in sorted(errors, key=lambda row: row.group["split"] != UNSEEN)
                if row.group["engine"] != "all"
            ]
        )
    )
    st.caption(
        "In-sample: the fit saw the run. Not fitted: it did not, or the run states no batch. Coverage: the share of measured "
        "values inside their 90% intervals, and where it lies with 95%, clustered by model and GPU."
    )
    _tell_left_out(metric)
    outside = [check for check in here if not check.inside]
    if outside:
        with st.expander(f"{len(outside)} of {len(here)} outside their interval", icon=":material/rule:"):
            table(check_columns(outside))
    narrowed = replace(judged, checks=checks)
    downloads("predicted and measured", frame=narrowed.to_frame(), body=narrowed.to_dict)


def _tell_left_out(metric: str) -> None:
    """Show how well what no fit has seen is predicted, as of when the shipped fit was made."""
    st.markdown("### Models, GPUs and engines left out")
    errors = holdout_errors()
    if errors is None:
        st.caption(plain(f"{HOLDOUT_COMMAND} computes these errors for the shipped fit, in minutes."))
        return
    rows = [
        row
        for kind in HOLDOUT_SPLITS
        for row in errors.rows
        if (row.group["split"], row.group["metric"]) == (kind, metric)
    ]
    if not rows:
        st.caption(f"Too few published runs report {plain(METRICS[metric])}.")
        return
    table(summary_columns(rows))
    st.caption(
        plain(
            f"Each in turn was left out and everything fitted again without it, on {errors.date}: all fitted runs, those of "
            f"published benchmarks too. Intervals were set on the others. {HOLDOUT_COMMAND} shows every check behind it."
        )
    )


def _summary(checks: Sequence[Check], what: str) -> str:
    parts = []
    for split, words in ((UNSEEN, "the fit has not seen"), (SEEN, "the fit has seen")):
        members = [check for check in checks if check.split == split]
        if not members:
            continue
        error = float(np.median([abs(check.error) for check in members]))
        inside = sum(check.inside for check in members) / len(members)
        parts.append(
            f"{len(members)} values that {words}: median error {error:.1%}, {share(inside)} inside their 90% intervals"
        )
    return f"{what[0].upper()}{what[1:]}: {'; '.join(parts)}."
