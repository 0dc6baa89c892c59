"""Searching the deployments of one model on one cluster: the space, its scores, and full estimates of the best."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.dispatch import memory
from advisor.prediction.description import describe
from advisor.prediction.engine_start import safe_context
from advisor.prediction.estimation import measured_run, with_measurement
from advisor.prediction.inputs import BARE_ESTIMATE
from advisor.prediction.prediction import Prediction
from advisor.recommendation.certainty import HOLDS, ConfidenceFactors, point_of, surely_held
from advisor.recommendation.layout_choice import layouts_of
from catalog.engines import find_engine, resolve
from catalog.schema import Cluster, Deployment, Model, Slo, Workload
from catalog.units import usd_per_mtok
from search.scores import Scores
from search.space import Axis, Space, batch_sizes
from search.study import explore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.perf_model.memory.parts import Memory
    from advisor.prediction.deployment_estimate import Estimate
    from advisor.prediction.evidence import Evidence
    from advisor.recommendation.draft_search import DraftGains
    from advisor.recommendation.prefix_cache import PrefixCaches
    from catalog.errors import Note, Resolved
    from catalog.features import Adapters
    from catalog.schema import Price
    from catalog.units import Array
    from search.scores import Direction
    from search.space import Columns
    from search.study import StudyResult

OBJECTIVES: dict[str, tuple[str, Direction]] = {
    "throughput_per_gpu": ("output_tok_s_per_gpu", "maximize"),
    "throughput": ("output_tok_s", "maximize"),
    "latency": ("e2e_ms", "minimize"),
    "ttft": ("ttft_ms", "minimize"),
    "tpot": ("tpot_ms", "minimize"),
    "cost": ("usd_per_mtok", "minimize"),
}
"""What each objective optimises, and in which direction."""

FILLS_THE_CLUSTER = frozenset({"throughput_per_gpu", "throughput"})

MOST_SEQUENCES = 1024
"""Largest batch per replica that is searched: vLLM's own default cap on large GPUs, and four times what was measured."""

LIMITS = ("kv_cache", "max_num_batched_tokens", "ttft_ms", "tpot_ms", "e2e_ms")
"""What a point may exceed: memory, a token a step for every running sequence, and the limits of the question."""

LAYOUT = ("tp", "pp", "ep", "dcp")
"""Columns in which layouts of a replica differ; the last is there where contexts are spread."""

LEVEL_SHARE = 0.01
"""Share by which level deployments' ends differ at most: nine in ten of the measured runs repeat to 1% (``catalog/data/runs``)."""

REFINED = 100_000
"""Points of a grid of batches up to which the batches about its best are tried as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSearch:
    """One question about deployments: everything that stays the same over the points that are searched."""

    model: Model
    cluster: Cluster
    workload: Workload
    slo: Slo
    objective: str
    engine: str
    dtypes: tuple[str, ...]
    kv_dtypes: tuple[str, ...] = ("auto",)
    budgets: tuple[int, ...]
    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None
    """None: the engine's own share of each deployment."""
    offload: float = 0.0
    kv_offload: str | None = None
    adapters: Adapters | None = None
    dcp: int | None = None
    """Decode context parallel degree; None: what is worth trying (``search.parallelism.context_degrees``)."""
    all2all_backend: str = ""
    """Of the experts that replicas share, which all layouts then do; empty: the engine's default, and any layout."""
    max_batch: int = MOST_SEQUENCES
    knowledge: Evidence
    price: Price | None
    engine_version: str = ""
    """Release that is asked about; empty for the one that the catalog describes."""
    confidence: float = BARE_ESTIMATE
    """With which each limit holds; 0.5: by the bare estimate, which also says what the cache holds."""
    caches: PrefixCaches | None = None
    """What prefix caches hit, where prompts have something in common."""
    drafts: DraftGains | None = None
    """What speculation does, where every deployment drafts."""
    _factors: list[ConfidenceFactors] = field(init=False, repr=False, compare=False, default_factory=list)
    """None or one, made when limits first ask for it."""

    @property
    def length(self) -> int:
        return self.workload.input_len + self.workload.output_len

    @property
    def directions(self) -> dict[str, Direction]:
        """Return what is optimised, which decides, and what it is traded against on the Pareto front."""
        name, direction = OBJECTIVES[self.objective]
        if name in {"ttft_ms", "tpot_ms", "e2e_ms"}:
            return {name: direction, "output_tok_s_per_gpu": "maximize"}
        return {name: direction, "tpot_ms": "minimize"}

    def layout(self, columns: Mapping[str, Any]) -> DeploymentArrays:
        return DeploymentArrays.from_columns(
            {
                "gpu_memory_utilization": self.gpu_memory_utilization,
                "offload": self.offload,
                "engine": self.engine,
                "adapters": self.adapters,
                "engine_version": self.engine_version,
                "all2all_backend": self.all2all_backend,
                "max_model_len": self.max_model_len or self.model.max_position_embeddings,
                **columns,
            },
            self.model,
            self.cluster.gpu,
        )

    def space(self) -> Space:
        """Return the valid layouts with the batches that may fit them, crossed with the other knobs that are open."""
        layouts = layouts_of(
            self.model,
            self.cluster,
            find_engine(self.engine),
            dcp=1 if self.drafts is not None else self.dcp,
            length=self.length,
            fits=self._fits,
            together=bool(self.all2all_backend),
        )
        spread = ("dcp",) if any(layout.dcp > 1 for layout in layouts) else ()
        axis = Axis.table(layouts, names=("tp", "pp", "dp", "ep", *spread))
        knobs = (
            Axis.of("dtype", self.dtypes),
            Axis.of("kv_dtype", self.kv_dtypes),
            Axis.of("max_num_batched_tokens", self.budgets),
        )
        return Space((axis.crossed("max_num_seqs", self._batches(axis, knobs)), *knobs))

    def _batches(self, axis: Axis, knobs: tuple[Axis, ...]) -> list[list[int]]:
        """Return batches of every layout: a grid up to what its cache holds, and all of them about the best of the grid.

        Throughput and latency change smoothly with the batch between the edges that memory, limits and graphs set, so the
        best batch is next to the best one of the grid.
        """
        if self.workload.concurrency is not None:
            return [[max(math.ceil(self.workload.concurrency / int(dp)), 1)] for dp in axis.columns["dp"]]
        most = self._most_sequences(axis.columns)
        grid = [batch_sizes(max(int(count), 1)) for count in most]
        coarse = Space((axis.crossed("max_num_seqs", grid), *knobs))
        if coarse.size > REFINED:
            return grid
        scores = self.scores(next(coarse.chunks(REFINED))[1], coarse.labels)
        direction = OBJECTIVES[self.objective][1]
        losses = np.nan_to_num(scores.values[:, 0] * (1.0 if direction == "minimize" else -1.0), nan=np.inf)
        losses = losses.reshape(len(coarse.axes[0]), -1)
        excess = scores.excess.reshape(losses.shape)
        options, start = [], 0
        for sizes in grid:
            rows = slice(start, start + len(sizes))
            start += len(sizes)
            best = np.lexsort((losses[rows].T, excess[rows].T))[:, 0]
            near = {
                size
                for i in set(best.tolist())
                for size in range(sizes[max(i - 1, 0)], sizes[min(i + 1, len(sizes) - 1)])
            }
            options.append(sorted(near.union(sizes)))
        return options

    def _most_sequences(self, columns: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        """Return the most sequences of the workload's length that each layout holds with any of the open knobs, 0 if none."""
        best = np.zeros(len(columns["tp"]))
        for dtype, kv_dtype, budget in itertools.product(self.dtypes, self.kv_dtypes, self.budgets):
            knobs = {**columns, "dtype": dtype, "kv_dtype": kv_dtype, "max_num_batched_tokens": budget}

            def held(running: Any, knobs: Mapping[str, Any] = knobs) -> Any:
                """Return sequences that fit where the engine is started for ``running``: each takes sampler and graphs too."""
                return self._holds(self.layout({**knobs, "max_num_seqs": np.maximum(running, 1.0)}))

            top = float(min(self.max_batch, budget))
            low = np.minimum(held(np.full(len(best), top)), top)
            high = np.minimum(held(low), top)
            while np.any(low < high):
                middle = np.ceil((low + high) / 2.0)
                fits = held(middle) >= middle
                low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1.0)
            best = np.maximum(best, low)
        return best

    def _holds(self, layout: DeploymentArrays, room: Memory | None = None) -> Array:
        """Return sequences of the workload's length that the cache of one replica holds, as surely as is asked for."""
        room = memory(self.model, self.cluster, layout, self.engine) if room is None else room
        tokens = np.full(len(layout), float(self.length))
        sure = BARE_ESTIMATE if self.confidence == BARE_ESTIMATE else HOLDS
        held = surely_held(self.engine, self.cluster.gpu, self.model, layout, room, tokens, sure)
        if self.drafts is not None:
            held = np.floor(held * self.drafts.held(self.model, layout, room))
        return np.where(room.kv_capacity_tokens >= (self.max_model_len or 0), held, 0.0)

    def _upper(self, columns: Columns, labels: Mapping[str, tuple[str, ...]]) -> Mapping[str, np.ndarray[Any, Any]]:
        """Return the factors from what is estimated to what is sure enough, of what is limited."""
        if self.confidence == BARE_ESTIMATE or not self.slo.limits:
            return {}
        if not self._factors:

            def most(columns: Columns) -> Array:
                named = self._named(columns, labels)
                return np.asarray(np.minimum(self._holds(self.layout(named)), float(self.max_batch)))

            self._factors.append(
                ConfidenceFactors(
                    lambda points: self.evaluate(points, labels),
                    most,
                    self.knowledge,
                    self.engine,
                    tuple(self.slo.limits),
                    self.confidence,
                )
            )
        return self._factors[0].factors(columns)

    @staticmethod
    def _named(columns: Columns, labels: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
        return {
            name: np.array(labels[name], dtype=object)[values] if name in labels else values
            for name, values in columns.items()
        }

    def _fits(self, tp: int, pp: int) -> bool:
        return bool(self._most_sequences({"tp": np.array([tp]), "pp": np.array([pp])})[0] >= 1)

    def evaluate(self, columns: Columns, labels: Mapping[str, tuple[str, ...]]) -> Prediction:
        named = self._named(columns, labels)
        layout = self.layout(named)
        parameters = self.knowledge.marginal(self.engine, self.cluster.gpu).parameters
        return Prediction.of(
            self.model,
            self.cluster,
            layout,
            batch=layout.max_num_seqs,
            input_len=self.workload.input_len,
            output_len=self.workload.output_len,
            regime="steady",
            parameters=parameters,
            engine=self.engine,
            residuals=self.knowledge.residuals(self.engine, self.cluster.gpu, self.model),
            prefix_hit_rate=0.0 if self.caches is None else self.caches.hit_rates(named),
        )

    def scores(self, columns: Columns, labels: Mapping[str, tuple[str, ...]]) -> Scores:
        evaluation = self.evaluate(columns, labels)
        layout = evaluation.cost_model.layout
        times = evaluation.times if self.drafts is None else self.drafts.times(evaluation)
        room = evaluation.cost_model.memory
        fits = room.fits & (room.kv_capacity_tokens >= (self.max_model_len or 0))
        tok_s = np.where(fits, times.output_tok_s, np.nan)
        hourly = self.price.usd_per_gpu_hour if self.price else 1.0
        metrics = {
            "output_tok_s": tok_s,
            "output_tok_s_per_gpu": tok_s / layout.gpus,
            "ttft_ms": np.where(fits, times.ttft_ms, np.nan),
            "tpot_ms": np.where(fits, times.tpot_ms, np.nan),
            "e2e_ms": np.where(fits, times.e2e_ms, np.nan),
            "usd_per_mtok": usd_per_mtok(hourly, tok_s / layout.gpus),
        }
        held = np.maximum(self._holds(layout, evaluation.cost_model.memory), 1e-9)
        upper = dict(self._upper(columns, labels))
        if self.drafts is not None and upper:
            upper |= {name: upper[name] * self.drafts.upper for name in ("tpot_ms", "e2e_ms") if name in upper}
        over = [np.where(fits, layout.max_num_seqs / held - 1.0, np.inf)]
        over.append(layout.max_num_seqs / layout.max_num_batched_tokens - 1.0)
        over += [
            np.full(len(layout), -1.0) if limit is None else metrics[metric] * upper.get(metric, 1.0) / limit - 1.0
            for metric, limit in (
                ("ttft_ms", self.slo.ttft_ms),
                ("tpot_ms", self.slo.tpot_ms),
                ("e2e_ms", self.slo.e2e_ms),
            )
        ]
        return Scores(
            values=np.stack([metrics[name] for name in self.directions], axis=1),
            violations=np.stack(over, axis=1),
            limits=LIMITS,
            attributes={"num_gpus": layout.gpus, **metrics},
        )

    def is_full(self, estimate: Estimate) -> bool:
        """Return whether one sequence more would no longer fit surely."""
        more = replace(
            estimate.deployment,
            max_num_seqs=estimate.batch + 1,
            gpu_memory_utilization=self.gpu_memory_utilization,
        )
        return bool(self._holds(DeploymentArrays.of([more], self.model, self.cluster.gpu))[0] <= estimate.batch)

    def scores_at(self, estimate: Estimate, batch: int) -> Scores:
        """Score the deployment of an estimate with another batch."""
        return self.scores(point_of(estimate, batch), {})

    def run(
        self, *, trials: int | None = None, storage: str | None = None, study_name: str | None = None
    ) -> StudyResult:
        space = self.space()
        labels = space.labels
        return explore(
            space,
            lambda columns: self.scores(columns, labels),
            directions=self.directions,
            tie_break={"num_gpus": "maximize" if self.objective in FILLS_THE_CLUSTER else "minimize"},
            distinct=tuple(name for name in LAYOUT if name in space.names),
            trials=trials,
            storage=storage,
            study_name=study_name,
        )

    def quick_best(self, *, fills: bool = False) -> Estimate | None:
        """Return the best deployment without a study: of those within a hundredth of the best the simplest.

        With ``fills`` it is of those the one with the fewest idle GPUs, and of those the simplest. Where none keeps the limits, the one that exceeds them least; None where nothing holds the model.
        """
        space = self.space()
        taken, losses, excess = [], [], []
        for _, columns in space.chunks():
            scores = self.scores(columns, space.labels)
            sign = 1.0 if OBJECTIVES[self.objective][1] == "minimize" else -1.0
            taken.append(columns)
            losses.append(np.nan_to_num(scores.values[:, 0] * sign, nan=np.inf))
            excess.append(scores.excess)
        loss, over = np.concatenate(losses), np.concatenate(excess)
        columns = {name: np.concatenate([part[name] for part in taken]) for name in taken[0]}
        if not np.isfinite(over).any():
            return None
        able = over == over.min()
        level = able & (loss <= loss[able].min() + LEVEL_SHARE * abs(loss[able].min()))
        idle = -columns["dp"] * columns["tp"] * columns["pp"] if fills else np.zeros_like(columns["dp"])
        order = np.lexsort(
            (loss, columns["tp"], columns["ep"], columns.get("dcp", columns["pp"]), columns["pp"], idle, ~level)
        )
        return self._described(space, {name: values[order[:1]] for name, values in columns.items()})[0]

    def deployment(self, record: Mapping[str, Any]) -> Deployment:
        """Return one point as a deployment with nothing open that decides whether it starts; requests beyond the engine's limits wait."""
        record = {**record, "max_num_seqs": min(record["max_num_seqs"], record["max_num_batched_tokens"])}
        return Deployment(
            engine=self.engine,
            engine_version=self.engine_version,
            gpu_memory_utilization=self.gpu_memory_utilization,
            offload=self.offload,
            kv_offload=self.kv_offload,
            adapters=self.adapters,
            all2all_backend=self.all2all_backend,
            max_model_len=self.max_model_len,
            **record,
        )

    def estimates(self, exploration: StudyResult, rows: Sequence[int]) -> list[Estimate]:
        """Return full estimates of some candidates of an exploration."""
        if not rows:
            return []
        chosen = {name: values[np.asarray(rows)] for name, values in exploration.columns.items()}
        return self._described(exploration.space, chosen)

    def _described(self, space: Space, chosen: Columns) -> list[Estimate]:
        """Describe deployments of columns."""
        evaluation = self.evaluate(chosen, space.labels)
        records = space.records(chosen)
        deployments = []
        for i, record in enumerate(records):
            wanted = self.deployment(record)
            held = int(evaluation.cost_model.memory.kv_capacity_tokens[i])
            deployments.append(startable(wanted, self.model, self.cluster, held, self.length))
        predicted = describe(evaluation, range(len(records)), deployments, self.knowledge, price=self.price)
        if self.caches is not None:  # no run had what these prompts have in common
            return [self.caches.described(estimate) for estimate in predicted]
        if self.drafts is not None:
            return [self.drafts.described(estimate, evaluation, i) for i, estimate in enumerate(predicted)]
        return [
            estimate if run is None else with_measurement(estimate, run)
            for estimate in predicted
            for run in [measured_run(self.knowledge.runs, estimate)]
        ]


def startable(deployment: Deployment, model: Model, cluster: Cluster, held: int, length: int) -> Deployment:
    """Resolve the deployment with a ``max_model_len`` that one replica's KV cache of ``held`` tokens can hold."""
    if deployment.max_model_len is None and model.max_position_embeddings:
        deployment = replace(deployment, max_model_len=safe_context(model, held, length))
    return resolve(deployment, model, cluster).value


FormatNotes: TypeAlias = "Mapping[tuple[str, str], Sequence[Note]]"
"""What is to be said of each pair of formats, of weights and of the KV cache."""


def checked(search: DeploymentSearch) -> tuple[DeploymentSearch, FormatNotes]:
    """Resolve formats and knobs once, so that what the engine refuses is said before anything is searched."""
    share = search.gpu_memory_utilization
    if share is None and find_engine(search.engine).memory_rule == "static":
        share = 1.0  # its own as well, which differs between layouts: no note tells one of them

    def resolved(dtype: str, kv_dtype: str) -> Resolved[Deployment]:
        wanted = Deployment(
            engine=search.engine,
            engine_version=search.engine_version,
            dtype=dtype,
            kv_dtype=kv_dtype,
            max_model_len=search.max_model_len,
            gpu_memory_utilization=share,
            offload=search.offload,
            kv_offload=search.kv_offload,
            max_num_batched_tokens=search.budgets[0],
            max_num_seqs=1,
        )
        return resolve(wanted, search.model, search.cluster)

    notes: dict[tuple[str, str], Sequence[Note]] = {}
    dtypes: dict[str, None] = {}
    kv_dtypes: dict[str, None] = {}
    for dtype in search.dtypes:
        deployments = [resolved(dtype, kv_dtype) for kv_dtype in search.kv_dtypes]
        chosen = [deployment.value.dtype for deployment in deployments]
        if len(set(chosen)) > 1:  # one cache decides the weights' format: every cache is tried with that one
            decided = next(dtype_read for dtype_read in chosen if dtype_read != resolved(dtype, "auto").value.dtype)
            deployments += [resolved(decided, kv_dtype) for kv_dtype in search.kv_dtypes]
            deployments = [deployment for deployment in deployments if deployment.value.dtype == decided]
        for deployment in deployments:
            pair = deployment.value.dtype, deployment.value.kv_dtype
            notes.setdefault(pair, deployment.notes)
            dtypes[pair[0]] = kv_dtypes[pair[1]] = None
    return replace(search, dtypes=tuple(dtypes), kv_dtypes=tuple(kv_dtypes)), notes
