"""When a campaign of measurements ends: it is certain which deployment is best, or settled, and the best ones are confirmed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.tuning.acquisition import wall_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.benchmarking.benchmark_plan import Candidate, Shape
    from advisor.tuning.acquisition import Round
    from advisor.tuning.bench import MeasurementBench
    from advisor.tuning.decision import CandidateSet, Decision
    from catalog.schema import Measurement

DOUBT = 0.05
REGRET = 0.01
"""The choice is certain when the probability that another one is better by more than ``decision.MATTERS`` is below the first,
and what it is expected to be worse by than the best is below the second."""

GAIN = 0.0005
"""Where the next round is expected to improve the choice by less than this, and the choice to be wrong by less than
``REGRET``, it is settled: what is still in doubt, such as a time that is equal to its limit, measuring does not tell."""

CONFIRMED = 2
"""So many layouts, the best first, are measured before the end."""


def is_certain(decision: Decision) -> bool:
    """Return whether hardly any doubt is left about which deployment is best."""
    return decision.doubt < DOUBT and decision.regret < REGRET


def is_settled(decision: Decision, following: Round) -> bool:
    """Return whether it is certain, or the ``following`` round, the one worth most, would not change it."""
    level = decision.regret < REGRET and following.gain < GAIN and bool(following.loads)
    return is_certain(decision) or level


def next_loads(
    following: Round, confirming: tuple[Candidate, ...], bench: MeasurementBench, *, stop: bool
) -> tuple[tuple[Candidate, ...], str]:
    """Choose what is measured next, and say why: "value", or "confirm" where nothing else is wanted (``stop``) or no time
    would be left for it afterwards.
    """
    if stop or (confirming and following.loads and not _together(following.loads, confirming, bench)):
        return confirming, "confirm"
    return following.loads, "value"


def unconfirmed(
    candidates: CandidateSet, decision: Decision, runs: Sequence[Measurement], bench: MeasurementBench
) -> tuple[Candidate, ...]:
    """Choose a round that measures the best layouts that have not been measured, each at the batch nearest to its best;
    empty if they all have, cannot be, or there is no time.
    """
    layouts = candidates.layouts()
    order = np.argsort(-decision.utility)
    tops = list(dict.fromkeys(layouts[i] for i in order))[:CONFIRMED]
    measured = {(run.tp, run.pp) for run in runs if not run.oom}
    waiting = {candidate.layout: candidate for candidate in bench.waiting()}
    confirming: list[Candidate] = []
    for layout in tops:
        load = waiting.get(layout)
        if layout in measured or load is None or load.gpus > bench.gpus - sum(chosen.gpus for chosen in confirming):
            continue
        at = next(i for i in order if layouts[i] == layout)
        one = load.only([min(load.shapes, key=lambda shape: _distance(candidates, at, shape))])
        if wall_s([one], bench.start_s) <= bench.left_s:
            confirming.append(one)
    return tuple(confirming)


def _distance(candidates: CandidateSet, row: int, shape: Shape) -> float:
    """Measure how far a static batch is from a deployment's, in logarithms; a longer output tells a little more."""
    points = candidates.points
    wanted = np.log([points.batch[row], points.input_len[row]])
    return float(np.abs(np.log(shape[:2]) - wanted).sum()) - 1e-6 * shape[2]


def _together(loads: Sequence[Candidate], confirming: Sequence[Candidate], bench: MeasurementBench) -> bool:
    """Return whether there is time for the loads and what confirms the best layout after them."""
    covered = {load.layout for load in loads}
    rest = [load for load in confirming if load.layout not in covered]
    return not rest or wall_s(loads, bench.start_s) + wall_s(rest[:1], bench.start_s) <= bench.left_s
