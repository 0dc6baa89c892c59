"""Recorded runs in place of GPUs: a choice of measurements is tried out on what they gave and how long they took."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from advisor.benchmarking.benchmark_plan import Candidate, measuring_s
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.tuning.decision import CandidateSet
from advisor.tuning.gp_belief import Points
from catalog.engines import resolve
from catalog.errors import InputError
from catalog.tables import DATA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.benchmarking.benchmark_plan import Shape
    from advisor.benchmarking.traffic_plan import Piece
    from catalog.schema import Cluster, Deployment, Measurement, Model

IMPORTS_S = {"torch": 5.0, "vllm": 15.0}
"""Seconds from a process's start until its engine starts, which the recorded start-ups leave out: torch and the kernels'
compiler are imported, vLLM's workers as well."""


@cache
def startups() -> Mapping[tuple[str, str, int, int], float]:
    """Read recorded seconds of engine start-up by engine, model and layout (``catalog/data/memory``)."""
    seconds: dict[tuple[str, str, int, int], float] = {}
    for path in sorted((DATA / "memory").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                key = (path.name.split("-")[0], row["model"], int(row["tp"]), int(row["pp"]))
                seconds[key] = max(seconds.get(key, 0.0), float(row["startup_s"] or 0.0))
    return seconds


def once(runs: Sequence[Measurement]) -> dict[tuple[int, int], dict[Shape, Measurement]]:
    """Index the runs by (tp, pp) and shape; of several alike the last counts."""
    by_layout: dict[tuple[int, int], dict[Shape, Measurement]] = defaultdict(dict)
    for run in runs:
        by_layout[run.tp, run.pp][run.batch, run.input_len, run.output_len] = run
    return by_layout


def _resolved(run: Measurement, model: Model, cluster: Cluster) -> Deployment:
    """Return the deployment as it ran: positions beyond the model's are only more rotary angles."""
    longest = max(model.max_position_embeddings, run.max_model_len or 0)
    return resolve(run.deployment, replace(model, max_position_embeddings=longest), cluster).value


class Replay:
    """A bench that answers with recorded static runs of one model, after as long as they took."""

    def __init__(self, runs: Sequence[Measurement], model: Model, cluster: Cluster, *, budget_s: float) -> None:
        """Take ``runs`` that are all of one engine on one kind of GPU.

        Raises:
            InputError: no runs.

        """
        if not runs:
            raise InputError(f"no runs of {model.name} on {cluster} were recorded")
        self.gpus = cluster.num_gpus
        self._budget_s, self._passed_s = budget_s, 0.0
        self.engine = runs[0].engine
        self._runs = once(runs)
        known = startups()
        of_engine = [seconds for key, seconds in known.items() if key[0] == self.engine]
        self._start_s = {
            layout: IMPORTS_S[self.engine]
            + known.get((self.engine, model.name, *layout), float(np.median(of_engine)) if of_engine else 0.0)
            for layout in self._runs
        }
        self._waiting = []
        for own in self._runs.values():
            first = next(iter(own.values()))
            deployment = _resolved(first, model, cluster)
            seconds: dict[Piece, float] = {
                shape: measuring_s(shape, run.prefill_ms, run.e2e_ms, run.repeats)
                for shape, run in own.items()
                if run.prefill_ms and run.e2e_ms
            }
            self._waiting.append(Candidate(deployment=deployment, seconds=seconds))

    @property
    def start_s(self) -> float:
        return float(np.median(list(self._start_s.values())))

    @property
    def passed_s(self) -> float:
        return self._passed_s

    @property
    def left_s(self) -> float:
        return self._budget_s - self._passed_s

    def waiting(self) -> list[Candidate]:
        return [candidate for candidate in self._waiting if candidate.seconds]

    def run(self, loads: Sequence[Candidate]) -> list[Measurement]:
        """Return what the loads measured, as far as the budget goes."""
        measured, longest = [], 0.0
        for load in loads:
            passed = self._start_s[load.layout]
            for shape, seconds in load.shapes.items():
                passed += seconds
                if passed <= self.left_s:
                    measured.append(self._runs[load.layout][shape])
            longest = max(longest, passed)
        self._passed_s = min(self._passed_s + longest, self._budget_s)
        done = {load.layout: load.seconds for load in loads}
        self._waiting = [
            candidate.only([shape for shape in candidate.seconds if shape not in done.get(candidate.layout, {})])
            for candidate in self._waiting
        ]
        return measured


def recorded_candidates(
    runs: Sequence[Measurement],
    model: Model,
    cluster: Cluster,
    *,
    objective: str,
    lengths: tuple[int, int],
    limits: Mapping[str, float] | None = None,
    batch: int | None = None,
) -> tuple[CandidateSet, list[Measurement]]:
    """Return the recorded static batches of one pair of lengths as what competes, and what they really gave, in the
    same order.
    """
    chosen = [
        run
        for own in once(runs).values()
        for run in own.values()
        if run.prefill_ms and run.e2e_ms and (run.input_len, run.output_len) == lengths and batch in (None, run.batch)
    ]
    if not chosen:
        raise InputError(f"no runs of {model.name} with {lengths[0]} tokens in and {lengths[1]} out were recorded")
    deployments = [_resolved(run, model, cluster) for run in chosen]
    layout = DeploymentArrays.of(deployments, model, cluster.gpu)
    points = Points.of(
        model,
        cluster,
        layout,
        engine=chosen[0].engine,
        regime="static",
        batch=np.array([run.batch for run in chosen]),
        input_len=np.array(float(lengths[0])),
        output_len=np.array(float(lengths[1])),
    )
    return CandidateSet(points=points, gpus=layout.gpus, objective=objective, limits=dict(limits or {})), chosen
