"""What is believed of many configurations of one model at once, and how a few measurements of it change that.

The logarithm of a time is the model of time's answer at the parameters, plus a residual of the phase (prefill, decode) that
physics leaves. The parameters are Gaussian and common to all configurations; the residual is the Gaussian process over layout,
batch and lengths of ``residuals``, with the spread that is known of other models. The model of time is linearised about the parameters that the measurements make most probable, so everything stays Gaussian and
every prediction is correlated with every other as the physics says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.residual_gp import HERE, LENGTHS, REPEAT_NOISE, Configurations
from advisor.calibration.surrogate import shipped_surrogate
from advisor.perf_model.correction import PHASES
from advisor.perf_model.cost_model import CostModel
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.parameters import Parameters
from advisor.perf_model.sensitivity import log_slopes, logarithm, shifted
from advisor.prediction.prediction import TIMES_OF

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from advisor.calibration.intervals import Regime
    from advisor.calibration.parameter_posterior import ParameterPosterior
    from advisor.perf_model.phase_times import PhaseTimes
    from catalog.schema import Cluster, Deployment, Model
    from catalog.units import Array

TURNS = 3
"""Linearisations, each about the parameters that the one before makes most probable (Gauss-Newton): the model of time is
nearly log-linear in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """n deployments, each with a batch of requests of one length; arrays have shape (n,)."""

    cost_model: CostModel
    regime: Regime
    batch: Array
    input_len: Array
    output_len: Array

    @classmethod
    def of(
        cls,
        model: Model,
        cluster: Cluster,
        layout: DeploymentArrays,
        *,
        engine: str,
        regime: Regime,
        batch: Array,
        input_len: Array,
        output_len: Array,
    ) -> Points:
        cost_model = CostModel.of(model, cluster, layout, Parameters.typical(), engine)
        size = len(layout)
        batch, input_len, output_len = (
            np.broadcast_to(np.asarray(values, dtype=float), (size,)) for values in (batch, input_len, output_len)
        )
        return cls(cost_model=cost_model, regime=regime, batch=batch, input_len=input_len, output_len=output_len)

    @classmethod
    def of_shapes(
        cls, model: Model, cluster: Cluster, measured: Sequence[tuple[Deployment, tuple[int, int, int]]]
    ) -> Points:
        """Collect static batches: resolved deployments, each with (batch, input_len, output_len)."""
        shapes = np.array([shape for _, shape in measured], dtype=float).reshape(-1, 3)
        layout = DeploymentArrays.of([deployment for deployment, _ in measured], model, cluster.gpu)
        return cls.of(
            model,
            cluster,
            layout,
            engine=measured[0][0].engine,
            regime="static",
            batch=shapes[:, 0],
            input_len=shapes[:, 1],
            output_len=shapes[:, 2],
        )

    def __len__(self) -> int:
        return len(self.batch)

    def times(self, x: Array) -> PhaseTimes:
        """Predict times at parameters on the unbounded scale, (len(NAMES),); or (s, len(NAMES)) for times of shape (s, n)."""
        cost_model = replace(self.cost_model, parameters=Parameters.from_unbounded(x))
        return TIMES_OF[self.regime](cost_model, self.batch, self.input_len, self.output_len)

    def prefill_share(self, x: Array) -> Array:
        """Return the share of a request's life that its own prefill and that of those beside it take, shape (n,).

        In the steady state too, where both share steps: the work is that of a static batch of the same size.
        """
        alone = replace(self, regime="static").times(x)
        return np.asarray(np.clip(alone.prefill_ms / alone.e2e_ms, 0.0, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """m log quantities as linear functions of the parameters and of the two residuals."""

    mean: Array
    """At the prior mean of the parameters, shape (m,)."""
    slopes: Array
    """By the parameters, shape (m, len(NAMES))."""
    weights: Array
    """Of the residual of each phase, in its standard deviations: shape (m, 2)."""
    places: Configurations
    """Where the configurations are, m of them."""

    def __len__(self) -> int:
        return len(self.mean)

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in ("mean", "slopes", "weights")
        }
        return cls(**arrays, places=Configurations.joined([part.places for part in parts]))

    def take(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Rows:
        arrays = {name: getattr(self, name)[which] for name in ("mean", "slopes", "weights")}
        return Rows(**arrays, places=self.places.take(which))

    def covariance(self, other: Rows, prior: Array) -> Array:
        """Return the covariance with ``other`` before any measurement, shape (m, len(other)); ``prior`` is that of the
        parameters.
        """
        covariance = self.slopes @ prior @ other.slopes.T
        here = self.places.same(other.places)
        for phase in range(len(PHASES)):
            kernel = self.places.correlation(other.places, LENGTHS[phase], HERE[phase]) + HERE[phase] * here
            covariance = covariance + np.outer(self.weights[:, phase], other.weights[:, phase]) * kernel
        return np.asarray(covariance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """Parameters and residuals after some static batches of the model were measured."""

    prior: ParameterPosterior
    x: Array
    """Parameters about which the model of time is linearised: the most probable ones, shape (len(NAMES),)."""
    seen: Rows | None
    offset: Array
    """Measured less foreseen, shape (len(seen),)."""
    root: Array
    """Cholesky factor of the covariance of what was measured, noise included."""

    @classmethod
    def of(
        cls,
        prior: ParameterPosterior,
        points: Points | None = None,
        measured: Array | None = None,
        spread: Array | float = 0.0,
    ) -> Belief:
        """Condition on ``measured`` milliseconds, shape (2, n) for ``PHASES`` of n static batches; NaN where there is
        none.

        ``spread``: relative standard deviation of each batch over its repeats, where that is more than usual; shape (n,).
        """
        empty = cls(prior=prior, x=prior.mean, seen=None, offset=np.zeros(0), root=np.zeros((0, 0)))
        if points is None or measured is None or not len(points):
            return empty
        known = ~np.isnan(measured).ravel()
        noise = (np.maximum(np.array(REPEAT_NOISE)[:, None], spread + np.zeros(len(points))) ** 2).ravel()[known]
        logs = np.log(measured.ravel()[known])
        belief, x = empty, prior.mean
        for _ in range(TURNS):
            belief = replace(belief, x=x)
            seen = belief.rows(points, PHASES).take(known)
            covariance = seen.covariance(seen, prior.covariance) + np.diag(noise)
            root = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
            belief = replace(belief, seen=seen, offset=logs - seen.mean, root=root)
            pull = np.linalg.solve(root.T, np.linalg.solve(root, belief.offset))
            x = prior.mean + prior.covariance @ (seen.slopes.T @ pull)
        return belief

    def rows(self, points: Points, metrics: Sequence[str]) -> Rows:
        """Return the logarithms of some of ``PhaseTimes``' metrics as rows, one metric after another."""
        x = self.x
        moved = shifted(x)
        times = points.times(moved)
        share = points.prefill_share(x)
        places = Configurations.of(points.cost_model.layout, points.batch, points.input_len, points.output_len)
        engine = points.cost_model.engine
        noise = np.array(
            [[shipped_surrogate().noise(engine, phase, staged) for staged in (False, True)] for phase in PHASES]
        )
        parts = []
        for metric in metrics:
            values = np.broadcast_to(getattr(times, metric), (len(moved), len(points)))
            slopes = log_slopes(values).T
            parts.append(
                Rows(
                    mean=logarithm(values[0]) + slopes @ (self.prior.mean - x),
                    slopes=slopes,
                    weights=_weights(metric, points.regime, share) * noise.T[places.staged],
                    places=places,
                )
            )
        return Rows.joined(parts)

    def joint(self, rows: Rows) -> tuple[Array, Array]:
        """Return the mean and covariance of the log quantities, shapes (m,) and (m, m)."""
        mean, covariance = rows.mean, rows.covariance(rows, self.prior.covariance)
        if self.seen is None:
            return mean, covariance
        between = np.linalg.solve(self.root, self.seen.covariance(rows, self.prior.covariance))
        pull = np.linalg.solve(self.root, self.offset)
        return mean + between.T @ pull, covariance - between.T @ between


def _weights(metric: str, regime: Regime, share: Array) -> Array:
    """Return by how much the residual of each phase moves a log metric, shape (n, 2)."""
    one, none = np.ones_like(share), np.zeros_like(share)
    if metric in ("prefill_ms", "ttft_ms"):
        return np.stack([one, none], axis=1)
    if metric == "tpot_ms" and regime == "static":
        return np.stack([none, one], axis=1)
    sign = -1.0 if metric == "output_tok_s" else 1.0
    return np.stack([sign * share, sign * (1.0 - share)], axis=1)
