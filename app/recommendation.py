"""The page Recommend: what to run on given GPUs, what else was close, and what stands in the way."""

from __future__ import annotations

import streamlit as st

import advisor
from app import answers, inputs
from app.frame import plain


def show() -> None:
    """Ask the question and show its answer."""
    with st.container(border=True):
        model = inputs.model()
        gpus = inputs.cluster()
        input_len, output_len = inputs.lengths()
        limits = inputs.limits()
        left, middle, right = st.columns(3)
        with left:
            objective = inputs.objective()
        with middle:
            engine = inputs.engine()
        with right:
            price = inputs.price()
    found = answers.recommendation(
        model, gpus, advisor.Workload(input_len=input_len, output_len=output_len), advisor.Slo(**limits),
        objective=objective, engine=engine, price=price,
    )  # fmt: skip
    st.write(plain(" ".join(found.command)))
