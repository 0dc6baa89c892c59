"""One deployment over many batches: throughput and latency with their intervals, memory up to its end, causes of time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.calibration.intervals import LEVEL, beyond_dense, scale_name
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.dispatch import memory
from advisor.perf_model.memory.kv_capacity import max_concurrency
from advisor.prediction.deployment_question import DeploymentQuestion
from advisor.prediction.inputs import chosen_price, plain_fields
from advisor.prediction.prediction import (
    PARTS_OF_E2E,
    TIME_METRICS,
    Prediction,
    interval_ends,
    request_causes,
    ridge_batch,
    upper_within,
)
from advisor.prediction.presentation import header
from catalog.errors import InputError, Note
from catalog.schema import Cluster, Deployment, Model, Price, require_positive
from catalog.units import usd_per_mtok

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from advisor.calibration.intervals import Regime
    from advisor.calibration.parameter_posterior import Provenance
    from advisor.prediction.evidence import Evidence
    from catalog.schema import Measurement
    from catalog.units import Array

POINTS = 40
"""Batches of a curve that names none, before equal ones become one."""
MOST_BATCHES = 4096
"""Largest batch of such a curve, and the number of batches that one may name."""
STACKED = ("weights", "activations", "engine", "kv_cache", "kv_free", "reserved")
"""Parts of memory from the bottom of a chart up."""
BEYOND = 1.5
"""How far such a curve goes on after the cache is full, as a multiple."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What to expect of one deployment at n batches; arrays have shape (n,), NaN where the weights do not fit."""

    model: Model
    cluster: Cluster
    deployment: Deployment
    """Its ``max_num_seqs`` is None where the engine is started for each batch."""
    regime: Regime
    batches: Array
    """Sequences at once per replica."""
    input_len: int
    output_len: int
    metrics: Mapping[str, Array]
    """``ttft_ms``, ``tpot_ms``, ``e2e_ms``, ``prefill_ms``, ``output_tok_s``, ``output_tok_s_per_gpu``, and
    ``usd_per_mtok`` where there is a price."""
    low: Mapping[str, Array]
    """Lower end of the metrics' 90% intervals."""
    high: Mapping[str, Array]
    running: Array
    """Sequences that the engine can really run; the others wait."""
    memory: Mapping[str, Array]
    """GiB on the fullest GPU by part: weights, activations, engine, kv_cache (as much as the batch fills), kv_free (the rest
    of the engine's cache), reserved. They sum to ``device_gib`` where they fit."""
    device_gib: float
    causes: Mapping[str, Array]
    """Milliseconds of a whole request by cause: compute, memory, communication, overhead."""
    full_batch: int
    """Most requests of this length that one replica's KV cache holds at once; 0 where not even one fits."""
    turning_batch: float
    """Sequences per replica at which decode turns from memory- to compute-bound."""
    fits: bool
    """Whether the weights leave room for any cache, at the smallest batch."""
    price: Price | None
    provenance: Provenance
    notes: tuple[Note, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a batch: the metrics with the ends of their intervals, memory and causes."""
        import pandas as pd

        columns: dict[str, Array] = {"batch": self.batches, "running": self.running}
        for name, values in self.metrics.items():
            columns |= {name: values, f"{name}_low": self.low[name], f"{name}_high": self.high[name]}
        columns |= {f"{part}_gib": values for part, values in self.memory.items()}
        columns |= {f"{cause}_ms": values for cause, values in self.causes.items()}
        return pd.DataFrame(columns)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types, one record a batch."""
        records = self.to_frame().to_dict("records")
        points = [
            {str(name): None if np.isnan(value) else float(value) for name, value in record.items()}
            for record in records
        ]
        return {
            **header("curve/1"),
            "model": self.model.name,
            "cluster": str(self.cluster),
            "regime": self.regime,
            "input_len": self.input_len,
            "output_len": self.output_len,
            "interval_level": LEVEL,
            "full_batch": self.full_batch,
            "turning_batch": self.turning_batch,
            "fits": self.fits,
            "device_gib": self.device_gib,
            "provenance": self.provenance,
            "notes": [note.text for note in self.notes],
            "deployment": plain_fields(self.deployment),
            "points": points,
        }


def curve(
    model: str | Model,
    gpus: str | Cluster,
    *,
    batches: Sequence[int] | None = None,
    regime: Regime = "steady",
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: int = 1,
    input_len: int = 1024,
    output_len: int = 256,
    engine: str = "vllm",
    engine_version: str = "",
    dtype: str = "auto",
    kv_dtype: str = "auto",
    max_num_batched_tokens: int | None = None,
    max_num_seqs: int | None = None,
    max_model_len: int | None = None,
    gpu_memory_utilization: float | None = None,
    runs: Sequence[Measurement] | None = None,
    set_gpu: Mapping[str, float | str] | None = None,
    price: float | None = None,
) -> Curve:
    """Evaluate one deployment at many batches at once, in some 20 ms.

    Args:
        model: catalog name or alias, Hugging Face id, path to a ``config.json``, or a ``Model``.
        gpus: ``"4xA100"``, ``"2x8xH100"`` (nodes x GPUs), or a ``Cluster``.
        batches: sequences at once per replica; None for some 30 from 1 to beyond what the KV cache holds.
        regime: "steady": the batch is kept in flight, as ``recommend`` has it; "static": it arrives at once, as
            ``estimate`` has it.
        tp: GPUs that share each layer (tensor parallel).
        pp: stages that the layers are split into (pipeline parallel).
        dp: replicas of the model.
        ep: GPUs that the routed experts are spread over; 1 slices them like every other matrix.
        input_len: tokens of a prompt.
        output_len: tokens generated for each request.
        engine: vllm, sglang, tensorrt-llm, torch, lmdeploy, xfastertransformer or llama.cpp.
        engine_version: release that is asked about; empty for the catalog's.
        dtype: weight format, or "auto" for the checkpoint's own.
        kv_dtype: KV cache format, or "auto".
        max_num_batched_tokens: token budget of one step; None for what the engine would choose.
        max_num_seqs: most sequences that one replica runs at once; None for the batch itself in the steady state, as
            ``recommend`` configures it, else for what the engine would choose.
        max_model_len: longest prompt and answer together, in tokens; None for all the model's positions.
        gpu_memory_utilization: share of each GPU's memory that the engine may use; None for the engine's own.
        runs: None for the shipped fit and the user's own runs; a list for exactly those; [] for the analytic model.
        set_gpu: what-if values for fields of the GPU, such as ``{"memory_bandwidth_gbps": 6000}``.
        price: dollars per GPU-hour; None for the cheapest offer in the catalog.

    Raises:
        InputError: a name, number or combination that cannot be; the message says what would be right.

    """
    if regime not in ("static", "steady"):
        raise InputError(f"regime is {regime!r:.60}; it must be steady or static")
    own_limit = regime == "steady" and max_num_seqs is None
    wanted = Deployment(
        engine=engine,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        dtype=dtype,
        kv_dtype=kv_dtype,
        max_num_seqs=1 if own_limit else max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
        gpu_memory_utilization=gpu_memory_utilization,
        engine_version=engine_version,
    )
    question = DeploymentQuestion.read(
        model, gpus, wanted, input_len=input_len, output_len=output_len, runs=runs, set_gpu=set_gpu
    )
    cluster, deployment, evidence = question.cluster, question.deployment, question.evidence
    start = _Start(question, own_limits=own_limit)
    full = start.full_batch()
    chosen = np.array(_batches(batches, full), dtype=float)
    evaluation = question.predict(start.layout(chosen), chosen, regime)
    offer = chosen_price(cluster.gpu.name, price)
    metrics, low, high = _with_intervals(evaluation, evidence, deployment, offer)
    fits = evaluation.cost_model.memory.fits
    return Curve(
        model=question.model,
        cluster=cluster,
        deployment=replace(deployment, max_num_seqs=None) if own_limit else deployment,
        regime=regime,
        batches=chosen,
        input_len=input_len,
        output_len=output_len,
        metrics=metrics,
        low=low,
        high=high,
        running=np.where(fits, evaluation.times.running, 0.0),
        memory=_memory(evaluation),
        device_gib=cluster.gpu.memory_gib,
        causes={cause: np.where(fits, values, np.nan) for cause, values in request_causes(evaluation).items()},
        full_batch=full,
        turning_batch=ridge_batch(evaluation, 0),
        fits=bool(fits[0]),
        price=offer,
        provenance=evidence.marginal(deployment.engine, cluster.gpu).provenance,
        notes=question.notes,
    )


@dataclass(frozen=True, slots=True)
class _Start:
    """The deployment of a question as it is started for each batch."""

    question: DeploymentQuestion
    own_limits: bool
    """``max_num_seqs`` is the batch, though never above the tokens of a step, which no engine allows."""

    def layout(self, batches: Array) -> DeploymentArrays:
        question = self.question
        layout = DeploymentArrays.of([question.deployment], question.model, question.cluster.gpu).take(
            np.zeros(len(batches), dtype=int)
        )
        if self.own_limits:
            return replace(layout, max_num_seqs=np.minimum(batches, layout.max_num_batched_tokens))
        return layout

    def full_batch(self) -> int:
        """Return the largest batch whose requests are all in the cache at once.

        An engine started for more sequences has a little less cache, so the batch is searched for, not divided out.
        """
        question = self.question
        length = np.array([float(question.input_len + question.output_len)])

        def held(batch: float) -> int:
            layout = self.layout(np.array([batch]))
            room = memory(question.model, question.cluster, layout, question.deployment.engine)
            return int(max_concurrency(question.model, room, layout, length)[0])

        low, high = 0, held(1.0)
        while low < high:
            middle = -(-(low + high) // 2)
            low, high = (middle, high) if held(float(middle)) >= middle else (low, middle - 1)
        return low


def _batches(given: Sequence[int] | None, full: int) -> list[int]:
    if given is not None:
        if not 0 < len(given) <= MOST_BATCHES:
            raise InputError(f"{len(given)} batches; a curve has from 1 to {MOST_BATCHES}")
        for batch in given:
            require_positive("batch", batch, most=10**6)
        return sorted(set(given))
    last = min(max(int(full * BEYOND), 16), MOST_BATCHES)
    grid = np.unique(np.round(np.geomspace(1, last, POINTS)).astype(int)).tolist()
    return sorted({*grid, *({min(full, last)} if full else ())})


def _with_intervals(
    evaluation: Prediction, knowledge: Evidence, deployment: Deployment, price: Price | None
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Return the metrics and the ends of their intervals, which never pass the physical floor (``Estimate.interval``)."""
    marginal = knowledge.marginal(deployment.engine, evaluation.cost_model.cluster.gpu)
    sigmas = evaluation.sigmas(marginal, knowledge.surrogate, knowledge.family(deployment.engine))
    floors, gpus, fits = evaluation.floors(), float(deployment.num_gpus), evaluation.cost_model.memory.fits
    metrics, low, high = {}, {}, {}
    for name in TIME_METRICS:
        experts = beyond_dense(evaluation.cost_model.model)
        kept = scale_name(name, evaluation.regime, staged=deployment.pp > 1, experts=experts)
        factor = np.exp(knowledge.scale(marginal.provenance, deployment.engine, kept).quantile(LEVEL) * sigmas[name])
        values = np.where(fits, getattr(evaluation.times, name), np.nan)
        low[name], high[name] = interval_ends(name, values, factor, floors[name])
        metrics[name] = values
    for name in PARTS_OF_E2E:
        high[name] = upper_within(metrics[name], high[name], metrics["e2e_ms"], high["e2e_ms"])
    for record in (metrics, low, high):
        record["output_tok_s_per_gpu"] = record["output_tok_s"] / gpus
    if price is not None:
        for prices, speeds in ((metrics, metrics), (low, high), (high, low)):
            prices["usd_per_mtok"] = usd_per_mtok(price.usd_per_gpu_hour, speeds["output_tok_s_per_gpu"])
    return metrics, low, high


def _memory(evaluation: Prediction) -> dict[str, Array]:
    room, concurrency = evaluation.cost_model.memory, np.maximum(evaluation.concurrency, 1.0)
    filled = room.kv_gib * np.clip(evaluation.batch / concurrency, 0.0, 1.0)
    parts = {**room.parts(), "kv_cache": filled, "kv_free": room.kv_gib - filled}
    return {part: parts[part] for part in STACKED}
