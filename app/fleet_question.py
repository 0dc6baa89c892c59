"""What the page Fleet asks: models with their traffic and limits, pools of GPUs, and what must hold, as tables that can be edited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

import advisor
from advisor.render.vocabulary import E2E, TPOT, TTFT
from app import inputs
from app.editable_tables import LinkedTables, rows_of, table_of
from app.planning import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = ("on-demand", "owned", "reserved", "spot")
MODEL_FIELDS = (
    "model",
    "rate",
    "input_len",
    "output_len",
    "ttft",
    "tpot",
    "e2e",
    "curve",
    "engine",
    "dtype",
    "kv_dtype",
    "max_model_len",
)
POOL_FIELDS = ("gpu", "count", "kind", "price")
START: Mapping[str, Any] = {
    "models": [
        {
            "model": "meta-llama/Meta-Llama-3.1-8B",
            "rate": 20.0,
            "input_len": 1024,
            "output_len": 256,
            "ttft": 500.0,
            "tpot": 40.0,
        },
        {
            "model": "meta-llama/Meta-Llama-3.1-70B",
            "rate": 2.0,
            "input_len": 2048,
            "output_len": 512,
            "ttft": 1000.0,
            "tpot": 50.0,
        },
    ],
    "pools": [{"gpu": "H100-SXM", "kind": "on-demand"}, {"gpu": "A100-SXM-80GB", "kind": "on-demand"}],
}
EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "Two models, two kinds of GPUs": START,
    "A day on eight owned H100": {
        "models": [
            {**START["models"][0], "curve": [1, 1, 2, 4, 5, 5, 4, 2]},
            {
                "model": "Qwen/Qwen3-30B-A3B",
                "rate": 5.0,
                "input_len": 1024,
                "output_len": 256,
                "ttft": 800.0,
                "tpot": 50.0,
            },
        ],
        "pools": [
            {"gpu": "H100-SXM", "name": "ours", "kind": "owned", "count": 8},
            {"gpu": "H100-SXM", "name": "rented", "kind": "on-demand"},
        ],
    },
}
TABLES = LinkedTables(
    parameter="fleet",
    noun="the fleet",
    too_long="This fleet is too long for a link; take its YAML file along.",
    file="The file of advisor fleet",
    parts=("models", "pools"),
    start=START,
)


def question() -> dict[str, Any]:
    """Return the question as the tables stand, as ``advisor.plan_fleet`` takes it."""
    base, number = TABLES.base()
    with st.container(border=True):
        _examples()
        st.markdown("### Models and their traffic")
        models = st.data_editor(
            table_of(base.get("models", []), MODEL_FIELDS),
            key=f"models of {number}",
            num_rows="dynamic",
            hide_index=True,
            column_order=MODEL_FIELDS,
            column_config=_model_columns(),
            placeholder="-",
            alt="Models with their traffic and limits",
        )
        st.markdown("### GPUs to choose from")
        pools = st.data_editor(
            table_of(base.get("pools", []), ("name", *POOL_FIELDS)),
            key=f"pools of {number}",
            num_rows="dynamic",
            hide_index=True,
            column_order=("name", *POOL_FIELDS),
            column_config=_pool_columns(),
            placeholder="-",
            alt="Pools of GPUs with their prices",
        )
        rest = _what_holds(base, number)
        TABLES.uploader()
    stated = {"models": rows_of(models), "pools": rows_of(pools), **rest}
    TABLES.write(stated)
    return stated


def _begin_example(base: Mapping[str, Any]) -> None:
    TABLES.begin(base)
    st.session_state[AT_ONCE] = True


def _examples() -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("Examples", width="content")
        for label, base in EXAMPLES.items():
            st.button(label, key=f"example {label}", type="tertiary", on_click=_begin_example, args=(base,))


def _what_holds(base: Mapping[str, Any], number: str) -> dict[str, Any]:
    """Ask for what must hold for all models; only what differs from the defaults is returned."""
    with st.container(horizontal=True):
        headroom = st.number_input(
            "Headroom, %",
            0,
            1000,
            round(100 * float(base.get("headroom", 0))),
            5,
            key=f"headroom of {number}",
            help="The limits hold at rates that are higher by this.",
        )
        spares = st.number_input(
            "Spare replicas",
            0,
            100,
            int(base.get("spares", 0)),
            1,
            key=f"spares of {number}",
            help="So many of each model may fail.",
        )
        budget = st.number_input(
            "$ an hour, at most",
            0.01,
            1e7,
            _number(base.get("budget")),
            10.0,
            key=f"budget of {number}",
            placeholder="no limit",
        )
    stated = {"headroom": headroom / 100, "spares": spares, "budget": budget}
    kept = {name: base[name] for name in base if name not in {"models", "pools", *stated}}
    return kept | {name: value for name, value in stated.items() if value}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _model_columns() -> dict[str, Any]:
    column = st.column_config
    names = list(inputs.models())
    engines = [engine.name for engine in advisor.all_engines()]
    return {
        "model": column.SelectboxColumn("model", options=names, required=True, width="large"),
        "rate": column.NumberColumn("requests/s", min_value=0.001, max_value=1e5, help="On average over the time."),
        "input_len": column.NumberColumn("prompt, tokens", min_value=1, step=1),
        "output_len": column.NumberColumn("answer, tokens", min_value=1, step=1),
        "ttft": column.NumberColumn(f"{TTFT}, ms", min_value=0.1),
        "tpot": column.NumberColumn(f"{TPOT}, ms", min_value=0.1),
        "e2e": column.NumberColumn(f"{E2E}, ms", min_value=0.1),
        "curve": column.TextColumn(
            "curve", help="Relative rates of equal parts of the time: 1, 2, 4, 2. Empty: always alike."
        ),
        "engine": column.SelectboxColumn("engine", options=engines),
        "dtype": column.SelectboxColumn("weights", options=list(inputs.weight_formats())),
        "kv_dtype": column.SelectboxColumn("KV cache", options=list(inputs.cache_formats())),
        "max_model_len": column.NumberColumn("context, tokens", min_value=1, step=1),
    }


def _pool_columns() -> dict[str, Any]:
    column = st.column_config
    return {
        "name": column.TextColumn("pool", help="What it is called; the GPU's name where empty."),
        "gpu": column.SelectboxColumn("GPU", options=list(inputs.gpus()), required=True, width="medium"),
        "count": column.NumberColumn("GPUs, at most", min_value=0, step=1, help="Empty: as many as it takes."),
        "kind": column.SelectboxColumn(
            "kind", options=list(KINDS), help="Owned and reserved ones cost the same, used or not."
        ),
        "price": column.NumberColumn(
            "$ per GPU-hour", min_value=0.0, help="Empty: the cheapest offer; nothing for owned ones."
        ),
    }
