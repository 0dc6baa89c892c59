"""The page Explore: what changes with batch, lengths, parallelism and hardware; two deployments beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from advisor.render.figures.exploration import cause_areas, curves, memory_areas
from advisor.render.numbers import RATE, dollars, duration, short, unit_of
from advisor.render.vocabulary import PROVENANCE, TPOT, TTFT
from app import answers, inputs
from app.downloads import downloads
from app.evidence_runs import session_runs
from app.figures import METRIC_WIDTH, draw
from app.plain_text import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import advisor
    from advisor.render.vocabulary import Regime

REGIMES: dict[str, Regime] = {"kept in flight": "steady", "all at once": "static"}
DEGREES = (1, 2, 4, 8, 16)
MOST_LENGTH = 2**17
WHAT_IF: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "bandwidth": ("Memory bandwidth", ("memory_bandwidth_gbps",)),
    "arithmetic": ("Arithmetic", ("fp16_tflops", "fp8_tflops", "int8_tops", "fp4_tflops")),
    "memory": ("Memory", ("memory_gib",)),
    "links": ("Links between GPUs", ("nvlink_gbps", "pcie_gbps")),
}
"""Sliders of hardware that there is not: their names and the fields of a GPU that each scales."""
_SAME = {"model": "meta-llama/Llama-2-13b-hf", "input_len": 1024, "output_len": 256, "batch": 32} | dict.fromkeys(
    WHAT_IF, 100
)
_ONE_GPU = dict.fromkeys(("tp", "pp", "dp", "tp_b", "pp_b", "dp_b"), 1) | {"compare": True}
EXAMPLES: Mapping[str, Mapping[str, object]] = {
    "TP2 beside TP4": _SAME | _ONE_GPU | {"gpu": "A100-SXM-80GB", "tp": 2, "gpu_b": "A100-SXM-80GB", "tp_b": 4},
    "H100 beside H200": _SAME | _ONE_GPU | {"gpu": "H100-SXM", "gpu_b": "H200-SXM"},
    "An H200 with twice the bandwidth": _SAME | _ONE_GPU | {"gpu": "H200-SXM", "gpu_b": "H200-SXM", "bandwidth": 200},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One deployment to explore."""

    gpu: str
    tp: int
    pp: int
    dp: int
    set_gpu: Mapping[str, float]

    @property
    def name(self) -> str:
        changed = ", what-if" if self.set_gpu else ""
        return f"{self.gpu}{changed}: {self.dp} x TP{self.tp} PP{self.pp}"

    @property
    def gpus(self) -> str:
        """Return the GPUs that it takes, in as few servers as hold them."""
        needed, most = self.tp * self.pp * self.dp, inputs.gpus()[self.gpu].gpus_per_node
        return f"{needed}x{self.gpu}" if needed <= most else f"{-(-needed // most)}x{most}x{self.gpu}"


def show() -> None:
    """Ask for one deployment or two, and draw them over the batch."""
    with st.container(border=True):
        inputs.examples(EXAMPLES)
        left, right = st.columns([3, 2])
        with left:
            model = inputs.model()
        with right:
            engine = inputs.engine()
        knobs = inputs.knobs()
    controls, charts = st.columns([1, 3], gap="medium")
    with controls:
        batch, lengths, regime = _workload()
        sides = _sides()
    with charts:
        common: dict[str, Any] = {
            "model": model,
            "lengths": lengths,
            "regime": regime,
            "engine": engine,
            "knobs": knobs,
        }
        drawn = [(side, _curve(side, common)) for side in sides]
        for side, curve in drawn:
            _numbers(side, _curve(side, common, batches=(batch,)), curve, alone=len(sides) == 1)
        if all(not curve.fits for _, curve in drawn):
            return
        _charts([(side.name, curve) for side, curve in drawn if curve.fits], batch)
        for i, (side, curve) in enumerate(drawn):
            st.caption(f"The curves of {plain(side.name)}")
            downloads(f"curve {'AB'[i]}", frame=curve.to_frame(), body=curve.to_dict)


def _curve(side: Side, common: Mapping[str, Any], *, batches: tuple[int, ...] | None = None) -> advisor.Curve:
    return answers.curve(
        gpus=side.gpus,
        layout=(side.tp, side.pp, side.dp),
        set_gpu=side.set_gpu,
        batches=batches,
        runs=session_runs(),
        **common,
    )


def _workload() -> tuple[int, tuple[int, int], Regime]:
    batch = inputs.ladder("Batch", "batch", 32, 4096, help="Sequences at once per replica.")
    lengths = (
        inputs.ladder("Prompt, tokens", "input_len", 1024, MOST_LENGTH),
        inputs.ladder("Answer, tokens", "output_len", 256, MOST_LENGTH),
    )
    chosen = st.segmented_control(
        "Requests are",
        list(REGIMES),
        default="kept in flight",
        required=True,
        key="regime",
        bind=inputs.BIND,
        help="Kept in flight: a new request takes the place of each that ends. All at once: one batch, from first to last.",
    )
    return batch, lengths, REGIMES[chosen]


def _sides() -> list[Side]:
    st.markdown("### Deployment")
    gpu, tp, pp, dp = _layout("")
    with st.expander("What if the GPU were different?", expanded=any(key in st.query_params for key in WHAT_IF)):
        set_gpu = _what_if(inputs.gpus()[gpu])
    sides = [Side(gpu=gpu, tp=tp, pp=pp, dp=dp, set_gpu=set_gpu)]
    if st.toggle("Compare with another", key="compare", bind=inputs.BIND):
        gpu, tp, pp, dp = _layout("_b")
        sides.append(Side(gpu=gpu, tp=tp, pp=pp, dp=dp, set_gpu={}))
    return sides


def _layout(suffix: str) -> tuple[str, int, int, int]:
    names = list(inputs.gpus())
    gpu = st.selectbox(
        "GPU", names, index=names.index(inputs.GPU) if inputs.GPU in names else 0, key=f"gpu{suffix}", bind=inputs.BIND
    )
    tp, pp, dp = (
        st.select_slider(label, DEGREES, value=1, key=f"{key}{suffix}", bind=inputs.BIND, help=why)
        for label, key, why in (
            ("TP", "tp", "GPUs that share each layer (tensor parallel)."),
            ("PP", "pp", "Stages that the layers are split into (pipeline parallel)."),
            ("Replicas", "dp", "Copies of the model (data parallel)."),
        )
    )
    return gpu, tp, pp, dp


def _what_if(gpu: advisor.Gpu) -> dict[str, float]:
    """Ask for fields of the GPU to change, from sliders in percent of the datasheet's figure."""
    changes: dict[str, float] = {}
    for key, (label, names) in WHAT_IF.items():
        percent = st.slider(label, 25, 400, 100, step=5, format="%d%%", key=key, bind=inputs.BIND)
        changed = {name: getattr(gpu, name) * percent / 100 for name in names if percent != 100 and getattr(gpu, name)}
        if changed:
            first, value = next(iter(changed.items()))
            st.caption(f"{plain(first)} = {short(value)} instead of {short(getattr(gpu, first))}")
        changes |= changed
    return changes


def _numbers(side: Side, point: advisor.Curve, curve: advisor.Curve, *, alone: bool) -> None:
    """Show what one deployment reaches at the batch chosen."""
    st.markdown(f"### {plain(side.name)}")
    if not curve.fits:
        needed = sum(float(point.memory[part][0]) for part in ("weights", "activations", "engine", "reserved"))
        st.error(
            f"Out of memory: weights, activations and engine need {short(needed)} GiB of the {short(point.device_gib)} "
            "GiB of each GPU. Raise TP or PP."
        )
        return
    with st.container(horizontal=True):
        for label, metric in (
            ("tok/s per GPU", "output_tok_s_per_gpu"),
            (TTFT, "ttft_ms"),
            (TPOT, "tpot_ms"),
            ("$ per M tokens", "usd_per_mtok"),
        ):
            shown, hint = "-", "no price known"
            if metric in point.metrics:
                value, low, high = (float(ends[metric][0]) for ends in (point.metrics, point.low, point.high))
                unit, shown = RATE, dollars(value) if metric == "usd_per_mtok" else short(value)
                if metric.endswith("_ms"):
                    unit, shown = unit_of([value]), duration(value)
                hint = f"90%: {unit.span(low, high)[1:-1]}"
            st.metric(label, shown, hint, delta_color="off", delta_arrow="off", width=METRIC_WIDTH)
    batch, running = int(point.batches[0]), int(point.running[0])
    lines = [f"The cache holds {curve.full_batch} requests of this length per replica."]
    if running < batch:
        lines = [f"Of {batch} requests {running} run at once, the others wait: the cache holds {curve.full_batch}."]
    lines.append(f"Weight products turn compute-bound at about batch {short(curve.turning_batch)}.")
    if alone:
        lines.append(f"Source: {PROVENANCE[curve.provenance]}.")
    st.caption(plain(" ".join(lines)))


def _charts(shown: Sequence[tuple[str, advisor.Curve]], batch: int) -> None:
    panels = (
        ("output_tok_s_per_gpu", "output tokens/s per GPU", False),
        ("tpot_ms", TPOT, False),
        ("ttft_ms", TTFT, True),
        ("output_tok_s", "output tokens/s in all", False),
    )
    for row in (panels[:2], panels[2:]):
        for column, (metric, title, log) in zip(st.columns(2), row, strict=True):
            with column:
                draw(
                    curves(shown, metric, title=title, batch=batch, log=log),
                    title.partition(",")[0],
                    height=320,
                    alt=f"{title} over the batch, with 90% bands",
                )
    st.caption(
        "Bands: 90% intervals. Dashed: the KV cache is full, beyond it requests wait. Dotted: weight products turn from "
        "memory- to compute-bound. Grey: the batch chosen."
    )
    st.markdown("### Memory of the fullest GPU")
    for column, (name, curve) in zip(st.columns(len(shown)), shown, strict=True):
        with column:
            st.caption(plain(name))
            draw(memory_areas(curve, batch), f"memory {name}", height=340, alt="GPU memory by part over the batch")
    st.markdown("### Where a request's time goes")
    for column, (name, curve) in zip(st.columns(len(shown)), shown, strict=True):
        with column:
            st.caption(plain(name))
            draw(cause_areas(curve, batch), f"causes {name}", height=300, alt="Share of time by cause over the batch")
