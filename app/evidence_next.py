"""What to measure next: the loads that would tell most within a budget, and the command that runs them."""

from __future__ import annotations

import shlex

import pandas as pd
import streamlit as st

from advisor import ProbeQuestion, prepare_probe
from advisor.render.answers.probing import plan_columns, plan_rows
from advisor.render.menus import PROBED_ENGINES
from advisor.render.numbers import short
from app import inputs
from app.downloads import downloads
from app.own_model import UPLOADED_PATH
from app.plain_text import plain
from app.tables import table


def show() -> None:
    """Plan a probe; nothing is run from here."""
    with st.container(border=True):
        model = inputs.model()
        gpus = inputs.cluster()
        left, right = st.columns(2)
        engine = left.selectbox("Engine to measure", PROBED_ENGINES, key="probed", bind=inputs.BIND)
        minutes = right.number_input(
            "Budget, minutes", min_value=1, max_value=1440, value=5, step=1, key="budget", bind=inputs.BIND
        )
    ready = prepare_probe(model, gpus, budget_s=60.0 * minutes, question=ProbeQuestion(engine=engine))
    st.markdown(
        "Run this on the machine with these GPUs while nobody else uses them; no weights are needed. The runs are kept there, "
        "and later answers use them."
    )
    name = model.name if model.name != UPLOADED_PATH else f"{UPLOADED_PATH}/config.json"
    command = ["advisor", "probe", "--model", name, "--gpus", "local", "--engine", engine, "--budget", f"{minutes}m"]
    st.code(shlex.join(command), language="bash", wrap_lines=True)
    if ready.loads:
        st.markdown(
            plain(
                f"On {gpus} that is {len(ready.loads)} loads in about {short(ready.expected_s)} s, the most informative first:"
            )
        )
        table(plan_columns(ready))
        downloads("probe", frame=pd.DataFrame(plan_rows(ready)), body=ready.to_dict)
    else:
        st.info("All of it has been measured before on this machine.", icon=":material/done_all:")
    if ready.left_out:
        with st.expander(f"{len(ready.left_out)} left out", icon=":material/playlist_remove:"):
            st.markdown("\n".join(f"- {plain(text)}" for text in ready.left_out))
    st.caption(
        "Then import the file of runs here, or ask on that machine. advisor probe --endpoint ADDRESS measures a running "
        "server."
    )
