"""Published scaling of logic nodes, memory generations and links, and what some GPUs are made of."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError
from catalog.names import suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = Path(__file__).parent / "data" / "technology.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicNode:
    """A generation of logic."""

    name: str
    nm: float
    density: float
    """Of transistors, relative to N7, ..."""
    energy: float
    """... and of an operation at the same speed, likewise."""
    extrapolated: bool = False
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DramGeneration:
    """A generation of memory: one stack of HBM, or one chip of GDDR."""

    name: str
    gbps: float
    gib: float
    pj_per_bit: float
    stacks: int = 0
    """As many as there usually are; 0: as many as the GPU has."""
    extrapolated: bool = False
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkGeneration:
    """A generation of links between GPUs or of networks between nodes, per GPU and direction."""

    name: str
    gbps: float
    extrapolated: bool = False
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuTechnology:
    """What a GPU is made of."""

    name: str
    node: str
    mm2: float
    stacks: int
    network: str
    """Of the clusters of its time."""
    source: str


@cache
def _tables() -> Mapping[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


@cache
def logic_nodes() -> dict[str, LogicNode]:
    """Return every logic node, the coarsest first."""
    return {name: LogicNode(name=name, **values) for name, values in _tables()["logic"].items()}


@cache
def dram_generations() -> dict[str, DramGeneration]:
    """Return every generation of memory, the slowest first."""
    return {name: DramGeneration(name=name, **values) for name, values in _tables()["dram"].items()}


@cache
def link_generations(kind: str) -> dict[str, LinkGeneration]:
    """Return every generation of ``kind``: "link" or "network", the slowest first."""
    return {name: LinkGeneration(name=name, **values) for name, values in _tables()[kind].items()}


def gpu_technology(gpu: str) -> GpuTechnology:
    """Return what the GPU of that name is made of.

    Raises:
        InputError: it is not known.

    """
    for name, values in _tables()["gpus"].items():
        if gpu.startswith(name):
            return GpuTechnology(name=name, **values)
    known = ", ".join(_tables()["gpus"])
    raise InputError(f"logic node and area of {gpu} are not known; those of {known} are")


def find_generation(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """Return the generation of that name.

    Raises:
        InputError: there is none of that name.

    """
    wanted = name.strip().casefold().replace(" ", "")
    for generation, value in known.items():
        if generation.casefold() == wanted:
            return value
    raise InputError(f"unknown {kind} {name[:40]!r}; {suggestion(name, known, otherwise='known: ' + ', '.join(known))}")
