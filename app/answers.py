"""What the pages show, asked of ``advisor`` and kept while it is likely to be asked again.

Kept are the frozen answers themselves, shared by all sessions: everything an answer depends on is an argument, so two
sessions can never see each other's.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import streamlit as st

import advisor
from app.inputs import AUTO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor import ExtraRuns
    from advisor.render.vocabulary import Regime
    from app.details import EngineDetails, Prompts
    from app.inputs import Knobs

MOST = 64
"""Answers kept of one kind; a recommendation takes about a megabyte."""
TTL_S = 600
"""After that many seconds a question is asked again: the user's own runs in $ADVISOR_HOME may have grown."""


@st.cache_resource(max_entries=MOST, ttl=TTL_S, show_spinner="Searching every valid deployment")
def recommendation(
    model: advisor.Model,
    gpus: str,
    workload: advisor.Workload,
    slo: advisor.Slo,
    *,
    objective: str,
    engine: str,
    knobs: Knobs,
    prompts: Prompts,
    served: EngineDetails,
    price: float | None = None,
    runs: ExtraRuns | None = None,
) -> advisor.Recommendation:
    """Return ``advisor.recommend``; ``runs`` are those that the session has imported, here and below."""
    question = recommendation_keywords(
        workload=workload,
        slo=slo,
        objective=objective,
        engine=engine,
        knobs=knobs,
        prompts=prompts,
        served=served,
        price=price,
    )
    return advisor.recommend(model, gpus, **question, runs=runs)


def recommendation_keywords(*, knobs: Knobs, prompts: Prompts, served: EngineDetails, **stated: Any) -> dict[str, Any]:
    """Return a question as keywords of ``advisor.recommend``."""
    return {
        **stated,
        "dtypes": None if knobs.dtype == AUTO else knobs.dtype,
        "kv_dtypes": None if knobs.kv_dtype == AUTO else knobs.kv_dtype,
        "max_model_len": knobs.max_model_len,
        "gpu_memory_utilization": knobs.gpu_memory_utilization,
        **asdict(prompts),
        **served.drafts,
        "router": served.router,
        "kv_offload": served.kv_offload,
        "engine_version": served.engine_version,
        "max_batch": served.max_num_seqs,
        "max_num_batched_tokens": served.max_num_batched_tokens,
    }


@st.cache_resource(max_entries=4 * MOST, ttl=TTL_S, show_spinner=False)
def curve(
    model: advisor.Model,
    gpus: str,
    *,
    layout: tuple[int, int, int],
    lengths: tuple[int, int],
    regime: Regime,
    engine: str,
    knobs: Knobs,
    batches: tuple[int, ...] | None = None,
    set_gpu: Mapping[str, float] | None = None,
    runs: ExtraRuns | None = None,
) -> advisor.Curve:
    """Return ``advisor.curve``; ``layout`` is (tp, pp, dp) and ``lengths`` (input_len, output_len)."""
    tp, pp, dp = layout
    return advisor.curve(
        model,
        gpus,
        tp=tp,
        pp=pp,
        dp=dp,
        input_len=lengths[0],
        output_len=lengths[1],
        regime=regime,
        engine=engine,
        dtype=knobs.dtype,
        kv_dtype=knobs.kv_dtype,
        max_model_len=knobs.max_model_len,
        gpu_memory_utilization=knobs.gpu_memory_utilization,
        batches=batches,
        set_gpu=set_gpu,
        runs=runs,
    )
