"""The first-token time that benchmark clients published, beside what the simulator has of the same client's loop:

    python -m advisor.validation.client_loops

Each public closed loop is served again, as its recipe says: the client's burst and number of prompts, lengths drawn as it draws them, and
the knobs that the recipe sets. Nothing is fitted to a row. Steps are timed by a fit that had no run of the row's model, and intervals are
as wide as the errors of the other models ask for.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from joblib import Parallel, delayed

from advisor.calibration.intervals import LEVEL
from advisor.calibration.kernel_observations import evidence_with
from advisor.calibration.observations import group_runs
from advisor.calibration.posterior import fit_posterior
from advisor.calibration.shipped_fit import PUBLISHED, fitted_part
from advisor.simulator.arrivals import MOST_LOOP_S
from advisor.simulator.benchmark_client import BenchmarkClient, client_loop
from advisor.simulator.scheduler import longest, serve
from advisor.simulator.server import scheduler_of, times_of
from advisor.simulator.serving import SchedulerKnobs
from advisor.validation.prediction_errors import Check, summarised
from catalog.client_loops import read_client_loops
from catalog.errors import InputError
from catalog.published_folder import read_published
from catalog.runs import shipped_runs
from catalog.schema import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from advisor.calibration.observations import Observations, RunGroup
    from advisor.calibration.parameter_posterior import ParameterPosterior
    from advisor.perf_model.cost_model import CostModel
    from advisor.simulator.request_results import RequestResults
    from advisor.validation.prediction_errors import Split
    from catalog.client_loops import ClientLoop
    from catalog.units import Array

METRIC, PITFALL = "client ttft_ms", "client ttft_ms, with a pitfall"
"""Of rows against which nothing is known, and of the others (``catalog.client_loops.ClientLoop.pitfall``)."""
SPREAD = 0.1
"""Of lengths that a client says are all alike, to either side of the mean: server and client jitter, and equal requests would stay in step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one published loop was measured."""

    client: BenchmarkClient
    knobs: SchedulerKnobs
    waiting: int = 0
    """Requests that the client keeps beyond the places of the engine."""
    settled: bool = False
    """Whether the first ones, twice as many as are in flight, are left out of the mean."""


def recipe_of(loop: ClientLoop) -> Recipe:
    """Return how a loop was measured.

    InferenceX: its recipes (github.com/SemiAnalysisAI/InferenceX, benchmarks/). Rows without a day are NVIDIA's "gap analysis", whose client
    is not published; what is said of it here was seen on those rows.
    """
    run = loop.run
    if not loop.measured:
        one_waits = run.engine == "tensorrt-llm"
        client = BenchmarkClient(
            name="gap analysis", prompts_per_concurrency=10 if one_waits else 5, length_ratio=1 - 2 * SPREAD
        )
        return Recipe(client=client, knobs=SchedulerKnobs(), waiting=int(one_waits), settled=one_waits)
    client = BenchmarkClient(name="inferencex", prompts_per_concurrency=10, length_ratio=loop.length_ratio)
    knobs = SchedulerKnobs()
    if run.engine == "sglang":  # --scheduler-recv-interval of the recipes for DeepSeek
        knobs = SchedulerKnobs(poll_steps=10 if loop.concurrency < 16 else 30)
    short = (loop.input_len, loop.output_len) == (1024, 1024)
    if run.engine == "tensorrt-llm" and "70B" in run.model and run.tp < 8 and short:
        knobs = SchedulerKnobs(batch_wait_steps=20)
    return Recipe(client=client, knobs=knobs)


def simulated_ttft_ms(loop: ClientLoop, cost_model: CostModel) -> float:
    """Return the client's mean time to the first token of a loop, in ms; ``cost_model``: of its deployment alone.

    Raises:
        InputError: the model or its requests do not fit.

    """
    recipe = recipe_of(loop)
    scale = 2.0 / (1.0 + recipe.client.length_ratio) if not loop.measured else 1.0  # there means are stated
    workload = Workload(
        input_len=round(loop.input_len * scale),
        output_len=round(loop.output_len * scale),
        concurrency=loop.concurrency + recipe.waiting,
    )
    deployment = replace(
        loop.run.deployment,
        max_num_seqs=loop.concurrency,
        max_num_batched_tokens=int(cost_model.layout.max_num_batched_tokens[0]),
    )
    scheduler = scheduler_of(cost_model, deployment, knobs=recipe.knobs)
    traffic = client_loop(
        workload, recipe.client, duration_s=MOST_LOOP_S, longest=cost_model.model.max_position_embeddings
    ).within(longest(scheduler))
    served = serve(replace(traffic, duration_s=1e4), times_of(cost_model, scheduler), scheduler)
    return _mean(served, 2 * loop.concurrency if recipe.settled else 0)


def _mean(served: RequestResults, left_out: int) -> float:
    return float(served.ttft_ms[np.argsort(served.arrival_s, kind="stable")[left_out:]].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prediction:
    loop: ClientLoop
    engine: str
    predicted: float
    split: Split

    @property
    def residual(self) -> float:
        return math.log(self.predicted / self.loop.ttft_ms)


def client_checks(
    loops: Sequence[ClientLoop],
    marginal_of: Callable[[str, str, int], ParameterPosterior],
    left_out: tuple[Sequence[RunGroup], Sequence[Observations]] | None = None,
    *,
    jobs: int = 1,
) -> list[Check]:
    """Return the loops beside what is simulated of them.

    Args:
        loops: what was published.
        marginal_of: the parameters that ship, by engine, GPU and release: of the checks "in-sample", for the fit learned TPOT of these loops.
        left_out: what was fitted, and kernels; then checks "model left out" in place of those.
        jobs: processes.

    """
    if left_out is None:
        return _checked(_simulated(loops, marginal_of, "in-sample"))
    groups, kernels = left_out
    by_model: dict[str, list[ClientLoop]] = defaultdict(list)
    for loop in loops:
        by_model[loop.run.model].append(loop)
    folds = Parallel(n_jobs=jobs)(
        delayed(_without)([group for group in groups if group.model.name != name], kernels, members)
        for name, members in by_model.items()
    )
    return _checked([prediction for fold in folds for prediction in fold])


def _without(
    kept: Sequence[RunGroup], kernels: Sequence[Observations], loops: Sequence[ClientLoop]
) -> list[_Prediction]:
    return _simulated(loops, fit_posterior([*kept, *kernels]).marginal, "model left out")


def _simulated(
    loops: Sequence[ClientLoop], marginal_of: Callable[[str, str, int], ParameterPosterior], split: Split
) -> list[_Prediction]:
    by_run = {loop.run.run_id: loop for loop in loops}
    predictions = []
    for group in group_runs((loop.run for loop in loops), by_release=True):
        cost_model = group.cost_model(marginal_of(group.engine, group.cluster.gpu.name, group.release).parameters)
        for i, run in enumerate(group.runs):
            try:
                ttft_ms = simulated_ttft_ms(by_run[run.run_id], cost_model.take(np.array([i])))
            except InputError:
                continue  # no cache is left for one such request
            predictions.append(
                _Prediction(loop=by_run[run.run_id], engine=group.engine, predicted=ttft_ms, split=split)
            )
    return predictions


def _checked(predictions: Sequence[_Prediction]) -> list[Check]:
    """Return the checks, each with an interval that clean rows of the other models set."""
    checks = []
    for prediction in predictions:
        others = [
            other
            for other in predictions
            if other.loop.run.model != prediction.loop.run.model and not other.loop.pitfall
        ]
        factor = math.exp(client_sigma(others))
        checks.append(
            Check(
                run=prediction.loop.run,
                engine=prediction.engine,
                metric=PITFALL if prediction.loop.pitfall else METRIC,
                split=prediction.split,
                measured=prediction.loop.ttft_ms,
                predicted=prediction.predicted,
                low=prediction.predicted / factor,
                high=prediction.predicted * factor,
            )
        )
    return checks


def client_sigma(predictions: Iterable[_Prediction]) -> float:
    """Return what the size of the logarithm's error keeps below with ``LEVEL``."""
    sizes: Array = np.abs([prediction.residual for prediction in predictions])
    return float(np.quantile(sizes, LEVEL)) if len(sizes) else math.inf


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m advisor.validation.client_loops", description=__doc__)
    parser.add_argument("--published", type=Path, default=PUBLISHED, help="folder of published benchmarks")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args(arguments)
    runs = [*shipped_runs(), *read_published(chosen.published).runs]
    groups = fitted_part(group_runs((run for run in runs if run.role == "fit"), by_release=True))
    kernels = evidence_with(chosen.published)
    loops = read_client_loops(chosen.published)
    checks = client_checks(loops, fit_posterior([*groups, *kernels]).marginal, (groups, kernels), jobs=chosen.jobs)
    for keys in (("metric",), ("engine", "metric"), ("engine", "model", "format", "metric")):
        for row in summarised(checks, keys):
            group = " ".join(f"{part:14s}" for part in row.group.values())
            print(f"{group} {row.checks:5d}  {row.median_error:6.1%}  {row.bias:+5.0%}  held {row.coverage:4.0%}")


if __name__ == "__main__":
    main()
