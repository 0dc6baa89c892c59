"""What is known of each layout after a round of measurements: its best batch, that batch's times, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.intervals import LEVEL, beyond_dense, scale_name
from advisor.calibration.surrogate import shipped_surrogate
from advisor.recommendation.problem import startable
from catalog.wording import latency_label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.recommendation.problem import DeploymentSearch
    from advisor.tuning.decision import CandidateSet, Decision
    from advisor.tuning.gp_belief import Belief
    from catalog.schema import Deployment, Measurement, Slo

TABLE = ("output_tok_s_per_gpu", "output_tok_s", "ttft_ms", "tpot_ms", "e2e_ms")
NORMAL_90 = 1.645
"""Quantile of the normal distribution for a 90% interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningChoice:
    """The best batch of one layout."""

    deployment: Deployment
    batch: int
    measured: int
    """Batches of this layout that have been measured."""
    chance: float
    """Probability that this layout is the best."""
    feasible: bool
    """Whether it keeps the limits, as far as is known."""
    metrics: Mapping[str, tuple[float, float, float]]
    """Expected value and the ends of its 90% interval."""
    before: Mapping[str, tuple[float, float, float]]
    """The same as it was believed before anything was measured."""


def choices_of(
    candidates: CandidateSet,
    decision: Decision,
    belief: Belief,
    blank: Belief,
    runs: Sequence[Measurement],
    search: DeploymentSearch,
) -> tuple[TuningChoice, ...]:
    """List each layout with its best batch, best first; ``blank`` is what was believed before any of the ``runs``."""
    layouts, degrees = candidates.layouts(), candidates.points.cost_model.layout
    rows: dict[tuple[int, int], int] = {}
    for i in np.argsort(-decision.utility, kind="stable"):
        rows.setdefault(layouts[i], int(i))
    now, before = (_metrics(candidates, posterior, list(rows.values()), search.engine) for posterior in (belief, blank))
    within = candidates.within(belief)
    choices = []
    for k, ((tp, pp), i) in enumerate(rows.items()):
        wanted = search.deployment(
            {
                "tp": tp,
                "pp": pp,
                "dp": int(degrees.dp[i]),
                "max_num_seqs": int(candidates.points.batch[i]),
                "dtype": search.dtypes[0],
                "kv_dtype": search.kv_dtypes[0],
                "max_num_batched_tokens": search.budgets[0],
                "compiled": bool(degrees.compiled[i]),
            }
        )
        held = int(candidates.points.cost_model.memory.kv_capacity_tokens[i])
        choices.append(
            TuningChoice(
                deployment=startable(wanted, search.model, search.cluster, held, search.length),
                batch=int(candidates.points.batch[i]),
                measured=sum((run.tp, run.pp) == (tp, pp) and not run.oom for run in runs),
                chance=float(sum(decision.chance[j] for j, layout in enumerate(layouts) if layout == (tp, pp))),
                feasible=bool(within[i]),
                metrics=now[k],
                before=before[k],
            )
        )
    return tuple(choices)


def _metrics(
    candidates: CandidateSet, belief: Belief, rows: Sequence[int], engine: str
) -> list[dict[str, tuple[float, float, float]]]:
    """Return values and 90% intervals, a mapping a row; those of the steady state also hold what static batches cannot tell of it."""
    names = TABLE[1:]
    points = candidates.points
    experts = beyond_dense(points.cost_model.model)
    provenance = belief.prior.provenance if belief.seen is None else "calibrated"
    mean, covariance = belief.joint(belief.rows(points, names))
    sigma = np.sqrt(np.maximum(np.diag(covariance), 0.0)).reshape(len(names), -1)
    mean = mean.reshape(len(names), -1)
    rows_metrics = []
    for i in rows:
        metrics = {}
        for k, name in enumerate(names):
            half = NORMAL_90 * sigma[k, i]
            if points.regime == "steady":
                scale = shipped_surrogate().scale(
                    provenance, engine, scale_name(name, "steady", staged=False, experts=experts)
                )
                half = scale.quantile(LEVEL) * math.hypot(sigma[k, i], scale.noise)
            value = math.exp(mean[k, i])
            metrics[name] = (value, value / math.exp(half), value * math.exp(half))
        gpus = float(candidates.gpus[i])
        value, low, high = metrics["output_tok_s"]
        metrics["output_tok_s_per_gpu"] = (value / gpus, low / gpus, high / gpus)
        rows_metrics.append({name: metrics[name] for name in TABLE})
    return rows_metrics


def relaxations_of(nearest: TuningChoice, slo: Slo) -> tuple[str, ...]:
    """Say which limits the nearest deployment breaks, and what it needs."""
    changes = []
    for metric, limit in slo.limits.items():
        value = nearest.metrics[metric][0]
        if value > limit:
            changes.append(f"{latency_label(metric)} limit of {math.ceil(value)} ms instead of {limit:g}")
    return tuple(changes)
