"""Pools for prompts and outputs beside the best deployment without: a table of both, and whether pools pay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.prediction.option_words import engine_words
from advisor.render.document import Section, Table
from advisor.render.lines import sources_line
from advisor.render.next_command import command, layout_words, pool_words, whole_servers
from advisor.render.numbers import duration, share, short, span
from advisor.render.tables import Column, FlatRows
from advisor.render.vocabulary import METRIC_NAMES, TTFT, pools_name
from catalog.gpus import find_gpu
from catalog.schema import LATENCIES, Cluster

if TYPE_CHECKING:
    from advisor.recommendation.recommendation import Recommendation
    from advisor.render.document import ShellCommand
    from advisor.simulator.pool_splits import LoadedFleet, PoolComparison


COUNTS = {
    "throughput_per_gpu": "the throughput of a GPU",
    "throughput": "the throughput",
    "cost": "the output for a dollar",
}
"""What pools are compared by, for each objective."""


def pool_sections(answer: Recommendation) -> list[Section]:
    """Return both fleets, the verdict, and the command that serves requests on the pools; nothing where nobody asked."""
    comparison = answer.pools
    if comparison is None:
        return []
    fleets = [fleet for fleet in (comparison.pools, comparison.together) if fleet is not None]
    table = Table(columns=_columns(fleets), emphasised=None) if fleets else None
    lines = [("pools", [verdict(comparison, answer)])]
    lines += [("met", [_met(comparison.pools)])] if comparison.pools is not None else []
    lines.append(("search", [_method(comparison)]))
    lines += [("link", [comparison.link])] if comparison.link else []
    lines += [("source", sources_line(fleet.provenance for fleet in fleets))] if fleets else []
    sections = [Section(title="Pools for prompts and outputs", heading=True, table=table, lines=lines)]
    if comparison.pools is not None:
        sections.append(Section(title="The pools under traffic", command=_simulated(answer, comparison.pools)))
    return sections


def verdict(comparison: PoolComparison, answer: Recommendation) -> str:
    """Say in a line whether pools pay."""
    gain, pools = comparison.gain, comparison.pools
    limits = f"the limits with {share(answer.confidence)} confidence"
    bare = "" if comparison.bare_gain is None else f"; by the bare estimate {comparison.bare_gain:.2f} times"
    if answer.cluster.num_gpus == 1:
        return "do not pay: one GPU cannot be split"
    if pools is None:
        return f"do not pay: no split keeps {limits}{bare}"
    if gain is None:
        return f"pay: nothing without them keeps {limits}"
    unsure = "; no such pools were measured, and the intervals overlap" if comparison.overlap else ""
    sure = "" if comparison.bare_gain is None else f" with {share(answer.confidence)} confidence"
    pays = "pay" if gain > 1.0 else "do not pay"
    return (
        f"{pays}: {gain:.2f} times {COUNTS[answer.objective]} of the best deployment without them{sure}{bare}{unsure}"
    )


def _met(pools: LoadedFleet) -> str:
    """Say what requests meet on the pools, with 90% intervals."""
    met = [
        f"{METRIC_NAMES[name]} {duration(value, pools.intervals.get(name))}" for name, value in pools.latencies.items()
    ]
    carried = f"{short(pools.rate)} {span(*pools.rate_interval)} requests/s"
    handed = "" if pools.kv_transfer_ms is None else f"; of {TTFT} the KV cache takes {duration(pools.kv_transfer_ms)}"
    return f"with pools {carried}, {', '.join(met)}{handed}"


def _method(comparison: PoolComparison) -> str:
    load = "the most requests a second within the limits"
    if comparison.concurrency is not None:
        load = f"{comparison.concurrency} requests in flight on average"
    return f"{comparison.splits} splits by what each pool carries, the best of them simulated whole at {load}, at random times"


def _columns(fleets: list[LoadedFleet]) -> list[Column]:
    flat: list[dict[str, Any]] = []
    for fleet in fleets:
        prefill = None if fleet.prefill_gpu is None else Cluster(gpu=find_gpu(fleet.prefill_gpu).value, gpus_per_node=1)
        row: dict[str, Any] = {
            "layout": pools_name(fleet.deployment, fleet.prefill, prefill),
            "gpus": fleet.gpus,
            "rate": fleet.rate,
            "tok_s": fleet.output_tok_s_per_gpu,
            "usd_per_mtok": fleet.usd_per_mtok,
        }
        for name, value in {"rate": fleet.rate, **fleet.latencies}.items():
            ends = fleet.rate_interval if name == "rate" else fleet.intervals.get(name, (value, value))
            row |= {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}
        flat.append(row)
    rows = FlatRows(flat)
    columns = [
        rows.text("layout", "deployment"),
        rows.column("gpus", "GPUs"),
        rows.column("rate", "requests/s", short),
        rows.interval("rate", name="90%", unit="interval", rank=3),
        rows.column("tok_s", "tok/s", short, unit="per GPU"),
    ]
    for rank, metric in enumerate(LATENCIES):
        columns.append(rows.time(metric, METRIC_NAMES[metric], of="mean", rank=4 if metric == "e2e_ms" else 0))
        columns.append(rows.interval(metric, name="90%", unit="interval", times=True, rank=5 + rank))
    if any(rows.values("usd_per_mtok")):
        columns.append(
            rows.column("usd_per_mtok", "$/Mtok", lambda usd: "-" if usd is None else short(usd), unit="output", rank=2)
        )
    return columns


def _simulated(answer: Recommendation, pools: LoadedFleet) -> ShellCommand:
    """Return the command that serves requests on the pools."""
    assert pools.prefill is not None
    gpu = find_gpu(pools.gpu.partition(" (")[0]).value
    beside = 0 if pools.prefill_gpu else pools.prefill.num_gpus
    place = Cluster(gpu=gpu, gpus_per_node=pools.deployment.tp * pools.deployment.pp)
    return command(
        "simulate",
        answer.model,
        whole_servers(pools.deployment.num_gpus + beside, gpu, pools.gpu),
        *engine_words(pools.deployment, answer.model, place),
        *layout_words(pools.deployment),
        *pool_words(pools.prefill, pools.prefill_gpu),
        workload=answer.workload,
        slo=answer.slo,
        options={"--rate": f"{pools.rate:.3g}"},
        comment="what requests meet on the pools; its next command starts them",
    )
