"""The page Compare: models, GPUs and formats side by side, at the prices of the catalog or one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

import advisor
from advisor import read_prices
from advisor.render.answers.comparison import document
from advisor.render.page import page_files
from advisor.render.vocabulary import GOALS, TPOT
from app import inputs
from app.documents import show_document
from app.downloads import downloads
from app.evidence_runs import session_runs
from app.frame import OWN_DEFAULTS
from app.jobs import answered

if TYPE_CHECKING:
    from collections.abc import Mapping

MODELS = ("meta-llama/Meta-Llama-3.1-70B",)
FORMATS = {
    "any": "16, 8 and 4 bits",
    "auto": "the checkpoint's",
    **{name: name for name in ("bfloat16", "fp8", "int8", "int4", "mxfp4", "nvfp4")},
}
ORDERS = {"": "least cost, or the largest model", "size": "largest models first", **GOALS}
_BLANK: Mapping[str, object] = {
    "ttft": None,
    "tpot": None,
    "e2e": None,
    "concurrency": None,
    "budget": None,
    "formats": ["any"],
    "order": "",
    "input_len": 1024,
    "output_len": 256,
    **inputs.NO_KNOBS,
}
EXAMPLES: Mapping[str, Mapping[str, object]] = {
    f"70B within $10 an hour, {TPOT} 50 ms": {
        **_BLANK,
        "models": ["meta-llama/Meta-Llama-3.1-70B"],
        "kinds": [],
        "budget": 10.0,
        "tpot": 50.0,
    },
    "The largest model on two 4090": {**_BLANK, "models": [], "kinds": ["2xRTX4090"]},
    "Two models on three servers": {
        **_BLANK,
        "models": ["meta-llama/Meta-Llama-3.1-8B", "Qwen/Qwen3-32B"],
        "kinds": ["8xH100-SXM", "8xH200-SXM", "8xA100-SXM-80GB"],
    },
}


def show() -> None:
    """Ask what is put side by side, and show it."""
    question = _question()
    answer = answered("compare", question, lambda _: advisor.compare(**question), doing="Comparing")
    made = document(answer)
    show_document(made, "comparison")
    frame = answer.to_frame() if answer.rows else None
    downloads("comparison", frame=frame, body=answer.to_dict, report=lambda: page_files(made))


def _question() -> dict[str, Any]:
    """Ask the question; it is returned as ``advisor.compare`` takes it."""
    with st.container(border=True):
        inputs.examples(EXAMPLES)
        left, right = st.columns(2)
        with left:
            models = _models()
        with right:
            kinds = inputs.kinds(
                OWN_DEFAULTS["comparison"]["kinds"],
                why="Type 8xH100-SXM for at most eight. None chosen: every GPU of the catalog.",
            )
        left, right = st.columns(2)
        with left:
            input_len, output_len = inputs.lengths()
            limits = inputs.limits()
        with right:
            with st.container(horizontal=True):
                budget = _budget()
                order = inputs.choice("Order", "order", ORDERS)
                concurrency = inputs.in_flight()
            with st.container(horizontal=True):
                engine = inputs.engine()
                prices = inputs.prices()
        formats = _formats()
        knobs = inputs.knobs(weights=False)
    return {
        "models": models or None,
        "gpus": kinds or None,
        "workload": advisor.Workload(input_len=input_len, output_len=output_len, concurrency=concurrency),
        "slo": advisor.Slo(**limits),
        "formats": formats or None,
        "engine": engine,
        "budget": budget,
        "objective": order or None,
        "price": read_prices([part for part in prices.split(",") if part.strip()]),
        "kv_dtype": knobs.kv_dtype,
        "max_model_len": knobs.max_model_len,
        "gpu_memory_utilization": knobs.gpu_memory_utilization,
        "runs": session_runs(),
    }


def _models() -> list[str]:
    known = list(inputs.models())
    return st.multiselect(
        "Models",
        known,
        default=[name for name in MODELS if name in known],
        key="models",
        bind=inputs.BIND,
        help="Type to search the catalog. None chosen: every model of it.",
    )


def _formats() -> list[str]:
    return st.multiselect(
        "Weight formats",
        list(FORMATS),
        default=["any"],
        key="formats",
        bind=inputs.BIND,
        format_func=FORMATS.__getitem__,
        help="Each makes a row of its own; a quantised checkpoint has one only.",
    )


def _budget() -> float | None:
    why = "Most dollars an hour for all GPUs; GPUs without a price are left out then."
    budget: float | None = inputs.number(
        "$ an hour, at most", "budget", (0.01, 1e6), None, 1.0, placeholder="no limit", help=why
    )
    return budget
