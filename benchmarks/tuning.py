"""Error and regret of ``advisor tune`` against minutes, beside random and grid choice: ``python -m benchmarks.tuning``.

The shipped runs of models that were never fitted (13B to 70B) are replayed with what their batches and start-ups took, on a
node of four H200s; a run enters only when it is "probed". Questions are about what was recorded: the layout and batch with
most tokens a second per GPU, with and without limits on TPOT, and the least latency. Two starts: other models were measured
on this GPU with this engine (what ships), and nothing was measured anywhere (the priors). All three ways to choose share the
same model of what is believed. Regret is against the best recorded configuration (a broken limit counts 20 times, 100% at
most); the error is of predictions of the runs that have not been probed. Writes the figure to ``--out``.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from joblib import Parallel, delayed

from advisor.calibration.observations import group_runs
from advisor.calibration.surrogate import analytic_marginal, shipped_surrogate
from advisor.perf_model.deployment_arrays import weight_bits
from advisor.render.figures.vega import BLUE, GREEN, ORANGE, axis, colour, layer, panel, printed, rule
from advisor.render.page import write_png
from advisor.tuning.acquisition import Round
from advisor.tuning.gp_belief import Points
from advisor.tuning.loop import steps, worth_most
from benchmarks.replay import Replay, recorded_candidates
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.runs import shipped_runs

if TYPE_CHECKING:
    from advisor.benchmarking.benchmark_plan import Candidate
    from advisor.tuning.bench import MeasurementBench
    from advisor.tuning.decision import CandidateSet
    from advisor.tuning.gp_belief import Belief
    from catalog.schema import Measurement

GPU = "H200-SXM"
MODELS = ("meta-llama/Llama-2-13b-hf", "Qwen/Qwen2.5-32B", "meta-llama/Meta-Llama-3.1-70B")
COLOURS = {"active": GREEN, "random": ORANGE, "grid": BLUE}
"""Of the ways to choose what is measured."""
BUDGET_S = {"torch": 300.0, "vllm": 720.0}
STARTS = {"other models measured": "shipped", "nothing measured": "analytic"}
METRICS = ("prefill_ms", "tpot_ms", "e2e_ms")
TIMES = 61
FEW = 0.5
"""Errors are shown while at least this share of the replays has runs that have not been probed."""
RANDOM_SHAPES = 4
"""Batches of each load that random choice starts."""
FIGURE = Path(__file__).parent / "figures" / "tuning.png"


@dataclass(frozen=True, kw_only=True)
class Case:
    engine: str
    model: str
    lengths: tuple[int, int]
    objective: str
    tpot_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One replay: arrays over ``TIMES`` moments of the budget."""

    case: Case
    start: str
    choice: str
    regret: np.ndarray
    errors: np.ndarray
    """Shape (len(METRICS), TIMES)."""
    inside: np.ndarray
    """Share of those predictions within their 90% interval."""
    stopped_s: float
    """When ``tune`` would have ended; the budget if it would not have."""
    stopped_regret: float


def recorded(engine: str, model: str) -> list[Measurement]:
    return [
        run
        for run in shipped_runs()
        if (run.engine, run.model, run.gpu, run.regime) == (engine, model, GPU, "static")
        and weight_bits(run.dtype) == weight_bits("bfloat16")
        and run.compiled
        and run.prefill_ms
        and run.tpot_ms
        and run.e2e_ms
        and not (run.oom or run.offload)
    ]


def cases() -> list[Case]:
    """List every question with at least three layouts to choose from; limits on TPOT between recorded ones."""
    questions = []
    for engine in BUDGET_S:
        for model in MODELS:
            runs = recorded(engine, model)
            for lengths in sorted({(run.input_len, run.output_len) for run in runs}):
                alike = [run for run in runs if (run.input_len, run.output_len) == lengths]
                if len({(run.tp, run.pp) for run in alike}) < 3:
                    continue
                common = {"engine": engine, "model": model, "lengths": lengths}
                questions += [Case(objective=objective, **common) for objective in ("throughput_per_gpu", "latency")]
                tpots = np.sort([run.tpot_ms for run in alike])
                for quantile in (0.35, 0.65):
                    at = int(quantile * (len(tpots) - 1))
                    limit = float(np.sqrt(tpots[at] * tpots[at + 1]))
                    questions.append(Case(objective="throughput_per_gpu", tpot_ms=limit, **common))
    return questions


def random_choice(_: CandidateSet, __: Belief, bench: MeasurementBench, seed: int) -> Round:
    generator = np.random.default_rng(seed)
    loads = []
    for index in generator.permutation(len(waiting := bench.waiting())):
        shapes = list(waiting[index].seconds)
        loads.append(waiting[index].only([shapes[i] for i in generator.permutation(len(shapes))[:RANDOM_SHAPES]]))
    return packed(loads, bench)


def grid_choice(_: CandidateSet, __: Belief, bench: MeasurementBench, ___: int) -> Round:
    return packed(sorted(bench.waiting(), key=lambda load: load.layout), bench)


CHOICES = {"active": worth_most, "random": random_choice, "grid": grid_choice}


def packed(loads: list[Candidate], bench: MeasurementBench) -> Round:
    """Choose as many loads as there are GPUs for, each cut to the time that is left."""
    round_loads: list[Candidate] = []
    for load in loads:
        left = bench.left_s - bench.start_s - np.cumsum(list(load.seconds.values()))
        cut = load.only([shape for shape, rest in zip(load.seconds, left, strict=True) if rest >= 0])
        if cut.seconds and cut.gpus + sum(other.gpus for other in round_loads) <= bench.gpus:
            round_loads.append(cut)
    return Round(loads=tuple(round_loads), gain=np.inf)


def replayed(case: Case, start: str, choice: str, seed: int) -> Curve:
    model, cluster = find_model(case.model).value, parse_cluster(f"4x{GPU}").value
    runs = recorded(case.engine, case.model)
    budget_s = BUDGET_S[case.engine]
    limits = {} if case.tpot_ms is None else {"tpot_ms": case.tpot_ms}
    candidates, real = recorded_candidates(
        runs, model, cluster, objective=case.objective, lengths=case.lengths, limits=limits
    )
    true = candidates.utility(np.log([getattr(run, name) for name in candidates.metrics for run in real]))
    bench = Replay(runs, model, cluster, budget_s=budget_s)
    prior = shipped_surrogate().marginal(case.engine, GPU) if start == "shipped" else analytic_marginal()
    moments = np.linspace(0.0, budget_s, TIMES)
    regret, inside = np.full(TIMES, np.nan), np.full(TIMES, np.nan)
    errors = np.full((len(METRICS), TIMES), np.nan)
    stopped_s, stopped_regret = budget_s, np.nan
    for step in steps(candidates, bench, prior, choose=CHOICES[choice], until_certain=False, seed=1000 * seed):
        since = moments >= bench.passed_s
        regret[since] = min(np.expm1(true.max() - true[step.decision.best]), 1.0)
        layouts = {(run.tp, run.pp) for run in step.runs}
        if stopped_s == budget_s and step.settled and candidates.layouts()[step.decision.best] in layouts:
            stopped_s, stopped_regret = bench.passed_s, float(regret[since][0]) if since.any() else np.nan
        done = {run.run_id for run in step.runs}
        if left := [run for run in runs if run.run_id not in done]:
            (group,) = group_runs(left)
            points = Points.of(
                model,
                group.cluster,
                group.layout,
                engine=case.engine,
                regime="static",
                batch=group.batch,
                input_len=group.input_len,
                output_len=group.output_len,
            )
            mean, covariance = step.belief.joint(step.belief.rows(points, METRICS))
            measured = np.log([[getattr(run, name) for run in group.runs] for name in METRICS])
            off = mean.reshape(measured.shape) - measured
            errors[:, since] = np.mean(np.abs(np.expm1(off)), axis=1)[:, None]
            sigma = np.sqrt(np.diag(covariance)).reshape(measured.shape)
            inside[since] = np.mean(np.abs(off) < 1.645 * sigma)
        else:
            errors[:, since], inside[since] = np.nan, np.nan
    if np.isnan(stopped_regret):
        stopped_regret = float(regret[-1])
    return Curve(
        case=case,
        start=start,
        choice=choice,
        regret=regret,
        errors=errors,
        inside=inside,
        stopped_s=stopped_s,
        stopped_regret=stopped_regret,
    )


def mean_errors(own: list[Curve]) -> np.ndarray:
    """Return means over the replays that have runs left to predict, shape (len(METRICS), TIMES); NaN where few have."""
    errors = np.array([curve.errors for curve in own])
    left = ~np.isnan(errors).any(axis=1)
    total = np.where(left[:, None], errors, 0.0).sum(axis=0) / np.maximum(left.sum(axis=0), 1)
    return np.where(left.mean(axis=0) >= FEW, total, np.nan)


def since(good: np.ndarray, minutes: np.ndarray) -> str:
    """Say from when on something holds, where it does at the end."""
    if not good[-1]:
        return "never"
    bad = np.flatnonzero(~good)
    return f"{minutes[0 if not len(bad) else bad[-1] + 1]:.1f} min"


def table(curves: list[Curve]) -> str:
    together: dict[tuple[str, str, str], list[Curve]] = defaultdict(list)
    for curve in curves:
        together[curve.case.engine, curve.start, curve.choice].append(curve)
    names = {short: name for name, short in STARTS.items()}
    lines = []
    for (engine, start, choice), own in sorted(together.items()):
        lines.append(f"{engine}, {names[start]}, {choice} ({len(own)} replays)")
        minutes = np.linspace(0.0, BUDGET_S[engine] / 60, TIMES)
        regrets, errors = np.array([curve.regret for curve in own]), mean_errors(own)
        for share in (0.0, 0.125, 0.25, 0.5, 1.0):
            at = round(share * (TIMES - 1))
            text = f"  {minutes[at]:4.1f} min: regret {regrets[:, at].mean():6.2%} in the mean, within 1% in {np.mean(regrets[:, at] < 0.01):4.0%}"
            if not np.isnan(errors[0, at]):
                text += "; errors " + ", ".join(
                    f"{n[:-3]} {e:.1%}" for n, e in zip(METRICS, errors[:, at], strict=True)
                )
                text += f"; 90% intervals held {np.nanmean([curve.inside[at] for curve in own]):.0%}"
            lines.append(text)
        known = np.isnan(errors[0]) | (errors[1:].max(axis=0) <= 0.04)
        lines.append(
            f"  mean regret below 1% from {since(regrets.mean(axis=0) < 0.01, minutes)} on; "
            f"errors of TPOT and whole batch below 4% from {since(known, minutes)} on"
        )
        if choice == "active":
            stopped = np.array([curve.stopped_s for curve in own]) / 60
            ended = np.array([curve.stopped_regret for curve in own])
            lines.append(
                f"  ends by itself in {np.mean(stopped < minutes[-1]):.0%}, after {np.median(stopped):.1f} min in the median "
                f"({np.quantile(stopped, 0.9):.1f} in nine of ten); regret then {np.mean(ended):.2%}, within 1% in "
                f"{np.mean(ended < 0.01):.0%}"
            )
    return "\n".join(lines)


def figure(curves: list[Curve], out: Path) -> None:
    """Draw regret and errors over the minutes, a row an engine, as a PNG."""
    panels = []
    for engine, budget_s in BUDGET_S.items():
        minutes = np.linspace(0.0, budget_s / 60, TIMES)
        rows = []
        for choice, (name, start) in product(COLOURS, STARTS.items()):
            own = [c for c in curves if (c.case.engine, c.start, c.choice) == (engine, start, choice)]
            if own:
                regrets, errors = np.mean([curve.regret for curve in own], axis=0), mean_errors(own)[1:].mean(axis=0)
                rows += [
                    {"choice": choice, "start": name, "minute": at, "regret": regret, "error": error}
                    for at, regret, error in zip(minutes.tolist(), regrets.tolist(), errors.tolist(), strict=True)
                ]
        titles = {"regret": "regret of the choice", "error": "error of TPOT and whole batch, runs not probed"}
        for (key, title), goal in zip(titles.items(), (0.01, 0.035), strict=True):
            line = layer(
                {"type": "line", "interpolate": "step-after"},
                rows,
                x=axis("minute", "minutes of a node of four GPUs"),
                y=axis(key, title, format=".0%"),
                color=colour("choice", COLOURS),
                strokeDash={"field": "start", "type": "nominal", "legend": {"orient": "top", "title": None}},
            )
            panels.append(panel(rule(y=goal), line, title=engine))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_png(printed(panels, columns=2), out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="only every so many-th question, for a quick look")
    parser.add_argument("--engine", choices=list(BUDGET_S), action="append")
    parser.add_argument("--out", type=Path, default=FIGURE)
    chosen = parser.parse_args()
    seeds = {"active": range(chosen.seeds), "random": range(chosen.seeds), "grid": range(1)}
    jobs = [
        (case, start, choice, seed)
        for case in cases()[:: chosen.every]
        if case.engine in (chosen.engine or BUDGET_S)
        for start in STARTS.values()
        for choice, run in seeds.items()
        for seed in run
    ]
    curves = list(Parallel(n_jobs=chosen.jobs)(delayed(replayed)(*job) for job in jobs))
    print(f"{len({job[0] for job in jobs})} questions, {len(jobs)} replays")
    print(table(curves))
    figure(curves, chosen.out)


if __name__ == "__main__":
    main()
