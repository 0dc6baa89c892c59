"""One deployment answered, and the measurement of exactly that configuration beside it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.calibration.fit_file import LEVELS
from advisor.perf_model.adapters import adapter_notes
from advisor.perf_model.deployment_arrays import DeploymentArrays, checkpoint_dtype
from advisor.prediction.deployment_estimate import ENERGY, Estimate
from advisor.prediction.deployment_question import DeploymentQuestion
from advisor.prediction.description import describe
from advisor.prediction.engine_start import checked_start, context_note, safe_context
from advisor.prediction.inputs import chosen_price
from advisor.prediction.prediction import TIME_METRICS
from advisor.prediction.speculation import SpeculationQuestion, step_error
from advisor.prediction.speculation import speculate as speculated
from catalog.engines.defaults import PLAIN
from catalog.errors import InputError, Note
from catalog.schema import Cluster, Deployment, Measurement, Model, require_positive
from catalog.units import usd_per_mtok

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.prediction.evidence import Runs

MEASURED_SIGMA = 0.03
"""Spread of repeated measurements of one configuration on one machine."""
CONTRADICTED = LEVELS[-1]
"""Level of the interval outside which a measurement contradicts a prediction; of good runs one in fifty lies there."""


def estimate(
    model: str | Model,
    gpus: str | Cluster,
    *,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: int = 1,
    batch: int,
    input_len: int,
    output_len: int,
    engine: str = "vllm",
    dtype: str = "auto",
    kv_dtype: str = "auto",
    max_num_batched_tokens: int | None = None,
    max_num_seqs: int | None = None,
    max_model_len: int | None = None,
    gpu_memory_utilization: float | None = None,
    runs: Runs = None,
    set_gpu: Mapping[str, float | str] | None = None,
    price: float | None = None,
    speculate: str | None = None,
    draft_len: int | None = None,
    acceptance: float | None = None,
    images: str | int | None = None,
    image_size: str | None = None,
    **deployment: Any,
) -> Estimate:
    """Estimate time, throughput and memory of one static batch on one deployment.

    All ``batch`` requests of each replica arrive at once; ``prefill_ms`` is the makespan of the batch with one output
    token, ``e2e_ms`` that of the whole, ``tpot_ms`` their difference over ``output_len - 1``, ``ttft_ms`` the mean time to
    a request's first token.

    Args:
        model: catalog name or alias, Hugging Face id, path to a ``config.json``, or a ``Model``.
        gpus: ``"4xA100"``, ``"2x8xH100"`` (nodes x GPUs), or a ``Cluster``.
        tp: GPUs that share each layer (tensor parallel).
        pp: stages that the layers are split into (pipeline parallel).
        dp: replicas of the model.
        ep: GPUs that the routed experts are spread over; 1 slices them like every other matrix.
        batch: sequences at once, per replica.
        input_len: tokens of a prompt.
        output_len: tokens generated for each request.
        engine: vllm, sglang, tensorrt-llm, torch, lmdeploy, xfastertransformer or llama.cpp.
        dtype: weight format, or "auto" for the checkpoint's own.
        kv_dtype: KV cache format, or "auto".
        max_num_batched_tokens: token budget of one step; None for what the engine would choose, here and below.
        max_num_seqs: most sequences that one replica runs at once.
        max_model_len: longest prompt and answer together, in tokens.
        gpu_memory_utilization: share of each GPU's memory that the engine may use; None for the engine's own.
        runs: None for the shipped fit and the user's own runs; a list for exactly those; [] for the analytic model; or what
            ``fit`` made.
        set_gpu: what-if values for fields of the GPU, such as ``{"memory_bandwidth_gbps": 6000}``.
        price: dollars per GPU-hour; None for the cheapest offer in the catalog.
        speculate: also say what speculative decoding does: "ngram", "eagle", "mtp" or "draft:MODEL" (see
            ``advisor.prediction.speculation``).
        draft_len: tokens drafted a step; None for as many as gain most at that batch.
        acceptance: probability that a drafted token is accepted; None for what is published.
        images: of every prompt, beside the ``input_len`` tokens of its text; of models that take them.
        image_size: height and width of each in pixels, "1024x1024", which it is where nobody says.
        deployment: further fields of ``Deployment``: adapters, sequence_parallel, offload, compiled, graphs, and engine_version, the release
            whose times are asked about.

    Raises:
        InputError: a name, number or combination that cannot be; the message says what would be right.

    """
    require_positive("batch", batch, most=10**6)
    known = {f.name for f in dataclasses.fields(Deployment)}
    unknown = sorted(set(deployment) - known)
    if unknown:
        raise InputError(f"estimate has no argument {unknown[0]!r}; deployment fields are {', '.join(sorted(known))}")
    wanted = Deployment(
        engine=engine,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        dtype=dtype,
        kv_dtype=kv_dtype,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
        gpu_memory_utilization=gpu_memory_utilization,
        **deployment,
    )
    question = DeploymentQuestion.read(
        model,
        gpus,
        wanted,
        input_len=input_len,
        output_len=output_len,
        runs=runs,
        set_gpu=set_gpu,
        images=images,
        image_size=image_size,
    )
    input_len = question.input_len
    layout = DeploymentArrays.of([question.deployment], question.model, question.cluster.gpu)
    evaluation = question.predict(layout, np.array([float(batch)]), "static")
    offer = chosen_price(question.cluster.gpu.name, price)
    answer = describe(evaluation, [0], [question.deployment], question.evidence, price=offer, notes=question.notes)[0]
    if max_model_len is None and answer.fits:
        context = safe_context(answer.model, answer.kv_capacity_tokens, input_len + output_len)
        note = context_note(answer.model, context, answer.kv_capacity_tokens)
        first = len(question.notes)
        answer = dataclasses.replace(answer, notes=(*question.notes, note, *answer.notes[first:]))
    answer = checked_start(answer, max_model_len)
    asked = SpeculationQuestion.read(speculate, draft_len, acceptance)
    if asked is not None and answer.fits:
        said = speculated(
            evaluation.cost_model,
            question.deployment,
            asked,
            batch=min(batch, answer.running),
            most=min(answer.max_concurrency, question.deployment.max_num_seqs or batch),
            context=input_len + output_len / 2.0,
            step_error=step_error(answer),
        )
        answer = dataclasses.replace(answer, speculation=said)
    answer = dataclasses.replace(
        answer, notes=(*answer.notes, *adapter_notes(wanted.adapters, answer.deployment.engine))
    )
    run = None if answer.model.images else measured_run(question.evidence.runs, answer)
    return answer if run is None else with_measurement(answer, run)


def with_measurement(predicted: Estimate, run: Measurement) -> Estimate:
    """Return the estimate beside a run of its configuration.

    Measured times take the place of predicted ones, unless one contradicts its prediction: then that stands, with a warning and
    the measurement beside it.
    """
    measured = {
        name: float(getattr(run, name)) for name in TIME_METRICS if getattr(run, name) is not None and predicted.fits
    }
    far = {name: predicted.interval(name, CONTRADICTED) for name in measured}
    outside = {name: value for name, value in measured.items() if not far[name][0] <= value <= far[name][1]}
    source = f"run {run.run_id} ({run.source})"
    if outside:
        apart = " and ".join(
            f"{name} {value:.4g}, outside {far[name][0]:.4g} to {far[name][1]:.4g}" for name, value in outside.items()
        )
        note = Note(
            f"{source} of this very configuration measured {apart}, which holds {CONTRADICTED:.0%}: one of the two is wrong",
            "warning",
        )
        return dataclasses.replace(predicted, measured=measured, notes=(*predicted.notes, note))
    values: dict[str, Any] = dict(measured)
    if run.energy_j and run.batch and predicted.fits:
        values[ENERGY] = run.energy_j / (run.batch * run.dp * run.output_len)
    if "output_tok_s" in values:
        values["output_tok_s_per_gpu"] = values["output_tok_s"] / predicted.deployment.num_gpus
        if predicted.price is not None:
            hourly = predicted.price.usd_per_gpu_hour
            values["usd_per_mtok"] = usd_per_mtok(hourly, values["output_tok_s_per_gpu"])
    if run.kv_capacity_tokens and predicted.kv_capacity_tokens and _same_share(run, predicted):
        held = run.kv_capacity_tokens
        values |= {"kv_capacity_tokens": held, "kv_capacity_ends": (held, held)}
        values["max_concurrency"] = predicted.max_concurrency * held // predicted.kv_capacity_tokens
    sigmas = dict(predicted.sigmas) | {name: MEASURED_SIGMA for name in values if name in predicted.sigmas}
    note = Note(f"measured: {source}")
    return dataclasses.replace(
        predicted,
        **values,
        provenance="measured",
        corrected_by=0,
        measured=measured,
        sigmas=sigmas,
        notes=(*predicted.notes, note),
    )


def _same_share(run: Measurement, estimate: Estimate) -> bool:
    """Return whether the engine had that share of memory in the run, which one that states none is taken to have had."""
    return run.gpu_memory_utilization in (None, estimate.deployment.gpu_memory_utilization)


def _all_cached(run: Measurement, estimate: Estimate) -> bool:
    """Return whether all requests are in the cache at once, both in the run and as estimated: more memory changes no time then."""
    needed = run.batch * (run.input_len + run.output_len)
    return (run.kv_capacity_tokens or 0) >= needed and estimate.running >= estimate.batch


def measured_run(runs: Sequence[Measurement], estimate: Estimate) -> Measurement | None:
    """Return a run of exactly this configuration, the latest one; None if there is none."""
    wanted = estimate.deployment
    if wanted.adapters is not None:  # no run has any
        return None
    key = (
        estimate.model.name,
        estimate.cluster.gpu.name,
        wanted.engine,
        estimate.input_len,
        estimate.output_len,
        estimate.regime,
    )
    automatic = {
        "dtype": checkpoint_dtype(estimate.model, estimate.cluster.gpu),
        "kv_dtype": wanted.kv_dtype if wanted.kv_dtype in PLAIN else None,
    }
    for run in reversed(runs):
        if run.batch != estimate.batch or run.oom:  # most runs differ in the first
            continue
        if (run.model, run.gpu, run.engine, run.input_len, run.output_len, run.regime) != key:
            continue
        same_start = (
            wanted.dcp == 1
            and not wanted.all2all_backend
            and not wanted.sequence_parallel
            and run.deployment.has_graphs == wanted.has_graphs
        )
        # A cap on the sequences that both are below decides nothing.
        uncapped = min(run.max_num_seqs or run.batch, wanted.max_num_seqs or run.batch) >= run.batch
        same_start = same_start and (uncapped or run.max_num_seqs == wanted.max_num_seqs)
        same_start = same_start and (_same_share(run, estimate) or _all_cached(run, estimate))
        same = same_start and all(
            value is None or (automatic.get(name) if value == "auto" else value) == getattr(wanted, name)
            for name in (
                "tp",
                "pp",
                "dp",
                "ep",
                "dtype",
                "kv_dtype",
                "max_num_batched_tokens",
                "offload",
                "compiled",
            )
            for value in [getattr(run, name)]
        )
        if same:
            return run
    return None
