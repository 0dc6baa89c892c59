"""How sure limits and memory are for many deployments at once: what a search asks of each of its points.

A limit holds with a confidence where the end of the interval of what is limited keeps it. Standard deviations change slowly with the
batch, so they are evaluated at a few batches of each layout and interpolated between.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.calibration.intervals import beyond_dense, scale_name
from advisor.perf_model.memory.kv_capacity import max_concurrency, request_gib
from advisor.perf_model.memory.uncertainty import spread_gib
from advisor.prediction.inputs import BARE_ESTIMATE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.memory.parts import Memory
    from advisor.prediction.deployment_estimate import Estimate
    from advisor.prediction.evidence import Evidence
    from advisor.prediction.prediction import Prediction
    from catalog.schema import Gpu, Model, Slo
    from catalog.units import Array
    from search.space import Columns

HOLDS = 0.95
"""Probability with which the KV cache holds the batch that is recommended."""
GRID = 3
"""Batches in each doubling at which standard deviations are evaluated: they change slowly but where kernels change, as those of
experts do at some number of tokens each, and between two neighbours that costs a few per cent."""
PER_REPLICA = frozenset({"dp", "max_num_seqs"})
"""Columns that leave a replica's step as uncertain as it is, or are interpolated over."""


def surely_held(
    engine: str, gpu: Gpu, model: Model, layout: DeploymentArrays, room: Memory, tokens: Array, probability: float
) -> Array:
    """Return requests of ``tokens`` tokens that the KV cache of one replica holds with a probability, shape (n,); 0.5: as estimated."""
    held = max_concurrency(model, room, layout, tokens)
    if probability == BARE_ESTIMATE:
        return held
    least = room.slack_gib - NormalDist().inv_cdf(probability) * spread_gib(engine, gpu, layout, room)
    sure = np.floor(np.maximum(least, 0.0) / request_gib(model, room, layout, tokens) + 1e-9)
    return np.asarray(np.minimum(sure, held))


def is_sure(estimate: Estimate, slo: Slo, confidence: float) -> bool:
    """Return whether an estimate keeps the limits as surely as is asked for, to a hundredth."""
    sure = estimate.keeps(slo)
    return sure is None or sure >= confidence - 0.01


class ConfidenceFactors:
    """Factors from a latency's estimate to the end of its interval at a confidence, for the points of one search."""

    def __init__(
        self,
        evaluate: Callable[[Columns], Prediction],
        most: Callable[[Columns], Array],
        knowledge: Evidence,
        engine: str,
        metrics: Sequence[str],
        confidence: float,
    ) -> None:
        """Take what evaluates; ``evaluate``: deployments of columns; ``most``: largest batch of each that is worth evaluating."""
        self._evaluate, self._most, self._knowledge, self._engine = evaluate, most, knowledge, engine
        self._metrics, self._confidence = tuple(metrics), confidence
        self._known: dict[tuple[int, ...], tuple[Array, dict[str, Array]]] = {}

    def factors(self, columns: Columns) -> Mapping[str, Array]:
        """Return the factors by metric, shape (n,)."""
        names = [name for name in columns if name not in PER_REPLICA]
        batches = np.log(np.maximum(np.asarray(columns["max_num_seqs"], dtype=float), 1.0))
        table = np.stack([np.asarray(columns[name]) for name in names], axis=1).astype(np.int64)
        kinds, which = np.unique(table, axis=0, return_inverse=True)
        which = which.ravel()
        self._learn([row for row in kinds if tuple(row.tolist()) not in self._known], names)
        by_metric = {metric: np.ones(len(batches)) for metric in self._metrics}
        for i, kind in enumerate(kinds):
            rows = which == i
            at, logs = self._known[tuple(kind.tolist())]
            for metric in self._metrics:
                by_metric[metric][rows] = np.exp(np.interp(batches[rows], at, logs[metric]))
        return by_metric

    def _learn(self, kinds: Sequence[Any], names: Sequence[str]) -> None:
        if not kinds:
            return
        table = np.stack(kinds)
        alone: dict[str, Any] = {name: table[:, i] for i, name in enumerate(names)}
        alone |= {"dp": np.ones(len(table), dtype=np.int64), "max_num_seqs": np.ones(len(table), dtype=np.int64)}
        grids = [_grid(max(float(top), 1.0)) for top in self._most(alone)]
        rows = np.repeat(np.arange(len(table)), [len(grid) for grid in grids])
        columns = {name: np.asarray(values)[rows] for name, values in alone.items()}
        columns["max_num_seqs"] = np.concatenate(grids).astype(np.int64)
        evaluation = self._evaluate(columns)
        marginal = self._knowledge.marginal(self._engine, evaluation.cost_model.cluster.gpu)
        sigmas = evaluation.sigmas(marginal, self._knowledge.surrogate, self._knowledge.family(self._engine))
        staged, experts = evaluation.cost_model.layout.pp > 1, beyond_dense(evaluation.cost_model.model)
        level = 2.0 * self._confidence - 1.0
        for metric in self._metrics:
            plain, deep = (
                self._knowledge.scale(
                    marginal.provenance, self._engine, scale_name(metric, "steady", staged=stages, experts=experts)
                )
                for stages in (False, True)
            )
            sigmas[metric] = sigmas[metric] * np.where(staged, deep.quantile(level), plain.quantile(level))
        for i, (kind, grid) in enumerate(zip(kinds, grids, strict=True)):
            mine = rows == i
            self._known[tuple(kind.tolist())] = np.log(grid), {metric: sigmas[metric][mine] for metric in self._metrics}


def _grid(top: float) -> Array:
    count = math.ceil(GRID * math.log2(top)) + 1
    return np.unique(np.round(np.geomspace(1.0, top, count)))


def point_of(estimate: Estimate, batch: int) -> dict[str, Any]:
    """Return the columns of an estimate's deployment with a batch, each of one row."""
    names = ("tp", "pp", "dp", "ep", "dcp", "dtype", "kv_dtype", "max_num_batched_tokens")
    columns = {name: np.array([getattr(estimate.deployment, name)]) for name in names}
    return columns | {"max_num_seqs": np.array([batch])}
