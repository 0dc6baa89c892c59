"""The next measurements: those that change the choice of a deployment most for a second of the machine's time.

What a round of loads is worth is by how much the deployment that would be chosen after it is expected to be better than the
one that would be chosen now (the knowledge gradient; Frazier, Powell and Dayanik, 2009), estimated by regression on joint
draws (Strong, Oakley and Brennan, 2014). Starting a load takes longer than most of its batches, and loads on GPUs that would
be idle cost nothing more, so whole rounds are weighed, not single batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.benchmarking.benchmark_plan import Candidate, Shape
    from catalog.units import Array

ACCURACY = 0.05
"""What predictions that are closer by 1% are worth beside a choice that is better by 1%: little, but where no single round
can turn the choice, those that tell most come first."""

MOST_BATCHES = 12
"""Batches of a round: regression on some 1,000 draws carries no more."""


class Prospects:
    """What each batch that could be measured would say about the deployments that compete."""

    def __init__(self, utility: Array, shown: Array) -> None:
        """Take draws of utilities, shape (draws, n), and what measuring would show in them (``shown``), shape (draws,
        batches, 2).
        """
        self._told = (shown - shown.mean(axis=0)).reshape(len(shown), -1)
        self._centre = utility.mean(axis=0)
        off = utility - self._centre
        self._gram, self._cross = self._told.T @ self._told, self._told.T @ off
        self._sigma = off.std(axis=0)

    def value(self, batches: Sequence[int]) -> tuple[float, float]:
        """Return what measuring these batches together is expected to bring: by how much the choice gets better, and by
        how much the predictions of all that competes get closer.
        """
        columns = np.ravel([(2 * batch, 2 * batch + 1) for batch in batches])
        gram, cross = self._gram[np.ix_(columns, columns)], self._cross[columns]
        slopes = np.linalg.solve(gram + 1e-9 * np.trace(gram) * np.eye(len(gram)), cross)
        expected = self._centre + self._told[:, columns] @ slopes
        better = float(expected.max(axis=1).mean() - self._centre.max())
        explained = np.einsum("cn,cn->n", cross, slopes) / len(self._told)
        closer = float(np.mean(self._sigma - np.sqrt(np.maximum(self._sigma**2 - explained, 0.0))))
        return max(better, 0.0), closer


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Loads to run side by side, with some of their shapes each."""

    loads: tuple[Candidate, ...] = ()
    gain: float = 0.0
    """By how much better the choice after it is expected to be."""


def best_round(
    loads: Sequence[Candidate],
    prospects: Prospects,
    places: Mapping[tuple[tuple[int, int], Shape], int],
    *,
    start_s: float,
    gpus: int,
    most_s: float,
) -> Round:
    """Choose the loads that are worth most for a second, on GPUs of their own; none if there is no time for any.

    ``places``: where ``prospects`` has each layout's shapes.
    """
    chosen: dict[int, list[Shape]] = {}
    best_rate, wall, gain = 0.0, 0.0, 0.0
    while sum(map(len, chosen.values())) < MOST_BATCHES:
        free = gpus - sum(loads[i].gpus for i in chosen)
        taken = [places[loads[i].layout, shape] for i, shapes in chosen.items() for shape in shapes]
        options = []
        for i, load in enumerate(loads):
            if i not in chosen and load.gpus > free:
                continue
            for shape, seconds in load.shapes.items():
                if shape in chosen.get(i, ()):
                    continue
                own = start_s + seconds + sum(load.shapes[measured] for measured in chosen.get(i, ()))
                after = max(wall, own)
                if after <= most_s:
                    better, closer = prospects.value([*taken, places[load.layout, shape]])
                    options.append(((better + ACCURACY * closer) / after, i, shape, after, better))
        if not options:
            break
        rate, i, shape, after, better = max(options, key=lambda option: option[0])
        if rate <= best_rate:
            break
        chosen.setdefault(i, []).append(shape)
        best_rate, wall, gain = rate, after, better
    return Round(loads=tuple(loads[i].only(shapes) for i, shapes in chosen.items()), gain=gain)


def wall_s(loads: Sequence[Candidate], start_s: float) -> float:
    """Return the seconds until the last of the loads has ended, which run side by side."""
    return max((start_s + sum(load.seconds.values()) for load in loads), default=0.0)
