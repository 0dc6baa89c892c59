"""How many GPUs traffic needs, of which kind and laid out how, for the least money or the fewest of them.

Every layout of one replica inside a node is a candidate on every kind of GPU. What it needs at least, for the queue not to
grow, bounds its cost from below, so the candidates are taken best first and the answer is exact over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from advisor.calibration.intervals import LEVEL
from advisor.capacity.candidates import Layouts, check_fleets, kinds_of, prices_of
from advisor.capacity.fleet_choice import FleetChoice
from advisor.capacity.fleet_options import CapacityQuestion, Change, FleetOption, row
from advisor.capacity.information import WORTHLESS, MeasurementValue, measurement_values
from advisor.capacity.plan_notes import price_notes, traffic_notes
from advisor.capacity.planned_traffic import demand_at_rate, offered_requests, with_rate
from advisor.capacity.relaxation import Shortfall
from advisor.prediction.inputs import (
    BARE_ESTIMATE,
    CONFIDENCE,
    check_confidence,
    check_lengths,
    plain_fields,
    prices_by_gpu,
    read_model,
)
from advisor.prediction.presentation import Presented
from advisor.prediction.speculation import SpeculationQuestion
from advisor.simulator.conversations import Conversations
from advisor.simulator.pool_pairs import PoolTerms, check_planned_pools
from advisor.simulator.replica_sizing import MOST_REPLICAS, TrafficSpec
from advisor.simulator.routers import FCFS
from advisor.simulator.scheduler import FRONT_END_MS
from advisor.simulator.serving import check_serving
from advisor.simulator.traffic_question import TrafficQuestion
from catalog.errors import InputError, Note
from catalog.features import IF_STATED
from catalog.schema import Cluster, Deployment, Model, Slo, Workload, require_positive

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Unpack

    import pandas as pd

    from advisor.capacity.candidates import GpuKind
    from advisor.prediction.demand import QuestionFlags
    from advisor.prediction.evidence import Runs
    from advisor.progress import Watch
    from advisor.recommendation.question_change import Relaxation
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.class_mix import ClassMix
    from advisor.simulator.routers import Router, SchedulingPolicy
    from advisor.simulator.trace_files import TraceFile

OBJECTIVES = ("cost", "gpus", "energy")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CapacityPlan(Presented):
    """What to buy or rent, what else there is, and how far it carries."""

    SCHEMA: ClassVar[str] = "capacity-plan/1"
    __repr__ = Presented.__str__

    model: Model
    gpus: tuple[str, ...]
    workload: Workload
    """With the lengths that were stated."""
    mean_input_len: int | None = field(default=None, metadata=IF_STATED)
    """Tokens of a prompt on average, with all that it shares; None where prompts share nothing."""
    slo: Slo
    """Of all requests; where they have classes, of those that state no limit."""
    scheduling_policy: str = FCFS
    """In which order a replica serves those that wait."""
    objective: str
    confidence: float
    headroom: float
    best: FleetOption | None
    """None where nothing keeps the limits."""
    options: tuple[FleetOption, ...]
    """Best first: the best layouts of every kind of GPU."""
    carries_s: float | None
    """Requests a second up to which ``best`` keeps the limits, the headroom still left over."""
    bare_carries_s: float | None
    """The same by the bare estimate, as ``simulate`` tells it."""
    next_carries_s: float | None
    """What it keeps with one replica more."""
    next_latencies: Mapping[str, float]
    """Of ``best`` with one replica more."""
    sensitivity: tuple[Change, ...]
    nearest: FleetOption | None
    """Where nothing keeps the limits, what comes nearest."""
    relaxations: tuple[str, ...]
    """Where nothing keeps the limits, what would, in numbers."""
    measurements: tuple[MeasurementValue, ...] = ()
    """What measuring a layout is worth, most first; only where that is asked for."""
    candidates: int
    """Layouts over all kinds of GPUs that hold the model."""
    duration_s: float
    """How long requests came."""
    requests: int
    notes: tuple[Note, ...]
    question_changes: tuple[Relaxation, ...] = field(default=(), repr=False, compare=False)
    """``relaxations`` as the keywords of ``plan`` have them."""

    def to_frame(self) -> pd.DataFrame:
        """Return the options as a table, one row each."""
        import pandas as pd  # slow to import, and only this needs it

        return pd.DataFrame([row(option) for option in self.options])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {
            **self.header(),
            "model": self.model.name,
            **plain_fields(self, "model", "question_changes"),
            "interval_level": LEVEL,
        }


def plan(
    model: str | Model,
    gpus: str | Cluster | Sequence[str | Cluster],
    *,
    rate: float | str | None = None,
    workload: Workload | Mapping[str, Any] | None = None,
    slo: Slo | Mapping[str, Any] | None = None,
    objective: str = "cost",
    confidence: float | None = None,
    headroom: float = 0.0,
    spares: int = 0,
    deployment: Deployment | None = None,
    price: float | Mapping[str, float] | None = None,
    illustrative_prices: bool = False,
    runs: Runs = None,
    duration_s: float | None = None,
    seed: int = 0,
    spread: float | None = None,
    burstiness: float = 1.0,
    router: Router = "round_robin",
    scheduling_policy: SchedulingPolicy = FCFS,
    classes: str | Path | Mapping[str, Any] | ClassMix | None = None,
    shared_prefix: int = 0,
    num_prefixes: int = 1,
    turns: int = 1,
    sessions: str | Path | None = None,
    enable_prefix_caching: bool = True,
    prefix_hit_rate: float | None = None,
    front_end_ms: float = FRONT_END_MS,
    draws: int = 8,
    set_gpu: Mapping[str, float | str] | None = None,
    top: int = 2,
    disaggregate: bool = False,
    dcp: int | None = None,
    kv_link_gbps: float | None = None,
    search_budgets: bool = False,
    worth: bool = False,
    trace: str | Path | TraceFile | Arrivals | None = None,
    progress: Watch | None = None,
    speculate: str | None = None,
    draft_len: int | None = None,
    acceptance: float | None = None,
    **flags: Unpack[QuestionFlags],
) -> CapacityPlan:
    """Find the cheapest GPUs, or the fewest, on which a model keeps limits at a rate.

    Args:
        model: catalog name or alias, Hugging Face id, path to a ``config.json``, or a ``Model``.
        gpus: kinds of GPUs, ``"H100,H200"`` or a sequence: as many as it takes, in servers of the usual size; with a
            number, ``"8xH100"``, at most so many.
        rate: requests a second; None for those of the trace.
        workload: lengths; 1024 in and 256 out by default.
        slo: limits, for a percentile of the requests or their mean; at least one.
        objective: "cost", "gpus", or "energy" for an output token, of the GPUs whose energy was measured.
        confidence: probability with which each limit is kept, and the fleet does not saturate, as far as the surrogate's
            errors are concerned: 0.5, by the estimate itself, or 0.75 to 0.99. None: 0.9, or 0.5 without draws. The
            cheapest fleet by the estimate itself runs within a few per cent of its saturation.
        headroom: the limits hold at ``rate * (1 + headroom)``.
        spares: replicas that may fail: the limits hold without them.
        deployment: knobs of the engine; the layout is what is searched.
        price: dollars per GPU-hour, of all or by the name of the GPU; otherwise the cheapest offer in the catalog.
        illustrative_prices: allow round figures, which are no offers, where there is no offer.
        runs: None for the shipped fit and the user's own runs; a list for exactly those; [] for the analytic model; or what
            ``fit`` made.
        duration_s: how long requests come; None for about 200 s.
        seed: of arrivals and lengths.
        spread: coefficient of variation of both lengths, log-normal.
        burstiness: squared coefficient of variation of the gaps between arrivals; 1: Poisson.
        router: as ``simulate`` takes it, like the seven that follow.
        scheduling_policy: of a replica's queue.
        classes: of the requests; every class must keep its limits.
        shared_prefix: tokens of a system prompt before every request's ``input_len``.
        num_prefixes: different ones.
        turns: requests of a session; the rate is of requests.
        sessions: a file of sessions, in place of a trace.
        enable_prefix_caching: whether engines keep what they have computed for what shares it.
        prefix_hit_rate: share of each prompt that hits the prefix cache.
        front_end_ms: what a request takes outside the engine's steps.
        draws: how often traffic is simulated again for intervals; 0: none.
        set_gpu: what-if values for fields of the GPUs.
        top: layouts to show of every kind of GPU.
        disaggregate: also try fleets with a pool for prompts (see ``advisor.simulator.disaggregation``), of layouts and kinds of GPUs
            of their own (see ``advisor.simulator.pool_pairs``), and show the best.
        dcp: as ``recommend`` takes it.
        search_budgets: where a limit, and not saturation, decides how many replicas there are, also try smaller token budgets of a step
            (see ``advisor.capacity.budget_variants``); those of the engine or of ``deployment`` otherwise.
        kv_link_gbps: GB/s of a GPU over the link between the pools; None: NVLink within a node, else the network.
        worth: also say what measuring one of the best layouts is worth in dollars a month.
        trace: a file of requests (see ``advisor.simulator.trace_files.read_trace``) or ``Arrivals``, whose lengths and
            times stand for random ones; the times are stretched to the rate where that is given. ``duration_s``: no more of it than that.
        progress: called with a ``Progress`` as the work goes on, some times a second, by the thread that plans; what it
            raises ends the plan and reaches the caller.
        speculate: what drafts tokens, as ``estimate`` takes it, like the next two; every layout competes with drafts and without.
        draft_len: tokens drafted a step; None: several compete.
        acceptance: probability that a drafted token is accepted; None: as published.
        flags: workload and limits by the names of the command line's options: ``use="chat", users=1000``; see
            ``QuestionFlags``. Limits stated so hold for the 95th percentile unless ``percentile`` says otherwise.

    Raises:
        InputError: a name, number or combination that cannot be.

    """
    resolved, base = read_model(model), deployment or Deployment()
    common = Conversations(shared_prefix=shared_prefix, num_prefixes=num_prefixes, turns=turns)
    stated = TrafficQuestion.read(
        workload, slo, flags, common, rate=rate, spread=spread, prefix_hit_rate=prefix_hit_rate, classes=classes
    )
    served_model, stated = stated.of_model(resolved.value, trace or sessions)
    check_serving(stated.slo, router, stated.prefix_hit_rate, front_end_ms, draws)
    check_planned_pools(base, kv_link_gbps, disaggregate=disaggregate)
    confidence = (CONFIDENCE if draws else BARE_ESTIMATE) if confidence is None else confidence
    _check(stated, objective, confidence, headroom, spares, base, draws, top)
    longest = base.max_model_len or served_model.max_position_embeddings
    offered = offered_requests(trace, sessions, duration_s, longest, stated, disaggregate=disaggregate)
    asked, rate = with_rate(stated.workload, offered)
    for lengths in (asked,) if stated.mix is None or offered is not None else stated.mix.workloads:
        check_lengths(served_model, lengths.input_len, lengths.output_len, base.max_model_len)
    first_demand = TrafficSpec.of(
        stated, asked, offered, confidence=confidence, seed=seed, burstiness=burstiness, draws=draws, longest=longest
    )
    at_rate = partial(demand_at_rate, first_demand, duration_s)
    demand = at_rate(rate * (1.0 + headroom))
    requests = demand.traffic()
    kinds, stated_prices = kinds_of(gpus, set_gpu), prices_by_gpu(price)
    prices = prices_of(kinds, stated_prices, objective, illustrative=illustrative_prices)
    drafts = SpeculationQuestion.read(speculate, draft_len, acceptance)
    layouts_of = partial(
        Layouts.of,
        served_model,
        kinds,
        draftings=(None,) if drafts is None else drafts.draftings,
        runs=runs,
        demand=demand,
        left_out=[name for name, offer in prices.items() if offer is None] if objective == "cost" else [],
        spares=spares,
        dcp=dcp,
        serving={
            "router": router,
            "scheduling_policy": scheduling_policy,
            "prefix_hit_rate": stated.prefix_hit_rate,
            "prefix_caching": enable_prefix_caching,
            "front_end_ms": front_end_ms,
            "acceptance": acceptance,
        },
        longest_request=int((requests.input_len + requests.output_len).max()),
        pools=PoolTerms(prices=prices, spares=spares, link_gbps=kv_link_gbps) if disaggregate else None,
    )

    layouts = layouts_of(base)
    check_fleets(served_model, kinds, layouts.fleets, objective, spares)
    question = CapacityQuestion(rate=rate, spares=spares, objective=objective, draws=draws)
    short = Shortfall(
        question=question, prices=prices, headroom=headroom, at_rate=at_rate, layouts_of=layouts_of, base=base
    )
    choice = FleetChoice.of(layouts, short, top, progress, search_budgets=search_budgets)
    notes = [*stated.notes, *resolved.notes, *(offered.notes if offered else requests.notes), *layouts.notes]
    notes += [*traffic_notes(requests, choice, base), *price_notes(prices, stated_prices)]
    answer = _capacity_plan(served_model, kinds, demand, len(requests), short, layouts, choice, notes)
    mean = None if requests.sharing is None else round(float(requests.input_len.mean()))
    answer = replace(answer, scheduling_policy=scheduling_policy, mean_input_len=mean)
    return _with_worth(answer, measurement_values(choice.ranked, question, prices)) if worth else answer


def _with_worth(answer: CapacityPlan, values: Iterable[MeasurementValue]) -> CapacityPlan:
    """Return the answer with what measuring each of the best layouts is worth."""
    ordered = tuple(sorted(values, key=lambda value: -value.usd_per_month))
    return replace(answer, measurements=ordered, notes=answer.notes if ordered else (*answer.notes, WORTHLESS))


def _capacity_plan(
    model: Model,
    kinds: Sequence[GpuKind],
    demand: TrafficSpec,
    requests: int,
    short: Shortfall,
    layouts: Layouts,
    choice: FleetChoice,
    notes: Sequence[Note],
) -> CapacityPlan:
    """Return what was chosen as an answer; ``short`` has the question and the prices, ``requests`` their number."""
    question = short.question
    options = tuple(question.option(fleet, replicas, short.prices) for fleet, replicas in choice.ranked)
    return CapacityPlan(
        model=model,
        gpus=tuple(cluster.gpu.name for cluster, _, _ in kinds),
        workload=replace(demand.workload, rate=question.rate),
        slo=demand.slo,
        objective=question.objective,
        confidence=demand.confidence,
        headroom=short.headroom,
        best=options[0] if options else None,
        options=options,
        carries_s=choice.reach.carries_s,
        bare_carries_s=choice.reach.bare_carries_s,
        next_carries_s=choice.reach.next_carries_s,
        next_latencies=choice.reach.next_latencies,
        sensitivity=choice.reach.sensitivity,
        nearest=choice.nearest,
        relaxations=tuple(change.text for change in choice.relaxations),
        candidates=len(layouts.fleets),
        duration_s=demand.duration_s,
        requests=requests,
        notes=tuple(dict.fromkeys(notes)),
        question_changes=choice.relaxations,
    )


def _check(
    stated: TrafficQuestion,
    objective: str,
    confidence: float,
    headroom: float,
    spares: int,
    base: Deployment,
    draws: int,
    top: int,
) -> None:
    """Raise ``InputError`` for what no plan can be made for."""
    require_positive("top", top, most=1000)
    if objective not in OBJECTIVES:
        raise InputError(f"objective is {objective!r:.60}; it must be one of {', '.join(OBJECTIVES)}")
    if not stated.limited:
        raise InputError(
            "there is no limit to plan for; state one of ttft, tpot and e2e, in ms, or a use that brings its own, such as chat"
        )
    if stated.workload.concurrency is not None:
        raise InputError("a plan is for a rate, not for a concurrency; leave that out")
    check_confidence(confidence)
    if confidence != BARE_ESTIMATE and not draws:
        raise InputError("confidence takes draws; leave out draws=0 or confidence")
    if not 0.0 <= headroom <= 10.0:
        raise InputError(f"headroom is {headroom:g}; it must be from 0 to 10, such as 0.2 for 20%")
    if isinstance(spares, bool) or not isinstance(spares, int) or not 0 <= spares <= MOST_REPLICAS:
        raise InputError(f"spares is {spares!r:.60}; it must be a whole number from 0 to {MOST_REPLICAS}")
    if base.num_gpus != 1 or base.ep * base.dcp != 1:
        raise InputError("tp, pp, dp, ep and dcp are what a plan searches; leave them at 1")
