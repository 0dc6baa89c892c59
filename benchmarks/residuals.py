"""How far what one run misses holds for others of its model: ``python -m benchmarks.residuals``.

Each shipped static run with ``role=fit`` on H200 (both engines, their parameters fitted) is foretold by the others of its
model, for one choice after another of ``advisor.calibration.residual_gp``' lengths and of the share that is a batch's own. Prints the mean
error and the density of what was measured (mean log, the more the better) of the choice that is shipped, of those with most
density, and of no residuals at all.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.observations import group_runs
from advisor.calibration.residual_gp import FARTHEST, HERE, LENGTHS, NEVER, REPEAT_NOISE, Residuals, fit_residuals
from advisor.calibration.surrogate import shipped_surrogate
from advisor.perf_model.correction import PHASES
from catalog.runs import shipped_runs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ALONG = (0.75, 1.5, 2.5, 4.0)
"""Lengths tried for batch, prompt, chunk and context."""
ACROSS = (0.25, 0.5, 1.0, 2.0)
"""Those for tensor and pipeline parallel degrees."""
OWN = (0.02, 0.05, 0.2, 0.5)
BEST = 3


def known() -> tuple[Residuals, ...]:
    shipped = shipped_surrogate()
    groups = group_runs(run for run in shipped_runs() if run.role == "fit")
    return fit_residuals(groups, lambda *pair: shipped.marginal(*pair).parameters, shipped.noise)


def left_out(data: Residuals, phase: int, lengths: Sequence[float], own: float) -> Iterator[tuple[float, float]]:
    """Yield what is left of each run's residual after the others', and its log density (Rasmussen and Williams, 2006,
    eq. 5.12).
    """
    there = ~np.isnan(data.residual[phase])
    places = data.places.take(there)
    prior = data.noise[phase][places.staged]
    values = np.clip(data.residual[phase][there], -FARTHEST * prior, FARTHEST * prior)
    covariance = np.outer(prior, prior) * places.correlation(places, lengths, own)
    matrix = np.linalg.inv(covariance + np.diag(own * prior**2 + REPEAT_NOISE[phase] ** 2))
    off, variance = matrix @ values / np.diag(matrix), 1.0 / np.diag(matrix)
    density = -0.5 * np.log(2.0 * np.pi * variance) - 0.5 * off**2 / variance
    return zip(off.tolist(), density.tolist(), strict=True)


def main() -> None:
    data = known()
    for phase, name in enumerate(PHASES):
        plain = np.concatenate([group.residual[phase][~np.isnan(group.residual[phase])] for group in data])
        chosen = LENGTHS[phase]
        shipped = (max(length for length in chosen[:4] if length < NEVER), chosen[4], HERE[phase])
        ranking = []
        for along, across, own in {shipped, *itertools.product(ALONG, ACROSS, OWN)}:
            lengths = [*(along if length < NEVER else NEVER for length in chosen[:4]), across, across]
            off, density = np.array([pair for group in data for pair in left_out(group, phase, lengths, own)]).T
            ranking.append((float(density.mean()), float(np.mean(np.abs(np.expm1(off)))), (along, across, own)))
        print(f"{name}: {np.mean(np.abs(np.expm1(plain))):.2%} without residuals, {len(plain)} runs")
        ranked = sorted(ranking, reverse=True)
        for density, error, choice in [row for i, row in enumerate(ranked) if i < BEST or row[2] == shipped]:
            text = "lengths {:g} and {:g}, own {:g}".format(*choice)
            print(f"  {error:.2%}, log density {density:.3f}: {text}{' (shipped)' if choice == shipped else ''}")


if __name__ == "__main__":
    main()
