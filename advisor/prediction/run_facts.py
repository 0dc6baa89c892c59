"""What runs don't say themselves: links and memory of their GPUs, bytes of their cache, time the model of costs expects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.observations import group_runs
from advisor.calibration.surrogate import shipped_surrogate
from advisor.perf_model.collectives import link_gbps
from advisor.perf_model.static_batch import static_batch_times
from advisor.prediction.prediction import Prediction, request_causes
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.run_quantities import tok_s
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from advisor.calibration.observations import RunGroup
    from catalog.schema import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the catalog and the shipped fit say of one run."""

    device_gib: float
    """Memory of one GPU."""
    link_gbps: float
    """Peak bandwidth of one GPU's links inside the run's group, per direction."""
    kv_bytes_per_token: float
    """One token of the cache on the fullest GPU."""
    communication: float | None
    """Share of the run's time that the model of costs expects communication to take, 0 to 1; of timed static batches."""

    def link_share(self, run: Measurement) -> float | None:
        """Return the least share of the run's time that the bytes it sent can have taken: at the links' peak bandwidth."""
        if run.comm_bytes is None or not run.e2e_ms or run.regime != "static" or run.deployment.num_gpus == 1:
            return None
        return min(run.comm_bytes / (self.link_gbps * 1e6) / run.e2e_ms, 1.0)

    def used_gib(self, run: Measurement) -> float | None:
        """Return the memory that the run needed on the fullest GPU: the peak without the pages of the cache that it left empty.

        Engines take their cache at the start, so that the peak alone is the same for every batch.
        """
        if run.peak_memory_gib is None or run.kv_capacity_tokens is None:
            return run.peak_memory_gib
        empty = max(run.kv_capacity_tokens - run.batch * (run.input_len + run.output_len), 0)
        return max(run.peak_memory_gib - empty * self.kv_bytes_per_token / GIB, 0.0)


def facts_of(runs: Iterable[Measurement]) -> dict[Measurement, RunFacts]:
    """Return the facts of every run with a batch whose model and GPU the catalog holds; the others are left out."""
    by_setup: dict[tuple[str, ...], list[Measurement]] = {}
    for run in runs:
        if run.batch > 0:
            by_setup.setdefault((run.model, run.gpu, run.engine, run.engine_version, run.dtype), []).append(run)
    facts_by_run: dict[Measurement, RunFacts] = {}
    for members in by_setup.values():
        # what failed has no time, but its cache and its GPU are those of any other run
        timed = {replace(run, oom=False): run for run in members}
        try:
            groups = group_runs(timed)
        except InputError:
            continue
        for group in groups:
            facts_by_run |= {timed[run]: facts for run, facts in _facts(group).items()}
    return facts_by_run


def _facts(group: RunGroup) -> Mapping[Measurement, RunFacts]:
    cost_model = group.cost_model(shipped_surrogate().marginal(group.engine, group.cluster.gpu.name).parameters)
    evaluation = Prediction(
        cost_model=cost_model,
        regime="static",
        batch=group.batch,
        input_len=group.input_len,
        output_len=group.output_len,
        times=static_batch_times(cost_model, group.batch, group.input_len, group.output_len),
    )
    causes = request_causes(evaluation)
    whole = sum(causes.values(), np.zeros(len(group.runs)))
    share = causes["communication"] / np.maximum(whole, 1e-12)
    links = link_gbps(group.cluster, np.maximum(group.layout.tp, 2.0))
    return {
        run: RunFacts(
            device_gib=group.cluster.gpu.memory_gib,
            link_gbps=float(links[i]),
            kv_bytes_per_token=float(group.memory.kv_bytes_per_token[i]),
            communication=float(share[i]) if run.regime == "static" and tok_s(run) is not None else None,
        )
        for i, run in enumerate(group.runs)
    }


def device_gib(gpu: str) -> float | None:
    """Return the memory of a GPU; None for one that the catalog does not hold."""
    try:
        return find_gpu(gpu).value.memory_gib
    except InputError:
        return None
