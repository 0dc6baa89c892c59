"""Measured runs as the fit sees them: grouped by model, GPU and engine, each with its layout and its measured times."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from advisor.perf_model.cost_model import CostModel
from advisor.perf_model.dependencies import dependencies
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.dispatch import memory
from advisor.perf_model.memory.kv_capacity import max_concurrency
from advisor.perf_model.parameters import IDEAL
from advisor.perf_model.static_batch import static_batch_times
from advisor.perf_model.steady_state import steady_state_times
from catalog.engines import engine_family, find_engine, minor_release, release_distance
from catalog.errors import InputError
from catalog.gpus import find_gpu, is_no_gpu
from catalog.models.find import find_model
from catalog.schema import Cluster

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import NDArray

    from advisor.perf_model.correction import Correction
    from advisor.perf_model.memory.parts import Memory
    from advisor.perf_model.parameters import Parameters
    from advisor.perf_model.phase_times import PhaseTimes
    from catalog.engines import Engine
    from catalog.schema import Measurement, Model
    from catalog.units import Array

METRICS = ("prefill_ms", "ttft_ms", "tpot_ms", "e2e_ms", "output_tok_s")

NOISE = {"prefill_ms": 0.10, "ttft_ms": 0.20, "tpot_ms": 0.08, "e2e_ms": 0.08, "output_tok_s": 0.08}
"""Standard deviation of log residuals that the fit expects, by metric: the model's own error, since repeats differ by
0.6% (decode) and 2.5% (prefill)."""

SATURATED_NOISE = 0.25
"""The same for saturated runs, whose batch is the engine's choice and not stated."""

STEADY_NOISE = {**NOISE, "ttft_ms": 0.40}
"""The same for runs that kept a stated number of requests in flight: how long one waits for its turn depends on whether
others arrive with it."""

POSSIBLE = 0.9
"""A measured time below this share of what the GPU's peak and bandwidth allow was not measured right, or is of other work
than it says; clocks above the datasheet's explain less."""

SATURATED_SEQUENCES = 2048.0
"""Running cap of TensorRT-LLM's saturated benchmark (``trtllm-bench --max_batch_size`` default)."""


class Observations(Protocol):
    """m measurements of k quantities of one engine on one kind of GPU, which the parameters predict."""

    @property
    def engine(self) -> str: ...
    @property
    def cluster(self) -> Cluster: ...
    @property
    def release(self) -> int:
        """Return the minor releases from the one that fits are of, negative to earlier ones."""

    @property
    def server(self) -> NDArray[np.intp]:
        """Return the number of the server that each measurement is of, shape (m,); -1 where measurements are independent."""

    @property
    def dependencies(self) -> NDArray[np.intp]:
        """Return places in ``NAMES`` of the parameters that the predictions depend on."""

    @property
    def measured(self) -> Array:
        """Return shape (k, m); NaN where not measured."""

    @property
    def noise(self) -> Array:
        """Return expected standard deviation of each log residual, shape (k, m)."""

    @property
    def used(self) -> NDArray[np.bool_]:
        """Return measured cells the likelihood counts, shape (k, m)."""

    def predict(self, parameters: Parameters) -> Array:
        """Return shape (k, m), or (k, s, m) for s values of the parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunGroup:
    """m runs of one model on one kind of GPU with one engine; arrays have shape (m,), ``measured`` (len(METRICS), m)."""

    model: Model
    cluster: Cluster
    engine: str
    """As ``engine_family`` names it."""
    layout: DeploymentArrays
    memory: Memory
    batch: Array
    input_len: Array
    output_len: Array
    saturated: NDArray[np.bool_]
    """Runs whose batch is the engine's choice."""
    steady: NDArray[np.bool_]
    """Runs in the steady regime, the saturated ones among them."""
    measured: Array
    """By ``METRICS``; NaN where not measured."""
    runs: tuple[Measurement, ...]
    release: int = 0
    """Minor releases from the one that fits are of, negative to earlier ones."""

    @property
    def server(self) -> NDArray[np.intp]:
        """Say that closed loops of one configuration are of one server, whose errors are alike; static batches judge layouts."""
        names = ("source", "engine_version", "tp", "pp", "dp", "ep", "dtype", "kv_dtype")
        keys = [tuple(getattr(run, name) for name in names) for run in self.runs]
        numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        return np.where(self.steady & ~self.saturated, [numbers[key] for key in keys], -1).astype(np.intp)

    @property
    def dependencies(self) -> NDArray[np.intp]:
        return dependencies(self.model, self.layout)

    def cost_model(self, parameters: Parameters, correction: Correction | None = None) -> CostModel:
        """Return the cost model of the runs' deployments."""
        return CostModel(
            model=self.model,
            cluster=self.cluster,
            layout=self.layout,
            memory=self.memory,
            parameters=parameters,
            engine=self.engine,
            correction=correction,
            ideal=parameters is IDEAL,
        )

    def predict(self, parameters: Parameters, correction: Correction | None = None) -> Array:
        """Predict the metrics, shape (len(METRICS), m), or (len(METRICS), s, m) for s values of the parameters."""
        requests = (self.cost_model(parameters, correction), self.batch, self.input_len, self.output_len)
        if self.steady.all():
            return _metrics(steady_state_times(*requests))
        times = _metrics(static_batch_times(*requests))
        return np.where(self.steady, _metrics(steady_state_times(*requests)), times) if self.steady.any() else times

    @property
    def noise(self) -> Array:
        static, flowing = (np.array([noise[m] for m in METRICS])[:, None] for noise in (NOISE, STEADY_NOISE))
        return np.where(self.saturated, SATURATED_NOISE, np.where(self.steady, flowing, static))

    @property
    def impossible(self) -> NDArray[np.bool_]:
        """Mark static times that are shorter than physics allows, and throughputs that are higher, shape (len(METRICS), m).

        Of batches that run at once: how many do of a larger one is a matter of memory. When a request gets its first token
        is the engine's choice.
        """
        share = self.measured / np.maximum(self.predict(IDEAL), 1e-12)
        share[METRICS.index("output_tok_s")] = 1.0 / np.maximum(share[METRICS.index("output_tok_s")], 1e-12)
        share[METRICS.index("ttft_ms")] = 1.0
        at_once = max_concurrency(self.model, self.memory, self.layout, self.input_len + self.output_len)
        return np.asarray((share < POSSIBLE) & ~self.steady & (self.batch <= at_once))

    @property
    def used(self) -> NDArray[np.bool_]:
        """Return which cells count: of quantities that determine each other only the independent ones, and none that cannot be."""
        used = ~np.isnan(self.measured) & ~self.impossible
        row = {metric: i for i, metric in enumerate(METRICS)}
        used[row["output_tok_s"]] &= ~used[row["e2e_ms"]]
        both = used[row["prefill_ms"]] & used[row["tpot_ms"]]
        used[row["e2e_ms"]] &= ~both
        return np.asarray(used)

    def without(self, run_ids: Collection[str]) -> RunGroup:
        """Return the group as if nothing had been measured in some of its runs."""
        gone = np.array([run.run_id in run_ids for run in self.runs])
        return replace(self, measured=np.where(gone, np.nan, self.measured)) if gone.any() else self

    @property
    def configurations(self) -> int:
        """Return how many layouts, formats, batches and lengths were measured, each counted once."""
        used_runs = [self.runs[i] for i in np.flatnonzero(self.used.any(axis=0))]
        return len({tuple(getattr(run, name) for name in CONFIGURATION) for run in used_runs})


CONFIGURATION = ("tp", "pp", "dp", "ep", "dtype", "kv_dtype", "batch", "input_len", "output_len")
"""What runs of one model share that are repeats of each other."""


def _metrics(times: PhaseTimes) -> Array:
    return np.stack([getattr(times, metric) for metric in METRICS])


def impossible(runs: Iterable[Measurement]) -> dict[str, str]:
    """Return why some static and steady runs cannot be what they say, by ``run_id``: they are faster than the GPUs.

    Raises:
        InputError: as ``group_runs``.

    """
    timed = [run for run in runs if run.regime != "open" and not run.oom and run.batch > 0]
    reasons: dict[str, str] = {}
    for group in group_runs(timed):
        beyond, best = group.impossible, group.predict(IDEAL)
        if group.steady.any():
            # How long a step of others' prompts takes is the engine's choice; a token takes at least what it takes alone.
            alone = replace(group, batch=np.ones_like(group.batch), steady=np.zeros_like(group.steady)).predict(IDEAL)
            row = METRICS.index("tpot_ms")
            best = np.where(group.steady, alone, best)
            beyond[row] |= group.steady & (group.measured[row] < POSSIBLE * alone[row])
        for k, i in np.argwhere(beyond):
            name = METRICS[k]
            limit = f"{group.cluster.gpu.name}'s bandwidth and peak allow {best[k, i]:.3g} at best"
            reasons.setdefault(group.runs[i].run_id, f"{name} is {group.measured[k, i]:.3g}, {limit}")
    return reasons


def group_runs(runs: Iterable[Measurement], *, by_release: bool = False) -> tuple[RunGroup, ...]:
    """Group runs for the fit, those of another release of an engine apart if wanted; a group of several releases is as of the one
    that the catalog describes. Out-of-memory runs carry no time and
    are left out, and so are open loops, whose times are their queue's, and runs without a GPU.

    Raises:
        InputError: a run names a model or a GPU that the catalog does not hold.

    """
    together: dict[tuple[str, str, str, int], list[Measurement]] = defaultdict(list)
    for run in runs:
        if not run.oom and run.regime != "open" and not is_no_gpu(run.gpu):
            family = engine_family(run.engine, run.engine_version)
            release = release_distance(family, run.engine_version)
            together[run.model, run.gpu, family, release if by_release else 0].append(run)
    return tuple(_group(members, engine) for (_, _, engine, _), members in together.items())


USUAL_SHARE = 0.9
"""Share of memory taken for a run that does not state it, of a release whose default is not known: that of vLLM before 0.21."""


def _usual_share(engine: Engine, run: Measurement) -> float:
    """Return the share of memory that an engine had in a run that does not state it; NaN where that depends on more."""
    if engine.memory_rule == "static":
        return math.nan
    release = minor_release(run.engine_version)
    known = release == minor_release(engine.version) or (release and engine.earlier_memory_share)
    return engine.memory_share(run.engine_version) if known else USUAL_SHARE


def _group(runs: list[Measurement], engine: str) -> RunGroup:
    releases = {release_distance(engine, run.engine_version) for run in runs}
    model, gpu = find_model(runs[0].model).value, find_gpu(runs[0].gpu).value
    cluster = Cluster(gpu=gpu, gpus_per_node=max(gpu.gpus_per_node, 1), nodes=1)
    batch = np.array([run.batch for run in runs], dtype=float)
    lengths = np.array([(run.input_len, run.output_len) for run in runs], dtype=float)
    columns = {
        name: [getattr(run, name) for run in runs]
        for name in ("tp", "pp", "dp", "ep", "dtype", "kv_dtype", "offload", "compiled", "engine", "engine_version")
    }
    columns["graphs"] = [run.deployment.has_graphs for run in runs]
    # Engines before chunked prefill took the whole batch's prompts in one pass; a server has its own budget.
    tokens = np.maximum(batch * lengths[:, 0], 2048.0)
    kind = find_engine(runs[0].engine)
    usual = np.array([kind.batch_defaults(gpu, run.engine_version).max_num_batched_tokens for run in runs], dtype=float)
    served = (batch == 0) | np.array([run.regime == "steady" for run in runs])
    defaults = {
        "max_num_batched_tokens": np.where(served, np.where(batch == 0, 8192.0, usual), tokens),
        "max_num_seqs": np.where(batch > 0, np.maximum(batch, 256.0), SATURATED_SEQUENCES),
        "max_model_len": lengths.sum(axis=1),
        "gpu_memory_utilization": [_usual_share(kind, run) for run in runs],
    }
    for name, default in defaults.items():
        given = [getattr(run, name) for run in runs]
        columns[name] = [default[i] if value is None else value for i, value in enumerate(given)]
    layout = DeploymentArrays.from_columns(columns, model, gpu)
    saturated = batch == 0
    flowing = saturated | np.array([run.regime == "steady" for run in runs])
    room = memory(model, cluster, layout, runs[0].engine)
    if np.any(saturated):
        most = np.clip(max_concurrency(model, room, layout, lengths.sum(axis=1)), 1.0, SATURATED_SEQUENCES)
        batch = np.where(saturated, most, batch)
    measured = np.array([[getattr(run, m) for run in runs] for m in METRICS], dtype=float)
    if not np.all(np.isnan(measured) | (measured > 0)):
        bad = next(run for run in runs if any((getattr(run, m) or 1.0) <= 0 for m in METRICS))
        raise InputError(f"run {bad.run_id} has a time of 0 or below; measured times are above 0")
    return RunGroup(
        model=model,
        cluster=cluster,
        engine=engine,
        layout=layout,
        memory=room,
        batch=batch,
        input_len=lengths[:, 0],
        output_len=lengths[:, 1],
        saturated=saturated,
        steady=flowing,
        measured=measured,
        runs=tuple(runs),
        release=releases.pop() if len(releases) == 1 else release_distance(engine),
    )
