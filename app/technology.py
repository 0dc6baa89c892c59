"""The page Technology: GPUs made of other logic, memory and links, and where the bottleneck moves."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import streamlit as st

import advisor
from advisor.render.answers.technology import document, sentence
from advisor.render.page import page_files
from app import inputs
from app.documents import show_document
from app.downloads import downloads
from app.jobs import answered

if TYPE_CHECKING:
    from collections.abc import Mapping

SWEEPS = {
    "bandwidth": "memory bandwidth, times 0.25 to 16",
    "flops": "arithmetic, times 0.25 to 16",
    "capacity": "memory, times 0.25 to 16",
    "dram": "generations of memory",
    "node": "generations of logic",
    "link": "generations of links",
    "network": "generations of networks",
}
INFERENCE, TRAINING = "an output token", "a training step"
TASKS = {INFERENCE: "inference", TRAINING: "training"}
_SAME: Mapping[str, object] = {"input_len": 1024, "output_len": 256, "to": None}
EXAMPLES: Mapping[str, Mapping[str, object]] = {
    "13B on other memory": {
        **_SAME,
        "model": "meta-llama/Llama-2-13b-hf",
        "gpu": "A100-SXM-80GB",
        "count": 1,
        "task": INFERENCE,
        "sweep": "dram",
        "explored_batch": 1,
    },
    "70B with faster links": {
        **_SAME,
        "model": "meta-llama/Meta-Llama-3.1-70B",
        "gpu": "H100-SXM",
        "count": 8,
        "task": INFERENCE,
        "sweep": "link",
        "explored_batch": 64,
    },
    "From A100 to B200 in training": {
        **_SAME,
        "model": "meta-llama/Llama-2-70b-hf",
        "gpu": "A100-SXM-80GB",
        "count": 64,
        "task": TRAINING,
        "sweep": "node",
        "explored_batch": 512,
        "to": "B200-SXM",
    },
}


def show() -> None:
    """Ask what is varied, and show what it does."""
    question = _question()
    answer = answered("explore", question, lambda _: advisor.explore(**question), doing="Trying each technology")
    made = replace(document(answer), answer=sentence(answer))
    show_document(made, "technology")
    downloads("technology", frame=answer.to_frame(), body=answer.to_dict, report=lambda: page_files(made))


def _question() -> dict[str, Any]:
    """Ask the question; it is returned as ``advisor.explore`` takes it."""
    with st.container(border=True):
        inputs.examples(EXAMPLES)
        model, gpus = inputs.model_and_cluster()
        left, right = st.columns(2)
        with left, st.container(horizontal=True, vertical_alignment="bottom"):
            task = st.segmented_control(
                "Time of", list(TASKS), default=INFERENCE, required=True, key="task", bind=inputs.BIND
            )
            sweep = inputs.choice("What is varied", "sweep", SWEEPS)
        with right, st.container(horizontal=True):
            why = "Sequences at once per replica, or of a training step."
            batch = inputs.number("Batch", "explored_batch", (1, 10**6), 8, 8, help=why)
            other = _other() if task == TRAINING else None
        input_len, output_len = inputs.lengths()
    return {
        "model": model,
        "gpus": gpus,
        "task": TASKS[task],
        "sweep": sweep,
        "to": other,
        "batch": batch,
        "input_len": input_len,
        "output_len": max(output_len, 2),
    }


def _other() -> str | None:
    return st.selectbox(
        "Or: from this GPU to",
        list(inputs.gpus()),
        index=None,
        key="to",
        bind=inputs.BIND,
        placeholder="nothing",
        help="The gain of another GPU taken apart into its causes, in place of what is varied.",
    )
