"""Simulations as a person reads them: one in detail, several side by side, and as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.prediction.estimation import ENERGY
from advisor.render.lines import energy_line, hardware, header, labelled, notes, sources_line
from advisor.render.numbers import MS, count, share, short, span, unit_of
from advisor.render.tables import ESSENTIAL, Column, drawn, time_column
from advisor.render.vocabulary import METRIC_NAMES, layout_name
from advisor.simulator.simulation import RATES
from catalog.engines import find_engine
from catalog.models.sizes import parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.console import RenderableType

    from advisor.simulator.simulation import Simulation
    from catalog.schema import Deployment

BARS = "▁▂▃▄▅▆▇█"
POINTS = 40
"""Of a curve drawn with them."""


def simulation_view(found: Sequence[Simulation], width: int, *, wide: bool = False) -> list[RenderableType]:
    """Everything to print, in order."""
    first = found[0]
    view: list[RenderableType] = [header(head(first), width)]
    view += [labelled(notes(note for each in found for note in each.notes)), ""]
    if len(found) == 1:
        view += [drawn(metric_columns(first), width), "", labelled(told(first))]
    else:
        chosen = best(found)
        view += [drawn(comparison_columns(found), None if wide else width, emphasised=chosen), ""]
        view.append(labelled([("source", sources_line(each.provenance for each in found))]))
    return view


def columns_of(found: Sequence[Simulation]) -> list[Column]:
    """The table of one simulation, or of several."""
    return metric_columns(found[0]) if len(found) == 1 else comparison_columns(found)


def layout_of(found: Simulation) -> str:
    """The layout, of both pools where prompts have their own: "1 x TP2 PP1 for prompts, 2 x TP1 PP1"."""
    if found.prefill is None:
        return layout_name(found.deployment)
    names = [name if " x " in name else f"1 x {name}" for name in map(layout_name, (found.prefill, found.deployment))]
    return f"{names[0]} for prompts, {names[1]}"


def head(found: Simulation) -> list[str]:
    """Model, hardware, engine and traffic."""
    engine = find_engine(found.deployment.engine)
    loads = found.served.loads
    lengths = f"{loads.given / loads.requests:.0f} in / {loads.made / loads.requests:.0f} out"
    coming = f"{found.concurrency} in flight" if found.concurrency else f"{short(found.rate)} requests/s"
    return [
        f"{found.model.name}  {count(parameters(found.model))}",
        hardware(found.cluster),
        f"{engine.name} {engine.version}",
        f"{coming} for {short(found.duration_s)} s, {lengths}, {len(found.served)} requests",
    ]


def metric_columns(found: Simulation) -> list[Column]:
    """The latencies, one a row: mean and percentiles, and the interval of the 95th."""
    names = list(METRIC_NAMES)
    statistics = list(found.metrics["ttft_ms"])
    units = {name: unit_of(found.metrics[name].values()) for name in names}
    rows = [METRIC_NAMES[name] if unit is MS else f"{METRIC_NAMES[name]}, {unit.name}" for name, unit in units.items()]
    columns = [Column(name=MS.name, cells=rows, right=False)]
    columns += [
        Column(
            name=each,
            cells=[unit.short(found.metrics[name][each]) for name, unit in units.items()],
            rank=2 if each == "p90" else 0,
        )
        for each in statistics
    ]
    if found.scale is not None:
        cells = [unit.span(*found.interval(name, "p95")) for name, unit in units.items()]
        columns.append(Column(name="90% interval", unit="of p95", cells=cells, rank=1))
    return columns


def comparison_columns(found: Sequence[Simulation]) -> list[Column]:
    """One deployment a row."""
    percentile = f"p{found[0].slo.percentile:g}" if found[0].slo and found[0].slo.percentile else "p95"

    def times(metric: str, statistic: str, rank: int = ESSENTIAL) -> Column:
        values = [each.metrics[metric][statistic] for each in found]
        return time_column(METRIC_NAMES[metric], values, of=statistic, rank=rank)

    knobs = _differing([each.deployment for each in found])
    columns = [Column(name="deployment", cells=[layout_of(each) for each in found], right=False)]
    columns += [
        Column(name=name, cells=[str(getattr(each.deployment, name)) for each in found], rank=2) for name in knobs
    ]
    columns += [
        Column(name="GPUs", cells=[str(each.gpus_used) for each in found]),
        times("ttft_ms", "p50", rank=3),
        times("ttft_ms", percentile),
        times("tpot_ms", "p50", rank=3),
        times("tpot_ms", percentile),
        times("e2e_ms", percentile, rank=4),
        Column(name="output", unit="tok/s", cells=[short(each.output_tok_s) for each in found], rank=5),
        Column(name="saturates", unit="requests/s", cells=[short(each.saturation_s) for each in found]),
        Column(name="KV", unit="peak", cells=[share(each.kv_peak) for each in found], rank=6),
    ]
    if found[0].meets is not None:
        columns += [
            Column(name="good", unit="of requests", cells=[f"{each.good:.1%}" for each in found], rank=1),
            Column(name="limits", cells=["kept" if each.meets else "missed" for each in found], right=False),
        ]
    return columns


def _differing(deployments: Sequence[Deployment]) -> list[str]:
    """Knobs beside the layout in which the deployments differ."""
    names = (
        "engine",
        "dtype",
        "kv_dtype",
        "max_num_seqs",
        "max_num_batched_tokens",
        "max_model_len",
        "gpu_memory_utilization",
    )
    return [name for name in names if len({getattr(each, name) for each in deployments}) > 1]


def best(found: Sequence[Simulation]) -> int | None:
    """Of those that keep the limits the one with the fewest GPUs, then the shortest requests; None without limits."""
    good = [i for i, each in enumerate(found) if each.meets]
    return min(good, key=lambda i: (found[i].gpus_used, found[i].metrics["e2e_ms"]["mean"]), default=None)


def told(found: Simulation) -> list[tuple[str, Sequence[str]]]:
    """Labelled lines below the table of one simulation."""

    def rate(name: str) -> str:
        value = short(getattr(found, name))
        return value if found.scale is None else f"{value} {span(*found.interval(name))}"

    used = f"{layout_of(found)}, {found.gpus_used} of {found.cluster.num_gpus} GPUs"
    rates = [f"{rate('completed_s')} requests/s completed, {rate('output_tok_s')} output tok/s"]
    rates.append(f"saturated at {rate('saturation_s')} requests/s")
    entries: list[tuple[str, Sequence[str]]] = [("layout", [used]), ("rates", rates)]
    if found.meets is not None:
        assert found.slo is not None
        at = "on the mean" if found.slo.percentile is None else f"at p{found.slo.percentile:g}"
        kept = (
            f"{'kept' if found.meets else 'missed'} {at}; {found.good:.1%} of the requests keep them all by themselves"
        )
        entries.append(("limits", [f"{kept}: {rate('goodput_s')} good requests/s"]))
    curves = [
        f"{bars(found.timeline[name])}  {what} {short(found.timeline[name].min())} to {short(found.timeline[name].max())}"
        for name, what in (("running", "running"), ("waiting", "waiting"), ("preemptions_s", "preemptions/s"))
        if name != "preemptions_s" or found.preemptions
    ]
    entries.append(("in time", curves))
    kv = f"at most {share(found.kv_peak)} of {found.kv_capacity_tokens} tokens a replica; {found.preemptions} preemptions"
    entries.append(("KV", [kv]))
    if found.energy_j_per_token is not None:
        each = found.energy_j_per_token
        entries.append(("energy", [energy_line(each, found.interval(ENERGY) if found.scale else None)]))
    entries += [("source", sources_line([found.provenance]))]
    return entries


def bars(values: NDArray[np.float64], points: int = POINTS) -> str:
    """A curve from 0 as a line of bars."""
    means = np.array([part.mean() for part in np.array_split(values, min(points, len(values)))])
    top = means.max()
    heights = np.zeros(len(means), dtype=int) if top <= 0 else np.rint(means / top * (len(BARS) - 1)).astype(int)
    return "".join(BARS[height] for height in heights)


def simulation_row(found: Simulation) -> dict[str, Any]:
    """One flat row: the deployment, the rates, and every statistic, some with the ends of their 90% intervals."""
    deployment = found.deployment
    row: dict[str, Any] = {
        "model": found.model.name, "cluster": str(found.cluster), "engine": deployment.engine, "dp": deployment.dp,
        "tp": deployment.tp, "pp": deployment.pp, "ep": deployment.ep, "gpus_used": found.gpus_used,
        "max_num_seqs": deployment.max_num_seqs, "max_num_batched_tokens": deployment.max_num_batched_tokens,
        "dtype": deployment.dtype, "kv_dtype": deployment.kv_dtype, "rate": found.rate, "concurrency": found.concurrency,
        "prefill_replicas": found.prefill.dp if found.prefill else 0,
        "prefill_tp": found.prefill.tp if found.prefill else None,
        "duration_s": found.duration_s, "requests": len(found.served),
    }  # fmt: skip
    for name in RATES:
        row[name] = getattr(found, name)
        if found.scale is not None:
            row[f"{name}_low"], row[f"{name}_high"] = found.interval(name)
    for metric, statistics in found.metrics.items():
        for statistic, value in statistics.items():
            name = f"{metric.removesuffix('_ms')}_{statistic}_ms"
            row[name] = value
            if found.scale is not None:
                row[f"{name}_low"], row[f"{name}_high"] = found.interval(metric, statistic)
    return row | {
        "energy_j_per_token": found.energy_j_per_token, "good": found.good, "meets": found.meets, "preemptions": found.preemptions, "kv_peak": found.kv_peak,
        "kv_capacity_tokens": found.kv_capacity_tokens, "provenance": found.provenance,
    }  # fmt: skip
