"""What is believed of a server's step times: draws of the parameters that keep their variance."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.blas_threads import one_blas_thread
from advisor.calibration.intervals import beyond_dense, implementation_variance, scale_name
from advisor.perf_model.memory.kv_capacity import max_concurrency
from advisor.perf_model.parameters import Parameters
from advisor.perf_model.sensitivity import log_slopes, shifted
from advisor.perf_model.static_batch import static_batch_times

if TYPE_CHECKING:
    from advisor.calibration.parameter_posterior import ParameterPosterior
    from advisor.calibration.surrogate import IntervalScale
    from advisor.perf_model.cost_model import CostModel
    from advisor.prediction.evidence import Evidence
    from catalog.schema import Deployment, Model
    from catalog.units import Array


def draws_of(
    marginal: ParameterPosterior,
    knowledge: Evidence,
    cost_model: CostModel,
    deployment: Deployment,
    count: int,
    *,
    variance: float = 0.0,
) -> list[tuple[Parameters, float]]:
    """Draw parameters and a factor of all times, ``count`` times: a draw and its mirror image, so that means stay.

    ``variance``: of the logarithm of all times, beside what the parameters and the engine's implementation have.

    Few are drawn, so they are not left to chance: they differ in the factor and along the directions in which steps of
    this deployment change most (``_directions``), in combinations that are orthogonal to each other. The mean square over
    the draws of whatever is linear in these directions is then just its variance, as with the sigma points of an
    unscented transform (Julier and Uhlmann, 1997), and no draw is further out than chance would have it.
    """
    scale = scale_of(knowledge, marginal, deployment, cost_model.model)
    own = marginal.dispersion * scale.noise
    noise = math.sqrt(
        own**2 + float(implementation_variance(marginal.provenance, float(deployment.compiled))) + variance
    )
    half = (count + 1) // 2
    if not half:
        return []
    ways = _directions(marginal, cost_model)[: half - 1]
    # The first combination is the same for all draws, so it is that of the factor; their entries are at most 1.42.
    combined = _cosines(half)[:, : len(ways) + 1]
    draws = []
    for factor, *amounts in combined:
        step = np.asarray(amounts) @ ways if amounts else np.zeros(len(marginal.mean))
        draws.append((Parameters.from_unbounded(marginal.mean + step), math.exp(noise * factor)))
        draws.append((Parameters.from_unbounded(marginal.mean - step), math.exp(-noise * factor)))
    return draws[:count]


def _cosines(count: int) -> Array:
    """Return the cosine transform's orthogonal columns, shape (count, count), each entry's mean square 1."""
    places = np.outer(2.0 * np.arange(count) + 1.0, np.arange(count))
    columns = math.sqrt(2.0) * np.cos(np.pi / (2.0 * count) * places)
    columns[:, 0] = 1.0
    return columns


@one_blas_thread
def _directions(marginal: ParameterPosterior, cost_model: CostModel) -> Array:
    """Return orthogonal parts of the parameters' spread, shape (k, len(NAMES)): all of what the first kind of step is
    uncertain by, what the next is beside that, and so on.

    The steps are those of a full batch, of prompts, of a sequence alone, of a batch between, and of a prompt alone.
    """
    longest = float(cost_model.layout.max_model_len[0])
    lengths = min(1024.0, longest / 2), min(256.0, longest / 4)
    room = max_concurrency(cost_model.model, cost_model.memory, cost_model.layout, np.array([sum(lengths)]))[0]
    full = max(math.floor(min(float(cost_model.layout.max_num_seqs[0]), room)), 1)
    batches = np.array([full, 1.0, math.ceil(math.sqrt(full))])
    moved = Parameters.from_unbounded(shifted(marginal.mean))
    times = static_batch_times(
        replace(cost_model.take(np.zeros(len(batches), dtype=int)), parameters=moved),
        batches,
        *(np.full(len(batches), length) for length in lengths),
    )
    tpot, prefill = log_slopes(times.tpot_ms), log_slopes(times.prefill_ms)
    slopes = np.stack([tpot[:, 0], prefill[:, 0], tpot[:, 1], tpot[:, 2], prefill[:, 1]], axis=1)
    values, vectors = np.linalg.eigh(marginal.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.asarray((root @ np.linalg.qr(root.T @ slopes)[0]).T)


def scale_of(knowledge: Evidence, marginal: ParameterPosterior, deployment: Deployment, model: Model) -> IntervalScale:
    """Return the errors of closed loops, the scale of what ``recommend`` says of a steady state."""
    name = scale_name("tpot_ms", "steady", staged=deployment.pp > 1, experts=beyond_dense(model))
    return knowledge.scale(marginal.provenance, deployment.engine, name)
