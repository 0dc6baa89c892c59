"""The page Recommend: what to run on given GPUs, what else was close, and what stands in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

import advisor
from advisor.render.answers.recommendation import document, proposal_sentence
from advisor.render.figures.recommendation import CANDIDATE, memory_bars, time_bars, trade
from advisor.render.numbers import RATE, duration, short, unit_of
from advisor.render.page import page_files
from advisor.render.question_command import question_command
from advisor.render.vocabulary import METRIC_NAMES, PROVENANCE, TPOT, candidate_name
from app import answers, details, inputs
from app.documents import show_command
from app.downloads import downloads
from app.evidence_runs import left_out, session_runs
from app.figures import METRIC_WIDTH, draw
from app.plain_text import plain
from app.suggestions import suggestions, widget_values
from app.tables import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.render.document import Document

BLANK: dict[str, object] = {
    **dict.fromkeys(("concurrency", "ttft", "tpot", "e2e", "price")),
    "engine": "vllm",
    **inputs.NO_KNOBS,
    **details.NO_PROMPTS,
    **details.NO_SERVING,
}
EXAMPLES: Mapping[str, Mapping[str, object]] = {
    "13B on four A100": BLANK
    | {
        "model": "meta-llama/Llama-2-13b-hf",
        "gpu": "A100-SXM-80GB",
        "count": 4,
        "input_len": 1024,
        "output_len": 256,
        "goal": "most tok/s per GPU",
    },
    f"70B chat, {TPOT} 30 ms": BLANK
    | {
        "model": "meta-llama/Meta-Llama-3.1-70B",
        "gpu": "H100-SXM",
        "count": 8,
        "input_len": 2000,
        "output_len": 400,
        "goal": "least cost per token",
        "tpot": 30.0,
    },
    "Mixture of experts on H200": BLANK
    | {
        "model": "Qwen/Qwen3-30B-A3B",
        "gpu": "H200-SXM",
        "count": 2,
        "input_len": 4096,
        "output_len": 512,
        "goal": "most tok/s per GPU",
    },
    "Too tight a limit": BLANK
    | {
        "model": "meta-llama/Llama-2-70b-hf",
        "gpu": "H100-SXM",
        "count": 4,
        "input_len": 1024,
        "output_len": 256,
        "goal": "most tok/s per GPU",
        "tpot": 10.0,
    },
}
FORMATS = ("vllm", "sglang", "tensorrt-llm", "compose", "kubernetes")
LANGUAGES = {"compose": "yaml", "kubernetes": "yaml"}
PICK = "pick"
"""Key of the candidate shown in detail."""
TRADE = "speed and throughput"


def show() -> None:
    """Ask the question and show its answer."""
    question = _question()
    answer = answers.recommendation(**question)
    made = document(answer)
    st.markdown(f"## {plain(made.answer)}")
    if answer.best is None:
        _nothing_feasible(answer, made)
        show_command(_command(**question))
        return
    _sources(answer.candidates)
    suggestions({proposal_sentence(other): widget_values({"dtype": other.dtype}) for other in answer.proposals}, "pays")
    by_name = {candidate_name(estimate): estimate for estimate in (*answer.candidates, *answer.pareto)}
    table(
        made.columns,
        "candidates",
        alt="Layouts, best first, with their throughput and latency",
        pick=lambda row: st.session_state.update({PICK: candidate_name(answer.candidates[row])}),
    )
    charts, details = st.container(), st.container()
    with details:
        st.divider()
        picked = by_name[inputs.shown_in_detail("In detail", PICK, list(by_name), question)]
        _details(picked)
    with charts:
        _charts(answer, picked)
    _notes(answer)
    show_command(_command(**question))
    downloads("recommendation", frame=answer.to_frame(), body=answer.to_dict, report=lambda: page_files(made))


def _question() -> dict[str, Any]:
    """Ask the question; it is returned as ``answers.recommendation`` takes it."""
    with st.container(border=True):
        inputs.examples(EXAMPLES)
        model, gpus = inputs.model_and_cluster()
        left, right = st.columns(2)
        with left:
            input_len, output_len = inputs.lengths()
            limits = inputs.limits()
        with right:
            with st.container(horizontal=True):
                concurrency, objective = inputs.in_flight(), inputs.objective()
            with st.container(horizontal=True):
                engine, price = inputs.engine(), inputs.price()
        knobs = inputs.knobs(several=True)
        prompts = details.prompts()
        served, _ = details.engine(plans=False)
    workload = advisor.Workload(input_len=input_len, output_len=output_len, concurrency=concurrency)
    return {
        "model": model,
        "gpus": gpus,
        "workload": workload,
        "slo": advisor.Slo(**limits),
        "objective": objective,
        "engine": engine,
        "knobs": knobs,
        "prompts": prompts,
        "served": served,
        "price": price,
        "runs": session_runs(),
    }


def _command(*, model: advisor.Model, gpus: str, runs: advisor.ExtraRuns | None, **question: Any) -> str:
    keywords = answers.recommendation_keywords(**question)
    return question_command("recommend", model, gpus, keywords, comment=left_out(runs))


def _sources(shown: Sequence[advisor.Estimate]) -> None:
    for source in dict.fromkeys(estimate.provenance for estimate in shown):
        st.caption(f"Source: {plain(PROVENANCE[source])}. In brackets: 90% intervals.")


def _charts(answer: advisor.Recommendation, picked: advisor.Estimate) -> None:
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("### Speed for a user against throughput per GPU")
        st.caption("Each point is a layout at a batch; click one to see it in detail. Right is faster, up is cheaper.")
        draw(
            trade(answer, picked),
            TRADE,
            on_select=_pick_point,
            selection_mode=CANDIDATE,
            alt="Tokens per second of one user against output tokens per second per GPU",
        )
    with right:
        st.markdown("### Memory of one GPU")
        st.caption("The fullest GPU of each layout at the batch named beside it.")
        draw(memory_bars(answer.candidates), "memory by layout", alt="Stacked bars of GPU memory by layout and part")


def _pick_point() -> None:
    points = st.session_state[TRADE].selection[CANDIDATE]
    if points:
        st.session_state[PICK] = points[0]["name"]


def _details(picked: advisor.Estimate) -> None:
    """Show one candidate: its numbers, where its time goes, and how to start it."""
    with st.container(horizontal=True):
        for metric, name in {
            "output_tok_s_per_gpu": "tok/s per GPU",
            **{name: METRIC_NAMES[name] for name in ("ttft_ms", "tpot_ms", "e2e_ms")},
        }.items():
            value = getattr(picked, metric)
            unit = unit_of([value]) if metric in METRIC_NAMES else RATE
            ends = f"90%: {unit.span(*picked.interval(metric))[1:-1]}"
            shown = duration(value) if metric in METRIC_NAMES else short(value)
            st.metric(name, shown, ends, delta_color="off", delta_arrow="off", width=METRIC_WIDTH)
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("### Where the time goes")
        phase = st.segmented_control(
            "Step",
            ("decode", "prefill"),
            default="decode",
            required=True,
            key="phase",
            bind=inputs.BIND,
            label_visibility="collapsed",
        )
        draw(time_bars(picked, phase), "time by operator", alt=f"Milliseconds of a {phase} step by operator and cause")
    with right:
        st.markdown("### How to start it")
        _launch(picked)


def _launch(picked: advisor.Estimate) -> None:
    chosen = st.segmented_control(
        "Format", FORMATS, default="vllm", required=True, key="format", bind=inputs.BIND, label_visibility="collapsed"
    )
    try:
        text = advisor.export(picked, chosen)
    except advisor.InputError as error:
        st.warning(plain(str(error)))
        return
    st.code(text, language=LANGUAGES.get(chosen, "bash"), wrap_lines=True)


def _notes(answer: advisor.Recommendation) -> None:
    st.markdown("### Why, limits, and what would make it more certain")
    rows = [("why", answer.why), ("limit", answer.limits), ("next", [answer.next_probe])]
    st.markdown("\n".join(f"- **{label}** {plain(line)}" for label, lines in rows for line in lines if line))
    how = "every valid deployment" if answer.exact else "a sample"
    with st.expander(f"Assumptions; {how} evaluated ({answer.evaluated:,})"):
        notes = dict.fromkeys(note.text for note in (*answer.assumptions, *(answer.best.notes if answer.best else ())))
        st.markdown("\n".join(f"- {plain(text)}" for text in notes))


def _nothing_feasible(answer: advisor.Recommendation, made: Document) -> None:
    """Say what to change, in numbers, and what comes nearest."""
    st.markdown("### What would make it feasible")
    suggestions(
        {
            change.text: widget_values(change.changes)
            | ({"count": change.changes["gpus"]} if "gpus" in change.changes else {})
            for change in answer.question_changes
        },
        "relax",
    )
    if answer.nearest is not None:
        st.markdown("### Nearest")
        table(made.columns)
        draw(
            memory_bars([answer.nearest]), "memory of the nearest", height=200, alt="Stacked bar of GPU memory by part"
        )
        _sources([answer.nearest])
    downloads("recommendation", body=answer.to_dict, report=lambda: page_files(made))
