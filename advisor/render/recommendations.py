"""A recommendation as a person reads it: what to run, what was close, why, where it ends, and how to start it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from advisor.prediction.explanation import layout
from advisor.render.catalogs import stored_bits
from advisor.render.estimates import weights_gib
from advisor.render.lines import (
    LABEL,
    command_lines,
    corrected_line,
    hardware,
    header,
    labelled,
    memory_line,
    notes,
    sources_line,
)
from advisor.render.numbers import RATE, Unit, count, dollars, duration, limit, share, short, unit_of
from advisor.render.tables import Column, drawn, natural_width, time_column
from advisor.render.vocabulary import GOALS
from catalog.engines import find_engine, processes
from catalog.models.sizes import parameters
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from advisor.prediction.estimation import Estimate
    from advisor.recommendation.recommendation import Recommendation
    from catalog.engines.launch.process import Process
    from catalog.schema import Cluster

FRONT_ROWS = 12


def recommendation_view(found: Recommendation, width: int, *, wide: bool = False) -> list[RenderableType]:
    """Everything to print, in order; ``wide`` shows all columns and more detail."""
    shown = shown_of(found)
    room = None if wide else width
    view: list[RenderableType] = [header(head(found), width), labelled(read_notes(found)), ""]
    if found.best is None:
        view.append(Text("nothing feasible" + (", nearest:" if shown else ""), style="bold red"))
    if shown:
        columns = candidate_columns(found, shown)
        view += [drawn(columns, room, emphasised=0 if found.best else None), ""]
    view.append(labelled([*told(found, wide=wide), ("run", run_lines(found, width - LABEL))]))
    if wide and len(found.pareto) > 1:
        view += ["", *_front(found)]
    return view


def shown_of(found: Recommendation) -> Sequence[Estimate]:
    """The candidates, best first; where nothing is feasible, what comes nearest."""
    return found.candidates or ((found.nearest,) if found.nearest else ())


def head(found: Recommendation) -> list[str]:
    """The question: model, GPUs, engine, workload, goal and limits."""
    shown = shown_of(found)
    model = f"{found.model.name}  {count(parameters(found.model))}"
    if shown:
        one = shown[0]
        formats = {each.deployment.dtype for each in shown}
        if len(formats) == 1:
            model += f"  {one.deployment.dtype} {short(weights_gib(one))} GiB"
    engine = find_engine(found.engine)
    work = f"{found.workload.input_len} in / {found.workload.output_len} out"
    if found.workload.concurrency is not None:
        work += f", {found.workload.concurrency} in flight"
    limits = [
        f"{name} <= {limit(value)}"
        for name, value in (("TTFT", found.slo.ttft_ms), ("TPOT", found.slo.tpot_ms), ("E2E", found.slo.e2e_ms))
        if value is not None
    ]
    goal = GOALS.get(found.objective, found.objective)
    parts = [model, hardware(found.cluster), f"{engine.name} {engine.version}", work, ", ".join([goal, *limits])]
    return [" ".join(part.split("\n")) for part in parts]


def read_notes(found: Recommendation) -> list[tuple[str, list[str]]]:
    """How the question was read, and what is assumed."""
    return notes((*found.assumptions, *(found.best.notes if found.best is not None else ())))


def recommendation_answer(found: Recommendation) -> str:
    """What to run and what it reaches, in one sentence; or that nothing is feasible, and what comes nearest."""
    asked = f"{found.workload.input_len} in / {found.workload.output_len} out"
    if found.best is not None:
        return f"Run {_reached(found.best, found.cluster)} at {asked}."
    if found.nearest is None:
        return f"Nothing is feasible on {found.cluster}: {'; '.join(broken_limits(found))}."
    broken = "; ".join(broken_limits(found))
    return f"Nothing is feasible at {asked}: {broken}. Nearest: {_reached(found.nearest, found.cluster)}."


def _reached(estimate: Estimate, cluster: Cluster) -> str:
    deployment = estimate.deployment
    replicas = "1 replica" if deployment.dp == 1 else f"{deployment.dp} replicas"
    text = f"{replicas} of {layout(estimate)} on {deployment.num_gpus} of {cluster.num_gpus} {cluster.gpu.name}"
    if estimate.output_tok_s_per_gpu is None:
        return text
    money = f", {dollars(estimate.usd_per_mtok)} per million output tokens" if estimate.usd_per_mtok else ""
    return (
        f"{text}, batch {estimate.batch}: {short(estimate.output_tok_s_per_gpu)} tok/s per GPU "
        f"{_interval(estimate, 'output_tok_s_per_gpu')}, TTFT {duration(estimate.ttft_ms)}, "
        f"TPOT {duration(estimate.tpot_ms)}{money}"
    )


def layout_of(estimate: Estimate) -> str:
    """Replicas, tensor and pipeline parallel degrees: "2 x 2 x 1"."""
    deployment = estimate.deployment
    return f"{deployment.dp} x {deployment.tp} x {deployment.pp}"


def gib_in_use(estimate: Estimate) -> float:
    """What this batch fills of the fullest GPU; the engine takes the rest of its share for KV cache it may yet need."""
    memory = estimate.memory
    filled = min(estimate.running / estimate.max_concurrency, 1.0) if estimate.max_concurrency else 1.0
    return memory["weights"] + memory["activations"] + memory["engine"] + memory["kv_cache"] * filled


def _interval(estimate: Estimate, metric: str, unit: Unit = RATE) -> str:
    return unit.span(*estimate.interval(metric)) if getattr(estimate, metric) is not None else "-"


def candidate_columns(found: Recommendation, shown: Sequence[Estimate]) -> list[Column]:
    """All columns of the table of candidates, in order."""

    def cells(of: Callable[[Estimate], str]) -> list[str]:
        return [of(each) for each in shown]

    def rank(of: Callable[[Estimate], Any], otherwise: int) -> int:
        return 1 if len({of(each) for each in shown}) > 1 else otherwise

    marks = [">" if each is found.best else "" for each in shown]
    experts = any(each.deployment.ep > 1 for each in shown)
    device = short(found.cluster.gpu.memory_gib)
    cost = found.objective == "cost"
    latency = {"latency": "e2e_ms", "ttft": "ttft_ms", "tpot": "tpot_ms"}.get(found.objective, "")
    columns = [
        Column(name="", cells=marks),
        Column(name="replicas x TP x PP", narrow="DP x TP x PP", cells=cells(layout_of), right=False),
    ]
    if experts:
        columns.append(Column(name="EP", cells=cells(lambda e: str(e.deployment.ep))))
    columns += [
        Column(
            name="dtype",
            cells=cells(lambda e: e.deployment.dtype),
            rank=rank(lambda e: e.deployment.dtype, 9),
            right=False,
        ),
        Column(
            name="KV dtype",
            cells=cells(lambda e: e.deployment.kv_dtype),
            rank=rank(lambda e: e.deployment.kv_dtype, 9),
            right=False,
        ),
        Column(
            name="budget",
            unit="tokens",
            cells=cells(lambda e: str(e.deployment.max_num_batched_tokens)),
            rank=rank(lambda e: e.deployment.max_num_batched_tokens, 9),
        ),
        Column(name="batch", cells=cells(lambda e: str(e.batch))),
        Column(name="tok/s", unit="per GPU", cells=cells(lambda e: short(e.output_tok_s_per_gpu))),
    ]
    if latency:
        label = latency.removesuffix("_ms").upper()
        sought = [getattr(each, latency) for each in shown]
        columns += [
            Column(name="90% interval", rank=5,
                   cells=cells(lambda e: _interval(e, "output_tok_s_per_gpu"))),
            time_column(label, sought),
            Column(name="90% interval", cells=cells(lambda e: _interval(e, latency, unit_of(sought)))),
        ]  # fmt: skip
    else:
        columns.append(
            Column(
                name="90% interval",
                cells=cells(lambda e: _interval(e, "output_tok_s_per_gpu")),
            )
        )
    usd = Column(
        name="cost", unit="$/M tok", cells=cells(lambda e: dollars(e.usd_per_mtok).removeprefix("$")),
        rank=1 if cost else 4,
    )  # fmt: skip
    priced = any(each.usd_per_mtok is not None for each in shown)
    times = [(name, metric) for name, metric in (("TTFT", "ttft_ms"), ("TPOT", "tpot_ms")) if metric != latency]
    columns += [time_column(name, [getattr(each, metric) for each in shown], rank=1) for name, metric in times]
    columns += [usd] if priced and cost else []
    columns += [
        Column(
            name="memory",
            unit=f"of {device} GiB",
            narrow_unit="GiB",
            cells=cells(lambda e: short(gib_in_use(e), 2)),
            rank=2,
        ),
        Column(name="source", cells=cells(lambda e: e.provenance), right=False, rank=rank(lambda e: e.provenance, 3)),
    ]
    columns += [usd] if priced and not cost else []
    if latency != "e2e_ms":
        columns.append(time_column("E2E", [each.e2e_ms for each in shown], rank=5))
    columns += [
        Column(name="tok/s", unit="in all", cells=cells(lambda e: short(e.output_tok_s)), rank=6),
        Column(name="GPUs", unit="used", cells=cells(lambda e: str(e.deployment.num_gpus)), rank=7),
        Column(name="KV room", unit="requests", cells=cells(lambda e: str(e.max_concurrency)), rank=8),
    ]
    return columns


def told(found: Recommendation, *, wide: bool) -> list[tuple[str, Sequence[str]]]:
    """The labelled lines under the table: why, limits, what would tell more."""
    shown = shown_of(found)
    entries: list[tuple[str, Sequence[str]]] = []
    if shown:
        first = shown[0]
        # the assumptions name the offer
        cost = f"{dollars(first.usd_per_mtok)} per million output tokens" if first.usd_per_mtok else ""
        entries += [
            ("why", found.why),
            ("memory", [memory_line(first.memory)]),
            ("cost", [cost] if cost else []),
            ("source", [*sources_line(each.provenance for each in shown), *corrected_line(first.corrected_by)]),
        ]
    if found.best is None:
        entries += [("why", broken_limits(found)), ("relax", found.relaxations)]
    entries.append(("limit", found.limits))
    if wide and found.importances:
        ranked = [f"{name} {share(value)}" for name, value in found.importances.items() if value >= 0.005]
        entries.append(("choices", [f"what explains the objective: {', '.join(ranked)}"] if ranked else []))
    entries += [("next", [found.next_probe] if found.next_probe else []), ("search", [_search(found)])]
    return entries


def run_lines(found: Recommendation, width: int) -> list[str]:
    """What starts the best deployment, to be copied."""
    if found.best is None or not found.command:
        return []
    return start_lines(found.command, processes(found.best.deployment, found.model, found.cluster), width)


def start_lines(command: Sequence[str], started: Sequence[Process], width: int) -> list[str]:
    """A command to be copied; where it takes several processes, the first and how many."""
    lines = command_lines(command, width, variables=started[0].environment)
    if len(started) > 1 or started[0].files:
        what = f"the first of {len(started)} processes" if len(started) > 1 else "it reads a file"
        lines.append(f"# {what}; advisor export writes all there is")
    return lines


def broken_limits(found: Recommendation) -> list[str]:
    """Which limits the nearest deployment breaks, in numbers."""
    nearest = found.nearest
    if nearest is None or not nearest.fits:
        memory = found.cluster.gpu.memory_gib * found.cluster.num_gpus
        stored = parameters(found.model) * stored_bits(found.model) / 8.0 / GIB
        needs = f"the checkpoint has {short(stored)} GiB, the GPUs {short(memory)} GiB in all"
        return [f"no layout holds the weights and a request: {needs}"]
    broken = []
    if nearest.batch > nearest.max_concurrency:
        broken.append(f"KV cache for {nearest.max_concurrency} of {nearest.batch} requests per replica")
    for name, metric in (("TTFT", "ttft_ms"), ("TPOT", "tpot_ms"), ("E2E", "e2e_ms")):
        most, value = getattr(found.slo, metric), getattr(nearest, metric)
        if most is not None and value is not None and value > most:
            broken.append(f"{name} {duration(value)}, above {limit(most)}")
    return broken


def _search(found: Recommendation) -> str:
    how = "every valid deployment" if found.exact else "a sample"
    text = f"{how} evaluated ({found.evaluated:,})"
    if found.storage is not None:
        from search.storage import redacted  # brings Optuna, which has then been loaded anyway

        text += f"; study {found.study_name} in {redacted(found.storage)}"
    return text


def _front(found: Recommendation) -> list[RenderableType]:
    front = found.pareto[:: max(len(found.pareto) // FRONT_ROWS, 1)]
    columns = [
        Column(name="replicas x TP x PP", cells=[layout_of(each) for each in front], right=False),
        Column(name="batch", cells=[str(each.batch) for each in front]),
        Column(name="tok/s", unit="per user", cells=[short(1e3 / each.tpot_ms if each.tpot_ms else None) for each in front]),
        Column(name="tok/s", unit="per GPU", cells=[short(each.output_tok_s_per_gpu) for each in front]),
    ]  # fmt: skip
    some = f", {len(front)} of {len(found.pareto)}" if len(front) < len(found.pareto) else ""
    title = Text(f"Not beaten in both speed for a user and throughput per GPU{some}:", style="bold")
    return [title, drawn(columns, natural_width(columns))]
