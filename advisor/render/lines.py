"""Lines that several answers have: hardware, memory, cost, energy, what a number stands on, notes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.render.numbers import dollars, short, span, wh_per_mtok
from advisor.render.vocabulary import MEMORY_PARTS, PROVENANCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from advisor.capacity.information import MeasurementValue
    from catalog.errors import Note
    from catalog.schema import Cluster, Model, Price


def hardware(cluster: Cluster) -> str:
    """Name the GPUs and what joins them: "4 x A100-SXM-80GB  NVLink"."""
    count = f"{cluster.nodes} nodes x {cluster.gpus_per_node}" if cluster.nodes > 1 else str(cluster.num_gpus)
    links = [interconnect(cluster)] if cluster.gpus_per_node > 1 else []
    if cluster.nodes > 1:
        spine = ""
        if cluster.leaf_nodes and cluster.oversubscription > 1:
            spine = f", {cluster.oversubscription:g}:1 above {cluster.leaf_nodes} nodes"
        links.append(f"{cluster.network_gbps:g} GB/s network{spine}")
    return f"{count} x {cluster.gpu.name}  {', '.join(links)}".rstrip()


def interconnect(cluster: Cluster) -> str:
    """Name what joins the GPUs of a node, as the model of time sees it."""
    gpu = cluster.gpu
    if gpu.vendor == "cpu":
        return "links between sockets"
    link = "xGMI" if gpu.vendor == "amd" else "NVLink"
    if not gpu.nvlink_gbps or gpu.topology in {"pairs", "pcie"}:
        return "PCIe"
    return f"{link} mesh" if gpu.topology == "mesh" else link


def memory_line(memory: Mapping[str, float]) -> str:
    """Write the fullest GPU's memory by part."""
    parts = [f"{name} {short(memory[part])}" for part, name in MEMORY_PARTS.items() if memory.get(part, 0) > 0]
    return f"{' | '.join(parts)}, of {short(memory['device'])} GiB a GPU"


def cost_line(usd_per_mtok: float | None, price: Price | None) -> str:
    """Write dollars for a million output tokens, and whose price that takes; empty without one."""
    if usd_per_mtok is None or price is None:
        return ""
    return (
        f"{dollars(usd_per_mtok)} per million output tokens at ${price.usd_per_gpu_hour:g} per GPU-hour: {price.offer}"
    )


def energy_line(joules: float, interval: tuple[float, float] | None) -> str:
    """Write the energy of an output token, and of a million of them."""
    ends = "" if interval is None else f" {span(*interval)}"
    return f"{short(joules)}{ends} J an output token on the GPUs, {short(wh_per_mtok(joules))} Wh a million"


def sources_line(provenances: Iterable[str], gpus: Iterable[str] = ()) -> list[str]:
    """Say what the words in a source column mean; with ``gpus`` beside them, of which GPUs, where there are several."""
    words = list(provenances)
    named: dict[str, dict[str, None]] = {word: {} for word in words}
    for word, gpu in zip(words, gpus, strict=False):
        named[word][gpu] = None
    several = len(named) > 1
    return [
        f"{', '.join(of)}: {PROVENANCE[word]}" if several and of else PROVENANCE[word] for word, of in named.items()
    ]


def corrected_line(runs: int) -> list[str]:
    """Say what runs nearby have to do with a prediction, if there are any."""
    return [f"corrected by {runs} runs of this model nearby"] if runs else []


def measurements_line(values: Iterable[MeasurementValue], model: Model | None = None) -> list[tuple[str, list[str]]]:
    """Say what measuring a layout is worth, and how; ``model``: where there is one."""
    lines = [
        f"{value.deployment.parallelism}{f' of {value.model}' if value.model else ''} on {value.gpu} for {value.seconds:.0f} s: "
        f"worth ${value.usd_per_month:,.0f} a month in expectation, between ${value.usd_between[0]:,.0f} and ${value.usd_between[1]:,.0f}"
        for value in values
    ]
    if lines:
        named = "" if model is None else f"--model {model.name} "
        lines.append(f"how: on a machine with such GPUs, advisor probe {named}--gpus local --tp N --pp N --serving")
    return [("measure", lines)] if lines else []


def notes(given: Iterable[Note]) -> list[tuple[str, list[str]]]:
    """Return notes first, then warnings, as labelled lines; what another one says too is left out."""
    given = list(dict.fromkeys(given))
    unique = [note for note in given if not any(note.text in other.text for other in given if other is not note)]
    kinds = {kind: [note.text for note in unique if note.kind == kind] for kind in ("asked", "note", "warning")}
    return [(kind, texts) for kind, texts in kinds.items() if texts]


def tier_lines(hit_rate: float, below: Mapping[str, float] | None) -> list[str]:
    """Say how much of what a prefix cache hits is on the GPUs, and how much in each tier below them; nothing without tiers."""
    if not below:
        return []
    loaded = ", ".join(f"{rate:.1%} loaded from {name}" for name, rate in below.items())
    return [f"of them {hit_rate - sum(below.values()):.1%} on the GPUs, {loaded}"]
