"""A campaign of measurements, round by round, until it is certain which deployment is best and the best ones are confirmed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from advisor.calibration.observations import METRICS, group_runs
from advisor.calibration.posterior import update
from advisor.perf_model.correction import PHASES
from advisor.tuning.acquisition import Prospects, Round, best_round
from advisor.tuning.gp_belief import Belief, Points
from catalog.engines import engine_family

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from advisor.benchmarking.benchmark_plan import Candidate, Shape
    from advisor.calibration.parameter_posterior import ParameterPosterior
    from advisor.tuning.decision import CandidateSet, Decision
    from catalog.schema import Measurement
    from search.external_study import ExternalStudy

DOUBT = 0.05
REGRET = 0.01
"""The choice is certain when the probability that another one is better by more than ``decision.MATTERS`` is below the first,
and what it is expected to be worse by than the best is below the second."""

GAIN = 0.0005
"""Where the next round is expected to improve the choice by less than this, and the choice to be wrong by less than
``REGRET``, it is settled: what is still in doubt, such as a time that is equal to its limit, measuring does not tell."""

CONFIRMED = 2
"""So many layouts, the best first, are measured before the end."""


Choose = Callable[["CandidateSet", Belief, "MeasurementBench", int], Round]


class MeasurementBench(Protocol):
    """What measures: this machine's GPUs, or runs that were recorded."""

    gpus: int

    @property
    def start_s(self) -> float:
        """Return seconds from a load's order to its first batch."""

    @property
    def passed_s(self) -> float:
        """Return seconds since the budget began to count."""

    @property
    def left_s(self) -> float:
        """Return seconds left of the budget."""

    def waiting(self) -> list[Candidate]:
        """Return the layouts with what has not been measured or tried of them, and its seconds."""

    def run(self, loads: Sequence[Candidate]) -> list[Measurement]:
        """Measure side by side; what has been measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningStep:
    """What was known after a round of measurements, or before the first."""

    loads: tuple[Candidate, ...]
    """What the round consisted of."""
    why: str
    """Why it was run: "value" or "confirm"; empty before the first."""
    expected_s: float
    took_s: float
    runs: tuple[Measurement, ...]
    """All that have been measured by now."""
    belief: Belief = field(repr=False)
    verdict: Decision = field(repr=False)
    settled: bool
    """What is left to be measured would not change the choice, nor is it expected to be wrong by much."""
    upcoming: tuple[Candidate, ...]
    """The next round; empty if there is none."""
    upcoming_why: str

    @property
    def certain(self) -> bool:
        return is_certain(self.verdict)


def is_certain(verdict: Decision) -> bool:
    return verdict.doubt < DOUBT and verdict.regret < REGRET


def believed(prior: ParameterPosterior, runs: Sequence[Measurement]) -> Belief:
    """Condition ``prior`` on static runs of one model with one engine on one kind of GPU."""
    timed = [run for run in runs if run.regime == "static" and not run.oom and run.batch > 0 and run.prefill_ms]
    groups = group_runs(timed)
    if not groups:
        return Belief.of(prior)
    (group,) = groups
    points = Points.of(
        group.model,
        group.cluster,
        group.layout,
        engine=group.engine,
        regime="static",
        batch=group.batch,
        input_len=group.input_len,
        output_len=group.output_len,
    )
    measured = np.array([[getattr(run, name) or np.nan for run in group.runs] for name in PHASES], dtype=float)
    measured[group.impossible[[METRICS.index(name) for name in PHASES]]] = np.nan
    return Belief.of(prior, points, measured, np.array([run.spread or 0.0 for run in group.runs]))


def prior_of(
    start: ParameterPosterior, runs: Iterable[Measurement], *, model: str, engine: str, gpu: str
) -> ParameterPosterior:
    """Return what is believed of an engine on a GPU by the runs of other models there, beside ``start``."""
    others = [
        run
        for run in runs
        if run.model != model
        and run.role == "fit"
        and run.gpu == gpu
        and not run.oom
        and engine_family(run.engine, run.engine_version) == engine
    ]
    return update(start, group_runs(others)) if others else start


def steps(
    stakes: CandidateSet,
    bench: MeasurementBench,
    prior: ParameterPosterior,
    *,
    runs: Sequence[Measurement] = (),
    choose: Choose | None = None,
    until_certain: bool = True,
    seed: int = 0,
    asking: ExternalStudy | None = None,
) -> Iterator[TuningStep]:
    """Yield what is known before anything is measured and after every round, until the choice is certain or settled and
    the best layouts are confirmed, the time is over, or nothing is left to be measured.

    ``runs``: what was measured of the model before. ``choose`` picks the next round; by default the one worth most.
    ``seed`` is of the draws.
    """
    choose = choose or worth_most
    known = list(runs)
    loads: Sequence[Candidate] = ()
    why, expected_s, took_s, trial = "", 0.0, 0.0, None
    while True:
        belief = believed(prior, known)
        verdict = stakes.verdict(belief, seed=seed)
        confirming = unconfirmed(stakes, verdict, known, bench)
        done = until_certain and is_certain(verdict)
        chosen = Round() if done else choose(stakes, belief, bench, seed + len(known))
        settled = is_certain(verdict) or (verdict.regret < REGRET and chosen.gain < GAIN and bool(chosen.loads))
        upcoming, upcoming_why = chosen.loads, "value"
        if (until_certain and settled) or (confirming and upcoming and not _together(upcoming, confirming, bench)):
            upcoming, upcoming_why = confirming, "confirm"
        step = TuningStep(
            loads=tuple(loads),
            why=why,
            expected_s=expected_s,
            took_s=took_s,
            runs=tuple(known),
            belief=belief,
            verdict=verdict,
            settled=settled,
            upcoming=upcoming,
            upcoming_why=upcoming_why,
        )
        if asking and trial:
            asking.tell(trial, verdict.regret, doubt=verdict.doubt, why=why, runs=len(known))
        yield step
        if not upcoming:
            return
        loads, why, expected_s = upcoming, upcoming_why, wall_s(upcoming, bench.start_s)
        trial = asking.ask({_name(load): len(load.seconds) for load in loads}) if asking else None
        began_s = bench.passed_s
        known += bench.run(loads)
        took_s = bench.passed_s - began_s


def worth_most(stakes: CandidateSet, belief: Belief, bench: MeasurementBench, seed: int) -> Round:
    """Choose the round that is worth most for a second; an empty one if there is time for none."""
    waiting = bench.waiting()
    batches = [(candidate.deployment, shape) for candidate in waiting for shape in candidate.shapes]
    if not batches:
        return Round()
    points = stakes.points.cost_model
    probes = Points.of_shapes(points.model, points.cluster, batches)
    prospects = Prospects(*stakes.draws(belief, probes, seed=seed))
    places = {((deployment.tp, deployment.pp), shape): i for i, (deployment, shape) in enumerate(batches)}
    return best_round(waiting, prospects, places, start_s=bench.start_s, gpus=bench.gpus, most_s=bench.left_s)


def unconfirmed(
    stakes: CandidateSet, verdict: Decision, runs: Sequence[Measurement], bench: MeasurementBench
) -> tuple[Candidate, ...]:
    """Choose a round that measures the best layouts that have not been measured, each at the batch nearest to its best;
    empty if they all have, cannot be, or there is no time.
    """
    layouts = stakes.layouts()
    order = np.argsort(-verdict.utility)
    tops = list(dict.fromkeys(layouts[i] for i in order))[:CONFIRMED]
    measured = {(run.tp, run.pp) for run in runs if not run.oom}
    waiting = {candidate.layout: candidate for candidate in bench.waiting()}
    confirming: list[Candidate] = []
    for layout in tops:
        load = waiting.get(layout)
        if layout in measured or load is None or load.gpus > bench.gpus - sum(chosen.gpus for chosen in confirming):
            continue
        at = next(i for i in order if layouts[i] == layout)
        one = load.only([min(load.shapes, key=lambda shape: _distance(stakes, at, shape))])
        if wall_s([one], bench.start_s) <= bench.left_s:
            confirming.append(one)
    return tuple(confirming)


def _distance(stakes: CandidateSet, row: int, shape: Shape) -> float:
    """Measure how far a static batch is from a deployment's, in logarithms; a longer output tells a little more."""
    points = stakes.points
    wanted = np.log([points.batch[row], points.input_len[row]])
    return float(np.abs(np.log(shape[:2]) - wanted).sum()) - 1e-6 * shape[2]


def _together(loads: Sequence[Candidate], confirming: Sequence[Candidate], bench: MeasurementBench) -> bool:
    """Return whether there is time for the loads and what confirms the best layout after them."""
    covered = {load.layout for load in loads}
    rest = [load for load in confirming if load.layout not in covered]
    return not rest or wall_s(loads, bench.start_s) + wall_s(rest[:1], bench.start_s) <= bench.left_s


def wall_s(loads: Sequence[Candidate], start_s: float) -> float:
    """Return the seconds until the last of the loads has ended, which run side by side."""
    return max((start_s + sum(load.seconds.values()) for load in loads), default=0.0)


def _name(candidate: Candidate) -> str:
    tp, pp = candidate.layout
    return f"tp{tp}pp{pp}"
