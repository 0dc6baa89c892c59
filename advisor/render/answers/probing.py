"""What is going to be measured, and what became of it, as documents and as rows."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from advisor.render.answers.measured import document as measured_document
from advisor.render.document import Document, Section, Table
from advisor.render.lines import hardware, notes
from advisor.render.numbers import short
from advisor.render.tables import Column
from catalog.errors import Note
from catalog.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.benchmarking.session import ProbeSession
    from catalog.schema import Measurement
    from probes.benchmark_plan import BenchmarkJob
    from probes.serving_benchmark import TrafficProfile


def plan_document(ready: ProbeSession) -> Document:
    """Return what would run, in order, and how long; nothing is started by looking."""
    models = dict.fromkeys(load.model.name for load in ready.all_loads)
    formats = dict.fromkeys(load.deployment.dtype for load in ready.all_loads)
    cluster = ready.config.target.cluster
    where = f"{cluster.num_gpus} processes on this CPU" if ready.config.device == "cpu" else hardware(cluster)
    return Document(
        title="What is going to be measured",
        question=[*models, ", ".join(formats), where, ready.config.engine],
        notes=notes(ready.notes),
        sections=[Section(table=Table(columns=plan_columns(ready)) if ready.loads else None, lines=_outlook(ready))],
    )


def plan_columns(ready: ProbeSession) -> list[Column]:
    """Return one row a load, in the order in which they start."""
    loads = ready.loads
    return [
        Column(name="layout", cells=[load.deployment.layout for load in loads], right=False),
        Column(name="GPUs", cells=[str(load.deployment.num_gpus) for load in loads], rank=4),
        Column(
            name="traffic at in/out" if ready.serving else "batches at in/out",
            cells=[traffic_text(load) if load.offers else shapes_text(load) for load in loads],
            right=False,
        ),
        Column(name="takes", unit="s", cells=[f"{_takes(ready, load):.0f}" for load in loads]),
        Column(key="ends_s", name="ends at", unit="s", cells=[f"{ready.ends_s[load.name]:.0f}" for load in loads]),
        Column(name="load", cells=[load.name for load in loads], right=False, rank=6),
    ]


def plan_rows(ready: ProbeSession) -> list[dict[str, Any]]:
    """Return one row a load; ``load`` is the name that ``python -m probes.torch_engine.static --load`` takes."""
    return [
        {
            "load": load.name,
            "model": load.model.name,
            "tp": load.deployment.tp,
            "pp": load.deployment.pp,
            "gpus": load.deployment.num_gpus,
            "shapes": " ".join(f"{batch}x{input_len}+{output_len}" for batch, input_len, output_len in load.shapes),
            **({"offers": " ".join(offer.name for offer in load.offers)} if load.offers else {}),
            "expected_s": round(_takes(ready, load), 1),
            "ends_s": round(ready.ends_s[load.name], 1),
        }
        for load in ready.loads
    ]


def shapes_text(load: BenchmarkJob) -> str:
    """Return the batches by lengths: "1, 32 at 128/128; 1, 16 at 1024/128"."""
    by_lengths = sorted(load.shapes, key=lambda shape: (shape[1:], shape[0]))
    return "; ".join(
        f"{', '.join(str(shape[0]) for shape in shapes)} at {input_len}/{output_len}"
        for (input_len, output_len), shapes in groupby(by_lengths, key=lambda shape: shape[1:])
    )


def traffic_text(load: BenchmarkJob) -> str:
    """Return the traffic by lengths: "64, 256 in flight, Poisson at 50%, 80% at 1024/256"."""
    by_lengths = sorted(load.offers, key=lambda offer: (offer.input_len, offer.output_len))
    return "; ".join(
        f"{', '.join(_traffic(list(offers)))} at {lengths[0]}/{lengths[1]}"
        for lengths, offers in groupby(by_lengths, key=lambda offer: (offer.input_len, offer.output_len))
    )


def _traffic(offers: Sequence[TrafficProfile]) -> list[str]:
    closed = [str(offer.concurrency) for offer in offers if offer.concurrency]
    shares = [f"{offer.share:.0%}" for offer in offers if offer.share]
    rates = [f"{offer.rate:g} a second" for offer in offers if offer.rate]
    traces = [f"a trace of {len(offer.requests)} requests" for offer in offers if offer.requests]
    parts = [f"{', '.join(closed)} in flight"] if closed else []
    parts += [f"Poisson at {', '.join([*shares, *rates])}"] if shares or rates else []
    return parts + traces


def outcome_document(ready: ProbeSession, measured: Sequence[Measurement], before: int) -> Document:
    """Return the runs, where they are kept, and what was not measured."""
    counts = f"{len(measured) - before} measured now" + (f", {before} before" if before else "")
    lines: list[tuple[str, Sequence[str]]] = [("runs", [f"{counts}, kept in {ready.config.store}", _use(ready)])]
    lines.append(("traffic", [f"request by request in {ready.request_log}"] if ready.request_log else []))
    lines.append(("startup", _startup(ready)))
    lines.append(("skipped", [*ready.left_out, *_unmeasured(ready)]))
    lines += notes(note for note in ready.notes if note.kind == "warning")
    lines += notes(Note(text, "warning") for text in failures(ready))
    return measured_document(measured).and_lines([(label, texts) for label, texts in lines if texts])


def _unmeasured(ready: ProbeSession) -> list[str]:
    """Say for what no time was left, load by load."""
    return [
        f"{name}: no time was left for {counted(count, 'measurement')}; give the command again for the rest"
        for name, count in ready.unmeasured().items()
    ]


def _startup(ready: ProbeSession) -> list[str]:
    """Say how long engines took to start, where the runs have it."""
    seconds = ready.startup_s()
    if not seconds:
        return []
    span = f"{seconds[0]:.0f} s" if len(seconds) == 1 else f"{seconds[0]:.0f} to {seconds[-1]:.0f} s"
    return [f"{span} of each load, within the budget"]


def failures(ready: ProbeSession) -> list[str]:
    """Name the loads that failed, each with the last line of its log."""
    return [f"{log.stem} failed: {last:.300} (all of it in {log})" for log, last in ready.last_lines().items()]


def _takes(ready: ProbeSession, load: BenchmarkJob) -> float:
    return ready.start_s + sum(ready.seconds[load.name].values())


def _outlook(ready: ProbeSession) -> list[tuple[str, Sequence[str]]]:
    if not ready.loads:
        return [("runs", [f"all of it has been measured before, see {ready.config.store}"])]
    budget = "" if ready.config.budget_s is None else f" of a budget of {short(ready.config.budget_s)} s"
    runs = sum(map(len, ready.seconds.values()))
    what = "loops" if ready.serving else "batches"
    takes = f"{len(ready.loads)} loads, {runs} {what}: about {ready.expected_s:.0f} s{budget}"
    started = (
        f"of each load about {ready.start_s:.0f} s pass before its first {what.removesuffix('es').removesuffix('s')}"
    )
    lines: list[tuple[str, Sequence[str]]] = [("takes", [takes, started]), ("skipped", ready.left_out)]
    return [(label, texts) for label, texts in lines if texts]


def _use(ready: ProbeSession) -> str:
    if ready.is_own_store:
        return "advisor recommend and estimate stand on them from now on"
    return f"advisor recommend and estimate stand on them with --runs {ready.config.store}"
