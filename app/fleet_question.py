"""What the page Fleet asks: models with their traffic and limits, pools of GPUs, and what must hold, as tables that can be edited."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st
import yaml

import advisor
from advisor import InputError
from advisor.render.vocabulary import E2E, TPOT, TTFT
from app import inputs
from app.links import LONGEST, packed, unpacked
from app.plain_text import plain
from app.planning import AT_ONCE
from app.uploads import file_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PARAMETER = "fleet"
"""Of the address: the packed question."""
BASE, NUMBER, WRITTEN, REFUSED = "fleet tables", "fleet tables number", "fleet written", "fleet refused"
"""Of the session: the question that the tables began with, how often that was, the question in the address, and why a file is none."""
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
WHOLE = {"input_len", "output_len", "max_model_len", "count"}
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
MOST_MB = 1


def question() -> dict[str, Any]:
    """Return the question as the tables stand, as ``advisor.plan_fleet`` takes it."""
    asked = st.query_params.get(PARAMETER)
    if BASE not in st.session_state or (asked and asked != st.session_state.get(WRITTEN)):
        _begin(_linked(asked))
    with st.container(border=True):
        _examples()
        base, number = st.session_state[BASE], st.session_state[NUMBER]
        st.markdown("### Models and their traffic")
        models = st.data_editor(
            table_of(base.get("models", []), MODEL_FIELDS),
            key=f"fleet models {number}",
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
            key=f"fleet pools {number}",
            num_rows="dynamic",
            hide_index=True,
            column_order=("name", *POOL_FIELDS),
            column_config=_pool_columns(),
            placeholder="-",
            alt="Pools of GPUs with their prices",
        )
        rest = _what_holds(base)
        _upload()
    stated = {"models": rows_of(models), "pools": rows_of(pools), **rest}
    _write(stated)
    return stated


def _linked(text: str | None) -> Mapping[str, Any]:
    if not text:
        return START
    try:
        return checked_tables(json.loads(unpacked(text, "the fleet")), "the link")
    except (InputError, ValueError) as error:
        st.session_state[REFUSED] = plain(str(error))
        return START


def _begin(base: Mapping[str, Any]) -> None:
    """Let the tables begin with a question."""
    st.session_state[BASE] = base
    st.session_state[NUMBER] = st.session_state.get(NUMBER, 0) + 1


def _begin_example(base: Mapping[str, Any]) -> None:
    _begin(base)
    st.session_state[AT_ONCE] = True


def _examples() -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("Examples", width="content")
        for label, base in EXAMPLES.items():
            st.button(label, key=f"example {label}", type="tertiary", on_click=_begin_example, args=(base,))


def _write(stated: Mapping[str, Any]) -> None:
    text = packed(stated)
    st.session_state[WRITTEN] = text if len(text) <= LONGEST else None
    if len(text) > LONGEST:
        st.query_params.pop(PARAMETER, None)
        st.caption("This fleet is too long for a link; take its YAML file along.")
    elif stated == dict(START):
        st.query_params.pop(PARAMETER, None)
    else:
        st.query_params[PARAMETER] = text


def _what_holds(base: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for what must hold for all models; only what differs from the defaults is returned."""
    number = st.session_state[NUMBER]
    with st.container(horizontal=True):
        headroom = st.number_input(
            "Headroom, %",
            0,
            1000,
            round(100 * float(base.get("headroom", 0))),
            5,
            key=f"fleet headroom {number}",
            help="The limits hold at rates that are higher by this.",
        )
        spares = st.number_input(
            "Spare replicas",
            0,
            100,
            int(base.get("spares", 0)),
            1,
            key=f"fleet spares {number}",
            help="So many of each model may fail.",
        )
        budget = st.number_input(
            "$ an hour, at most",
            0.01,
            1e7,
            _number(base.get("budget")),
            10.0,
            key=f"fleet budget {number}",
            placeholder="no limit",
        )
    stated = {"headroom": headroom / 100, "spares": spares, "budget": budget}
    kept = {name: base[name] for name in base if name not in {"models", "pools", *stated}}
    return kept | {name: value for name, value in stated.items() if value}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _upload() -> None:
    with st.popover("Upload a fleet.yaml", icon=":material/upload_file:"):
        st.file_uploader(
            f"The file of advisor fleet (YAML or JSON, at most {MOST_MB} MB; it is read, nothing in it is run)",
            type=["yaml", "yml", "json"],
            key="fleet file",
            max_upload_size=MOST_MB,
            on_change=_uploaded,
        )
    refused = st.session_state.get(REFUSED)
    if refused:
        st.error(refused, icon=":material/error:")


def _uploaded() -> None:
    file = st.session_state["fleet file"]
    st.session_state[REFUSED] = ""
    if file is None:
        return
    try:
        _begin(read_tables(file.getvalue(), file_name(file.name)))
    except InputError as error:
        st.session_state[REFUSED] = plain(str(error))


def read_tables(data: bytes, name: str) -> Mapping[str, Any]:
    """Return a fleet's question from YAML or JSON.

    Raises:
        InputError: it is none; the message names the file.

    """
    try:
        text = data.decode()
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise InputError(f"{name}: aliases (*name) are not read here; write each value where it stands")
        content = yaml.safe_load(text)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{name}: cannot be read as YAML: {' '.join(str(error).split()):.200}") from None
    return checked_tables(content, name)


def checked_tables(content: Any, name: str) -> Mapping[str, Any]:
    """Return what has the shape of a fleet's question.

    Raises:
        InputError: it has not.

    """
    rows = [content.get(part) for part in ("models", "pools")] if isinstance(content, dict) else [None]
    if not all(isinstance(part, list) and all(isinstance(row, dict) for row in part) for part in rows):
        raise InputError(f"{name}: it must have models and pools, each a list of tables")
    return dict(content)


def table_of(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> pd.DataFrame:
    """Return rows as a table with those columns and whatever else a row has; a list becomes its members with commas between."""
    names = list(dict.fromkeys([*fields, *(name for row in rows for name in row)]))
    cells = {name: [_cell(row.get(name)) for row in rows] for name in names}
    return pd.DataFrame(cells, columns=names, dtype=object)


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table; empty cells and empty rows are left out.

    Raises:
        InputError: a curve is no list of numbers.

    """
    rows = []
    for record in frame.to_dict("records"):
        row = {str(name): _value(str(name), value) for name, value in record.items() if not _is_empty(value)}
        rows += [row] if row else []
    return rows


def _value(name: str, value: Any) -> Any:
    if name == "curve":
        try:
            return [float(part) for part in str(value).split(",") if part.strip()]
        except ValueError:
            raise InputError(
                f"curve is {value!r:.60}; it must be numbers with commas between, such as 1, 2, 4, 2"
            ) from None
    if name in WHOLE and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _is_empty(value: Any) -> bool:
    return value is None or value is pd.NA or value == "" or (isinstance(value, float) and math.isnan(value))


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
