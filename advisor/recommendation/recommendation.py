"""The deployment that serves a workload best on given GPUs, by a search over every valid one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from advisor.perf_model.adapters import adapter_notes
from advisor.prediction.demand import QuestionFlags, read_demand
from advisor.prediction.engine_start import checked_start
from advisor.prediction.estimate_row import estimate_row
from advisor.prediction.evidence import Evidence
from advisor.prediction.explanation import memory_limits, next_probe, reasons
from advisor.prediction.inputs import (
    BARE_ESTIMATE,
    CONFIDENCE,
    check_lengths,
    objective_price,
    plain,
    read_cluster,
    read_model,
)
from advisor.prediction.presentation import Presented
from advisor.recommendation.answer_notes import last_sequences, regime_notes
from advisor.recommendation.cache_search import with_caches
from advisor.recommendation.certainty import is_sure
from advisor.recommendation.draft_search import drafts_of, with_drafts
from advisor.recommendation.layout_choice import checked_back_end, checked_degree
from advisor.recommendation.preference import by_worse_end
from advisor.recommendation.prefix_cache import caches_of
from advisor.recommendation.problem import LAYOUT, MOST_SEQUENCES, OBJECTIVES, DeploymentSearch, FormatNotes, checked
from advisor.recommendation.proposal import Proposal, proposals
from advisor.recommendation.question import budgets, check_numbers, check_question, formats
from advisor.recommendation.relaxation import relaxations
from advisor.simulator.cache_tiers import UNUSED
from catalog.engines import command as launch_command
from catalog.engines import find_engine
from catalog.engines.all_to_all import own_tokens
from catalog.errors import InputError, Note
from catalog.features import IF_STATED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Unpack

    import pandas as pd
    from numpy.typing import NDArray

    from advisor.prediction.demand import Requests
    from advisor.prediction.deployment_estimate import Estimate
    from advisor.prediction.evidence import Runs
    from advisor.recommendation.question_change import Relaxation
    from advisor.simulator.pool_splits import PoolComparison
    from advisor.simulator.routers import Router
    from catalog.features import Adapters
    from catalog.schema import Cluster, Model, Slo, Workload
    from search.study import StudyResult


MOST_OF_FRONT = 50
"""Points of the front that are described."""
LEAST_COMPARED = 10
"""Layouts that are compared by what can be bet on, however few are shown."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Recommendation(Presented):
    """What to run, what else was close, and what stands in the way."""

    SCHEMA: ClassVar[str] = "recommendation/1"
    __repr__ = Presented.__str__

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
    proposals: tuple[Proposal, ...]
    """Other weight formats that pay, where none was stated."""
    command: tuple[str, ...]
    """argv that starts ``best``; empty if the engine cannot run there, which ``assumptions`` then say."""
    importances: Mapping[str, float]
    """Share of the objective's variation that each choice explains."""
    evaluated: int
    exact: bool
    """Every valid deployment was evaluated."""
    study_name: str
    storage: str | None
    confidence: float
    """With which each limit holds, on the mean of a request; 0.5: by the bare estimate."""
    exploration: StudyResult = field(repr=False, compare=False)
    question_changes: tuple[Relaxation, ...] = field(default=(), repr=False, compare=False)
    """``relaxations`` as the keywords of ``recommend`` have them; ``gpus`` is a number of them."""
    alternatives: tuple[Estimate, ...] = ()
    """Where several GPUs or engines were named, the best of each of the others, best first."""
    traffic_options: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """Where prompts share something, the options that say what, as they were asked."""
    pools: PoolComparison | None = field(default=None, metadata=IF_STATED)
    """Pools for prompts and outputs on the same GPUs, beside the best deployment without, where they were asked about."""

    def to_frame(self) -> pd.DataFrame:
        """Return the candidates as a table, one row each."""
        import pandas as pd  # slow to import, and only this needs it

        return pd.DataFrame([candidate_row(candidate, self.slo) for candidate in self.candidates])

    def to_dict(self, *, candidates: bool = False) -> dict[str, Any]:
        """Return everything as plain JSON types; the candidates and the front as flat rows, or each with all there is to it."""
        body: dict[str, Any] = {**self.header()}
        for name in self.__slots__:
            value = getattr(self, name)
            if name in {"exploration", "storage", "question_changes", "traffic_options"} or (name, value) == (
                "pools",
                None,
            ):
                continue
            if name in {"best", "nearest"}:
                body[name] = None if value is None else value.to_dict()
            elif name in {"candidates", "pareto", "alternatives"}:
                body[name] = [
                    estimate.to_dict() if candidates else candidate_row(estimate, self.slo) for estimate in value
                ]
            elif name in {"model", "cluster"}:
                body[name] = value.name if name == "model" else str(value)
            else:
                body[name] = plain(value)
        return body


def candidate_row(candidate: Estimate, slo: Slo) -> dict[str, Any]:
    """Return one candidate as a flat row, with the probabilities that limits are kept and that the cache holds the batch."""
    sure = {"limits_probability": candidate.keeps(slo), "batch_fits_probability": candidate.batch_fits_probability}
    return estimate_row(candidate) | sure


def recommend(
    model: str | Model,
    gpus: str | Cluster,
    *,
    workload: Workload | Mapping[str, Any] | Requests | None = None,
    slo: Slo | Mapping[str, Any] | None = None,
    objective: str = "throughput_per_gpu",
    engine: str = "vllm",
    engine_version: str = "",
    dtypes: str | Sequence[str] | None = None,
    kv_dtypes: str | Sequence[str] | None = None,
    max_num_batched_tokens: int | str | Sequence[int] | None = None,
    max_model_len: int | None = None,
    gpu_memory_utilization: float | None = None,
    offload: float = 0.0,
    kv_offload: str | None = None,
    adapters: Adapters | None = None,
    dcp: int | None = None,
    all2all_backend: str = "",
    max_batch: int | None = None,
    trials: int | None = None,
    storage: str | None = None,
    study_name: str | None = None,
    runs: Runs = None,
    price: float | None = None,
    illustrative_prices: bool = False,
    confidence: float = CONFIDENCE,
    set_gpu: Mapping[str, float | str] | None = None,
    top: int = 10,
    shared_prefix: int = 0,
    num_prefixes: int = 1,
    turns: int = 1,
    sessions: str | Path | None = None,
    router: Router = "round_robin",
    speculate: str | None = None,
    draft_len: int | None = None,
    acceptance: float | None = None,
    disaggregate: bool = False,
    kv_link_gbps: float | None = None,
    **flags: Unpack[QuestionFlags],
) -> Recommendation:
    """Recommend the best deployment of a model on up to all the GPUs of a cluster, in the steady state.

    Every valid combination of tensor, pipeline, data and expert parallel degrees and batch is evaluated, and of the
    other knobs where several are allowed; where that is too much, a sampler explores it.

    Args:
        model: catalog name or alias, Hugging Face id, path to a ``config.json``, or a ``Model``.
        gpus: ``"4xA100"``, ``"2x8xH100"`` (nodes x GPUs), or a ``Cluster``; an upper bound.
        workload: lengths and, if wanted, the number of requests kept in flight, as a ``Workload``, a dict of its fields, or
            what ``read_trace`` returns, whose mean lengths count; 1024 in and 256 out by default.
        slo: limits on the mean latencies, as an ``Slo`` or a dict: ``{"tpot": "50ms"}``.
        objective: one of ``OBJECTIVES``.
        engine: vllm, sglang, tensorrt-llm, torch, lmdeploy, xfastertransformer or llama.cpp.
        engine_version: release that is asked about; empty for the catalog's.
        dtypes: weight formats allowed; the checkpoint's own by default.
        kv_dtypes: KV cache formats allowed; the model's own by default.
        max_num_batched_tokens: token budgets allowed, "any" for those worth trying (``advisor.recommendation.token_budgets``); the
            engine's default if None.
        max_model_len: longest sequence to serve; None: the model's, or what the KV cache holds.
        gpu_memory_utilization: share of each GPU's memory that the engine may use; None for the engine's own.
        offload: share of the layers' weights streamed from CPU memory.
        kv_offload: tiers below the GPUs' KV cache, such as "cpu=200GB" (see ``catalog.kv_offload``).
        adapters: LoRA adapters that requests are of: their slots, and their kernels in every step.
        dcp: decode context parallel degree of all layouts; None: 1 and, for requests of 8192 tokens or more, what leaves no copy of a
            KV cache.
        all2all_backend: of the experts that replicas share, which all layouts then do; see ``catalog.engines.all_to_all``.
        max_batch: largest batch per replica to consider; 1024 if None.
        trials: evaluate about this many points instead of all.
        storage: URL or path that keeps the Optuna study.
        study_name: name of the study there.
        runs: None for the shipped fit and the user's own runs; a list for exactly those; [] for the analytic model; or what
            ``fit`` made.
        price: dollars per GPU-hour; None for the cheapest offer in the catalog.
        illustrative_prices: allow round figures, which are no offers, where there is no offer.
        confidence: probability with which each limit holds, 0.75 to 0.99, and the cache then holds the batch with 95%; 0.5 for
            the bare estimate of both.
        set_gpu: what-if values for fields of the GPU.
        top: how many layouts to describe.
        shared_prefix: tokens of a system prompt before every request's ``input_len``. With this, the next three, or a ``workload`` whose
            requests have something in common (``hash_ids``), prefix caches are simulated on the best deployments: what they hit comes out.
        num_prefixes: different ones.
        turns: requests of a session, each of which sends all that was said before, a ``think_time`` after the last answer.
        sessions: a file of sessions (see ``advisor.simulator.session_files.read_sessions``).
        router: between the replicas, as ``advisor.simulate`` takes it.
        speculate: drafts that compete with none: "eagle", "mtp", "ngram", or "auto" for all of them that the model allows.
        draft_len: tokens drafted a step; None: as many as are best for each deployment and batch.
        acceptance: probability that a drafted token is accepted; None: as published.
        disaggregate: also split the GPUs, of one kind or of two, into a pool for prompts and one for outputs, each with a layout of its own,
            and compare the best split with the best deployment without (see ``advisor.simulator.pool_splits``).
        kv_link_gbps: GB/s of a GPU over the link between the pools; None: NVLink within a node, else the network.
        flags: the same by the names of the command line's options: ``use="chat", tpot="50ms"``; see ``QuestionFlags``.

    Raises:
        InputError: a name, number or combination that cannot be; the message says what would be right.

    """
    same = {name: value for name, value in locals().items() if name not in {"flags", "disaggregate", "kv_link_gbps"}}
    if disaggregate or kv_link_gbps is not None:
        from advisor.recommendation.pool_question import PoolQuestion  # brings the simulator

        pools = PoolQuestion.of(same, kv_link_gbps, disaggregate=disaggregate)
        answer = recommend(**same, **flags)
        return replace(answer, pools=pools.compared(answer))
    several = _several(gpus, engine)
    if len(several) > 1:
        return _best_of([recommend(**{**same, "gpus": place, "engine": name}, **flags) for place, name in several])
    resolved_model, resolved_cluster = read_model(model), read_cluster(gpus, set_gpu)
    demand = read_demand(workload, slo, flags, steady=True, turns=turns)
    served_model, demand = demand.of_model(resolved_model.value, sessions=turns > 1 or sessions is not None)
    common = {"shared_prefix": shared_prefix, "num_prefixes": num_prefixes, "turns": turns}
    caches, demand = caches_of(
        demand, workload, served_model, common=common, sessions=sessions, router=router, max_model_len=max_model_len
    )
    workload, slo = demand.workload, demand.slo
    check_question(workload, slo, objective)
    check_lengths(served_model, workload.input_len, workload.output_len, max_model_len)
    check_numbers(top, confidence, max_batch)
    kind, gpu = find_engine(engine), resolved_cluster.value.gpu
    knowledge = Evidence.of(runs, engine=kind.name, gpu=gpu, version=engine_version)
    search = DeploymentSearch(
        model=served_model,
        cluster=resolved_cluster.value,
        workload=workload,
        slo=slo,
        objective=objective,
        engine=kind.name,
        engine_version=engine_version,
        dtypes=formats(dtypes, served_model, kind.weight_formats(gpu)),
        kv_dtypes=formats(kv_dtypes, served_model, kind.kv_formats(gpu, served_model)),
        budgets=budgets(max_num_batched_tokens, own_tokens(all2all_backend, kind.batch_defaults(gpu, engine_version))),
        max_model_len=max_model_len,
        gpu_memory_utilization=gpu_memory_utilization,
        offload=offload,
        kv_offload=kv_offload,
        adapters=adapters,
        dcp=checked_degree(dcp, kind, speculate),
        all2all_backend=checked_back_end(all2all_backend, served_model, resolved_cluster.value, kind),
        max_batch=max_batch or MOST_SEQUENCES,
        knowledge=knowledge,
        price=objective_price(objective, gpu.name, price, illustrative=illustrative_prices),
        confidence=confidence,
        caches=None if caches is None else caches(knowledge),
    )
    notes = (*demand.notes, *resolved_model.notes, *resolved_cluster.notes, *knowledge.notes)
    notes += (*adapter_notes(adapters, kind.name), *((UNUSED,) if kv_offload and caches is None else ()))
    search, by_formats = checked(search)
    answered = partial(_recommendation, by_formats=by_formats, notes=notes, storage=storage, top=top)
    gains = drafts_of(search, speculate, draft_len, acceptance)
    if caches is not None:
        return with_caches(search, answered, trials=trials)
    answer = answered(search, search.run(trials=trials, storage=storage, study_name=study_name))
    if gains:
        return with_drafts(answer, search, answered, gains, trials)
    if answer.best is None or dtypes is not None:
        return answer
    return replace(answer, proposals=proposals(search, answer.best))


def _recommendation(
    search: DeploymentSearch,
    exploration: StudyResult,
    *,
    by_formats: FormatNotes,
    top: int,
    notes: tuple[Note, ...],
    storage: str | None,
) -> Recommendation:
    """Return what an exploration says, with full estimates of the best ``top`` layouts; other formats are not proposed yet."""
    feasible = exploration.feasible > 0
    changes = () if feasible else relaxations(search)
    shown = _shown(search, exploration, top)
    front = search.estimates(exploration, _thinned(exploration.front)) if feasible else []
    best = shown[0] if feasible else None
    launch, refusal = _command(best, search)
    nearest = None if feasible or not shown else checked_start(shown[0], None)
    return Recommendation(
        model=search.model,
        cluster=search.cluster,
        workload=search.workload,
        slo=search.slo,
        objective=search.objective,
        engine=search.engine,
        best=best,
        candidates=tuple(shown) if feasible else (),
        pareto=tuple(sorted(front, key=lambda e: -(e.output_tok_s_per_gpu or 0.0))),
        nearest=nearest,
        relaxations=tuple(change.text for change in changes),
        assumptions=(*notes, *_format_notes(best or nearest, by_formats), *refusal, *regime_notes(search)),
        why=() if best is None else reasons(best),
        limits=() if best is None else (*memory_limits(best), *last_sequences(best, search)),
        next_probe="" if best is None else _next_probe(shown, search),
        proposals=(),
        command=launch,
        importances=exploration.importances() if feasible else {},
        evaluated=exploration.evaluated,
        exact=exploration.exact,
        study_name=exploration.study_name,
        storage=storage,
        confidence=search.confidence,
        exploration=exploration,
        question_changes=changes,
    )


def _next_probe(shown: Sequence[Estimate], search: DeploymentSearch) -> str:
    """Return what decides between the best layouts where their intervals of what is wanted overlap."""
    metric = OBJECTIVES[search.objective][0]
    return next_probe(
        shown,
        "output_tok_s_per_gpu" if metric == "usd_per_mtok" else metric,
        cluster=search.cluster,
        workload=search.workload,
        slo=search.slo,
        objective=[] if metric == "output_tok_s_per_gpu" else ["--objective", search.objective],
    )


def _shown(search: DeploymentSearch, exploration: StudyResult, top: int) -> list[Estimate]:
    """Return estimates of the best layouts, best first; where nothing is feasible of the one that comes nearest, if it runs."""
    feasible = exploration.feasible > 0
    order = _one_a_layout(exploration, max(top, LEAST_COMPARED) if feasible else 1)
    shown = search.estimates(exploration, order) if _runs(exploration, order) else []
    if not feasible:
        return shown
    # what a search takes as sure between the batches that it evaluated is sure of what it shows
    shown = [estimate for estimate in shown if is_sure(estimate, search.slo, search.confidence)] or shown[:1]
    return (by_worse_end(shown, search.objective) if search.confidence > BARE_ESTIMATE else shown)[:top]


def _several(gpus: str | Cluster, engine: str) -> list[tuple[str | Cluster, str]]:
    """Return every combination of the GPUs and engines that are named with commas between."""
    places = [part for part in gpus.split(",") if part.strip()] if isinstance(gpus, str) else [gpus]
    return list(itertools.product(places or [gpus], [part.strip() for part in engine.split(",") if part.strip()]))


def _best_of(answers: Sequence[Recommendation]) -> Recommendation:
    """Return the recommendation whose deployment comes first, the others beside it; where none is feasible the first."""
    able = {id(answer.best): answer for answer in answers if answer.best is not None}
    if not able:
        return answers[0]
    order = by_worse_end([answer.best for answer in able.values() if answer.best], answers[0].objective)
    return replace(able[id(order[0])], alternatives=tuple(order[1:]))


def _one_a_layout(exploration: StudyResult, most: int) -> list[int]:
    """Return the best candidates, each (tp, pp, ep, dcp) once; feasible ones where there are any."""
    seen: set[tuple[int, ...]] = set()
    rows = []
    feasible = exploration.scores.excess == 0
    layouts = np.stack([exploration.columns[name] for name in LAYOUT if name in exploration.columns], axis=1)
    for i, layout in enumerate(map(tuple, layouts.tolist())):
        if layout in seen or (exploration.feasible and not feasible[i]):
            continue
        seen.add(layout)
        rows.append(i)
        if len(rows) == most:
            break
    return rows


def _thinned(front: NDArray[np.intp]) -> list[int]:
    """Return rows of the front, evenly, from its one end to the other."""
    return [int(front[i]) for i in np.unique(np.linspace(0, len(front) - 1, MOST_OF_FRONT).astype(int))]


def _runs(exploration: StudyResult, rows: Sequence[int]) -> bool:
    return bool(rows) and bool(np.isfinite(exploration.scores.values[rows[0], 0]))  # noqa: PD011  no pandas here


def _format_notes(answer: Estimate | None, by_formats: FormatNotes) -> list[Note]:
    """Say what the formats of an answer mean, or all that were open where there is none."""
    if answer is None:
        return list(dict.fromkeys(note for notes in by_formats.values() for note in notes))
    return list(by_formats.get((answer.deployment.dtype, answer.deployment.kv_dtype), ()))


def _command(best: Estimate | None, search: DeploymentSearch) -> tuple[tuple[str, ...], list[Note]]:
    if best is None:
        return (), []
    try:
        return tuple(launch_command(best.deployment, search.model, search.cluster)), []
    except InputError as error:
        return (), [Note(f"no launch command: {error}", "warning")]
