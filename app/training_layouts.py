"""The page Training: memory, step time, days and cost of training, and the fastest layouts that fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import streamlit as st

import advisor
from advisor.render.answers.training import recommendation_document, sentence
from advisor.render.page import page_files
from app import inputs
from app.documents import show_document
from app.downloads import downloads
from app.jobs import answered

if TYPE_CHECKING:
    from collections.abc import Mapping

FRAMEWORKS = ("auto", "megatron-core", "nemo", "fsdp", "deepspeed", "megatron-lm")
PRECISIONS = ("bf16", "fp8", "fp4")
RECOMPUTATIONS = {
    "auto": "the fastest that fits",
    "none": "nothing",
    "selective": "the core of attention",
    "full": "all",
}
DEGREES = {
    "train_tp": ("tp", "TP", "GPUs that share each layer (tensor parallel)."),
    "train_pp": ("pp", "PP", "Stages that the layers are split into (pipeline parallel)."),
    "train_cp": ("cp", "CP", "GPUs that share each sequence (context parallel)."),
    "train_ep": ("ep", "EP", "GPUs that the routed experts are spread over."),
    "micro_batch": ("micro_batch", "Micro-batch", "Sequences of a micro-batch."),
}
"""Keys of widgets, the keywords they stand for, their labels and what they mean; all are searched where they are empty."""
_BLANK: Mapping[str, object] = {
    "framework": "auto",
    "precision": "bf16",
    "recompute": "auto",
    "lora_rank": 0,
    "offload": False,
    "sequence_length": None,
    "price": None,
    **dict.fromkeys(DEGREES),
}
EXAMPLES: Mapping[str, Mapping[str, object]] = {
    "8B on eight H100, 15B tokens": {
        **_BLANK,
        "model": "meta-llama/Meta-Llama-3-8B",
        "gpu": "H100-SXM",
        "count": 8,
        "train_batch": 128,
        "tokens_b": 15.0,
    },
    "70B on 64 H100 in fp8": {
        **_BLANK,
        "model": "meta-llama/Meta-Llama-3.1-70B",
        "gpu": "H100-SXM",
        "count": 64,
        "train_batch": 512,
        "tokens_b": 1000.0,
        "precision": "fp8",
    },
    "LoRA of 8B on two 4090": {
        **_BLANK,
        "model": "meta-llama/Meta-Llama-3-8B",
        "gpu": "RTX 4090",
        "count": 2,
        "train_batch": 8,
        "tokens_b": 0.1,
        "lora_rank": 16,
    },
}


def show() -> None:
    """Ask what is trained on what, and show the fastest layouts."""
    question = _question()
    answer = answered(
        "train", question, lambda _: advisor.recommend_training(**question), doing="Searching every layout"
    )
    made = replace(recommendation_document(answer), answer=sentence(answer))
    show_document(made, "training")
    downloads("training", frame=answer.to_frame(), body=answer.to_dict, report=lambda: page_files(made))


def _question() -> dict[str, Any]:
    """Ask the question; it is returned as ``advisor.recommend_training`` takes it."""
    with st.container(border=True):
        inputs.examples(EXAMPLES)
        model, gpus = inputs.model_and_cluster()
        left, right = st.columns(2)
        with left, st.container(horizontal=True):
            why = "Sequences of one step, over all replicas."
            batch = inputs.number("Batch", "train_batch", (1, 10**6), 128, 8, help=why)
            why = "Tokens of a sequence; empty: the model's positions, at most 4096."
            length = inputs.number(
                "Sequence, tokens", "sequence_length", (1, 2**20), None, 1024, placeholder="usual", help=why
            )
            why = "A thousand million tokens to train on, for days, cost and energy."
            billions = inputs.number("Tokens in all, 10^9", "tokens_b", (0.001, 1e6), 15.0, 1.0, help=why)
        with right, st.container(horizontal=True):
            precision = st.selectbox("Precision", PRECISIONS, key="precision", bind=inputs.BIND)
            why = "Rank of the adapters that alone are trained (LoRA); 0: all weights."
            rank = inputs.number("LoRA rank", "lora_rank", (0, 4096), 0, 8, help=why)
            price = inputs.price()
        knobs = _knobs()
    return {
        "model": model,
        "gpus": gpus,
        "batch": batch,
        "sequence_length": length,
        "tokens": None if billions is None else 1e9 * billions,
        "precision": precision,
        "lora_rank": rank,
        "price": price,
        **knobs,
    }


def _knobs() -> dict[str, Any]:
    """Ask for the layout, as far as it is to be stated."""
    stated: dict[str, Any] = {}
    asked = any(key in st.query_params for key in (*DEGREES, "framework", "recompute", "offload"))
    with st.expander("Layout, framework and memory", expanded=asked), st.container(horizontal=True):
        for key, (keyword, label, why) in DEGREES.items():
            stated[keyword] = inputs.number(label, key, (1, 4096), None, 1, placeholder="searched", help=why)
        why = "Automatic: Megatron-Core and FSDP are tried."
        stated["framework"] = st.selectbox("Framework", FRAMEWORKS, key="framework", bind=inputs.BIND, help=why)
        why = "Activations that are computed again rather than kept."
        stated["recompute"] = inputs.choice("Recompute", "recompute", RECOMPUTATIONS, help=why)
        why = "The optimizer's states are kept in CPU memory."
        stated["offload"] = st.checkbox("Offload the optimizer", key="offload", bind=inputs.BIND, help=why)
    return stated
