"""The questions that several pages ask: model, GPUs, workload, limits. Each keeps its value in the address of the page.

Streamlit binds a widget to the parameter of the address that is called like its key: a link reproduces the view, and the
same key on two pages is the same question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import streamlit as st

import advisor
from advisor.render.vocabulary import E2E, GOALS, TPOT, TTFT
from app import own_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MODEL = "meta-llama/Llama-2-13b-hf"
GPU = "A100-SXM-80GB"
GPU_COUNT = 4
MOST_GPUS = 1024
BIND: Final = "query-params"
AUTO, ANY = "auto", "any"
"""Weight formats: the checkpoint's, and the best of several."""


@st.cache_resource(show_spinner=False, ttl=60, max_entries=1)
def models() -> dict[str, advisor.Model]:
    """Return the catalog's models by name, the user's own included; read again after a minute."""
    return {model.name: model for model in sorted(advisor.all_models(), key=lambda model: model.name.casefold())}


@st.cache_resource(show_spinner=False, ttl=60, max_entries=1)
def gpus() -> dict[str, advisor.Gpu]:
    """Return the catalog's GPUs by name, the user's own included."""
    return {gpu.name: gpu for gpu in advisor.all_gpus()}


def model() -> advisor.Model:
    """Ask for the model asked about: one of the catalog, or what an uploaded ``config.json`` describes."""
    known = models()
    own = own_model.restored()
    names = [*known, *([own_model.UPLOADED] if own else [])]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Model",
            names,
            index=names.index(MODEL) if MODEL in names else 0,
            key="model",
            bind=BIND,
            help="Type to search the catalog. For any other model, upload its config.json.",
        )
        own_model.uploader(MODEL)
    own_model.linked(chosen)
    return own if own is not None and chosen == own_model.UPLOADED else known[chosen]


def number(label: str, key: str, ends: tuple[float, float], value: float | None, step: float, **options: Any) -> Any:
    """Ask for a number between two ends, whole if they are; None, where ``value`` is, until one is given."""
    whole = all(isinstance(end, int) for end in ends)
    return st.number_input(
        label,
        min_value=ends[0],
        max_value=ends[1],
        value=value,
        step=step,
        format=None if whole else "%g",
        key=key,
        bind=BIND,
        **options,
    )


def choice(label: str, key: str, names: Mapping[Any, str], **options: Any) -> Any:
    """Ask for one of the keys of ``names``, which are shown by their names."""
    return st.selectbox(label, list(names), key=key, bind=BIND, format_func=names.__getitem__, **options)


def shown_in_detail(label: str, key: str, names: Sequence[str], question: object) -> str:
    """Return the row to show in detail: a click on it or its point sets it, and who uses the keyboard chooses here.

    It is written to the address by hand: a bound widget leaves the address as it was where a callback sets the value. A row is
    chosen for one question: the next one begins with its best.
    """
    address = st.query_params.get(key)
    before, written = st.session_state.get(f"{key} of", (question, None))
    asked = st.session_state.get(key, address)
    if address != written:  # by a link, or back in the history
        asked = address
    elif question != before:
        asked = None
    if asked in names:
        st.session_state[key] = asked
    else:
        st.session_state.pop(key, None)
    chosen = st.selectbox(label, names, key=key)
    if chosen == names[0]:
        st.query_params.pop(key, None)
    else:
        st.query_params[key] = chosen
    st.session_state[f"{key} of"] = question, st.query_params.get(key)
    return chosen


def cluster() -> str:
    """Ask for GPUs, as ``advisor`` reads them: "4xA100-SXM-80GB"."""
    names = list(gpus())
    with st.container(horizontal=True):
        gpu = st.selectbox(
            "GPU", names, index=names.index(GPU) if GPU in names else 0, key="gpu", bind=BIND, help="Type to search."
        )
        why = "More than fit into one server become several servers."
        count = number("How many", "count", (1, MOST_GPUS), GPU_COUNT, 1, help=why)
    return f"{count}x{gpu}"


def model_and_cluster() -> tuple[advisor.Model, str]:
    """Ask for a model and, beside it, for GPUs."""
    left, right = st.columns([3, 2])
    with left:
        chosen = model()
    with right:
        return chosen, cluster()


def kinds(defaults: Sequence[str], *, why: str) -> list[str]:
    """Ask for kinds of GPUs, each with or without a number; ``defaults`` to begin with, ``why``: what they mean on the page."""
    known = list(gpus())
    return st.multiselect(
        "GPUs to choose from",
        known,
        default=[name for name in defaults if name in known],
        key="kinds",
        bind=BIND,
        accept_new_options=True,
        help=why,
    )


def prices() -> str:
    """Ask for dollars per GPU-hour, as ``advisor.read_prices`` takes them, with commas between."""
    return st.text_input(
        "$ per GPU-hour",
        key="prices",
        bind=BIND,
        placeholder="cheapest",
        max_chars=200,
        help="Of all, or by GPU: 2.5 or H100-SXM=2.5, H200-SXM=3.5. Empty: the cheapest offers in the catalog.",
    )


def lengths() -> tuple[int, int]:
    """Ask for the tokens of a prompt and of an answer."""
    with st.container(horizontal=True):
        input_len = number("Prompt, tokens", "input_len", (1, 2**20), 1024, 128)
        output_len = number("Answer, tokens", "output_len", (1, 2**20), 256, 64)
    return input_len, output_len


def ladder(label: str, key: str, default: int, most: int, *, help: str = "") -> int:  # noqa: A002  Streamlit's word
    """Show a slider over counts that people choose, evenly spaced by ratio; one that a link or another page has is added."""
    steps = {step for power in range(20) for step in (2**power, 3 * 2**power) if step <= most} | {default}
    asked = st.session_state.get(key, st.query_params.get(key, default))
    if str(asked).isdecimal() and 0 < int(asked) <= most:
        steps.add(int(asked))
    return st.select_slider(label, sorted(steps), value=default, key=key, bind=BIND, help=help or None)


def in_flight() -> int | None:
    """Ask for the requests kept in flight over all replicas; None where that is to be chosen."""
    why = "Over all replicas; empty: the number that serves the goal best."
    ends = (1, 10**6)
    return number("Requests in flight", "concurrency", ends, None, 16, placeholder="choose best", help=why)


def limits() -> Mapping[str, float | None]:
    """Ask for the latencies that must be kept, as keywords of ``advisor.Slo``; None where there is no limit."""
    limits_ms = {}
    with st.container(horizontal=True):
        for name, label, why in (
            ("ttft", f"{TTFT}, ms", "Time to the first token of a request, at most."),
            ("tpot", f"{TPOT}, ms", "Time per output token after the first, at most."),
            ("e2e", f"{E2E}, ms", "Time of a whole request, at most."),
        ):
            limits_ms[f"{name}_ms"] = number(label, name, (0.1, 1e9), None, 10.0, help=why, placeholder="no limit")
    return limits_ms


def weight_formats() -> list[str]:
    """Return the weight formats that some engine has."""
    return list(dict.fromkeys(name for known in advisor.all_engines() for name in known.weights))


def cache_formats() -> list[str]:
    """Return the KV cache formats that some engine has."""
    return list(dict.fromkeys(name for known in advisor.all_engines() for name in known.kv))


def engine() -> str:
    """Name of the engine that serves."""
    names = [known.name for known in advisor.all_engines()]
    return st.selectbox("Engine", names, index=names.index("vllm"), key="engine", bind=BIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """Formats, context and memory of a deployment, as keywords of ``advisor`` have them."""

    dtype: str
    kv_dtype: str
    max_model_len: int | None
    gpu_memory_utilization: float | None


NO_KNOBS: Mapping[str, object] = {"weights": AUTO, "kv": AUTO, "context": None, "memory_share": None}
"""Values of the widgets of ``knobs`` that state nothing."""


def knobs(*, several: bool = False, weights: bool = True) -> Knobs:
    """Ask for the formats of weights and KV cache, the longest context, and the share of memory that the engine may use.

    Args:
        several: whether the best of several weight formats may be chosen.
        weights: whether the format of the weights is asked for.

    """
    formats = {AUTO: "as the checkpoint"} | ({ANY: "the best of 16, 8 and 4 bits"} if several else {})
    formats |= {name: name for name in weight_formats()}
    caches = {AUTO: "as the model"} | {name: name for name in cache_formats()}
    if st.session_state.get("weights") not in {None, *formats}:
        st.session_state["weights"] = AUTO  # another page lets the format be chosen
    with st.container(horizontal=True):
        why = "Format of the weights. Fewer bits are faster and take less memory."
        dtype = choice("Weights", "weights", formats, help=why) if weights else AUTO
        kv_dtype = choice("KV cache", "kv", caches, help="Format of the KV cache.")
        context = number(
            "Context, tokens",
            "context",
            (1, 2**24),
            None,
            1024,
            placeholder="the most",
            help="Longest prompt and answer together; empty: the model's, or what memory holds.",
        )
        why = "Share of each GPU's memory that the engine may use (--gpu-memory-utilization); empty: the engine's own."
        share = number("GPU memory, %", "memory_share", (1, 100), None, 1, placeholder="the engine's", help=why)
    utilization = None if share is None else share / 100
    return Knobs(dtype=dtype, kv_dtype=kv_dtype, max_model_len=context, gpu_memory_utilization=utilization)


def objective() -> str:
    """Ask what to optimise: a key of ``GOALS``."""
    goals = {label: name for name, label in GOALS.items()}  # a link holds the label
    return goals[st.selectbox("Goal", list(goals), key="goal", bind=BIND)]


def price() -> float | None:
    """Return dollars per GPU-hour; None for the cheapest offer in the catalog."""
    why = "What one GPU costs an hour; empty for the cheapest offer in the catalog."
    return number("$ per GPU-hour", "price", (0.001, 1e6), None, 0.1, placeholder="cheapest", help=why)


def examples(questions: Mapping[str, Mapping[str, object]]) -> None:
    """Show buttons that each fill in one question.

    Args:
        questions: by the label of its button, values by the key of their widget; every one names the same keys.

    """
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("Examples", width="content")
        for label, values in questions.items():
            st.button(label, key=f"example {label}", type="tertiary", on_click=st.session_state.update, args=(values,))
