"""The robust likelihood of log residuals, of which those of one server share an offset that nobody can foretell.

Rows of one server are not independent: what its configuration sets and nobody states moves all of them alike. With an offset for
each, integrated out at its most probable value (Gelman and Hill, 2007, ch. 12), many rows of one server say no more than few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.contamination import DEGREES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalog.units import Array

SERVER_SIGMA = 0.2
"""Standard deviation of the logarithm that all closed loops of one server share: what a configuration sets that nobody states."""

ROUNDS = 6
"""Reweightings in which an offset settles."""


def robust(z: Array, counted: Array) -> Array:
    """Return the Student-t loss for the first squared residuals, as much as each is ``counted``; plain squares for the priors."""
    rho, data = np.empty((3, z.size)), len(counted)
    rho[0], rho[1], rho[2] = z, 1.0, 0.0
    inner = 1.0 + z[:data] / DEGREES
    rho[0, :data] = counted * (DEGREES + 1.0) * np.log(inner)
    rho[1, :data] = counted * (DEGREES + 1.0) / DEGREES / inner
    rho[2, :data] = -counted * (DEGREES + 1.0) / DEGREES**2 / inner**2
    return rho


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedOffsets:
    """n residuals with their noise, and the server that each is of."""

    noise: Array
    """Shape (n,)."""
    server: NDArray[np.intp]
    """Shape (n,); -1 where a residual is independent of all others."""

    def cost(self, residuals: Array) -> float:
        """Return the negative logarithm of the likelihood, up to a constant, at the most probable offsets."""
        offsets = self._offsets(residuals)
        z = ((residuals - self._of_rows(offsets)) / self.noise) ** 2
        cost = 0.5 * float(robust(z, np.ones(len(z)))[0].sum())
        own = (offsets / SERVER_SIGMA) ** 2
        return cost + 0.5 * float(robust(own, np.ones(len(own)))[0].sum())

    def equations(self, residuals: Array, slopes: Array) -> tuple[Array, Array]:
        """Return gradient and Gauss-Newton Hessian of the cost by p parameters, of which ``slopes`` (n, p) are the derivatives;
        the offsets are eliminated by Schur's complement.
        """
        offsets = self._offsets(residuals)
        scaled = (residuals - self._of_rows(offsets)) / self.noise
        weight = robust(scaled**2, np.ones(len(scaled)))[1] / self.noise**2
        weighted = slopes * weight[:, None]
        pull, curvature = weighted.T @ (scaled * self.noise), slopes.T @ weighted
        if len(offsets):
            shared = self.server >= 0
            sums = np.zeros((len(offsets), slopes.shape[1]))
            np.add.at(sums, self.server[shared], weighted[shared])
            held = np.bincount(self.server[shared], weight[shared], minlength=len(offsets)) + _held(offsets)
            curvature = curvature - sums.T @ (sums / held[:, None])
        return pull, curvature

    def _offsets(self, residuals: Array) -> Array:
        """Return the most probable offset of each server."""
        shared = self.server >= 0
        if not shared.any():
            return np.zeros(0)
        number, server, noise = int(self.server.max()) + 1, self.server[shared], self.noise[shared]
        offsets = np.zeros(number)
        for _ in range(ROUNDS):
            apart = residuals[shared] - offsets[server]
            weight = robust((apart / noise) ** 2, np.ones(len(apart)))[1] / noise**2
            total = np.bincount(server, weight * residuals[shared], minlength=number)
            offsets = total / (np.bincount(server, weight, minlength=number) + _held(offsets))
        return offsets

    def _of_rows(self, offsets: Array) -> Array:
        """Return the offset of each row, 0 where it has none."""
        return (
            np.where(self.server >= 0, offsets[np.maximum(self.server, 0)], 0.0)
            if len(offsets)
            else np.zeros(len(self.noise))
        )


def _held(offsets: Array) -> Array:
    """Return what holds each offset near 0: the weight of its prior."""
    return np.asarray(robust((offsets / SERVER_SIGMA) ** 2, np.ones(len(offsets)))[1] / SERVER_SIGMA**2)
