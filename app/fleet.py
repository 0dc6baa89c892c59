"""The page Fleet: several models on several kinds of GPUs, hour by hour, for the least money."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st
import yaml

import advisor
from advisor.render.answers.fleet import document, row
from advisor.render.page import page_files
from app.documents import show_document
from app.downloads import downloads
from app.evidence_runs import session_runs
from app.fleet_question import question
from app.jobs import answered
from app.planning import question_to_plan

if TYPE_CHECKING:
    from collections.abc import Mapping

WHAT_IT_DOES = (
    "Plan finds which model runs on which GPUs, in which layout and on how many replicas, by simulating what each replica carries. "
    "It takes from seconds to minutes and can be cancelled."
)


def show() -> None:
    """Ask for a fleet; once it is to be planned, show the plan."""
    now = question()
    digest = hashlib.sha256(json.dumps(now, sort_keys=True).encode()).hexdigest()[:12]
    asked = question_to_plan(now, digest, _missing(now), page="fleet", does=WHAT_IT_DOES)
    if asked is None:
        return
    runs = session_runs()
    plan = answered(
        "fleet plan",
        (asked, runs),
        lambda tell: advisor.plan_fleet(asked, runs=runs, progress=tell),
        doing="Finding what each model's replicas carry",
    )
    made = document(plan)
    show_document(made, "fleet")
    text = yaml.safe_dump(asked, sort_keys=False)
    frame = pd.DataFrame([row(place) for place in plan.placements]) if plan.placements else None
    downloads("fleet", frame=frame, body=plan.to_dict, files={"yaml": lambda: text}, report=lambda: page_files(made))
    st.caption("The YAML file is what advisor fleet takes.")


def _missing(now: Mapping[str, Any]) -> str:
    """Return what has to be said before anything can be planned; empty if nothing."""
    if not now["models"]:
        return "Name at least one model and its traffic."
    if not now["pools"]:
        return "Name at least one kind of GPU to choose from."
    return ""
