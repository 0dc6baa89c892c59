"""Estimates of rows of a prediction: the numbers of each deployment, with notes about them."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.calibration.fit_file import LEVELS
from advisor.calibration.intervals import beyond_dense, scale_name
from advisor.calibration.support import extrapolation_notes
from advisor.calibration.surrogate import IntervalScale
from advisor.perf_model.energy import batch_work, power_of
from advisor.prediction.client_regime import CLIENT_SIGMA, client_ttft_ms
from advisor.prediction.deployment_estimate import CLIENT_TTFT, ENERGY, Estimate
from advisor.prediction.prediction import (
    TIME_METRICS,
    Prediction,
    product_report,
    request_causes,
    ridge_batch,
    time_by_operator,
)
from catalog.errors import Note
from catalog.units import usd_per_mtok

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.calibration.parameter_posterior import Provenance
    from advisor.prediction.evidence import Evidence
    from catalog.schema import Deployment, Price


NORMAL = IntervalScale(noise=0.0, quantiles=tuple(NormalDist().inv_cdf(0.5 + level / 2.0) for level in LEVELS), runs=0)
"""Of errors that are taken to be normal."""
SURE = 0.99
"""Probability from which on it goes without saying that something fits in memory, or at 1 less that, that it does not."""


def describe(
    evaluation: Prediction,
    rows: Sequence[int],
    deployments: Sequence[Deployment],
    knowledge: Evidence,
    *,
    price: Price | None,
    notes: tuple[Note, ...] = (),
) -> list[Estimate]:
    """Return estimates of some rows of an evaluation; ``deployments`` are those rows', resolved."""
    chosen = evaluation.take(np.asarray(rows, dtype=int))
    cost_model = chosen.cost_model
    marginal = knowledge.marginal(deployments[0].engine, cost_model.cluster.gpu)
    sigmas = chosen.sigmas(marginal, knowledge.surrogate, knowledge.family(deployments[0].engine))
    floors = chosen.floors()
    causes = request_causes(chosen)
    near = cost_model.correction.near if cost_model.correction is not None else np.zeros(len(rows))
    concurrency = chosen.concurrency
    starts, holds = chosen.chances(deployments[0].engine)
    fewest, most = chosen.capacity_ends(deployments[0].engine)
    cached = bool(np.any(np.asarray(cost_model.prefix_hit_rate) > 0.0))
    bursts = client_ttft_ms(chosen) if chosen.regime == "steady" and not cached else None
    news = extrapolation_notes(marginal, deployments[0].engine, cost_model.model, cost_model.layout)
    estimates = []
    for i, deployment in enumerate(deployments):
        room = cost_model.memory
        fits = bool(room.fits[i])
        times: dict[str, Any] = {name: float(values[i]) if fits else None for name, values in chosen.metrics().items()}
        tok_s = times["output_tok_s"]
        gpus = deployment.num_gpus
        split = {cause: float(values[i]) for cause, values in causes.items()}
        joules, unsure = _energy(chosen, i, deployment, tok_s, float(sigmas["output_tok_s"][i]))
        estimates.append(
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
                turning_batch=ridge_batch(chosen, i),
                products=product_report(chosen, i),
                energy_j_per_token=joules,
                usd_per_mtok=None if price is None or not tok_s else usd_per_mtok(price.usd_per_gpu_hour, tok_s / gpus),
                price=price,
                provenance=marginal.provenance,
                corrected_by=int(near[i]),
                client_ttft_ms=float(bursts[i]) if bursts is not None and fits else None,
                notes=(*notes, *news[i], *_limits(chosen, i, fits=fits, starts=starts[i], holds=holds[i])),
                sigmas={name: float(values[i]) for name, values in sigmas.items()}
                | {ENERGY: unsure, CLIENT_TTFT: CLIENT_SIGMA},
                scales=_scales(knowledge, deployment, chosen, marginal.provenance),
                floors={name: float(values[i]) for name, values in floors.items()}
                | {ENERGY: 0.0, CLIENT_TTFT: float(floors["ttft_ms"][i])},
            )
        )
    return estimates


def _scales(
    knowledge: Evidence, deployment: Deployment, evaluation: Prediction, provenance: Provenance
) -> dict[str, IntervalScale]:
    """Return how wide the errors of each metric are."""
    traits = {"staged": deployment.pp > 1, "experts": beyond_dense(evaluation.cost_model.model)}
    names = {name: scale_name(name, evaluation.regime, **traits) for name in TIME_METRICS}
    scales = {name: knowledge.scale(provenance, deployment.engine, scale) for name, scale in names.items()}
    return scales | {ENERGY: NORMAL, CLIENT_TTFT: NORMAL}


def _energy(
    evaluation: Prediction, row: int, deployment: Deployment, tok_s: float | None, sigma: float
) -> tuple[float | None, float]:
    """Return joules of an output token, and the standard deviation of their logarithm."""
    cost_model = evaluation.cost_model
    power = power_of(cost_model.cluster.gpu, deployment)
    prompts_computed = not np.any(np.asarray(cost_model.prefix_hit_rate) > 0.0)
    if power is None or not tok_s or not prompts_computed:
        return None, 0.0
    running, output = float(evaluation.times.running[row]), float(evaluation.output_len[row])
    work = batch_work(
        cost_model.model,
        deployment,
        float(cost_model.memory.kv_bytes_per_token[row]) * deployment.tp * deployment.pp,
        batch=running,
        input_len=float(evaluation.input_len[row]),
        output_len=output,
        seconds=running * deployment.dp * output / tok_s,
        steady=evaluation.regime == "steady",
    )
    joules = work.joules(power, cost_model.cluster.gpu.tdp_w)
    waiting = min(power.static_w * work.gpu_s / joules, 1.0)  # the part that the error of the time is of
    return joules / (running * deployment.dp * output), math.hypot(power.sigma, waiting * sigma)


def memory_parts(evaluation: Prediction, row: int) -> dict[str, float]:
    """Return GiB on the fullest GPU, by part; they sum to ``device``."""
    parts = {part: float(values[row]) for part, values in evaluation.cost_model.memory.parts().items()}
    return parts | {"device": evaluation.cost_model.cluster.gpu.memory_gib}


def _limits(evaluation: Prediction, row: int, *, fits: bool, starts: float, holds: float) -> list[Note]:
    """Return warnings about one row: it does not fit, or not all of its batch runs at once, or neither is certain."""
    notes = _shortages(evaluation, row, fits=fits)
    if 1.0 - SURE < starts < SURE:
        notes.append(
            Note(f"memory is left for at least one such request with a probability of {starts:.0%}", "warning")
        )
    elif 1.0 - SURE < holds < SURE:
        notes.append(
            Note(f"{1.0 - holds:.0%} chance that this batch overflows the KV cache and requests are preempted")
        )
    return notes


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
