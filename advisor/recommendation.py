"""The deployment that serves a workload best on given GPUs, found by searching every valid one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from advisor.estimation import Estimate, check_lengths, chosen_price, describe, plain, read_cluster, read_model
from advisor.evaluation import Evaluation
from advisor.knowledge import Knowledge
from advisor.layout import Layout
from advisor.memory import max_concurrency, memory
from catalog.engines import command as launch_command
from catalog.engines import find_engine, resolve, valid_tp
from catalog.schema import Cluster, Deployment, InputError, Model, Note, Slo, Workload, require_positive
from search.parallelism import parallelisms
from search.scores import Scores
from search.space import Axis, Space, batch_sizes
from search.study import explore

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from catalog.schema import Measurement, Price
    from search.scores import Direction
    from search.space import Columns
    from search.study import Exploration

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

LIMITS = ("kv_cache", "ttft_ms", "tpot_ms", "e2e_ms")

MOST_GPUS = 1024
"""How far the search for a cluster that would do goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to run, what else was close, and what stands in the way."""

    model: Model
    cluster: Cluster
    workload: Workload
    slo: Slo
    objective: str
    engine: str
    best: Estimate | None
    """None where nothing is feasible."""
    candidates: tuple[Estimate, ...]
    """Best first, each layout (tp, pp, ep) once with its best replicas and batch."""
    pareto: tuple[Estimate, ...]
    """Those that no other beats in both tokens/s per user and tokens/s per GPU, fastest per GPU first."""
    nearest: Estimate | None
    """Where nothing is feasible, what comes nearest."""
    relaxations: tuple[str, ...]
    """Where nothing is feasible, what would make it so, in numbers."""
    assumptions: tuple[Note, ...]
    why: tuple[str, ...]
    limits: tuple[str, ...]
    next_probe: str
    command: tuple[str, ...]
    """argv that starts ``best``; empty if the engine cannot run there, which ``assumptions`` then say."""
    importances: Mapping[str, float]
    """Share of the objective's variation that each choice explains."""
    evaluated: int
    exact: bool
    """Every valid deployment was evaluated."""
    study_name: str
    storage: str | None
    exploration: Exploration = field(repr=False, compare=False)

    def to_frame(self) -> pd.DataFrame:
        """The candidates as a table, one row each."""
        import pandas as pd  # noqa: PLC0415  slow to import, and only this needs it

        return pd.DataFrame([row(candidate) for candidate in self.candidates])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        estimates = {"best", "nearest"}
        body: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if name in {"exploration", "storage"}:
                continue
            if name in estimates:
                body[name] = None if value is None else value.to_dict()
            elif name in {"candidates", "pareto"}:
                body[name] = [candidate.to_dict() for candidate in value]
            elif name == "model":
                body[name] = value.name
            elif name == "cluster":
                body[name] = str(value)
            else:
                body[name] = plain(value)
        return body


def row(candidate: Estimate) -> dict[str, Any]:
    """One candidate as a flat row: layout, batch, metrics with their 90% ends, memory, cost, provenance."""
    deployment = candidate.deployment
    found: dict[str, Any] = {
        "engine": deployment.engine, "dp": deployment.dp, "tp": deployment.tp, "pp": deployment.pp, "ep": deployment.ep,
        "gpus_used": deployment.num_gpus, "batch": candidate.batch, "dtype": deployment.dtype,
        "kv_dtype": deployment.kv_dtype, "max_num_batched_tokens": deployment.max_num_batched_tokens,
    }  # fmt: skip
    for metric in ("output_tok_s_per_gpu", "output_tok_s", "ttft_ms", "tpot_ms", "e2e_ms"):
        low, high = candidate.interval(metric)
        found |= {metric: getattr(candidate, metric), f"{metric}_low": low, f"{metric}_high": high}
    used = candidate.memory["device"] - candidate.memory["reserved"] - candidate.memory["kv_cache"]
    found |= {
        "memory_gib": used + candidate.memory["kv_cache"], "kv_capacity_tokens": candidate.kv_capacity_tokens,
        "usd_per_mtok": candidate.usd_per_mtok, "provenance": candidate.provenance,
    }  # fmt: skip
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """One search: everything that stays the same over its points."""

    model: Model
    cluster: Cluster
    workload: Workload
    slo: Slo
    objective: str
    engine: str
    dtypes: tuple[str, ...]
    kv_dtypes: tuple[str, ...]
    budgets: tuple[int, ...]
    max_model_len: int | None
    gpu_memory_utilization: float
    offload: float
    max_batch: int
    knowledge: Knowledge
    price: Price | None

    @property
    def length(self) -> int:
        return self.workload.input_len + self.workload.output_len

    def layout(self, columns: Mapping[str, Any]) -> Layout:
        return Layout.from_columns(
            {
                "gpu_memory_utilization": self.gpu_memory_utilization,
                "offload": self.offload,
                "max_model_len": self.max_model_len or self.model.max_position_embeddings,
                **columns,
            },
            self.model,
            self.cluster.gpu,
        )

    def space(self) -> Space:
        """Valid layouts with the batches that may fit them, crossed with the other knobs that are open."""
        experts = "tp" if self.model.moe_layers else "none"
        tps = valid_tp(self.model, most=max(self.cluster.num_gpus, 1))
        found = list(
            parallelisms(self.model, self.cluster, tps=tps, expert_parallel=cast("Any", experts), fits=self._fits)
        )
        if not found:
            raise InputError(
                f"{self.model.name} has {self.model.num_attention_heads} attention heads and cannot be laid out on "
                f"{self.cluster}; tensor parallel degrees that work: {', '.join(map(str, tps))}"
            )
        axis = Axis.table(found, names=("tp", "pp", "dp", "ep"))
        most = self._most_sequences(axis.columns)
        options = [self._batches(int(dp), int(m)) for dp, m in zip(axis.columns["dp"], most, strict=True)]
        axes = [axis.crossed("max_num_seqs", options)]
        axes += [Axis.of("dtype", self.dtypes), Axis.of("kv_dtype", self.kv_dtypes)]
        axes += [Axis.of("max_num_batched_tokens", self.budgets)]
        return Space(tuple(axes))

    def _batches(self, dp: int, most: int) -> list[int]:
        if self.workload.concurrency is not None:
            return [max(math.ceil(self.workload.concurrency / dp), 1)]
        return batch_sizes(min(max(most, 1), self.max_batch))

    def _most_sequences(self, columns: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        """Most sequences of the workload's length that each layout holds with any of the open knobs, at least 1."""
        best = np.ones(len(columns["tp"]))
        for dtype in self.dtypes:
            for kv_dtype in self.kv_dtypes:
                for budget in self.budgets:
                    knobs = {"dtype": dtype, "kv_dtype": kv_dtype, "max_num_batched_tokens": budget}
                    layout = self.layout({**columns, **knobs, "max_num_seqs": min(self.max_batch, budget)})
                    room = memory(self.model, self.cluster, layout, self.engine)
                    best = np.maximum(
                        best, max_concurrency(self.model, room, layout, np.full(len(layout), float(self.length)))
                    )
        return best

    def _fits(self, tp: int, pp: int) -> bool:
        return bool(self._most_sequences({"tp": np.array([tp]), "pp": np.array([pp])})[0] > 1)

    def evaluate(self, columns: Columns, labels: Mapping[str, tuple[str, ...]]) -> Evaluation:
        named = {
            name: np.array(labels[name], dtype=object)[values] if name in labels else values
            for name, values in columns.items()
        }
        layout = self.layout(named)
        parameters = self.knowledge.marginal(self.engine, self.cluster.gpu.name).parameters
        return Evaluation.of(
            self.model, self.cluster, layout, batch=layout.max_num_seqs, input_len=self.workload.input_len,
            output_len=self.workload.output_len, regime="steady", parameters=parameters, engine=self.engine,
        )  # fmt: skip

    def scores(self, columns: Columns, labels: Mapping[str, tuple[str, ...]]) -> Scores:
        evaluation = self.evaluate(columns, labels)
        layout, times = evaluation.setting.layout, evaluation.times
        fits = evaluation.setting.memory.fits
        tok_s = np.where(fits, times.output_tok_s, np.nan)
        hourly = self.price.usd_per_gpu_hour if self.price else 1.0
        metrics = {
            "output_tok_s": tok_s,
            "output_tok_s_per_gpu": tok_s / layout.gpus,
            "ttft_ms": np.where(fits, times.ttft_ms, np.nan),
            "tpot_ms": np.where(fits, times.tpot_ms, np.nan),
            "e2e_ms": np.where(fits, times.e2e_ms, np.nan),
            "usd_per_mtok": hourly * layout.gpus / tok_s / 3.6e-3,
        }
        name, _ = OBJECTIVES[self.objective]
        second = "output_tok_s_per_gpu" if name in {"ttft_ms", "tpot_ms", "e2e_ms"} else "tpot_ms"
        held = np.maximum(evaluation.concurrency, 1e-9)
        over = [np.where(fits, layout.max_num_seqs / held - 1.0, np.inf)]
        over += [
            np.full(len(layout), -1.0) if limit is None else metrics[metric] / limit - 1.0
            for metric, limit in (
                ("ttft_ms", self.slo.ttft_ms), ("tpot_ms", self.slo.tpot_ms), ("e2e_ms", self.slo.e2e_ms),
            )
        ]  # fmt: skip
        return Scores(
            values=np.stack([metrics[name], metrics[second]], axis=1),
            violations=np.stack(over, axis=1),
            limits=LIMITS,
            attributes={"num_gpus": layout.gpus, **metrics},
        )

    def run(
        self, *, trials: int | None = None, storage: str | None = None, study_name: str | None = None
    ) -> Exploration:
        space = self.space()
        labels = space.labels
        name, direction = OBJECTIVES[self.objective]
        second: dict[str, Direction] = (
            {"output_tok_s_per_gpu": "maximize"}
            if name in {"ttft_ms", "tpot_ms", "e2e_ms"}
            else {"tpot_ms": "minimize"}
        )
        return explore(
            space,
            lambda columns: self.scores(columns, labels),
            directions={name: direction, **second},
            tie_break={"num_gpus": "maximize" if self.objective in FILLS_THE_CLUSTER else "minimize"},
            distinct=("tp", "pp", "ep"),
            trials=trials,
            storage=storage,
            study_name=study_name,
        )

    def deployment(self, record: Mapping[str, Any]) -> Deployment:
        """One point as a deployment with nothing left open that decides whether it starts."""
        return Deployment(
            engine=self.engine, gpu_memory_utilization=self.gpu_memory_utilization, offload=self.offload,
            max_model_len=self.max_model_len, **record,
        )  # fmt: skip

    def estimates(self, exploration: Exploration, rows: Sequence[int]) -> list[Estimate]:
        """Full estimates of some candidates of an exploration."""
        if not rows:
            return []
        chosen = {name: values[np.asarray(rows)] for name, values in exploration.columns.items()}
        evaluation = self.evaluate(chosen, exploration.space.labels)
        records = exploration.space.records(chosen)
        deployments = []
        for i, record in enumerate(records):
            wanted = self.deployment(record)
            held = int(evaluation.setting.memory.kv_capacity_tokens[i])
            deployments.append(startable(wanted, self.model, self.cluster, held, self.length))
        return describe(evaluation, range(len(rows)), deployments, self.knowledge, price=self.price)


def startable(deployment: Deployment, model: Model, cluster: Cluster, held: int, length: int) -> Deployment:
    """The deployment resolved, with a ``max_model_len`` that one replica's KV cache of ``held`` tokens can hold.

    vLLM refuses to start when a single sequence of ``max_model_len`` does not fit; 5% is kept for the error of the
    memory model.
    """
    if deployment.max_model_len is None:
        longest = model.max_position_embeddings
        safe = int(held * 0.95) // 256 * 256
        if safe < longest:
            deployment = replace(deployment, max_model_len=max(min(safe, longest), length))
    return resolve(deployment, model, cluster).value


def recommend(
    model: str | Model,
    gpus: str | Cluster,
    *,
    workload: Workload | None = None,
    slo: Slo | None = None,
    objective: str = "throughput_per_gpu",
    engine: str = "vllm",
    dtypes: Sequence[str] | None = None,
    kv_dtypes: Sequence[str] | None = None,
    max_num_batched_tokens: int | Sequence[int] | None = None,
    max_model_len: int | None = None,
    gpu_memory_utilization: float = 0.9,
    offload: float = 0.0,
    max_batch: int | None = None,
    trials: int | None = None,
    storage: str | None = None,
    study_name: str | None = None,
    runs: Sequence[Measurement] | None = None,
    price: float | None = None,
    illustrative_prices: bool = False,
    set_gpu: Mapping[str, float | str] | None = None,
    top: int = 10,
) -> Recommendation:
    """The best deployment of a model on up to all the GPUs of a cluster, in the steady state.

    Every valid combination of tensor, pipeline, data and expert parallel degrees and batch is evaluated, and of the
    other knobs where several are allowed; where that is too much, a sampler explores it.

    Args:
        model: catalog name or alias, Hugging Face id, path to a ``config.json``, or a ``Model``.
        gpus: ``"4xA100"``, ``"2x8xH100"`` (nodes x GPUs), or a ``Cluster``; an upper bound.
        workload: lengths and, if wanted, the number of requests kept in flight; 1024 in and 256 out by default.
        slo: limits on the mean latencies.
        objective: one of ``OBJECTIVES``.
        engine: vllm, sglang, tensorrt-llm, torch or lmdeploy.
        dtypes: weight formats allowed; the checkpoint's own by default.
        kv_dtypes: KV cache formats allowed; the model's own by default.
        max_num_batched_tokens: token budgets allowed; the engine's default if None.
        max_model_len: longest sequence to serve; None: the model's, or what the KV cache holds.
        gpu_memory_utilization: share of each GPU's memory the engine may use.
        offload: share of the layers' weights streamed from CPU memory.
        max_batch: largest batch per replica to consider; 1024 if None.
        trials: evaluate about this many points instead of all.
        storage: URL or path that keeps the Optuna study.
        study_name: name of the study there.
        runs: None for the shipped fit and the user's own runs; a list for exactly those; [] for the analytic model.
        price: dollars per GPU-hour; None for the cheapest offer in the catalog.
        illustrative_prices: also allow round figures that are no offers.
        set_gpu: what-if values for fields of the GPU.
        top: how many layouts to describe.

    Raises:
        InputError: a name, number or combination that cannot be; the message says what would be right.

    """
    found_model, found_cluster = read_model(model), read_cluster(gpus, set_gpu)
    workload, slo = workload or Workload(), slo or Slo()
    check_question(workload, slo, objective)
    check_lengths(found_model.value, workload.input_len, workload.output_len, max_model_len)
    require_positive("top", top, most=10_000)
    if max_batch is not None:
        require_positive("max_batch", max_batch, most=65536)
    kind = find_engine(engine)
    gpu = found_cluster.value.gpu
    offer = chosen_price(gpu.name, price, illustrative=illustrative_prices)
    if objective == "cost" and offer is None:
        raise InputError(f"there is no price for {gpu.name}; give one with price (--price, dollars per GPU-hour)")
    knowledge = Knowledge.of(runs, engine=kind.name, gpu=gpu)
    open_budgets = _budgets(max_num_batched_tokens, kind.batch_defaults(gpu).max_num_batched_tokens)
    search = _Search(
        model=found_model.value, cluster=found_cluster.value, workload=workload, slo=slo, objective=objective,
        engine=kind.name, dtypes=tuple(dtypes or ("auto",)), kv_dtypes=tuple(kv_dtypes or ("auto",)),
        budgets=open_budgets, max_model_len=max_model_len, gpu_memory_utilization=gpu_memory_utilization,
        offload=offload, max_batch=max_batch or MOST_SEQUENCES, knowledge=knowledge, price=offer,
    )  # fmt: skip
    notes = [*found_model.notes, *found_cluster.notes, *knowledge.notes]
    search, resolved_notes = _checked(search)
    exploration = search.run(trials=trials, storage=storage, study_name=study_name)
    feasible = exploration.feasible > 0
    order = _one_a_layout(exploration, top if feasible else 1)
    shown = search.estimates(exploration, order) if _runs(exploration, order) else []
    front = search.estimates(exploration, list(exploration.front[:50])) if feasible else []
    best = shown[0] if feasible else None
    nearest = None if feasible or not shown else shown[0]
    launch, refusal = _command(best, search)
    return Recommendation(
        model=search.model,
        cluster=search.cluster,
        workload=workload,
        slo=slo,
        objective=objective,
        engine=kind.name,
        best=best,
        candidates=tuple(shown) if feasible else (),
        pareto=tuple(sorted(front, key=lambda e: -(e.output_tok_s_per_gpu or 0.0))),
        nearest=nearest,
        relaxations=() if feasible else relaxations(search, exploration),
        assumptions=(*notes, *resolved_notes, *refusal, *_regime_notes(search)),
        why=() if best is None else reasons(best),
        limits=() if best is None else memory_limits(best),
        next_probe="" if best is None else next_probe(shown),
        command=launch,
        importances=exploration.importances() if feasible else {},
        evaluated=exploration.evaluated,
        exact=exploration.exact,
        study_name=exploration.study_name,
        storage=storage,
        exploration=exploration,
    )


def check_question(workload: Workload, slo: Slo, objective: str) -> None:
    """Raise ``InputError`` for a workload, an SLO or an objective that cannot be answered."""
    if objective not in OBJECTIVES:
        raise InputError(f"objective {objective!r} is not known; it must be one of {', '.join(OBJECTIVES)}")
    if workload.rate is not None:
        raise InputError(
            "a request rate needs the serving simulator, which this version does not have; "
            "state how many requests are in flight instead (concurrency)"
        )
    if slo.percentile is not None:
        raise InputError(
            "percentiles need the serving simulator, which this version does not have; limits on means work (no percentile)"
        )
    if workload.concurrency is not None:
        require_positive("concurrency", workload.concurrency, most=10**6)
    limits = {"ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms, "e2e_ms": slo.e2e_ms}
    for name, limit in limits.items():
        if limit is not None:
            require_positive(name, limit, whole=False, most=1e9)
    least = (slo.ttft_ms or 0.0, (slo.tpot_ms or 0.0) * (workload.output_len - 1))
    if slo.e2e_ms is not None and slo.ttft_ms is not None and slo.ttft_ms > slo.e2e_ms:
        raise InputError(
            f"the SLO contradicts itself: TTFT up to {least[0]:g} ms can never be reached within E2E of {slo.e2e_ms:g} ms; "
            "make ttft at most e2e"
        )


def _budgets(given: int | Sequence[int] | None, default: int) -> tuple[int, ...]:
    budgets = (default,) if given is None else tuple(given) if isinstance(given, Iterable) else (given,)
    for budget in budgets:
        require_positive("max_num_batched_tokens", budget, most=2**24)
    return budgets


def _checked(search: _Search) -> tuple[_Search, list[Note]]:
    """Formats and knobs resolved once, so that what the engine refuses is said before anything is searched."""
    notes: list[Note] = []
    dtypes, kv_dtypes = [], []
    for dtype in search.dtypes:
        for kv_dtype in search.kv_dtypes:
            wanted = Deployment(
                engine=search.engine, dtype=dtype, kv_dtype=kv_dtype, max_model_len=search.max_model_len,
                gpu_memory_utilization=search.gpu_memory_utilization, offload=search.offload,
                max_num_batched_tokens=search.budgets[0], max_num_seqs=1,
            )  # fmt: skip
            found = resolve(wanted, search.model, search.cluster)
            notes += [note for note in found.notes if note not in notes]
            dtypes.append(found.value.dtype)
            kv_dtypes.append(found.value.kv_dtype)
    return replace(search, dtypes=tuple(dict.fromkeys(dtypes)), kv_dtypes=tuple(dict.fromkeys(kv_dtypes))), notes


def _one_a_layout(exploration: Exploration, most: int) -> list[int]:
    """The best candidates, each (tp, pp, ep) once; feasible ones where there are any."""
    seen: set[tuple[int, ...]] = set()
    rows = []
    feasible = exploration.scores.excess == 0
    layouts = np.stack([exploration.columns[name] for name in ("tp", "pp", "ep")], axis=1)
    for i, layout in enumerate(map(tuple, layouts.tolist())):
        if layout in seen or (exploration.feasible and not feasible[i]):
            continue
        seen.add(layout)
        rows.append(i)
        if len(rows) == most:
            break
    return rows


def _runs(exploration: Exploration, rows: Sequence[int]) -> bool:
    return bool(rows) and bool(np.isfinite(exploration.scores.values[rows[0], 0]))  # noqa: PD011  no pandas here


def _command(best: Estimate | None, search: _Search) -> tuple[tuple[str, ...], list[Note]]:
    if best is None:
        return (), []
    try:
        return tuple(launch_command(best.deployment, search.model, search.cluster)), []
    except InputError as error:
        return (), [Note(f"no launch command: {error}", "warning")]


def _regime_notes(search: _Search) -> list[Note]:
    notes = [
        Note("steady state: each replica keeps its batch of requests in flight; latencies are means of one request"),
    ]
    if search.price is not None:
        offer = search.price
        where = f"{offer.provider} {offer.instance}".strip()
        kind = "illustrative figure, no offer" if offer.illustrative else offer.kind
        notes.append(
            Note(
                f"${offer.usd_per_gpu_hour:g} per GPU-hour: {where} ({kind}{f', {offer.as_of}' if offer.as_of else ''})"
            )
        )
    return notes


def reasons(best: Estimate) -> tuple[str, ...]:
    """What a decode step's time goes to, and where it would turn compute-bound."""
    decode: dict[str, dict[str, float]] = best.breakdown["decode"]
    total = sum(time for causes in decode.values() for time in causes.values())
    shares = {
        "KV reads": decode.get("attention", {}).get("memory", 0.0),
        "weight reads": sum(
            causes.get("memory", 0.0) for name, causes in decode.items() if name not in {"attention", "elementwise"}
        ),
        "arithmetic": sum(causes.get("compute", 0.0) for causes in decode.values()),
        "communication": sum(causes.get("communication", 0.0) for causes in decode.values()),
        "other memory traffic": decode.get("elementwise", {}).get("memory", 0.0),
        "launches and host": sum(causes.get("overhead", 0.0) for causes in decode.values()),
    }
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    told = ", ".join(f"{name} {time / total:.0%}" for name, time in ranked if time / total >= 0.03)
    turn = round(best.turning_batch)
    side = "compute" if best.batch > turn else "memory"
    return (
        f"a mean step: {told}",
        f"weight products are {side}-bound at batch {best.batch}; they turn at about {turn} sequences per replica",
    )


def memory_limits(best: Estimate) -> tuple[str, ...]:
    """Where this layout's memory ends."""
    length = best.input_len + best.output_len
    return (
        (
            f"KV cache full above batch {best.max_concurrency} per replica at {length} tokens a request "
            f"({best.kv_capacity_tokens} tokens); beyond it requests wait or are preempted"
        ),
    )


def next_probe(shown: Sequence[Estimate]) -> str:
    """The measurement that would narrow what the choice hangs on: the best layout, or its rival if they overlap."""
    best = shown[0]
    rivals = [e for e in shown[1:] if e.interval("output_tok_s_per_gpu")[1] > best.interval("output_tok_s_per_gpu")[0]]
    deployment = best.deployment
    text = (
        f"a measured run of TP{deployment.tp} PP{deployment.pp} at batch {best.batch} in $ADVISOR_HOME/runs would replace "
        f"this {best.provenance} prediction"
    )
    if rivals:
        rival = rivals[0].deployment
        text += f"; TP{rival.tp} PP{rival.pp} is within its interval, so measure both"
    return text


def relaxations(search: _Search, exploration: Exploration) -> tuple[str, ...]:
    """What would make the question answerable, each alone, in numbers."""
    found = [*_limit_relaxations(search, exploration), *_batch_relaxation(search, exploration)]
    found += _format_relaxations(search)
    more = _more_gpus(search)
    if more:
        found.append(more)
    if not found:
        found.append(f"nothing alone is enough: not {MOST_GPUS} GPUs, 8- or 4-bit weights, or any single limit lifted")
    return tuple(found)


def _limit_relaxations(search: _Search, exploration: Exploration) -> list[str]:
    found = []
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
        limit = getattr(search.slo, metric)
        if limit is None:
            continue
        without = replace(search, slo=replace(search.slo, **{metric: None}), objective=metric.split("_")[0])
        if metric == "e2e_ms":
            without = replace(without, objective="latency")
        other = without.run()
        if other.feasible:
            value = float(other.scores.attributes[metric][0])
            found.append(f"{metric.split('_')[0].upper()} limit of {_up(value)} ms instead of {limit:g} ms")
    del exploration
    return found


def _batch_relaxation(search: _Search, exploration: Exploration) -> list[str]:
    """With a stated concurrency: the largest one that keeps every limit."""
    if search.workload.concurrency is None:
        return []
    del exploration
    free = replace(search, workload=replace(search.workload, concurrency=None), objective="throughput")
    other = free.run()
    if not other.feasible:
        return []
    feasible = other.pool.excess == 0
    columns = other.space.take(other.pool.points[feasible])
    most = int(np.max(columns["dp"] * columns["max_num_seqs"]))
    return [f"at most {most} requests in flight instead of {search.workload.concurrency}"]


def _format_relaxations(search: _Search) -> list[str]:
    engine = find_engine(search.engine)
    offered = engine.weight_formats(search.cluster.gpu)
    found = []
    for dtype in ("fp8", "int4"):
        if dtype in search.dtypes or dtype not in offered or search.model.quantization:
            continue
        try:
            other, _ = _checked(replace(search, dtypes=(dtype,)))
            if other.run().feasible:
                found.append(f"{dtype} weights")
        except InputError:
            continue
    return found


def _more_gpus(search: _Search) -> str:
    """The fewest GPUs of this kind that are enough, by bisection: more GPUs never make less possible."""
    gpu = search.cluster.gpu

    def cluster_of(count: int) -> Cluster:
        per_node = max(search.cluster.gpus_per_node, min(gpu.gpus_per_node, count))
        if count <= per_node:
            return replace(search.cluster, gpus_per_node=count, nodes=1)
        return replace(search.cluster, gpus_per_node=per_node, nodes=math.ceil(count / per_node))

    def enough(count: int) -> bool:
        return replace(search, cluster=cluster_of(count)).run().feasible > 0

    low = search.cluster.num_gpus
    high = low
    while high < MOST_GPUS:
        low, high = high, min(high * 2, MOST_GPUS)
        if enough(high):
            break
    else:
        return ""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    size = cluster_of(high)
    return f"{size.num_gpus - search.cluster.num_gpus} more GPUs ({size})"


def _up(value: float) -> str:
    """Rounded up to two significant digits, so that the limit named can be kept."""
    scale = 10 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / scale) * scale:g}"
