"""One deployment answered: latency, throughput, memory, cost, with intervals and where the numbers come from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from advisor.calibration.fit_file import LEVELS
from advisor.calibration.intervals import scale_name
from advisor.calibration.parameter_posterior import Provenance
from advisor.calibration.support import extrapolation_notes
from advisor.calibration.surrogate import IntervalScale
from advisor.perf_model.deployment_arrays import DeploymentArrays, checkpoint_dtype
from advisor.perf_model.energy import batch_work, power_of
from advisor.prediction.engine_start import checked_start
from advisor.prediction.evidence import Evidence
from advisor.prediction.inputs import check_lengths, chosen_price, plain, read_cluster, read_model
from advisor.prediction.prediction import (
    TIME_METRICS,
    Prediction,
    product_report,
    request_causes,
    time_by_operator,
    turning_batch,
)
from catalog.engines import resolve
from catalog.engines.defaults import PLAIN
from catalog.errors import InputError, Note
from catalog.schema import Cluster, Deployment, Measurement, Model, Price, require_positive

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.calibration.intervals import Regime
    from advisor.prediction.evidence import Runs
    from catalog.schema import Measurement, Model, Slo


HIGHER_IS_BETTER = frozenset({"output_tok_s", "output_tok_s_per_gpu"})
ENERGY = "energy_j_per_token"
NORMAL = IntervalScale(noise=0.0, quantiles=tuple(NormalDist().inv_cdf(0.5 + level / 2.0) for level in LEVELS), runs=0)
"""Of errors that are taken to be normal."""
MEASURED_SIGMA = 0.03
"""Spread of repeated measurements of one configuration on one machine."""
CONTRADICTED = LEVELS[-1]
"""Level of the interval outside which a measurement contradicts a prediction; of good runs one in fifty lies there."""
SURE = 0.99
"""Probability from which on it goes without saying that something fits in memory, or at 1 less that, that it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What to expect of one deployment under one workload.

    Times are None where the weights do not fit, for then nothing runs.
    """

    model: Model
    cluster: Cluster
    deployment: Deployment
    regime: Regime
    batch: int
    """Sequences at once per replica, as asked; ``running`` says how many the engine can really run."""
    input_len: int
    output_len: int
    prefill_ms: float | None
    ttft_ms: float | None
    tpot_ms: float | None
    e2e_ms: float | None
    output_tok_s: float | None
    output_tok_s_per_gpu: float | None
    """Over the GPUs used, not those at hand."""
    running: int
    kv_capacity_tokens: int
    """Of one replica."""
    kv_capacity_ends: tuple[int, int]
    """The fewest and the most it may be, with a probability of 90%."""
    max_concurrency: int
    """Requests of this length that one replica's KV cache holds at once."""
    fits: bool
    fits_probability: float
    """That memory is left for at least one such request."""
    batch_fits_probability: float
    """That the whole batch is in the cache at once."""
    memory: Mapping[str, float]
    """GiB on the fullest GPU by part: weights, activations, engine, kv, reserved, and the device's total."""
    bottleneck: str
    """What most of a request's time goes to: compute, memory, communication or overhead."""
    breakdown: Mapping[str, Any]
    """Milliseconds: ``causes`` of a whole request, and by operator and cause of ``prefill`` and one ``decode`` step."""
    turning_batch: float
    """Sequences per replica at which decode turns from memory- to compute-bound."""
    products: Sequence[Mapping[str, Any]]
    """Every matrix product with its shape, work and bound."""
    energy_j_per_token: float | None
    """Of all GPUs used, for an output token; None for GPUs and weight formats of which no run measured its energy."""
    usd_per_mtok: float | None
    """Dollars for a million output tokens; None without a price."""
    price: Price | None
    provenance: Literal["measured", "calibrated", "transferred", "analytic"]
    notes: tuple[Note, ...]
    sigmas: Mapping[str, float] = field(repr=False)
    """Standard deviation of each metric's logarithm."""
    scales: Mapping[str, IntervalScale] = field(repr=False)
    floors: Mapping[str, float] = field(repr=False)
    """Physical bounds of the metrics: the least a time, the most a throughput can be."""
    corrected_by: int = 0
    """Runs of this model near this configuration, which corrected what the model of time says of it."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """Times that a run of exactly this configuration measured: they are the answer (``provenance`` "measured"), or
    contradict what is predicted, which a note says."""

    def interval(self, metric: str, level: float = 0.9) -> tuple[float, float]:
        """Lower and upper end within which the metric is expected with probability ``level``.

        Raises:
            InputError: a metric that has no interval, a level outside 0.5 to 0.98, or a deployment that does not run.

        """
        per_gpu = metric == "output_tok_s_per_gpu"
        name = "output_tok_s" if per_gpu else metric
        if name not in self.sigmas:
            known = ", ".join([*TIME_METRICS, "output_tok_s_per_gpu", ENERGY])
            raise InputError(f"there is no interval for {metric!r}; metrics that have one: {known}")
        value = getattr(self, metric)
        if value is None:
            why = (
                "none was measured"
                if metric == ENERGY and self.fits
                else f"{self.model.name} does not fit in {self.cluster}"
            )
            raise InputError(f"{metric} has no interval because {why}")
        factor = math.exp(self.scales[name].quantile(level) * self.sigmas[name])
        low, high = value / factor, value * factor
        bound = self.floors[name] / (self.deployment.num_gpus if per_gpu else 1)
        if metric in HIGHER_IS_BETTER:
            return low, max(min(high, bound), value)
        return min(max(low, bound), value), high

    def upper(self, metric: str, confidence: float) -> float:
        """Value that a time keeps below with probability ``confidence``; 0.5: the estimate itself.

        Raises:
            InputError: as ``interval``.

        """
        return float(getattr(self, metric)) if confidence == 0.5 else self.interval(metric, 2.0 * confidence - 1.0)[1]

    def keeps(self, slo: Slo) -> float | None:
        """Probability that the least certain limit is kept, from 0.01 to 0.99; None without limits or times.

        They hold for means: of the steady state where this is one.
        """
        found = []
        for metric, limit in slo.limits.items():
            value, sigma = getattr(self, metric), self.sigmas[metric]
            if value is None:
                return None
            apart = math.log(limit / value) if value > 0 else math.inf
            level = self.scales[metric].level(abs(apart) / sigma if sigma > 0 else math.inf)
            found.append(0.5 + math.copysign(level, apart) / 2.0)
        return min(found, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types, with 90% intervals beside the metrics."""
        body = {
            f.name: plain(getattr(self, f.name))
            for f in dataclasses.fields(self)
            if f.name not in {"sigmas", "scales", "floors", "model", "cluster", "measured"}
        }
        if self.measured:
            body["measured"] = plain(self.measured)
        intervals = {}
        if self.output_tok_s is not None:
            energy = [ENERGY] if self.energy_j_per_token is not None else []
            intervals = {name: list(self.interval(name)) for name in [*TIME_METRICS, "output_tok_s_per_gpu", *energy]}
        return {
            "model": self.model.name,
            "cluster": str(self.cluster),
            **body,
            "gpus_used": self.deployment.num_gpus,
            "interval_level": 0.9,
            "intervals": intervals,
        }


def describe(
    evaluation: Prediction,
    rows: Sequence[int],
    deployments: Sequence[Deployment],
    knowledge: Evidence,
    *,
    price: Price | None,
    notes: tuple[Note, ...] = (),
) -> list[Estimate]:
    """Estimates of some rows of an evaluation; ``deployments`` are those rows', resolved."""
    chosen = evaluation.take(np.asarray(rows, dtype=int))
    cost_model = chosen.cost_model
    marginal = knowledge.marginal(deployments[0].engine, cost_model.cluster.gpu)
    sigmas = chosen.sigmas(marginal, knowledge.surrogate, deployments[0].engine)
    floors = chosen.floors()
    causes = request_causes(chosen)
    near = cost_model.correction.near if cost_model.correction is not None else np.zeros(len(rows))
    concurrency = chosen.concurrency
    starts, holds = chosen.chances(deployments[0].engine)
    fewest, most = chosen.capacity_ends(deployments[0].engine)
    news = extrapolation_notes(marginal, deployments[0].engine, cost_model.model, cost_model.layout)
    found = []
    for i, deployment in enumerate(deployments):
        room = cost_model.memory
        fits = bool(room.fits[i])
        times: dict[str, Any] = {name: float(values[i]) if fits else None for name, values in chosen.metrics().items()}
        tok_s = times["output_tok_s"]
        gpus = deployment.num_gpus
        split = {cause: float(values[i]) for cause, values in causes.items()}
        joules, unsure = _energy(chosen, i, deployment, tok_s, float(sigmas["output_tok_s"][i]))
        found.append(
            Estimate(
                model=cost_model.model,
                cluster=cost_model.cluster,
                deployment=deployment,
                regime=chosen.regime,
                batch=int(chosen.batch[i]),
                input_len=int(chosen.input_len[i]),
                output_len=int(chosen.output_len[i]),
                **times,
                output_tok_s_per_gpu=None if tok_s is None else tok_s / gpus,
                running=int(chosen.times.running[i]) if fits else 0,
                kv_capacity_tokens=int(room.kv_capacity_tokens[i]),
                max_concurrency=int(concurrency[i]),
                kv_capacity_ends=(int(fewest[i]), int(most[i])),
                fits=fits,
                fits_probability=float(starts[i]),
                batch_fits_probability=float(holds[i]),
                memory=memory_parts(chosen, i),
                bottleneck=max(split, key=lambda cause: split[cause]),
                breakdown={"causes": split, **time_by_operator(chosen, i)},
                turning_batch=turning_batch(chosen, i),
                products=product_report(chosen, i),
                energy_j_per_token=joules,
                usd_per_mtok=None if price is None or not tok_s else price.usd_per_gpu_hour * gpus / tok_s / 3.6e-3,
                price=price,
                provenance=marginal.provenance,
                corrected_by=int(near[i]),
                notes=(
                    *notes,
                    *news[i],
                    *_limits(chosen, i, fits=fits, starts=float(starts[i]), holds=float(holds[i])),
                ),
                sigmas={name: float(values[i]) for name, values in sigmas.items()} | {ENERGY: unsure},
                scales={
                    name: knowledge.scale(
                        marginal.provenance,
                        deployment.engine,
                        scale_name(name, chosen.regime, staged=deployment.pp > 1),
                    )
                    for name in TIME_METRICS
                }
                | {ENERGY: NORMAL},
                floors={name: float(values[i]) for name, values in floors.items()} | {ENERGY: 0.0},
            )
        )
    return found


def _energy(
    evaluation: Prediction, row: int, deployment: Deployment, tok_s: float | None, sigma: float
) -> tuple[float | None, float]:
    """Joules of an output token, and the standard deviation of their logarithm."""
    cost_model = evaluation.cost_model
    power = power_of(cost_model.cluster.gpu, deployment)
    if power is None or not tok_s:
        return None, 0.0
    running, output = float(evaluation.times.running[row]), float(evaluation.output_len[row])
    work = batch_work(
        cost_model.model, deployment, float(cost_model.memory.kv_bytes_per_token[row]) * deployment.tp * deployment.pp, batch=running,
        input_len=float(evaluation.input_len[row]), output_len=output, seconds=running * deployment.dp * output / tok_s,
        steady=evaluation.regime == "steady",
    )  # fmt: skip
    joules = work.joules(power, cost_model.cluster.gpu.tdp_w)
    waiting = min(power.static_w * work.gpu_s / joules, 1.0)  # the part that the error of the time is of
    return joules / (running * deployment.dp * output), math.hypot(power.sigma, waiting * sigma)


def memory_parts(evaluation: Prediction, row: int) -> dict[str, float]:
    """GiB on the fullest GPU, by part; they sum to ``device``."""
    room = evaluation.cost_model.memory
    device = evaluation.cost_model.cluster.gpu.memory_gib
    parts = {
        "weights": float(room.weights_gib[row]),
        "kv_cache": float(room.kv_gib[row]),
        "activations": float(room.activations_gib[row]),
        "engine": float(room.engine_gib[row]),
        "reserved": float(room.reserved_gib[row]),
    }
    return parts | {"device": device}


def _limits(evaluation: Prediction, row: int, *, fits: bool, starts: float, holds: float) -> list[Note]:
    """Warnings about one row: it does not fit, or not all of its batch runs at once, or neither is certain."""
    told = _shortages(evaluation, row, fits=fits)
    if 1.0 - SURE < starts < SURE:
        told.append(Note(f"memory is left for at least one such request with a probability of {starts:.0%}", "warning"))
    elif 1.0 - SURE < holds < SURE:
        told.append(Note(f"the KV cache holds the whole batch with a probability of {holds:.0%}"))
    return told


def _shortages(evaluation: Prediction, row: int, *, fits: bool) -> list[Note]:
    cost_model = evaluation.cost_model
    need = sum(memory_parts(evaluation, row)[part] for part in ("weights", "activations", "engine", "reserved"))
    if not fits:
        return [
            Note(
                f"out of memory: weights, activations and engine need {need:.1f} GiB of the {cost_model.cluster.gpu.memory_gib:.1f} "
                f"GiB of each {cost_model.cluster.gpu.name} before any KV cache",
                "warning",
            )
        ]
    batch, running = int(evaluation.batch[row]), int(evaluation.times.running[row])
    if running >= batch:
        return []
    cap = int(cost_model.layout.max_num_seqs[row])
    why = f"max_num_seqs is {cap}" if running == cap else f"the KV cache holds {int(evaluation.concurrency[row])}"
    return [Note(f"of {batch} requests {running} run at once ({why}); the others wait", "warning")]


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
    gpu_memory_utilization: float = 0.9,
    runs: Runs = None,
    set_gpu: Mapping[str, float | str] | None = None,
    price: float | None = None,
    **deployment: Any,
) -> Estimate:
    """Time, throughput and memory of one static batch on one deployment.

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
        engine: vllm, sglang, tensorrt-llm, torch or lmdeploy.
        dtype: weight format, or "auto" for the checkpoint's own.
        kv_dtype: KV cache format, or "auto".
        max_num_batched_tokens: token budget of one step; None for what the engine would choose, here and below.
        max_num_seqs: most sequences that one replica runs at once.
        max_model_len: longest prompt and answer together, in tokens.
        gpu_memory_utilization: share of each GPU's memory that the engine may use.
        runs: None for the shipped fit and the user's own runs; a list for exactly those; [] for the analytic model; or what
            ``fit`` made.
        set_gpu: what-if values for fields of the GPU, such as ``{"memory_bandwidth_gbps": 6000}``.
        price: dollars per GPU-hour; None for the cheapest offer in the catalog.
        deployment: further fields of ``Deployment``: sequence_parallel, offload, compiled, graphs.

    Raises:
        InputError: a name, number or combination that cannot be; the message says what would be right.

    """
    found_model, found_cluster = read_model(model), read_cluster(gpus, set_gpu)
    require_positive("batch", batch, most=10**6)
    known = {f.name for f in dataclasses.fields(Deployment)}
    unknown = sorted(set(deployment) - known)
    if unknown:
        raise InputError(f"estimate has no argument {unknown[0]!r}; deployment fields are {', '.join(sorted(known))}")
    wanted = Deployment(
        engine=engine, tp=tp, pp=pp, dp=dp, ep=ep, dtype=dtype, kv_dtype=kv_dtype, max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens, max_model_len=max_model_len,
        gpu_memory_utilization=gpu_memory_utilization, **deployment,
    )  # fmt: skip
    check_lengths(found_model.value, input_len, output_len, max_model_len)
    resolved = resolve(wanted, found_model.value, found_cluster.value)
    knowledge = Evidence.of(runs, engine=resolved.value.engine, gpu=found_cluster.value.gpu)
    evaluation = Prediction.of(
        found_model.value,
        found_cluster.value,
        DeploymentArrays.of([resolved.value], found_model.value, found_cluster.value.gpu),
        batch=np.array([float(batch)]),
        input_len=input_len,
        output_len=output_len,
        regime="static",
        engine=resolved.value.engine,
        parameters=knowledge.marginal(resolved.value.engine, found_cluster.value.gpu).parameters,
        residuals=knowledge.residuals(resolved.value.engine, found_cluster.value.gpu, found_model.value),
    )
    notes = (*found_model.notes, *found_cluster.notes, *resolved.notes, *knowledge.notes)
    offer = chosen_price(found_cluster.value.gpu.name, price)
    found = describe(evaluation, [0], [resolved.value], knowledge, price=offer, notes=notes)[0]
    found = checked_start(found, max_model_len)
    run = measured_run(knowledge.runs, found)
    return found if run is None else with_measurement(found, run)


def with_measurement(found: Estimate, run: Measurement) -> Estimate:
    """The estimate beside a run of its configuration.

    Measured times take the place of predicted ones, unless one contradicts its prediction: then that stands, with a warning and
    the measurement beside it.
    """
    measured = {
        name: float(getattr(run, name)) for name in TIME_METRICS if getattr(run, name) is not None and found.fits
    }
    far = {name: found.interval(name, CONTRADICTED) for name in measured}
    outside = {name: value for name, value in measured.items() if not far[name][0] <= value <= far[name][1]}
    told = f"run {run.run_id} ({run.source})"
    if outside:
        apart = " and ".join(
            f"{name} {value:.4g}, outside {far[name][0]:.4g} to {far[name][1]:.4g}" for name, value in outside.items()
        )
        note = Note(
            f"{told} of this very configuration measured {apart}, which holds {CONTRADICTED:.0%}: one of the two is wrong",
            "warning",
        )
        return dataclasses.replace(found, measured=measured, notes=(*found.notes, note))
    values: dict[str, Any] = dict(measured)
    if run.energy_j and run.batch and found.fits:
        values[ENERGY] = run.energy_j / (run.batch * run.dp * run.output_len)
    if "output_tok_s" in values:
        values["output_tok_s_per_gpu"] = values["output_tok_s"] / found.deployment.num_gpus
        if found.price is not None:
            hourly = found.price.usd_per_gpu_hour * found.deployment.num_gpus
            values["usd_per_mtok"] = hourly / values["output_tok_s"] / 3.6e-3
    sigmas = dict(found.sigmas) | {name: MEASURED_SIGMA for name in values if name in found.sigmas}
    note = Note(f"measured: {told}")
    return dataclasses.replace(
        found, **values, kv_capacity_tokens=run.kv_capacity_tokens or found.kv_capacity_tokens, provenance="measured",
        corrected_by=0, measured=measured,
        sigmas=sigmas, notes=(*found.notes, note),
    )  # fmt: skip


__all__ = ["Estimate", "Provenance", "describe", "estimate"]


def measured_run(runs: Sequence[Measurement], estimate: Estimate) -> Measurement | None:
    """A run of exactly this configuration, the latest one; None if there is none."""
    wanted = estimate.deployment
    key = (
        estimate.model.name,
        estimate.cluster.gpu.name,
        wanted.engine,
        estimate.batch,
        estimate.input_len,
        estimate.output_len,
        estimate.regime,
    )
    automatic = {
        "dtype": checkpoint_dtype(estimate.model, estimate.cluster.gpu),
        "kv_dtype": wanted.kv_dtype if wanted.kv_dtype in PLAIN else None,
    }
    for run in reversed(runs):
        if (run.model, run.gpu, run.engine, run.batch, run.input_len, run.output_len, run.regime) != key or run.oom:
            continue
        alike = not wanted.sequence_parallel and run.deployment.has_graphs == wanted.has_graphs
        same = alike and all(
            value is None or (automatic.get(name) if value == "auto" else value) == getattr(wanted, name)
            for name in ("tp", "pp", "dp", "ep", "dtype", "kv_dtype", "max_num_batched_tokens", "max_num_seqs",
                         "gpu_memory_utilization", "offload", "compiled")
            for value in [getattr(run, name)]
        )  # fmt: skip
        if same:
            return run
    return None
