"""The GPUs of this machine as the bench of a campaign, and what the user has measured on them before."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from advisor.benchmarking.session import PLANNED
from advisor.calibration.observations import impossible
from catalog.runs import user_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advisor.benchmarking.benchmark_plan import Candidate, Shape
    from advisor.benchmarking.candidates import ProbeCandidates
    from advisor.benchmarking.session import ProbeSession
    from catalog.schema import Measurement
    from probes.sweep import Sweep


class Machine:
    """A bench of this machine's GPUs, within a budget."""

    def __init__(
        self,
        measurable: ProbeCandidates,
        known: Sequence[Measurement],
        *,
        watch: Callable[[ProbeSession], Callable[[Sweep], None] | None],
        say: Callable[[str], None],
    ) -> None:
        self.measurable = measurable
        self.gpus = measurable.cluster.num_gpus
        self.failed: list[str] = []
        self._watch, self._say = watch, say
        self._tried = {_key(run) for run in known}
        self._ran = False

    @property
    def start_s(self) -> float:
        return self.measurable.start_s

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self.measurable.config.began

    @property
    def left_s(self) -> float:
        """Return seconds left of the budget, less what is kept for loads that take longer than foretold."""
        budget_s = self.measurable.config.budget_s
        return math.inf if budget_s is None else PLANNED * budget_s - self.passed_s

    def waiting(self) -> list[Candidate]:
        untried = [
            candidate.only([shape for shape in candidate.shapes if (*candidate.layout, shape) not in self._tried])
            for candidate in self.measurable.undone()
        ]
        return [candidate for candidate in untried if candidate.seconds]

    def run(self, loads: Sequence[Candidate]) -> list[Measurement]:
        self._tried |= {(*candidate.layout, shape) for candidate in loads for shape in candidate.shapes}
        ready = self.measurable.probing(loads)
        # the clock of a probing runs from the beginning of the budget
        ready = replace(ready, ends_s={name: self.passed_s + end for name, end in ready.ends_s.items()})
        before = {run.run_id for run in ready.runs()}
        measured = ready.run(watch=self._watch(ready), say=self._say, again=self._ran)
        self._ran = True
        new_runs = [run for run in measured if run.run_id not in before]
        for name, why in impossible(new_runs).items():
            self._say(f"{name} is not believed: {why}")
        if failed := ready.failed():
            self.failed += failed
            # a layout that fails with one batch fails with the others: it is given up
            alive = {(run.tp, run.pp) for run in new_runs}
            given_up = [
                candidate
                for candidate in self.measurable.loads
                if candidate.layout in {load.layout for load in loads} - alive
            ]
            self._tried |= {(*candidate.layout, shape) for candidate in given_up for shape in candidate.shapes}
        return new_runs


def _key(run: Measurement) -> tuple[int, int, Shape]:
    return run.tp, run.pp, (run.batch, run.input_len, run.output_len)


def own_runs(measurable: ProbeCandidates) -> tuple[list[Measurement], list[Measurement]]:
    """Read what the user has measured of this model in this format, and of others, with this engine on this GPU."""
    known = {run.run_id: run for run in (*user_runs(), *measurable.config.stored)}
    first = measurable.loads[0].deployment
    gpu, engine = measurable.cluster.gpu.name, first.engine
    fitted = [run for run in known.values() if run.role == "fit" and (run.gpu, run.engine) == (gpu, engine)]
    mine = [
        run
        for run in fitted
        if run.model == measurable.model.name
        and run.regime == "static"
        and run.ep == run.dp == 1
        and not run.offload
        and run.kv_dtype == "auto"
        and run.deployment.has_graphs == first.has_graphs
        and (measurable.model.dtype if run.dtype == "auto" else run.dtype) == first.dtype
    ]
    return mine, [run for run in fitted if run.model != measurable.model.name]
