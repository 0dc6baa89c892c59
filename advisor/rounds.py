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

    from numpy.typing import NDArray

    from advisor.probe_plans import Candidate, Shape

    Array = NDArray[np.float64]

ACCURACY = 0.05
"""What predictions that are closer by 1% are worth beside a choice that is better by 1%: little, but where no single round
can turn the choice, those that tell most come first."""

MOST_BATCHES = 12
"""Batches of a round: regression on some 1,000 draws carries no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospects:
    """What each batch that could be measured would say about the deployments that compete."""

    utility: Array
    """Draws, shape (draws, n)."""
    shown: Array
    """What measuring would show in the same draws, shape (draws, batches, 2)."""

    def value(self, batches: Sequence[int]) -> float:
        """What measuring these batches together is worth."""
        told = self.shown[:, list(batches)].reshape(len(self.shown), -1)
        told = told - told.mean(axis=0)
        centre = self.utility.mean(axis=0)
        off = self.utility - centre
        gram = told.T @ told
        gram += 1e-9 * np.trace(gram) * np.eye(len(gram))
        expected = told @ np.linalg.solve(gram, told.T @ off)
        better = float(np.mean(np.max(centre + expected, axis=1)) - np.max(centre))
        before, explained = off.var(axis=0), np.minimum(expected.var(axis=0), off.var(axis=0))
        closer = float(np.mean(np.sqrt(before) - np.sqrt(before - explained)))
        return max(better, 0.0) + ACCURACY * closer


def best_round(
    loads: Sequence[Candidate], prospects: Prospects, places: Mapping[tuple[tuple[int, int], Shape], int], *,
    start_s: float, gpus: int, most_s: float,
) -> list[Candidate]:  # fmt: skip
    """Loads to run side by side, with some of their shapes each, that are worth most for a second; empty if there is no time
    for any.

    ``places``: where ``prospects`` has each layout's shapes.
    """
    chosen: dict[int, list[Shape]] = {}
    best_rate, wall = 0.0, 0.0
    while sum(map(len, chosen.values())) < MOST_BATCHES:
        free = gpus - sum(loads[i].gpus for i in chosen)
        taken = [places[loads[i].layout, shape] for i, shapes in chosen.items() for shape in shapes]
        options = []
        for i, load in enumerate(loads):
            if i not in chosen and load.gpus > free:
                continue
            for shape, seconds in load.seconds.items():
                if shape in chosen.get(i, ()):
                    continue
                own = start_s + seconds + sum(load.seconds[each] for each in chosen.get(i, ()))
                after = max(wall, own)
                if after <= most_s:
                    value = prospects.value([*taken, places[load.layout, shape]])
                    options.append((value / after, i, shape, after))
        if not options:
            break
        rate, i, shape, after = max(options, key=lambda option: option[0])
        if rate <= best_rate:
            break
        chosen.setdefault(i, []).append(shape)
        best_rate, wall = rate, after
    return [loads[i].only(shapes) for i, shapes in chosen.items()]
