"""What a measurement could change: the deployments that compete, how sure it is which of them is best, and what not knowing
costs.

Everything is in logarithms, so a difference of 0.01 is one of 1%.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.residual_gp import REPEAT_NOISE
from advisor.perf_model.correction import PHASES
from advisor.recommendation.problem import FILLS_THE_CLUSTER, OBJECTIVES
from advisor.tuning.gp_belief import Points, Rows
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from advisor.calibration.intervals import Regime
    from advisor.recommendation.problem import DeploymentSearch
    from advisor.tuning.gp_belief import Belief
    from catalog.units import Array

SAMPLES = 1024
"""Joint draws that probabilities and values are means over: 5% is then known to 0.7%."""

MATTERS = 0.01
"""A deployment that is better by less than this is as good."""

TOO_SLOW = 20.0
"""What it costs to exceed a limit, in the objective's own terms: 1% above it weighs like 20% less of what is sought."""

CONTENDERS = 60
"""Deployments that are looked at closely; the others are far behind."""

BATCHES = 12
"""Batches of a layout that compete: performance changes smoothly between them."""


class NothingFits(InputError):  # noqa: N818  an answer rather than a mistake
    """No layout can be measured, for lack of memory or because the engine runs none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Which deployment is best as far as is known."""

    best: int
    doubt: float
    """Probability that some other deployment is better by more than ``MATTERS``."""
    regret: float
    """How much better the really best one is expected to be."""
    regret_95: float
    """How much better it is at most, with a probability of 95%."""
    utility: Array
    """Expected of every deployment, shape (n,)."""
    chance: Array
    """Probability of every deployment to be the best, shape (n,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSet:
    """n deployments that compete for an objective within limits."""

    points: Points
    gpus: Array
    """GPUs that each takes, shape (n,)."""
    objective: str
    limits: Mapping[str, float]
    """Most milliseconds by metric."""

    def __post_init__(self) -> None:
        if not len(self.points):
            raise InputError("there is nothing to choose from")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Name what is sought first, then what is limited."""
        name = OBJECTIVES[self.objective][0]
        sought = name if name in ("ttft_ms", "tpot_ms", "e2e_ms") else "output_tok_s"
        return (sought, *self.limits)

    def layouts(self) -> list[tuple[int, int]]:
        """Return (tp, pp) of each deployment."""
        degrees = self.points.cost_model.layout
        return [(int(tp), int(pp)) for tp, pp in zip(degrees.tp, degrees.pp, strict=True)]

    def utility(self, logs: Array, which: NDArray[np.intp] | None = None) -> Array:
        """Return what is sought, more is better, less what exceeding the limits costs, of all deployments or some:
        shape (..., n) of (..., metrics x n).
        """
        parts = np.split(logs, len(self.metrics), axis=-1)
        utility = parts[0] if self.metrics[0] == "output_tok_s" else -parts[0]
        if self.objective in ("throughput_per_gpu", "cost"):
            utility = utility - np.log(self.gpus if which is None else self.gpus[which])
        for part, limit in zip(parts[1:], self.limits.values(), strict=True):
            utility = utility - TOO_SLOW * np.maximum(part - np.log(limit), 0.0)
        return np.asarray(utility)

    def decide(self, belief: Belief, *, seed: int = 0) -> Decision:
        """Decide which deployment is best, and how sure that is."""
        utility = self.utility(_drawn(*belief.joint(belief.rows(self.points, self.metrics)), seed))
        mean = utility.mean(axis=0)
        best = int(np.argmax(mean))
        lost = utility.max(axis=1) - utility[:, best]
        return Decision(
            best=best,
            doubt=float(np.mean(lost > np.log1p(MATTERS))),
            regret=float(np.mean(lost)),
            regret_95=float(np.quantile(lost, 0.95)),
            utility=mean,
            chance=np.bincount(utility.argmax(axis=1), minlength=len(mean)) / len(utility),
        )

    def within(self, belief: Belief) -> NDArray[np.bool_]:
        """Return which deployments keep all the limits as far as is known, shape (n,)."""
        mean, _ = belief.joint(belief.rows(self.points, self.metrics))
        parts = np.split(mean, len(self.metrics))[1:]
        within_limit = [part <= np.log(limit) for part, limit in zip(parts, self.limits.values(), strict=True)]
        return np.asarray(np.all(within_limit, axis=0) if within_limit else np.ones(len(self.points), dtype=bool))

    def draws(self, belief: Belief, probes: Points, *, seed: int = 0) -> tuple[Array, Array]:
        """Draw utilities of the contenders, the deployments most likely to matter, shape (SAMPLES, n), and with them
        what measuring ``probes`` would show: log ``PHASES``, noise included, shape (SAMPLES, probes, 2).
        """
        rows = belief.rows(self.points, self.metrics)
        utility = self.utility(_drawn(*belief.joint(rows), seed))
        optimistic = utility.mean(axis=0) + 2.0 * utility.std(axis=0)
        chosen = np.sort(np.argsort(-optimistic)[:CONTENDERS])
        which = np.concatenate([chosen + k * len(self.points) for k in range(len(self.metrics))])
        probe_rows = belief.rows(probes, PHASES)
        drawn = _drawn(*belief.joint(Rows.joined([rows.take(which), probe_rows])), seed)
        shown = drawn[:, len(which) :].reshape(SAMPLES, 2, len(probes)).transpose(0, 2, 1)
        noise = np.random.default_rng(seed + 1).standard_normal(shown.shape) * np.array(REPEAT_NOISE)
        return self.utility(drawn[:, : len(which)], chosen), shown + noise


def _drawn(mean: Array, covariance: Array, seed: int) -> Array:
    """Draw from a Gaussian, shape (SAMPLES, m); in pairs of opposite sign, so that their mean is exact."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    half = np.random.default_rng(seed).standard_normal((SAMPLES // 2, len(mean)))
    return np.asarray(mean + np.vstack([half, -half]) @ root.T)


def candidate_set(
    search: DeploymentSearch, layouts: Sequence[tuple[int, int]], *, regime: Regime, compiled: bool
) -> CandidateSet:
    """List the deployments of a search that are worth comparing: of each layout (tp, pp) named some batches up to the
    largest that fits, with as many replicas as the objective wants.

    Raises:
        NothingFits: none of the layouts does.

    """
    space = search.space()
    columns = space.columns()
    labels = space.labels
    scores = search.scores(columns, labels)
    sign = -1.0 if OBJECTIVES[search.objective][1] == "maximize" else 1.0
    loss = np.nan_to_num(sign * scores.values[:, 0], nan=np.inf)
    excess = np.maximum(scores.violations, 0.0).sum(axis=1)
    fits = (scores.violations[:, 0] <= 0) & (scores.violations[:, 1] <= 0)  # memory, and a token a step for each
    fills = search.objective in FILLS_THE_CLUSTER
    best: dict[tuple[int, int, int], int] = {}
    for i in np.flatnonzero(fits & (columns["ep"] == 1)):
        tp, pp, dp, batch = (int(columns[name][i]) for name in ("tp", "pp", "dp", "max_num_seqs"))
        if (tp, pp) not in layouts:
            continue
        held = best.setdefault((tp, pp, batch), int(i))
        if (dp > columns["dp"][held]) == fills and dp != columns["dp"][held]:
            best[tp, pp, batch] = int(i)
    chosen = []
    for layout in layouts:
        own = sorted(
            (i for (tp, pp, _), i in best.items() if (tp, pp) == layout), key=lambda i: columns["max_num_seqs"][i]
        )
        if own:
            even = {own[round(k)] for k in np.linspace(0, len(own) - 1, min(len(own), BATCHES))}
            chosen += sorted({*even, min(own, key=lambda i: (excess[i], loss[i]))})
    if not chosen:
        raise NothingFits(f"nothing feasible: {search.model.name} fits no layout of {search.cluster}")
    rows = np.array(chosen)
    arrays = search.layout(
        {
            **{
                name: np.array(labels[name], dtype=object)[values[rows]] if name in labels else values[rows]
                for name, values in columns.items()
            },
            "compiled": compiled,
        }
    )
    points = Points.of(
        search.model,
        search.cluster,
        arrays,
        engine=search.engine,
        regime=regime,
        batch=arrays.max_num_seqs,
        input_len=np.array(float(search.workload.input_len)),
        output_len=np.array(float(search.workload.output_len)),
    )
    return CandidateSet(points=points, gpus=arrays.gpus, objective=search.objective, limits=search.slo.limits)
