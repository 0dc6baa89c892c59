"""The simulator beside reality: ``python -m advisor.validation.simulator_accuracy [RUNS REQUESTS]``.

Every run under traffic that ships, or of the files given, is simulated: the same arrivals and lengths where requests came
as they came, the same kind of closed loop where a number was kept in flight. Beside it stands the answer without queues:
the steady state at the batch that completes as many requests a second. Runs with the role "fit" may set constants of the simulator
(``advisor.simulator.scheduler.FRONT_END_MS``, ``catalog.engines.traits.EngineTiming.mixed_attention``); those with "validate" judge.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.prediction.evidence import Evidence
from advisor.prediction.prediction import Prediction
from advisor.simulator.arrivals import Arrivals
from advisor.simulator.request_results import RequestResults
from advisor.simulator.simulation import simulate
from advisor.validation.prediction_errors import error_interval
from catalog.engines import resolve
from catalog.gpus import find_gpu
from catalog.models.find import find_model
from catalog.requests import read_requests
from catalog.runs import read_runs, shipped_runs
from catalog.schema import Cluster
from catalog.tables import DATA
from probes.serving_benchmark import LOW_IDS, SETTLING, TrafficProfile, lengths

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from advisor.simulator.simulation_answer import Simulation
    from advisor.simulator.streaming_statistics import StreamingStatistics
    from catalog.requests import Request
    from catalog.schema import Measurement
    from catalog.units import Array

TARGETS = {"tpot_ms p50": 0.04, "tpot_ms p95": 0.08, "ttft_ms p50": 0.10, "ttft_ms p95": 0.15, "e2e_ms p95": 0.06}
RATE = "completed_s"
QUANTITIES = (*TARGETS, RATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorCheck:
    """One quantity of one run."""

    run: Measurement
    quantity: str
    measured: float
    simulated: float
    without_queues: float
    interval: tuple[float, float]
    """In which the simulator expects it with 90%."""

    @property
    def held(self) -> bool:
        return self.interval[0] <= self.measured <= self.interval[1]

    @property
    def width(self) -> float:
        """Return the width of the interval, as a share of what is simulated."""
        return (self.interval[1] - self.interval[0]) / self.simulated

    @property
    def error(self) -> float:
        return self.simulated / self.measured - 1.0

    @property
    def baseline_error(self) -> float:
        return self.without_queues / self.measured - 1.0


def compare(runs: Iterable[Measurement], requests: Iterable[Request], *, draws: int = 8) -> list[SimulatorCheck]:
    """Return all quantities of the runs that have requests; intervals are points without ``draws``."""
    by_run = defaultdict(list)
    for request in requests:
        by_run[request.run_id].append(request)
    comparisons = []
    for run in runs:
        if run.run_id in by_run:
            comparisons += _compare(run, sorted(by_run[run.run_id], key=lambda request: request.arrival_s), draws)
    return comparisons


def _compare(run: Measurement, requests: Sequence[Request], draws: int) -> list[SimulatorCheck]:
    cluster = Cluster(gpu=find_gpu(run.gpu).value, gpus_per_node=run.gpus)
    deployment = replace(run.deployment, max_model_len=None)  # it may exceed a model's positions, with dummy weights
    facts = json.loads(run.fingerprint)
    arrival, first, last, inputs, outputs = (
        np.array([getattr(request, name) for request in requests], dtype=float)
        for name in ("arrival_s", "ttft_ms", "e2e_ms", "input_len", "output_len")
    )
    if run.regime == "open":
        traffic = Arrivals(
            arrival_s=arrival,
            input_len=inputs.astype(np.int64),
            output_len=outputs.astype(np.int64),
            duration_s=float(facts["seconds"]),
        )
    else:
        traffic = same_loop(run, facts)
    simulation = simulate(run.model, cluster, deployment=deployment, trace=traffic, draws=draws)
    several = outputs > 1
    tpot = (last - first)[several] / (outputs - 1)[several]
    real = {
        f"{name} p{percentile}": float(np.percentile(values, percentile))
        for name, values in (("tpot_ms", tpot), ("ttft_ms", first), ("e2e_ms", last))
        for percentile in (50, 95)
    }
    real[RATE], completed = _completed(run, simulation, arrival + last * 1e-3)
    plain = _without_queues(run, cluster, real[RATE])
    served = simulation.served if run.regime == "open" else _of_window(simulation.served, traffic.duration_s)
    return [
        SimulatorCheck(
            run=run,
            quantity=name,
            measured=real[name],
            without_queues=plain[name.partition(" ")[0]],
            simulated=completed if name == RATE else _simulated(served, name),
            interval=_interval(simulation, served, name, completed),
        )
        for name in QUANTITIES
    ]


def same_loop(run: Measurement, facts: Mapping[str, Any]) -> Arrivals:
    """Return the closed loop as ``probes.serving_benchmark`` ran it: the same lengths in the same order, each first
    output cut alike.
    """
    concurrency = run.batch * run.dp
    offer = TrafficProfile(
        input_len=run.input_len,
        output_len=run.output_len,
        seconds=facts["seconds"],
        spread=facts["spread"],
        concurrency=concurrency,
        seed=facts["seed"],
    )
    assert run.max_model_len
    inputs, outputs = lengths(offer, 1 << 16, run.max_model_len)
    random, vocabulary = np.random.default_rng((offer.seed, 3)), find_model(run.model).value.vocab_size
    for i in range(concurrency):
        outputs[i] = random.integers(1, outputs[i] + 1)
        random.integers(min(LOW_IDS, vocabulary - 1), vocabulary, inputs[i])  # the prompt, from the same numbers
    return Arrivals(
        arrival_s=np.zeros(len(inputs)),
        input_len=inputs,
        output_len=outputs,
        duration_s=float(facts["seconds"]),
        concurrency=concurrency,
        starters=concurrency,
    )


def _of_window(served: RequestResults | StreamingStatistics, seconds: float) -> RequestResults | StreamingStatistics:
    """Return the requests of a closed loop that its benchmark counts: those that came after it had settled, and ended in its time."""
    if not isinstance(served, RequestResults):
        return served
    ends_s = served.arrival_s + served.e2e_ms * 1e-3
    counted = served.counted & (served.arrival_s >= SETTLING * seconds) & (ends_s <= seconds)
    return replace(served, counted=counted) if counted.any() else served


def _simulated(served: RequestResults | StreamingStatistics, name: str) -> float:
    metric, _, percentile = name.partition(" p")
    return served.percentile(metric, float(percentile))


def _interval(
    simulation: Simulation, served: RequestResults | StreamingStatistics, name: str, completed: float
) -> tuple[float, float]:
    """Return the interval; where arrivals are given the rate of completions hardly depends on times; the interval is that of the run's rate.
    Of the requests in a window it is as wide as that of all.
    """
    if simulation.scale is None:
        return (completed, completed) if name == RATE else (_simulated(served, name),) * 2
    if name == RATE:
        return simulation.sigmas["rates"][RATE].around(completed, simulation.scale.quantile(0.9))
    metric, _, statistic = name.partition(" ")
    low, high = simulation.interval(metric, statistic)
    shift = _simulated(served, name) / _simulated(simulation.served, name)
    return low * shift, high * shift


def _completed(run: Measurement, simulation: Simulation, ends_s: Array) -> tuple[float, float]:
    """Return requests completed a second, measured and simulated: until the last one where they came as they came,
    where a number was kept by the tokens that came, for the run's requests leave out those that were first.
    """
    if run.regime == "open":
        return len(ends_s) / float(ends_s.max()), len(simulation.served) / simulation.served.end_s
    assert run.output_tok_s
    return run.output_tok_s / run.output_len, simulation.output_tok_s / run.output_len


def _without_queues(run: Measurement, cluster: Cluster, rate: float) -> dict[str, float]:
    """Return the steady state at the smallest batch that completes ``rate``, or at the batch that was kept."""
    model = find_model(run.model).value
    deployment = resolve(replace(run.deployment, max_model_len=None), model, cluster).value
    assert deployment.max_num_seqs
    batches = np.arange(1.0, deployment.max_num_seqs + 1)
    knowledge = Evidence.of(None, engine=run.engine, gpu=cluster.gpu, version=run.engine_version)
    steady = Prediction.of(
        model,
        cluster,
        DeploymentArrays.of([deployment] * len(batches), model, cluster.gpu),
        batch=batches,
        input_len=run.input_len,
        output_len=run.output_len,
        regime="steady",
        engine=run.engine,
        parameters=knowledge.marginal(run.engine, cluster.gpu).parameters,
    ).times
    completed = steady.output_tok_s / run.output_len
    row = run.batch - 1 if run.regime == "steady" else min(int(np.sum(completed < rate)), len(batches) - 1)
    return {
        "tpot_ms": float(steady.tpot_ms[row]),
        "ttft_ms": float(steady.ttft_ms[row]),
        "e2e_ms": float(steady.e2e_ms[row]),
        RATE: float(completed[row]),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Mean absolute relative errors over some runs, and what became of the 90% intervals."""

    error: float
    baseline: float
    """Without queues."""
    held: float
    """Share of the intervals that hold the measured value."""
    width: float
    """Their mean, as a share of what is simulated."""
    runs: int
    models: int
    """Of those runs."""
    low: float | None
    """Ends of the 95% confidence interval of the error, by resampling whole models; None of a single one."""
    high: float | None

    @property
    def stands_on(self) -> str:
        """Write how sure the error is, and on what it stands."""
        sure = "" if self.low is None or self.high is None else f"({self.low:.1%}-{self.high:.1%}) "
        return f"{sure}{self.runs} runs of {self.models} models"


def judgements(comparisons: Iterable[SimulatorCheck]) -> dict[tuple[str, str, str], Judgement]:
    """Judge by role, regime and quantity."""
    groups = defaultdict(list)
    for comparison in comparisons:
        groups[comparison.run.role, comparison.run.regime, comparison.quantity].append(comparison)
    by_model = {key: _errors_by_model(group) for key, group in groups.items()}
    sure = {key: error_interval(list(errors.values())) for key, errors in by_model.items()}
    return {
        key: Judgement(
            models=len(by_model[key]),
            low=sure[key][0],
            high=sure[key][1],
            error=float(np.mean([abs(comparison.error) for comparison in group])),
            baseline=float(np.mean([abs(comparison.baseline_error) for comparison in group])),
            held=float(np.mean([comparison.held for comparison in group])),
            width=float(np.mean([comparison.width for comparison in group])),
            runs=len(group),
        )
        for key, group in groups.items()
    }


def _errors_by_model(comparisons: Iterable[SimulatorCheck]) -> dict[str, list[float]]:
    errors: dict[str, list[float]] = defaultdict(list)
    for comparison in comparisons:
        errors[comparison.run.model].append(abs(comparison.error))
    return errors


def shipped(*, draws: int = 8) -> list[SimulatorCheck]:
    """Compare the runs and requests that ship."""
    requests = [request for path in sorted((DATA / "requests").glob("*.csv")) for request in read_requests(path)]
    return compare(shipped_runs(), requests, draws=draws)


def main(argv: Sequence[str] | None = None) -> None:
    """Print measured and simulated values of every run, and the mean errors beside the targets."""
    parser = argparse.ArgumentParser(
        prog="python -m advisor.validation.simulator_accuracy", description="The simulator beside reality."
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="RUNS REQUESTS", help="instead of what ships")
    files = parser.parse_args(argv).files
    if len(files) not in (0, 2):
        parser.error(f"{len(files)} files are given; a file of runs and one of their requests are needed, or none")
    comparisons = compare(read_runs(files[0]), read_requests(files[1])) if files else shipped()
    by_run = defaultdict(list)
    for comparison in comparisons:
        by_run[comparison.run.run_id].append(comparison)
    print(f"{'role':9}{'regime':7}{'model':14}{'load':>9}" + "".join(f"{name:>24}" for name in QUANTITIES))
    print(" " * 39 + f"{'measured  sim.  error':>24}" * len(QUANTITIES))
    for group in sorted(
        by_run.values(), key=lambda g: (g[0].run.model, g[0].run.regime, g[0].run.rate or g[0].run.batch)
    ):
        run = group[0].run
        load = f"{run.rate:.1f}/s" if run.rate else f"{run.batch}"
        cells = "".join(
            f"{comparison.measured:10.4g}{comparison.simulated:8.4g}{comparison.error:+6.0%}" for comparison in group
        )
        print(f"{run.role:9}{run.regime:7}{run.model.rsplit('/', 1)[-1][-13:]:14}{load:>9}{cells}")
    print(
        "\nmean absolute error; in brackets without queues; target; 90% intervals that held, and their mean width; 95% confidence interval of the error"
    )
    for (role, regime, quantity), judged in sorted(judgements(comparisons).items()):
        target = f"{TARGETS[quantity]:.0%}" if quantity in TARGETS else "-"
        print(
            f"{role:9}{regime:7}{quantity:12}{judged.error:8.1%}  ({judged.baseline:7.1%})  {target:>4}  {judged.held:5.0%} "
            f"{judged.width:5.0%}   {judged.stands_on}"
        )
    for role in ("fit", "validate"):
        those = [comparison for comparison in comparisons if comparison.run.role == role]
        if not those:
            continue
        held, width = (
            np.mean([comparison.held for comparison in those]),
            np.mean([comparison.width for comparison in those]),
        )
        print(f"{role:9}all {len(those)} intervals: {held:.0%} held, {width:.0%} wide in the mean")


if __name__ == "__main__":
    main()
