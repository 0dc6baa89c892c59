"""Which runs are of the machine that the others show, and how far runs lie from what the others foretell.

A run may be of something else than it says: another job shared the GPU, its lengths or its GPUs were others, its benchmark was
still warming up. Such a run is off by a factor of its own. The mixture of runs that are as they say and runs that are not is the
clutter problem (Minka, 2001, "Expectation propagation for approximate Bayesian inference", sec. 3.3): each run is judged by the
cavity, that is by what all the others foretell of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from catalog.units import Array

CONTAMINATED = 0.05
"""Share of runs that are not what they say, before any is seen: the usual one in twenty (Huber, 1964; Minka takes a half)."""
FACTOR_SIGMA = 1.0
"""Standard deviation of the logarithm of the factor by which such a run is off: a third to three times are usual."""
DEGREES = 4.0
"""Degrees of freedom of the Student t that disagreement is measured by, as of the likelihood (``posterior``)."""
PRIOR_RUNS = 8.0
"""Runs that the width of what ships counts for, beside how far the own runs lie from it: a scaled inverse chi-squared prior of
so many degrees of freedom (Gelman et al., 2013, sec. 2.6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Of m runs of one group, each judged by the others; shape (m,)."""

    clean: Array
    """Probability that a run is of what the others show."""
    score: Array
    """Mean squared distance of a run's quantities from what the others foretell, in units of its expectation; NaN of a run
    without any that is used."""


def disagreement(
    residual: Array, slopes: Array, covariance: Array, noise: Array, weight: Array, used: NDArray[np.bool_], sign: Array
) -> Disagreement:
    """Judge each run by the others.

    Args:
        residual: log(predicted / measured) at the parameters fitted to all runs, shape (k, m).
        slopes: derivatives of it by the p parameters, shape (k, p, m).
        covariance: of the parameters after all runs, shape (p, p).
        noise: standard deviation of each residual, shape (k, m).
        weight: how much each counted in the fit, 0 to 1, shape (k, m).
        used: which counted at all, shape (k, m).
        sign: 1 for quantities that rise with the time of a step, -1 for those that fall, shape (k,).

    """
    clean, score = np.ones(residual.shape[1]), np.full(residual.shape[1], np.nan)
    for i in np.flatnonzero(used.any(axis=0)):
        rows = used[:, i]
        apart, variance = _cavity(
            residual[rows, i], slopes[rows, :, i], covariance, weight[rows, i] / noise[rows, i] ** 2
        )
        spread = variance + np.diag(noise[rows, i] ** 2)
        score[i] = float(np.mean(apart**2 / np.diag(spread)))
        wild = spread + FACTOR_SIGMA**2 * np.outer(sign[rows], sign[rows])
        odds = math.log((1.0 - CONTAMINATED) / CONTAMINATED) + _log_density(apart, spread) - _log_density(apart, wild)
        clean[i] = 1.0 / (1.0 + math.exp(-min(max(odds, -700.0), 700.0)))
    return Disagreement(clean=clean, score=score)


def _cavity(residual: Array, slopes: Array, covariance: Array, precision: Array) -> tuple[Array, Array]:
    """Return the residual of a run at what the others say, and its variance from the parameters.

    With S the posterior variance of the run's predictions and W its precision, the others alone give (I - S W)^-1 r and
    (I - S W)^-1 S (the leave-one-out residuals of least squares; Cook and Weisberg, 1982, sec. 2.2).
    """
    known = slopes @ covariance @ slopes.T
    gain = np.linalg.inv(np.eye(len(residual)) - known * precision)
    variance = gain @ known
    return gain @ residual, 0.5 * (variance + variance.T)


def _log_density(residual: Array, covariance: Array) -> float:
    """Return the log density of a Gaussian around 0, up to the constant that its size decides."""
    return -0.5 * (float(residual @ np.linalg.solve(covariance, residual)) + float(np.linalg.slogdet(covariance)[1]))


def dispersion(scores: Sequence[float] | Array) -> float:
    """Return the factor on standard deviations, at least 1, that runs at such distances from each other ask for.

    Each counts by the loss of a Student t, so that it says how many runs contradict the others rather than how far the
    farthest lies.
    """
    known = np.asarray(scores, dtype=float)
    known = known[~np.isnan(known)]
    counted = float(np.sum((DEGREES + 1.0) * np.log1p(known / DEGREES)))
    return math.sqrt(max((PRIOR_RUNS + counted) / (PRIOR_RUNS + len(known)), 1.0))
