"""Kinds of work that have kernels of their own, and which of them the runs behind a fit had.

Formats, latent attention and wide layouts share their parameters with what is more common, so a fit to runs without them
knows those parameters well, and says little of these kernels. Where a deployment does what no fitted run of its engine
on its GPU did, the parameters in question are as uncertain as their priors (``extrapolation_variance``), and still less certain than others
where the runs of one or two models did: with the fits of ``python -m advisor.validation.coverage`` that leave one kind out, intervals
of 90% then hold, and without it they do not.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.parameter_posterior import TrainingSupport
from advisor.perf_model.deployment_arrays import EIGHT_BIT_BYTES, FOUR_BIT_BYTES
from advisor.perf_model.parameters import NAMES, PRIORS
from catalog.engines import engine_family, release_distance
from catalog.errors import Note
from catalog.models.sizes import has_states
from catalog.models.stack import stack
from catalog.schema import EXPERTS_ONLY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from advisor.calibration.observations import RunGroup
    from advisor.calibration.parameter_posterior import ParameterPosterior
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from catalog.schema import Measurement, Model
    from catalog.units import Array

EXPERTS = ("expert_memory", "expert_compute", "expert_us")
TOGETHER = "attention data parallel"
CONTEXT_SPREAD = "decode context parallelism"
EXCHANGED = "DeepEP between replicas"

KERNEL_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "4-bit weights": ("narrow4_memory", "narrow4_compute", "narrow4_us"),
    "8-bit weights": ("narrow8_memory", "narrow8_compute", "block8_memory", "block8_compute"),
    "4-bit experts": ("expert4_memory", "expert4_compute", "expert4_us"),
    "weights multiplied in 4 bits": ("native4_memory", "native4_compute", "native4_us"),
    "experts multiplied in 4 bits": ("native_expert4_memory", "native_expert4_compute", "native_expert4_us"),
    "8-bit experts": ("expert8_memory", "expert8_compute", "expert8_us"),
    "an 8-bit KV cache": ("narrow_kv_memory",),
    "latent attention": ("latent_memory", "latent_compute", "latent_host_us", "attention_us"),
    "recurrent layers": ("state_memory", "state_compute", "state_us", "group_sequence_us"),
    "sparse attention": ("latent_memory", "latent_compute", "attention_us"),
    "an architecture that is read by its fields alone": (
        "gemm_compute",
        "kv_memory",
        "attention_us",
        "kernel_us",
        "layer_host_us",
    ),
    "an image encoder": ("gemm_compute", "attention_compute", "attention_us", "kernel_us", "layer_host_us"),
    "expert parallelism": (*EXPERTS, "link", "ring_link"),
    TOGETHER: ("step_ms", "layer_host_us", "expert_host_us", "link", "ring_link"),
    EXCHANGED: ("step_ms", "expert_host_us"),
    CONTEXT_SPREAD: (
        "collective_us",
        "link",
        "ring_us",
        "ring_link",
        "kernel_us",
        "attention_us",
        "kv_memory",
        "attention_compute",
        "latent_memory",
        "latent_compute",
    ),
}
"""By name, the parameters that mean something else there."""

FEW_MODELS_SHARE = 0.3
"""Share of that variance that is left where the runs of one or two models alone had it: fits to the 8-bit weights of Llama-3.1-8B
foretold 30% of the whole batches of Qwen2.5-14B's and Llama-3.1-70B's within intervals that took them for known."""

OFTEN = 3
"""Models from which a kind counts as known: with two of them, Granite-4.0-H-tiny and Nemotron-Nano-9B, half of the other recurrent models'
times per token lay outside."""

WIDE_TP_PARAMETERS = ("collective_us", "link", "ring_us", "ring_link")
"""Parameters that mean something else with tensor parallel over more GPUs than any run had,"""
DEEP_PP_PARAMETERS = ("stage_ms", "turn_ms", "group_imbalance")
"""and for more pipeline stages."""


def _has(model: Model, layout: DeploymentArrays) -> dict[str, NDArray[np.bool_]]:
    """Return which of n layouts are of which kind, shape (n,) each."""
    four = layout.weight_bytes < FOUR_BIT_BYTES
    eight = ~four & (layout.weight_bytes < EIGHT_BIT_BYTES)
    native = layout.matrix_flops > layout.half_flops
    experts = np.full(len(layout), bool(model.moe_layers))
    return {
        "4-bit weights": four & ~native & (model.quantization not in EXPERTS_ONLY),
        "8-bit weights": eight,
        "4-bit experts": four & ~native & experts,
        "weights multiplied in 4 bits": four & native,
        "experts multiplied in 4 bits": four & native & experts,
        "8-bit experts": eight & experts,
        "an 8-bit KV cache": layout.kv_bytes < 2.0,
        "latent attention": np.full(len(layout), model.kv_lora_rank > 0),
        "recurrent layers": np.full(len(layout), has_states(model)),
        "sparse attention": np.full(
            len(layout), any(part.index for _, layer in stack(model).counts for part in layer.mixers)
        ),
        "an architecture that is read by its fields alone": np.full(len(layout), bool(model.reading)),
        "an image encoder": np.full(len(layout), model.images is not None),
        "expert parallelism": layout.ep > 1,
        TOGETHER: layout.ep > layout.tp,
        CONTEXT_SPREAD: layout.dcp > 1,
        EXCHANGED: layout.exchange > 0,
    }


def training_support(groups: Iterable[RunGroup]) -> TrainingSupport:
    """Return what the runs of the groups had."""
    models: dict[str, set[str]] = defaultdict(set)
    support = TrainingSupport()
    for group in groups:
        for kind, rows in _has(group.model, group.layout).items():
            if rows.any():
                models[kind].add(group.model.name)
        support |= TrainingSupport(tp=int(group.layout.tp.max()), pp=int(group.layout.pp.max()))
    often = frozenset(kind for kind, names in models.items() if len(names) >= OFTEN)
    return support | TrainingSupport(kinds=frozenset(models), often=often)


def _unsupported(
    seen: TrainingSupport | None, model: Model, layout: DeploymentArrays
) -> dict[str, tuple[NDArray[np.bool_], tuple[str, ...]]]:
    """Return by name which of n layouts have it, shape (n,), and the parameters it opens; nothing of a fit that knows no runs."""
    if seen is None:
        return {}
    news = {kind: (rows, KERNEL_FAMILIES[kind]) for kind, rows in _has(model, layout).items() if kind not in seen.kinds}
    news[f"tensor parallel over more than {seen.tp} GPUs"] = (layout.tp > seen.tp, WIDE_TP_PARAMETERS)
    news[f"more than {seen.pp} pipeline stages"] = (layout.pp > seen.pp, DEEP_PP_PARAMETERS)
    return {name: (rows, widened) for name, (rows, widened) in news.items() if rows.any()}


def unsupported(seen: TrainingSupport | None, model: Model, layout: DeploymentArrays) -> tuple[tuple[str, ...], ...]:
    """Return what each of n layouts has that no run had."""
    news = _unsupported(seen, model, layout)
    return tuple(tuple(name for name, (rows, _) in news.items() if rows[i]) for i in range(len(layout)))


def extrapolation_notes(
    marginal: ParameterPosterior, engine: str, model: Model, layout: DeploymentArrays
) -> list[tuple[Note, ...]]:
    """Return the same as a note; none for an engine of which nothing was measured anyway."""
    if marginal.provenance == "analytic":
        return [()] * len(layout)
    where = engine if marginal.provenance == "transferred" else f"{engine} on this GPU"
    text = f"no fitted run of {where} had {{}}: intervals are wider for it"
    notes = []
    for i, news in enumerate(unsupported(marginal.seen, model, layout)):
        seldom = [kind for kind, rows in _seldom(marginal.seen, model, layout).items() if rows[i]]
        row_notes = [Note(text.format(" or ".join(news)), "warning")] if news else []
        row_notes += [
            Note(f"at most {OFTEN - 1} models with {kind} were measured with {where}: intervals are wider for it")
            for kind in seldom
        ]
        notes.append(tuple(row_notes))
    return notes


def _seldom(seen: TrainingSupport | None, model: Model, layout: DeploymentArrays) -> dict[str, NDArray[np.bool_]]:
    """Return which of n layouts have what the runs of fewer than ``OFTEN`` models had, shape (n,)."""
    kinds = frozenset() if seen is None else seen.kinds - seen.often
    return {kind: rows for kind, rows in _has(model, layout).items() if kind in kinds}


def extrapolation_variance(seen: TrainingSupport | None, model: Model, layout: DeploymentArrays) -> Array:
    """Return the variance that the parameters of n layouts have more for what no run had, or those of few models, shape (len(NAMES), n)."""
    variance = np.zeros((len(NAMES), len(layout)))
    if seen is None:
        return variance
    seldom = [(rows, KERNEL_FAMILIES[kind]) for kind, rows in _seldom(seen, model, layout).items()]
    for share, parts in ((FEW_MODELS_SHARE, seldom), (1.0, _unsupported(seen, model, layout).values())):
        for rows, widened in parts:
            for name in widened:
                at = NAMES.index(name), rows
                variance[at] = np.maximum(variance[at], share * PRIORS[name].spread ** 2)
    return variance


EXPERT_KERNELS_SIGMA = 0.46
"""Standard deviation of the logarithm of time where experts in 8 or 4 bits run on a GPU without runs of the engine: their kernels are
written for each generation of GPUs, and take 0.5 to 2.3 times as long as one another (kernels of AIConfigurator on nine GPUs)."""


LOCKSTEP_SIGMA = 0.3
"""The same where replicas share experts and the engine has no run of that on the GPU: they wait for each other's prefills, and take some tenths
of a millisecond to meet. Two closed loops of Qwen3-30B-A3B on two H200s take 9 and 62% longer than predicted
(``benchmarks/measured``)."""

CONTEXT_SPREAD_SIGMA = LOCKSTEP_SIGMA
"""The same where GPUs share each context and the engine has no run of that: kernels and collectives that no run had. The other layout of
which none was fitted is the only one whose error is known."""

EXCHANGE_SIGMA = 0.25
"""The same where DeepEP sends tokens to their experts: of the times of its kernels on another GPU of the same links, and over networks, where
they were not fitted (``python -m benchmarks.expert_exchange``)."""


def unmeasured_variance(marginal: ParameterPosterior, model: Model, layout: DeploymentArrays) -> Array:
    """Return the variance of each log prediction of n layouts by what these do without runs of the engine: narrow experts on another GPU,
    ranks in step, contexts spread, DeepEP; shape (n,).
    """
    kinds = _has(model, layout)
    narrow = kinds["8-bit experts"] | kinds["4-bit experts"] | kinds["experts multiplied in 4 bits"]
    variance = np.where(narrow & (marginal.provenance != "calibrated"), EXPERT_KERNELS_SIGMA**2, 0.0)
    seen = frozenset() if marginal.seen is None else marginal.seen.kinds
    together = kinds[TOGETHER] & (TOGETHER not in seen)
    apart = kinds[CONTEXT_SPREAD] & (CONTEXT_SPREAD not in seen)
    sent = kinds[EXCHANGED] & (EXCHANGED not in seen)
    for rows, sigma in ((together, LOCKSTEP_SIGMA), (apart, CONTEXT_SPREAD_SIGMA), (sent, EXCHANGE_SIGMA)):
        variance = variance + np.where(rows, sigma**2, 0.0)
    return np.asarray(variance)


def widened(marginal: ParameterPosterior, *work: tuple[Model, DeploymentArrays]) -> ParameterPosterior:
    """Return the parameters where all of ``work`` is done, less certain for what of it no run had."""
    extra = np.max([extrapolation_variance(marginal.seen, *part).max(axis=1) for part in work], axis=0, initial=0.0)
    return replace(marginal, covariance=marginal.covariance + np.diag(np.broadcast_to(extra, len(NAMES))), seen=None)


def place_of(run: Measurement) -> tuple[str, str, int]:
    """Return engine, GPU and release of a run."""
    engine = engine_family(run.engine, run.engine_version)
    return engine, run.gpu, release_distance(engine, run.engine_version)


def pipelines_of_one_model(groups: Iterable[RunGroup]) -> set[tuple[str, str, int]]:
    """Return where a release ran a single model in a pipeline: without it nothing is left of what its host does there."""
    models: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for run in (run for group in groups for run in group.runs if run.pp > 1):
        models[place_of(run)].add(run.model)
    return {place for place, names in models.items() if len(names) == 1}
