"""A recommendation as a document: what to run, what was close, why, where it ends, and how to start it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from advisor.prediction.deployment_estimate import CLIENT_TTFT
from advisor.prediction.estimate_row import estimate_row, weights_gib
from advisor.prediction.option_words import KNOBS, engine_words
from advisor.recommendation.certainty import HOLDS
from advisor.recommendation.preference import named_choices
from advisor.recommendation.problem import FILLS_THE_CLUSTER
from advisor.recommendation.recommendation import candidate_row
from advisor.render.answers.candidate_order import first_lines, order_line
from advisor.render.answers.catalog import stored_bits
from advisor.render.answers.pools import pool_sections
from advisor.render.answers.speculation import decode_speculation_lines, taken_line
from advisor.render.document import Document, Figure, Section, ShellCommand, Table
from advisor.render.figures.recommendation import memory_bars, trade
from advisor.render.figures.vega import printed
from advisor.render.lines import corrected_line, hardware, memory_line, notes, sources_line, tier_lines
from advisor.render.next_command import adapter_words, command, drafting_words, layout_words
from advisor.render.numbers import count, dollars, duration, limit, share, short
from advisor.render.tables import ESSENTIAL, UNIFORM, Column, FlatRows
from advisor.render.vocabulary import E2E, METRIC_NAMES, TPOT, TTFT, goal_and_limits
from catalog.engines import engine_name, processes
from catalog.models.sizes import parameters
from catalog.prices import no_price
from catalog.redaction import redacted
from catalog.schema import BITS, LATENCIES, Deployment
from catalog.units import GIB
from catalog.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.prediction.deployment_estimate import Estimate
    from advisor.recommendation.proposal import Proposal
    from advisor.recommendation.recommendation import Recommendation
    from advisor.render.document import Lines
    from catalog.schema import Cluster, Model

FRONT_ROWS = 12
FIRST_ROWS = 3
"""Layouts that the terminal shows before it is asked for all."""
WEIGHTS_SHARE = 0.8
"""A checkpoint below this share of the GPUs' memory is not what stands in the way."""
BEATEN = "Not beaten in both speed for a user and throughput per GPU"


def document(answer: Recommendation) -> Document:
    """Return the whole answer, in detail."""
    estimates = shown(answer)
    best = answer.best
    chosen = best is not None and not answer.slo.limits and answer.objective in FILLS_THE_CLUSTER
    choices = _choices(answer) if chosen else Section()
    columns = candidate_columns(answer) if estimates else []
    table = Table(columns=columns, emphasised=0 if best else None, first=FIRST_ROWS) if estimates else None
    sections = [
        Section(title="Answer", table=table, detail=choices.table is not None),
        choices,
        Section(title="What to know", lines=_decisive(answer)),
        *pool_sections(answer),
    ]
    sections.append(Section(title="Why, and how far", lines=_lines(answer), detail=best is not None))
    if best is not None:
        sections += [
            Section(
                title="How to start it", command=launch(answer.command, best.deployment, answer.model, answer.cluster)
            ),
            Section(title="Speed for a user against throughput per GPU", figures=[_trade(answer)]),
        ]
    if estimates:
        caption = "The fullest GPU of each layout at its batch; the line: all it has."
        size = partial(printed, width=560, height=60 + 24 * len(estimates))
        figure = Figure(name="memory", caption=caption, make=lambda: size([memory_bars(estimates)]))
        sections.append(Section(title="Memory", figures=[figure]))
    if len(answer.pareto) > 1:
        sections.append(_front(answer))
    if answer.importances:
        ranked = [f"{name} {share(value)}" for name, value in answer.importances.items() if value >= 0.005]
        sections.append(
            Section(title="What explains the objective", lines=[("choices", [", ".join(ranked)])], detail=True)
        )
        sections.append(Section(title="Next", command=_next(answer)))
    return Document(
        title=f"How to serve {answer.model.name}",
        question=question(answer),
        answer=sentence(answer),
        alarm="" if best else f"nothing feasible{', nearest:' if estimates else ''}",
        notes=notes((*answer.assumptions, *(best.notes if best is not None else ()))),
        sections=sections,
    )


def shown(answer: Recommendation) -> Sequence[Estimate]:
    """Return the candidates, best first; where nothing is feasible, what comes nearest."""
    return answer.candidates or ((answer.nearest,) if answer.nearest else ())


def question(answer: Recommendation) -> list[str]:
    """Write what was asked: model, GPUs, engine, workload, goal and limits."""
    model = f"{answer.model.name}  {count(parameters(answer.model))}"
    estimates = shown(answer)
    if len({estimate.deployment.dtype for estimate in estimates}) == 1:
        model += f"  {estimates[0].deployment.dtype} {short(weights_gib(estimates[0]))} GiB"
    asked = estimates[0].deployment if estimates else Deployment(engine=answer.engine)
    work = f"{answer.workload.input_len} in / {answer.workload.output_len} out"
    if answer.workload.concurrency is not None:
        work += f", {answer.workload.concurrency} in flight"
    goal = goal_and_limits(answer.objective, answer.slo)
    parts = [model, hardware(answer.cluster), engine_name(asked), work, goal]
    return [" ".join(part.split("\n")) for part in parts]


def sentence(answer: Recommendation) -> str:
    """Say what to run and what it reaches; or that nothing is feasible, and what comes nearest."""
    if answer.best is not None:
        return f"Run {_reached(answer.best, answer.cluster, priced=answer.objective == 'cost')}."
    lengths = f"{answer.workload.input_len} in / {answer.workload.output_len} out"
    broken = "; ".join(broken_limits(answer))
    if answer.nearest is None:
        return f"Nothing is feasible on {answer.cluster}: {broken}."
    return f"Nothing is feasible at {lengths}: {broken}. Nearest: {_reached(answer.nearest, answer.cluster)}."


def _reached(estimate: Estimate, cluster: Cluster, *, priced: bool = True) -> str:
    deployment = estimate.deployment
    replicas = counted(deployment.dp, "replica")
    text = f"{replicas} of {deployment.parallelism} on {deployment.num_gpus} of {cluster.num_gpus} {cluster.gpu.name}"
    if estimate.output_tok_s_per_gpu is None:
        return text
    low, high = estimate.interval("output_tok_s_per_gpu")
    money = f", {dollars(estimate.usd_per_mtok)} per million output tokens" if priced and estimate.usd_per_mtok else ""
    return (
        f"{text}, batch {estimate.batch}: {short(estimate.output_tok_s_per_gpu)} tok/s per GPU "
        f"({short(low)}-{short(high)}), {TTFT} {duration(estimate.ttft_ms)}, {TPOT} {duration(estimate.tpot_ms)}{money}"
    )


def candidate_columns(answer: Recommendation) -> list[Column]:
    """Return all columns of the table of candidates, in order; the objective's metric and its interval stand first."""
    estimates = shown(answer)
    rows = FlatRows([candidate_row(estimate, answer.slo) for estimate in estimates])
    latency = {"latency": "e2e_ms", "ttft": "ttft_ms", "tpot": "tpot_ms"}.get(answer.objective, "")
    marks = Column(name="", cells=[">" if estimate is answer.best else "" for estimate in estimates])
    columns = [marks, rows.text("layout", "layout")]
    columns += [
        rows.text("dtype", "dtype", rank=1 if rows.vary("dtype") else UNIFORM),
        rows.text("kv_dtype", "KV dtype", rank=1 if rows.vary("kv_dtype") else UNIFORM),
        rows.column(
            "max_num_batched_tokens",
            "budget",
            unit="tokens",
            rank=1 if rows.vary("max_num_batched_tokens") else UNIFORM,
        ),
        rows.column("batch", "batch"),
        *(
            [rows.column("hit_rate", "cache", share, unit="hits")]
            if any(e.hit_rate is not None for e in estimates)
            else []
        ),
        rows.column("output_tok_s_per_gpu", "tok/s", short, unit="per GPU"),
        rows.interval("output_tok_s_per_gpu", rank=5 if latency else 0),
    ]
    if latency:
        columns += [rows.time(latency, METRIC_NAMES[latency]), rows.interval(latency, times=True)]
    cost = rows.column("usd_per_mtok", "cost", short, unit="$/M tok", rank=1 if answer.objective == "cost" else 4)
    priced = any(rows.values("usd_per_mtok"))
    for metric in ("ttft_ms", "tpot_ms"):
        if metric != latency:
            limited = getattr(answer.slo, metric) is not None
            rank = 2 if limited else 9
            columns += [rows.time(metric, METRIC_NAMES[metric], rank=1), rows.interval(metric, times=True, rank=rank)]
    if answer.slo.limits:
        columns.append(rows.column("limits_probability", "limits", share, unit="hold", rank=1))
    columns += [cost] if priced and answer.objective == "cost" else []
    memory = 3 if answer.slo.limits else 2
    device = f"of {short(answer.cluster.gpu.memory_gib)} GiB"
    columns += [
        rows.column(
            "memory_used_gib", "memory", lambda gib: short(gib, 2), unit=device, narrow_unit="GiB", rank=memory
        ),
        rows.text("provenance", "source", rank=1 if rows.vary("provenance") else 3),
    ]
    columns += [cost] if priced and answer.objective != "cost" else []
    if latency != "e2e_ms":
        columns += [rows.time("e2e_ms", E2E, rank=5), rows.interval("e2e_ms", times=True, rank=9)]
    return [
        *columns,
        rows.column("output_tok_s", "tok/s", short, unit="in all", rank=6),
        rows.column("gpus_used", "GPUs", unit="used", rank=7),
        rows.column("max_concurrency", "KV room", unit="requests", rank=8),
    ]


def _lines(answer: Recommendation) -> Lines:
    estimates = shown(answer)
    lines: list[tuple[str, Sequence[str]]] = []
    if estimates:
        first = estimates[0]
        lines += [
            ("why", [*answer.why, *filter(None, [answer.next_probe])]),
            ("pays", [_pays(proposal) for proposal in answer.proposals[:1]]),
            ("memory", [memory_line(first.memory)]),
            (
                "source",
                [*sources_line(estimate.provenance for estimate in estimates), *corrected_line(first.corrected_by)],
            ),
        ]
    if len(answer.candidates) > 1:
        lines.append(("order", [order_line(answer)]))
    if answer.best is None:
        lines += [("why", broken_limits(answer)), ("relax", answer.relaxations)]
    return [*lines, ("limit", answer.limits), ("search", [_search(answer)])]


def _decisive(answer: Recommendation) -> Lines:
    """Return what decides whether to take it: context, cost, what pays, what else there is."""
    best = answer.best
    if best is None:
        return []
    lines: list[tuple[str, Sequence[str]]] = [("context", _context(best, answer.model)), ("client", _client(best))]
    if best.hit_rate is not None:
        found = [f"the prefix cache has {share(best.hit_rate)} of the prompts' tokens, as simulated at this batch"]
        lines.append(("cache", [*found, *tier_lines(best.hit_rate, best.tier_hit_rates)]))
    if best.speculation is not None:
        lines.append(("draft", [*decode_speculation_lines(best.speculation), taken_line(best)]))
    if best.price is not None and best.usd_per_mtok:
        hourly = best.price.usd_per_gpu_hour * best.deployment.num_gpus
        by = f"{best.price.provider}, a round figure" if best.price.illustrative else best.price.provider
        cost = f"{dollars(best.usd_per_mtok)} per million output tokens, {dollars(hourly)} an hour ({by})"
        lines.append(("cost", [cost]))
    elif best.price is None:
        lines.append(("cost", [no_price(answer.cluster.gpu.name)]))
    lines.append(("pays", [_pays_shortly(proposal) for proposal in answer.proposals[:1]]))
    others = [f"{estimate.cluster} {estimate.deployment.engine} {_speed(estimate)}" for estimate in answer.alternatives]
    lines.append(("others", ["; ".join(others)] if others else []))
    idle = answer.cluster.num_gpus - best.deployment.num_gpus
    if idle:
        lines.append(
            (
                "idle",
                [f"{idle} of {answer.cluster.num_gpus} GPUs: no layout on more of them has more throughput per GPU"],
            )
        )
    return [*lines, ("first", first_lines(answer)), ("close", _close(answer))]


def _client(best: Estimate) -> list[str]:
    """Say which first-token time is given, and the one that a benchmark client reports."""
    if best.client_ttft_ms is None:
        return []
    low, high = (duration(end) for end in best.interval(CLIENT_TTFT))
    flight = counted(best.batch * best.deployment.dp, "request")
    return [f"{TTFT} {duration(best.client_ttft_ms)} ({low} to {high}) where {flight} begin at once"]


def _context(best: Estimate, model: Model) -> list[str]:
    """Say where the context is less than the model's."""
    served = best.deployment.max_model_len or 0
    if served >= model.max_position_embeddings:
        return []
    held = f"{served:,} of {model.max_position_embeddings:,} tokens fill the KV cache"
    if best.deployment.kv_dtype in BITS and BITS[best.deployment.kv_dtype] >= 16:
        held += f"; --kv-dtype fp8 about {min(2 * served, model.max_position_embeddings):,}"
    return [held]


def _close(answer: Recommendation) -> list[str]:
    """Say in a line that the choice is too close to call."""
    undecided = answer.next_probe.partition(";")[0].removeprefix("too close to call between ")
    return [f"{undecided} are too close to call: advisor tune decides"] if undecided else []


def _speed(estimate: Estimate) -> str:
    return f"{short(estimate.output_tok_s_per_gpu)} tok/s per GPU"


def proposal_sentence(proposal: Proposal) -> str:
    """Say what another weight format gains and what is known of its quality."""
    return f"{proposal.dtype} weights: {_gain(proposal)}"


def _pays(proposal: Proposal) -> str:
    return f"--weights {proposal.dtype}: {_gain(proposal)}"


def _pays_shortly(proposal: Proposal) -> str:
    fewer = f", {counted(proposal.fewer_gpus, 'GPU')} fewer" if proposal.fewer_gpus else ""
    kept = "not known" if proposal.quality is None else share(proposal.quality.recovery)
    return f"--weights {proposal.dtype}: {proposal.throughput:.1f} times the throughput{fewer}; quality {kept}"


def _gain(proposal: Proposal) -> str:
    fewer = f", {counted(proposal.fewer_gpus, 'GPU')} fewer per replica" if proposal.fewer_gpus else ""
    known = proposal.quality
    loss = (
        "quality loss not known"
        if known is None
        else f"{share(known.recovery)} of the original's score, {known.source}"
    )
    return f"{proposal.throughput:.1f} times the throughput{fewer}; {loss}"


def _next(answer: Recommendation) -> ShellCommand | None:
    best = answer.best
    shares = best is not None and best.hit_rate is not None
    if best is None or (shares and not answer.traffic_options):  # a file says what prompts have in common
        return None
    flight = answer.workload.concurrency or best.batch * best.deployment.dp
    # a batch in flight needs no limit of its own
    knobs = [name for name in KNOBS if name != "max_num_seqs"]
    words = [*engine_words(best.deployment, answer.model, answer.cluster, knobs=knobs), *layout_words(best.deployment)]
    words += [*drafting_words(best.deployment), *adapter_words(best.deployment)]
    return command(
        "simulate",
        answer.model,
        answer.cluster,
        *words,
        *answer.traffic_options,
        workload=None if shares else answer.workload,
        slo=answer.slo,
        options={"--concurrency": flight},
    )


def launch(argv: Sequence[str], deployment: Deployment, model: Model, cluster: Cluster) -> ShellCommand | None:
    """Return what starts a deployment, to be copied; where it takes several processes, the first and how many. None: nothing does."""
    if not argv:
        return None
    started = processes(deployment, model, cluster)
    comment = ""
    if len(started) > 1 or started[0].files:
        what = f"the first of {len(started)} processes" if len(started) > 1 else "it reads a file"
        comment = f"{what}; advisor export writes all there is"
    return ShellCommand(argv=argv, variables=started[0].environment, comment=comment)


def broken_limits(answer: Recommendation) -> list[str]:
    """Name the limits that the nearest deployment breaks, in numbers."""
    nearest = answer.nearest
    if nearest is None or not nearest.fits:
        memory = answer.cluster.gpu.memory_gib * answer.cluster.num_gpus
        stored = parameters(answer.model) * stored_bits(answer.model) / 8.0 / GIB
        needs = f"the checkpoint has {short(stored)} GiB, the GPUs {short(memory)} GiB in all"
        if stored < memory * WEIGHTS_SHARE:
            return [f"no layout's KV cache holds a sequence of the requested length: {needs}"]
        return [f"no layout holds the weights and a request: {needs}"]
    broken = []
    if nearest.batch > nearest.max_concurrency:
        broken.append(f"KV cache for {nearest.max_concurrency} of {nearest.batch} requests per replica")
    elif answer.confidence != 0.5 and nearest.batch_fits_probability < HOLDS:
        sure = share(nearest.batch_fits_probability)
        broken.append(f"the KV cache holds {nearest.batch} requests per replica with {sure}, not {share(HOLDS)}")
    for metric in LATENCIES:
        most, value = getattr(answer.slo, metric), getattr(nearest, metric)
        if most is None or value is None:
            continue
        name = METRIC_NAMES[metric]
        if value > most:
            broken.append(f"{name} {duration(value)}, above {limit(most)}")
        elif (upper := nearest.upper(metric, answer.confidence)) > most:
            sure = share(answer.confidence)
            broken.append(f"{name} {duration(value)}, up to {duration(upper)} with {sure}: above {limit(most)}")
    return broken


def _search(answer: Recommendation) -> str:
    how = "all evaluated" if answer.exact else "a sample evaluated"
    text = f"{answer.evaluated:,} configuration{'s' * (answer.evaluated != 1)}, {how}"
    if answer.storage is not None:
        text += f"; study {answer.study_name} in {redacted(answer.storage)}"
    return text


def _trade(answer: Recommendation) -> Figure:
    caption = "Each point is a layout at a batch; dotted: not beaten in both; ringed: the one recommended, with its 90% interval."
    return Figure(
        name="trade", caption=caption, make=lambda: printed([trade(answer, answer.best)], width=620, height=400)
    )


def _choices(answer: Recommendation) -> Section:
    assert answer.best is not None
    choices = named_choices(answer.best, answer.pareto)
    if len(choices) < 2:
        return Section()
    flat: list[dict[str, Any]] = [
        estimate_row(estimate) | {"choice": name, "tok_s_per_user": 1e3 / (estimate.tpot_ms or 1.0)}
        for name, estimate in choices.items()
    ]
    rows = FlatRows(flat)
    columns = [
        rows.text("choice", "choice"),
        *_layout_columns(rows, per_user=2),
        rows.interval("output_tok_s_per_gpu", rank=1),
        rows.time("ttft_ms", TTFT, rank=1),
        rows.time("tpot_ms", TPOT, rank=1),
        rows.column("usd_per_mtok", "cost", short, unit="$/M tok", rank=3),
    ]
    columns = [column for column in columns if set(column.cells) != {"-"}]
    lines = [("limits", ["none stated; for people who wait state --tpot or --ttft"])]
    return Section(title="Named choices", table=Table(columns=columns), lines=lines)


def _layout_columns(rows: FlatRows, *, per_user: int = ESSENTIAL) -> list[Column]:
    return [
        rows.text("layout", "layout"),
        rows.column("batch", "batch"),
        rows.column("tok_s_per_user", "tok/s", short, unit="per user", rank=per_user),
        rows.column("output_tok_s_per_gpu", "tok/s", short, unit="per GPU"),
    ]


def _front(answer: Recommendation) -> Section:
    front = answer.pareto[:: max(len(answer.pareto) // FRONT_ROWS, 1)]
    flat: list[dict[str, Any]] = [
        estimate_row(estimate) | {"tok_s_per_user": 1e3 / estimate.tpot_ms if estimate.tpot_ms else None}
        for estimate in front
    ]
    rows = FlatRows(flat)
    columns = _layout_columns(rows)
    some = f", {len(front)} of {len(answer.pareto)}" if len(front) < len(answer.pareto) else ""
    return Section(title=f"{BEATEN}{some}", table=Table(columns=columns, whole=True), detail=True)
