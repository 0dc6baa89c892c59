"""A campaign of measurements, round by round, until it is certain which deployment is best and the best ones are confirmed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.observations import METRICS, group_runs
from advisor.calibration.posterior import update
from advisor.perf_model.correction import PHASES
from advisor.tuning.acquisition import Prospects, Round, best_round, wall_s
from advisor.tuning.gp_belief import Belief, Points
from advisor.tuning.stopping import is_certain, is_settled, next_loads, unconfirmed
from catalog.engines import engine_family

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from advisor.benchmarking.benchmark_plan import Candidate
    from advisor.calibration.parameter_posterior import ParameterPosterior
    from advisor.tuning.bench import MeasurementBench
    from advisor.tuning.decision import CandidateSet, Decision
    from catalog.schema import Measurement
    from search.external_study import ExternalStudy

Choose = Callable[["CandidateSet", Belief, "MeasurementBench", int], Round]


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
    decision: Decision = field(repr=False)
    settled: bool
    """What is left to be measured would not change the choice, nor is it expected to be wrong by much."""
    upcoming: tuple[Candidate, ...]
    """The next round; empty if there is none."""
    upcoming_why: str

    @property
    def certain(self) -> bool:
        return is_certain(self.decision)


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
    candidates: CandidateSet,
    bench: MeasurementBench,
    prior: ParameterPosterior,
    *,
    runs: Sequence[Measurement] = (),
    choose: Choose | None = None,
    until_certain: bool = True,
    seed: int = 0,
    study: ExternalStudy | None = None,
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
        decision = candidates.decide(belief, seed=seed)
        confirming = unconfirmed(candidates, decision, known, bench)
        done = until_certain and is_certain(decision)
        worthwhile = Round() if done else choose(candidates, belief, bench, seed + len(known))
        settled = is_settled(decision, worthwhile)
        upcoming, upcoming_why = next_loads(worthwhile, confirming, bench, stop=until_certain and settled)
        step = TuningStep(
            loads=tuple(loads),
            why=why,
            expected_s=expected_s,
            took_s=took_s,
            runs=tuple(known),
            belief=belief,
            decision=decision,
            settled=settled,
            upcoming=upcoming,
            upcoming_why=upcoming_why,
        )
        if study and trial:
            study.tell(trial, decision.regret, doubt=decision.doubt, why=why, runs=len(known))
        yield step
        if not upcoming:
            return
        loads, why, expected_s = upcoming, upcoming_why, wall_s(upcoming, bench.start_s)
        trial = study.ask({_name(load): len(load.seconds) for load in loads}) if study else None
        began_s = bench.passed_s
        known += bench.run(loads)
        took_s = bench.passed_s - began_s


def worth_most(candidates: CandidateSet, belief: Belief, bench: MeasurementBench, seed: int) -> Round:
    """Choose the round that is worth most for a second; an empty one if there is time for none."""
    waiting = bench.waiting()
    batches = [(candidate.deployment, shape) for candidate in waiting for shape in candidate.shapes]
    if not batches:
        return Round()
    points = candidates.points.cost_model
    probes = Points.of_shapes(points.model, points.cluster, batches)
    prospects = Prospects(*candidates.draws(belief, probes, seed=seed))
    places = {((deployment.tp, deployment.pp), shape): i for i, (deployment, shape) in enumerate(batches)}
    return best_round(waiting, prospects, places, start_s=bench.start_s, gpus=bench.gpus, most_s=bench.left_s)


def _name(candidate: Candidate) -> str:
    tp, pp = candidate.layout
    return f"tp{tp}pp{pp}"
