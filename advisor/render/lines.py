"""Labelled lines under a table, the header above it, and commands broken where a shell allows it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from advisor.render.numbers import dollars, short, span, wh_per_mtok
from advisor.render.vocabulary import PROVENANCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from catalog.errors import Note
    from catalog.schema import Cluster, Price

LABEL = 8
"""Width of the label with the space after it."""

PARTS = {
    "weights": "weights",
    "kv_cache": "KV cache",
    "activations": "activations",
    "engine": "engine",
    "reserved": "left free",
}

STATED = "stated by the user"
"""The provider of a price that came with the question."""


def labelled(entries: Iterable[tuple[str, Sequence[str]]]) -> Table:
    """Lines with their label to the left, wrapped beside it."""
    grid = Table.grid()
    grid.add_column(width=LABEL, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, lines in entries:
        for i, line in enumerate(lines):
            style = "yellow" if label == "warning" else ""
            grid.add_row(Text(label if i == 0 else "", style=style or "bold cyan"), Text(line, style=style))
    return grid


def header(parts: Sequence[str], width: int) -> Text:
    """The parts on as few lines as they need, broken between them."""
    lines: list[str] = []
    for part in parts:
        joined = f"{lines[-1]}  |  {part}" if lines else part
        if lines and cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    return Text("\n".join(lines), style="bold")


def hardware(cluster: Cluster) -> str:
    """The GPUs and what joins them: "4 x A100-SXM-80GB  NVLink"."""
    count = f"{cluster.nodes} nodes x {cluster.gpus_per_node}" if cluster.nodes > 1 else str(cluster.num_gpus)
    links = [interconnect(cluster)] if cluster.gpus_per_node > 1 else []
    if cluster.nodes > 1:
        links.append(f"{cluster.network_gbps:g} GB/s network")
    return f"{count} x {cluster.gpu.name}  {', '.join(links)}".rstrip()


def interconnect(cluster: Cluster) -> str:
    """What joins the GPUs of a node, as the model of time sees it."""
    gpu = cluster.gpu
    link = "xGMI" if gpu.vendor == "amd" else "NVLink"
    if not gpu.nvlink_gbps or gpu.topology in {"pairs", "pcie"}:
        return "PCIe"
    return f"{link} mesh" if gpu.topology == "mesh" else link


def memory_line(memory: Mapping[str, float]) -> str:
    """The fullest GPU's memory by part."""
    parts = [f"{name} {short(memory[part])}" for part, name in PARTS.items() if memory[part] > 0]
    return f"{' | '.join(parts)}, of {short(memory['device'])} GiB a GPU"


def cost_line(usd_per_mtok: float | None, price: Price | None) -> str:
    """Dollars for a million output tokens, and whose price that takes; empty without one."""
    if usd_per_mtok is None or price is None:
        return ""
    kind = "illustrative figure, no offer" if price.illustrative else price.kind
    parts = (price.provider,) if price.provider == STATED else (price.provider, price.instance, kind, price.as_of)
    where = ", ".join(filter(None, parts))
    return f"{dollars(usd_per_mtok)} per million output tokens at ${price.usd_per_gpu_hour:g} per GPU-hour ({where})"


def energy_line(joules: float, interval: tuple[float, float] | None) -> str:
    """Energy of an output token, and of a million of them."""
    ends = "" if interval is None else f" {span(*interval)}"
    return f"{short(joules)}{ends} J an output token on the GPUs, {short(wh_per_mtok(joules))} Wh a million"


def sources_line(provenances: Iterable[str]) -> list[str]:
    """What the words in a source column mean."""
    return [PROVENANCE[each] for each in dict.fromkeys(provenances)]


def corrected_line(runs: int) -> list[str]:
    """What runs nearby have to do with a prediction, if there are any."""
    return [f"corrected by {runs} runs of this model nearby"] if runs else []


def notes(found: Iterable[Note]) -> list[tuple[str, list[str]]]:
    """Notes first, then warnings, as entries of ``labelled``; what another one says too is left out."""
    given = list(dict.fromkeys(found))
    unique = [note for note in given if not any(note.text in other.text for other in given if other is not note)]
    kinds = {kind: [note.text for note in unique if note.kind == kind] for kind in ("note", "warning")}
    return [(kind, texts) for kind, texts in kinds.items() if texts]


def command_lines(argv: Sequence[str], width: int, *, variables: Mapping[str, str] | None = None) -> list[str]:
    r"""The command as a shell reads it, broken before options with a ``\`` where it is longer than ``width``."""
    pieces: list[list[str]] = []
    for word in argv:
        if word.startswith("-") or not pieces:
            pieces.append([])
        pieces[-1].append(word)
    before = [f"{name}={shlex.quote(value)}" for name, value in (variables or {}).items()]
    texts = [*before, *map(shlex.join, pieces)]
    whole = " ".join(texts)
    if len(whole) <= width:
        return [whole]
    lines: list[str] = []
    for text in texts:
        joined = f"{lines[-1]} {text}" if lines else text
        if lines and len(joined) + 2 <= width:
            lines[-1] = joined
        else:
            lines.append(f"  {text}" if lines else text)
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def facts_grid(facts: Mapping[str, str]) -> Table:
    """Names and values, long values wrapped beside their names."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        grid.add_row(Text(name, style="bold cyan"), Text(value))
    return grid
