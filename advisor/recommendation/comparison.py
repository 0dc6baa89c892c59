"""Models, GPUs, formats and engines side by side, one row each: what fits, how fast it is, what it costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from advisor.prediction.demand import QuestionFlags, read_demand
from advisor.prediction.estimate_row import estimate_row
from advisor.prediction.evidence import Evidence
from advisor.prediction.inputs import (
    CONFIDENCE,
    check_confidence,
    offer_for,
    plain_fields,
    read_budget,
    read_cluster,
    read_model,
)
from advisor.prediction.presentation import Presented
from advisor.recommendation.certainty import is_sure
from advisor.recommendation.problem import OBJECTIVES, DeploymentSearch, checked
from advisor.recommendation.question import check_question
from advisor.recommendation.screening import (
    ANY_FORMAT,
    ScreenedDeployment,
    ScreenedHardware,
    Screening,
    needed_tok_s,
    screen,
)
from catalog.engines import find_engine, known_format
from catalog.errors import InputError, Note
from catalog.gpus import all_gpus, counted_in
from catalog.models.find import all_models
from catalog.models.sizes import parameters
from catalog.quality import Quality, quality_of
from catalog.schema import Cluster, Model, Slo, Workload, require_positive

if TYPE_CHECKING:
    from typing import Unpack

    import pandas as pd

    from advisor.prediction.deployment_estimate import Estimate
    from advisor.prediction.evidence import Runs

GOALS = ("cost", "size", *(name for name in OBJECTIVES if name != "cost"))
"""What the rows are ordered by."""
EVALUATED = 3
"""Candidates that are evaluated in full for each row that is shown, up to ``LEAST_EVALUATED``."""
LEAST_EVALUATED = 24
MOST_TRIED = 12
"""Of the largest models so many times the rows that are shown are evaluated, where limits rule them out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedDeployment:
    """One row: the best deployment of one model in one format on some GPUs."""

    estimate: Estimate
    keeps: bool
    """Every limit, with the confidence asked for."""
    hourly_usd: float | None
    """Of the GPUs used; None without a price."""
    quality: Quality | None
    """What the format costs in answers; None where nobody published it."""

    @property
    def context(self) -> int:
        """Return the longest sequence that is served."""
        held, stated = self.estimate.kv_capacity_tokens, self.estimate.deployment.max_model_len
        return min(held, stated or held)

    def row(self) -> dict[str, Any]:
        """Return it flat."""
        return {
            "model": self.estimate.model.name,
            "parameters": parameters(self.estimate.model),
            "gpus": str(self.estimate.cluster),
            **estimate_row(self.estimate),
            "context": self.context,
            "keeps": self.keeps,
            "usd_per_hour": self.hourly_usd,
            "quality": None if self.quality is None else self.quality.recovery,
        }


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison(Presented):
    """Deployments side by side, best first."""

    SCHEMA: ClassVar[str] = "comparison/1"
    __repr__ = Presented.__str__

    workload: Workload
    slo: Slo
    goal: str
    confidence: float
    budget: float | None
    """Most dollars an hour."""
    rows: tuple[ComparedDeployment, ...]
    """Those that keep the limits first."""
    unpriced: tuple[str, ...]
    """GPUs among those asked about that have no price."""
    combinations: int
    """Models times kinds of GPUs times formats that were asked about."""
    fitting: int
    """Of them, those that memory, physics and money allow."""
    evaluated: int
    too_large: int
    too_slow: int
    too_dear: int
    unsupported: int
    """In formats that the engine has not on those GPUs, or on GPUs that it does not run on."""
    without_price: int
    """Left out because there is a budget and no price."""
    illustrative_prices: bool
    """Whether round figures stand for prices where there is no offer."""
    notes: tuple[Note, ...]

    @property
    def best(self) -> ComparedDeployment | None:
        """Return the first row, if it keeps the limits."""
        return self.rows[0] if self.rows and self.rows[0].keeps else None

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a table."""
        import pandas as pd  # slow to import, and only this needs it

        return pd.DataFrame([row.row() for row in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {**self.header(), **plain_fields(self, "rows"), "rows": [row.row() for row in self.rows]}


def compare(
    models: str | Model | Sequence[str | Model] | None = None,
    gpus: str | Cluster | Sequence[str | Cluster] | None = None,
    *,
    formats: str | Sequence[str] | None = None,
    engine: str | Sequence[str] = "vllm",
    workload: Workload | Mapping[str, Any] | None = None,
    slo: Slo | Mapping[str, Any] | None = None,
    budget: str | float | None = None,
    objective: str | None = None,
    price: float | Mapping[str, float] | None = None,
    illustrative_prices: bool = False,
    confidence: float = CONFIDENCE,
    runs: Runs = None,
    max_model_len: int | None = None,
    kv_dtype: str = "auto",
    gpu_memory_utilization: float | None = None,
    top: int = 10,
    **flags: Unpack[QuestionFlags],
) -> Comparison:
    """Put models, GPUs, weight formats and engines side by side, in the steady state, one row each.

    Combinations that memory cannot hold, that cannot read their weights in the TPOT allowed, or that cost more than the
    budget are ruled out; a roofline ranks the rest, and the best of them are evaluated as ``recommend`` does.

    Args:
        models: names between commas or a sequence; None: every model of the catalog.
        gpus: ``"8xH100,4xB200"`` or a sequence: at most so many; a kind without a number, ``"H100"``: as many as it takes
            inside of a server; None: every kind of the catalog.
        formats: weight formats; "any" for the checkpoint's, fp8, int8 and int4. None: the checkpoint's where models and GPUs
            are both named, else any.
        engine: names between commas or a sequence.
        workload: lengths; see ``recommend``.
        slo: limits on the mean latencies; see ``recommend``.
        budget: most dollars an hour for all GPUs: 10, ``"$10/h"`` or ``"$5000/month"``. GPUs without a price are left out then.
        objective: "cost" of a token, "size" (the largest models first), or an objective of ``recommend``. None: size where
            models are open, else cost.
        price: dollars per GPU-hour, of all or by the name of the GPU; otherwise the cheapest offer in the catalog.
        illustrative_prices: allow round figures, which are no offers, where there is no offer.
        confidence: probability with which each limit holds.
        runs: see ``recommend``.
        max_model_len: longest sequence to serve.
        kv_dtype: KV cache format, or "auto" for the model's.
        gpu_memory_utilization: share of each GPU's memory that the engine may use; None for the engine's own.
        top: rows.
        flags: workload and limits by the names of the command line's options; see ``QuestionFlags``.

    Raises:
        InputError: a name, number or combination that cannot be; the message says what would be right.

    """
    demand = read_demand(workload, slo, flags, steady=True)
    if demand.images:
        raise InputError("models cut images into tokens differently; ask recommend about one of them with images")
    goal = objective or ("size" if models is None else "cost")
    if goal not in GOALS:
        raise InputError(f"objective {goal!r:.60} is not known; it must be one of {', '.join(GOALS)}")
    check_question(demand.workload, demand.slo, goal if goal in OBJECTIVES else "throughput")
    check_confidence(confidence)
    require_positive("top", top, most=1000)
    spend = read_budget(budget)
    notes = list(demand.notes)
    named, places = _models(models, notes), _hardware(gpus, price, notes, illustrative=illustrative_prices)
    length = demand.workload.input_len + demand.workload.output_len
    able = [model for model in named if model.max_position_embeddings >= max(length, max_model_len or 0)]
    if not able:
        raise InputError(f"none of the models takes {max(length, max_model_len or 0)} tokens; shorten the requests")
    wanted = _formats(formats, closed=models is not None and gpus is not None)
    question = _Question(
        workload=demand.workload,
        slo=demand.slo,
        goal=goal,
        confidence=confidence,
        runs=runs,
        budget=spend,
        max_model_len=max_model_len,
        kv_dtype=kv_dtype if kv_dtype == "auto" else known_format(kv_dtype, "kv_dtype"),
        gpu_memory_utilization=gpu_memory_utilization,
    )
    bounded = partial(
        screen, able, places, wanted, workload=demand.workload, slo=demand.slo, budget=spend, kv_dtype=question.kv_dtype
    )
    screened = [(name, bounded(name)) for name in (find_engine(part).name for part in _names(engine))]
    closed = models is not None and gpus is not None
    if goal == "size" and not closed:
        rows = question.largest(screened, top)
    else:
        chosen = _first(screened, max(EVALUATED * top, LEAST_EVALUATED), goal, keep_all=closed)
        rows = [row for name, candidates in chosen for row in question.rows(name, candidates)]
    rows.sort(key=question.order)
    sums = [screening for _, screening in screened]
    return Comparison(
        workload=demand.workload,
        slo=demand.slo,
        goal=goal,
        confidence=confidence,
        budget=spend,
        rows=tuple(rows[:top]),
        unpriced=tuple(dict.fromkeys(place.cluster.gpu.name for place in places if place.price is None)),
        combinations=sum(screening.combinations for screening in sums),
        fitting=sum(len(screening.candidates) for screening in sums),
        evaluated=len(rows),
        too_large=sum(screening.too_large for screening in sums),
        too_slow=sum(screening.too_slow for screening in sums),
        too_dear=sum(screening.too_dear for screening in sums),
        unsupported=sum(screening.unsupported for screening in sums),
        without_price=sum(screening.unpriced for screening in sums),
        illustrative_prices=illustrative_prices,
        notes=tuple(dict.fromkeys(notes)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What is asked of every combination."""

    workload: Workload
    slo: Slo
    goal: str
    confidence: float
    runs: Runs
    budget: float | None
    max_model_len: int | None
    kv_dtype: str
    gpu_memory_utilization: float | None

    def rows(self, engine: str, candidates: Sequence[ScreenedDeployment]) -> list[ComparedDeployment]:
        """Evaluate candidates, those of one model on the same GPUs together."""
        groups: dict[tuple[str, str, int], list[ScreenedDeployment]] = {}
        for candidate in candidates:
            groups.setdefault((candidate.model.name, candidate.hardware.cluster.gpu.name, candidate.count), []).append(
                candidate
            )
        evidence: dict[str, Evidence] = {}
        rows = []
        for group in groups.values():
            gpu = group[0].hardware.cluster.gpu
            if gpu.name not in evidence:
                evidence[gpu.name] = Evidence.of(self.runs, engine=engine, gpu=gpu)
            for candidate in group:
                row = self._enough(engine, candidate, evidence[gpu.name])
                rows += [] if row is None else [row]
        return rows

    def largest(self, screened: Sequence[tuple[str, Screening]], top: int) -> list[ComparedDeployment]:
        """Evaluate the largest models first, until so many rows keep the limits or ``MOST_TRIED`` times as many were tried.

        Where too few do, those go on that a roofline puts well above the tokens a second that the limits need.
        """
        named = [(name, each) for name, first in screened for each in first.candidates]
        named.sort(key=lambda pair: (-parameters(pair[1].model), -pair[1].tok_s))
        needed = needed_tok_s(self.workload, self.slo)
        margins = (0.0, 2.0, 4.0, 8.0) if needed else (0.0,)
        rows: list[ComparedDeployment] = []
        tried: set[int] = set()
        for margin in margins:
            able = [pair for pair in named if id(pair[1]) not in tried and pair[1].tok_s >= margin * needed]
            for start in range(0, min(len(able), MOST_TRIED * top // len(margins)), top + 2):
                some = able[start : start + top + 2]
                tried |= {id(each) for _, each in some}
                for engine in dict.fromkeys(name for name, _ in some):
                    rows += self.rows(engine, [each for name, each in some if name == engine])
                if sum(row.keeps for row in rows) >= top:
                    return rows
        return rows

    def _enough(self, engine: str, candidate: ScreenedDeployment, knowledge: Evidence) -> ComparedDeployment | None:
        """Return the row of the fewest GPUs that keep the limits, or else of the most there may be."""
        last: ComparedDeployment | None = None
        price = candidate.hardware.price
        for count in candidate.hardware.counts:
            if count < candidate.count:
                continue
            if self.budget and price and price.usd_per_gpu_hour * count > self.budget:
                break
            row = self._row(engine, candidate, candidate.hardware.of(count), knowledge)
            if row is not None and (last is None or row.keeps):
                last = row
            if row is not None and row.keeps:
                break
        return last

    def _row(
        self, engine: str, candidate: ScreenedDeployment, cluster: Cluster, knowledge: Evidence
    ) -> ComparedDeployment | None:
        kind = find_engine(engine)
        # at one price per GPU-hour the cheapest token is that of the most tokens per GPU, also where there is no price
        objective = {"cost": "throughput_per_gpu", "size": "throughput"}.get(self.goal, self.goal)
        search = DeploymentSearch(
            model=candidate.model,
            cluster=cluster,
            workload=self.workload,
            slo=self.slo,
            objective=objective,
            engine=engine,
            dtypes=(candidate.dtype,),
            budgets=(kind.batch_defaults(cluster.gpu).max_num_batched_tokens,),
            max_model_len=self.max_model_len,
            kv_dtypes=(self.kv_dtype,),
            gpu_memory_utilization=self.gpu_memory_utilization,
            knowledge=knowledge,
            price=candidate.hardware.price,
            confidence=self.confidence,
        )
        try:
            search, _ = checked(search)
            estimate = search.quick_best(fills=True)
        except InputError:  # a format that the engine has not on this GPU, or heads that cannot be shared out
            return None
        if estimate is None or not estimate.fits:
            return None
        price = candidate.hardware.price
        return ComparedDeployment(
            estimate=estimate,
            keeps=estimate.batch <= estimate.max_concurrency and is_sure(estimate, self.slo, self.confidence),
            hourly_usd=None if price is None else price.usd_per_gpu_hour * estimate.deployment.num_gpus,
            quality=quality_of(candidate.model, estimate.deployment.dtype),
        )

    def order(self, row: ComparedDeployment) -> tuple[Any, ...]:
        """Return what a row is sorted by: limits kept, the goal, then throughput; without a price behind those with one."""
        estimate = row.estimate
        speed = -(estimate.output_tok_s_per_gpu or 0.0)
        if self.goal == "size":
            return (not row.keeps, -parameters(estimate.model), speed)
        metric, direction = OBJECTIVES[self.goal]
        value = getattr(estimate, metric)
        if value is None:
            return (not row.keeps, 1, speed)
        return (not row.keeps, 0, value if direction == "minimize" else -value, speed)


def _first(
    screened: Sequence[tuple[str, Screening]], most: int, goal: str, *, keep_all: bool
) -> list[tuple[str, list[ScreenedDeployment]]]:
    """Return the candidates that are evaluated, by engine: those that a roofline puts first, unpriced ones in their share."""
    chosen = []
    for name, first in screened:
        candidates = sorted(first.candidates, key=lambda candidate: -candidate.tok_s / candidate.count)
        if keep_all or len(candidates) <= most:
            chosen.append((name, candidates))
            continue
        priced = [candidate for candidate in candidates if candidate.hourly is not None]
        if goal == "cost":
            priced.sort(key=lambda candidate: (candidate.hourly or 0.0) / candidate.tok_s)
        rest = [candidate for candidate in candidates if candidate.hourly is None]
        half = min(len(rest), most // 4)
        chosen.append((name, [*priced[: most - half], *rest[:half]]))
    return chosen


def _names(given: str | Sequence[Any]) -> list[Any]:
    parts = given.split(",") if isinstance(given, str) else given
    named = [part.strip() if isinstance(part, str) else part for part in parts]
    return [part for part in named if part]


def _models(models: str | Model | Sequence[str | Model] | None, notes: list[Note]) -> list[Model]:
    if models is None:
        return list({parameters_of(model): model for model in reversed(all_models())}.values())
    named = [models] if isinstance(models, Model) else _names(models)
    if not named:
        raise InputError("no model named; give names with commas between, or leave models out for all of the catalog")
    resolved = [read_model(name) for name in named]
    notes += [note for model in resolved for note in model.notes]
    return [model.value for model in resolved]


def parameters_of(model: Model) -> tuple[object, ...]:
    """Return what makes models one for memory and time: all fields but the name and where it is from."""
    named = {"name", "published_parameters", "published_source", "source", "gated", "checkpoint_bytes"}
    return tuple(repr(getattr(model, name)) for name in model.__slots__ if name not in named)


def _hardware(
    gpus: str | Cluster | Sequence[str | Cluster] | None,
    price: float | Mapping[str, float] | None,
    notes: list[Note],
    *,
    illustrative: bool,
) -> list[ScreenedHardware]:
    if gpus is None:
        clusters = [(Cluster(gpu=gpu, gpus_per_node=1), True) for gpu in all_gpus()]
    else:
        named = [gpus] if isinstance(gpus, Cluster) else _names(gpus)
        if not named:
            raise InputError("no GPUs named; give them with commas between, or leave gpus out for all of the catalog")
        clusters = []
        for name in named:
            resolved = read_cluster(name)
            notes += resolved.notes
            clusters.append((resolved.value, isinstance(name, str) and not counted_in(name)))
    return [
        ScreenedHardware(
            cluster=cluster, price=offer_for(cluster.gpu.name, price, illustrative=illustrative), open_count=open_
        )
        for cluster, open_ in clusters
    ]


def _formats(formats: str | Sequence[str] | None, *, closed: bool) -> list[str]:
    if formats is None:
        return ["auto"] if closed else list(ANY_FORMAT)
    named = _names(formats) if isinstance(formats, (str, Iterable)) else []
    if not named:
        raise InputError("no weight format named; for example: fp8,int4, or any")
    known = (
        ANY_FORMAT if name == "any" else (name if name == "auto" else known_format(name, "dtype"),) for name in named
    )
    return list(dict.fromkeys(itertools.chain.from_iterable(known)))
