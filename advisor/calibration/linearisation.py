"""Observations and what they predict at the points a fit passes through: residuals and slopes, worked out once for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.parameters import NAMES, Parameters
from advisor.perf_model.sensitivity import log_slopes, logarithm, shifted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.calibration.observations import Observations
    from catalog.units import Array

KEPT = 32
"""Points of each group that are remembered: the rounds of a fit begin where the ones before began and ended."""


def linearised(group: Observations, x: Array, moved: NDArray[np.intp]) -> tuple[Array, Array]:
    """Return log(predicted / measured), shape (k, m) for k quantities of m runs, NaN where not measured; and the derivatives of the log
    predictions by the parameters, shape (k, len(NAMES), m), of which only those ``moved`` are not 0.
    """
    predicted = group.predict(Parameters.from_unbounded(shifted(x, moved)))
    slopes = np.zeros((predicted.shape[0], len(NAMES), predicted.shape[2]))
    slopes[:, moved] = log_slopes(predicted, axis=1)
    return np.asarray(logarithm(predicted[:, 0]) - np.log(group.measured)), slopes


class LinearisedObservations:
    """Observations, and their log residuals with the derivatives of these.

    Both come of one prediction: a fit asks for both at nearly every point, and again at the points where it begins and ends.
    """

    def __init__(self, group: Observations) -> None:
        self.group, self.used, self.noise = group, group.used, group.noise
        self._moved = group.dependencies
        self._known: dict[bytes, tuple[Array, Array]] = {}

    def at(self, x: Array) -> tuple[Array, Array]:
        """Return what ``linearised`` does."""
        key = x.tobytes()
        if key not in self._known:
            while len(self._known) >= KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[key] = linearised(self.group, x, self._moved)
        return self._known[key]
