"""What is believed of many configurations of one model at once, and how a few measurements of it change that.

The logarithm of a time is the model of time's answer at the parameters, plus a residual of the phase (prefill, decode) that
physics leaves. The parameters are Gaussian and common to all configurations; the residual is a Gaussian process over layout,
batch and prompt length (Rasmussen and Williams, 2006, ch. 2; kriging of a simulator's error: Kennedy and Hagan, 2001). The
model of time is linearised about the parameters that the measurements make most probable, so everything stays Gaussian and
every prediction is correlated with every other as the physics says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.physics.layout import Layout
from advisor.physics.memory import memory
from advisor.physics.parameters import NAMES, Parameters
from advisor.physics.schedule import Setting, Times, static, steady

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from advisor.evaluation import Regime
    from advisor.fitting.surrogate import Marginal
    from catalog.schema import Cluster, Deployment, Model

    Array = NDArray[np.float64]

STEP = 1e-3
"""Finite-difference step on the unbounded scale of the parameters."""

TURNS = 3
"""Linearisations, each about the parameters that the one before makes most probable (Gauss-Newton): the model of time is
nearly log-linear in them."""

PHASES = ("prefill_ms", "tpot_ms")
"""What a static batch tells: each is the time of one phase alone."""

REPEAT_NOISE = (0.025, 0.006)
"""Standard deviation of log ``PHASES`` over repeats of one batch on one machine (``catalog/data/runs/*.md``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """Standard deviations of one phase's residual by what it is common to."""

    model: float
    """All configurations of a model."""
    layout: float
    """All batches of a layout."""
    shape: float
    """All layouts at a batch and prompt length, and its neighbours."""
    both: float
    """A layout at a batch and prompt length, and its neighbours."""
    own: float
    """That batch alone."""
    length: float
    """How far neighbours are, in the logarithm of batch and prompt length."""


RESIDUALS = (
    Residual(model=0.02, layout=0.005, shape=0.016, both=0.076, own=0.02, length=0.9),
    Residual(model=0.02, layout=0.016, shape=0.026, both=0.047, own=0.03, length=1.5),
)
"""Of ``PHASES``: about those that make the shipped ``role=fit`` runs on H200 most probable (``python -m benchmarks.residuals``).
Two are set by hand where those runs say nothing: they were fitted, so 2% stands for what is common to a model left out; and a
batch's own in prefill is at least about what its repeats differ by."""
OWN_LENGTH = 0.2
"""``Residual.length`` of what is a batch's own: some 20% away it is another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """n deployments, each with a batch of requests of one length; arrays have shape (n,)."""

    setting: Setting
    regime: Regime
    batch: Array
    input_len: Array
    output_len: Array

    @classmethod
    def of(
        cls, model: Model, cluster: Cluster, layout: Layout, *, engine: str, regime: Regime, batch: Array, input_len: Array,
        output_len: Array,
    ) -> Points:  # fmt: skip
        setting = Setting(
            model=model, cluster=cluster, layout=layout, memory=memory(model, cluster, layout, engine),
            parameters=Parameters.typical(), engine=engine,
        )  # fmt: skip
        size = len(layout)
        batch, input_len, output_len = (
            np.broadcast_to(np.asarray(each, dtype=float), (size,)) for each in (batch, input_len, output_len)
        )
        return cls(setting=setting, regime=regime, batch=batch, input_len=input_len, output_len=output_len)

    @classmethod
    def of_shapes(
        cls, model: Model, cluster: Cluster, found: Sequence[tuple[Deployment, tuple[int, int, int]]]
    ) -> Points:
        """Static batches: resolved deployments, each with (batch, input_len, output_len)."""
        shapes = np.array([shape for _, shape in found], dtype=float).reshape(-1, 3)
        layout = Layout.of([deployment for deployment, _ in found], model, cluster.gpu)
        return cls.of(
            model, cluster, layout, engine=found[0][0].engine, regime="static", batch=shapes[:, 0],
            input_len=shapes[:, 1], output_len=shapes[:, 2],
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.batch)

    def times(self, x: Array) -> Times:
        """At parameters on the unbounded scale: (20,), or (s, 20) for times of shape (s, n)."""
        run = static if self.regime == "static" else steady
        setting = replace(self.setting, parameters=Parameters.from_unbounded(x))
        return run(setting, self.batch, self.input_len, self.output_len)

    def prefill_share(self, x: Array) -> Array:
        """Share of a request's life that its own prefill and that of those beside it take, shape (n,).

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
    """By the parameters, shape (m, 20)."""
    weights: Array
    """Of the residual of each phase, shape (m, 2)."""
    layout: Array
    """A number for each (tp, pp, ep), shape (m,)."""
    place: Array
    """Logarithm of batch and prompt length, shape (m, 2)."""

    def __len__(self) -> int:
        return len(self.mean)

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        names = ("mean", "slopes", "weights", "layout", "place")
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def take(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Rows:
        names = ("mean", "slopes", "weights", "layout", "place")
        return Rows(**{name: getattr(self, name)[which] for name in names})

    def covariance(self, other: Rows, prior: Array) -> Array:
        """Before any measurement; ``prior`` is that of the parameters. Shape (m, len(other))."""
        found = self.slopes @ prior @ other.slopes.T
        same = self.layout[:, None] == other.layout[None, :]
        distance = np.sum((self.place[:, None, :] - other.place[None, :, :]) ** 2, axis=2)
        own = same * np.exp(-0.5 * distance / OWN_LENGTH**2)
        for phase, size in enumerate(RESIDUALS):
            near = np.exp(-0.5 * distance / size.length**2)
            kernel = size.model**2 + size.layout**2 * same + (size.shape**2 + size.both**2 * same) * near
            kernel = kernel + size.own**2 * own
            found = found + np.outer(self.weights[:, phase], other.weights[:, phase]) * kernel
        return np.asarray(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """Parameters and residuals after some static batches of the model were measured."""

    prior: Marginal
    x: Array
    """Parameters about which the model of time is linearised: the most probable ones, shape (20,)."""
    seen: Rows | None
    offset: Array
    """Measured less foreseen, shape (len(seen),)."""
    root: Array
    """Cholesky factor of the covariance of what was measured, noise included."""

    @classmethod
    def of(
        cls, prior: Marginal, points: Points | None = None, measured: Array | None = None, spread: Array | float = 0.0
    ) -> Belief:
        """``measured`` are milliseconds, shape (2, n) for ``PHASES`` of n static batches; NaN where there is none.

        ``spread``: relative standard deviation of each batch over its repeats, where that is more than usual; shape (n,).
        """
        empty = cls(prior=prior, x=prior.mean, seen=None, offset=np.zeros(0), root=np.zeros((0, 0)))
        if points is None or measured is None or not len(points):
            return empty
        known = ~np.isnan(measured).ravel()
        noise = (np.maximum(np.array(REPEAT_NOISE)[:, None], spread + np.zeros(len(points))) ** 2).ravel()[known]
        logs = np.log(measured.ravel()[known])
        found, x = empty, prior.mean
        for _ in range(TURNS):
            found = replace(found, x=x)
            seen = found.rows(points, PHASES).take(known)
            covariance = seen.covariance(seen, prior.covariance) + np.diag(noise)
            root = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
            found = replace(found, seen=seen, offset=logs - seen.mean, root=root)
            pull = np.linalg.solve(root.T, np.linalg.solve(root, found.offset))
            x = prior.mean + prior.covariance @ (seen.slopes.T @ pull)
        return found

    def rows(self, points: Points, metrics: Sequence[str]) -> Rows:
        """The logarithms of some of ``Times``' metrics, one metric after another."""
        x = self.x
        shifted = np.vstack([x, x + STEP * np.eye(len(NAMES))])
        times = points.times(shifted)
        share = points.prefill_share(x)
        place = np.log(np.stack([points.batch, points.input_len], axis=1))
        degrees = points.setting.layout
        layout = degrees.tp * 1e6 + degrees.pp * 1e3 + degrees.ep
        parts = []
        for metric in metrics:
            logs = np.log(np.maximum(np.broadcast_to(getattr(times, metric), (len(shifted), len(points))), 1e-12))
            slopes = ((logs[1:] - logs[:1]) / STEP).T
            parts.append(
                Rows(
                    mean=logs[0] + slopes @ (self.prior.mean - x), slopes=slopes,
                    weights=_weights(metric, points.regime, share), layout=layout, place=place,
                )
            )  # fmt: skip
        return Rows.joined(parts)

    def joint(self, rows: Rows) -> tuple[Array, Array]:
        """Mean and covariance of the log quantities, shapes (m,) and (m, m)."""
        mean, covariance = rows.mean, rows.covariance(rows, self.prior.covariance)
        if self.seen is None:
            return mean, covariance
        between = np.linalg.solve(self.root, self.seen.covariance(rows, self.prior.covariance))
        pull = np.linalg.solve(self.root, self.offset)
        return mean + between.T @ pull, covariance - between.T @ between


def _weights(metric: str, regime: Regime, share: Array) -> Array:
    """By how much the residual of each phase moves a log metric, shape (n, 2)."""
    one, none = np.ones_like(share), np.zeros_like(share)
    if metric in ("prefill_ms", "ttft_ms"):
        return np.stack([one, none], axis=1)
    if metric == "tpot_ms" and regime == "static":
        return np.stack([none, one], axis=1)
    sign = -1.0 if metric == "output_tok_s" else 1.0
    return np.stack([sign * share, sign * (1.0 - share)], axis=1)
