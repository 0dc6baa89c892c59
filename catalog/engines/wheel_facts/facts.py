"""One fact of a release beside the catalog's, and how the two compare."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from catalog.engines import launch
from catalog.engines.kv_cache import graph_sizes
from catalog.engines.registry import minor_release
from catalog.engines.wheel_facts.options import command_options
from catalog.engines.wheel_facts.wheel import MissingFactError
from catalog.gpus import all_gpus
from catalog.schema import Deployment

if TYPE_CHECKING:
    from catalog.engines.registry import Engine
    from catalog.engines.wheel_facts.wheel import Wheel
    from catalog.schema import Gpu

_LONGEST = 100
DEGREES = (1, 4)
"""Degrees of tensor parallelism that defaults are compared at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that a wheel says and the catalog states."""

    name: str
    path: str
    """File of the package, or files, that say it."""
    read: Callable[[Wheel, Engine], Any]
    stated: Callable[[Engine, Wheel], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedFact:
    """A fact as both have it."""

    name: str
    path: str
    verdict: Literal["same", "differs", "not found"]
    lines: tuple[str, ...]
    """Both values in a line each, or the one they share, or what was not found."""


def compare(fact: Fact, engine: Engine, wheel: Wheel) -> ComparedFact:
    """Read a fact in the wheel and compare it with the catalog's."""
    stated = fact.stated(engine, wheel)
    try:
        read = fact.read(wheel, engine)
    except MissingFactError as error:
        lines = (f"{error}", f"catalog: {_shown(stated)}")
        return ComparedFact(name=fact.name, path=fact.path, verdict="not found", lines=lines)
    if read == stated:
        return ComparedFact(name=fact.name, path=fact.path, verdict="same", lines=(_shown(read),))
    return ComparedFact(name=fact.name, path=fact.path, verdict="differs", lines=_differences(read, stated))


def _differences(read: Any, stated: Any) -> tuple[str, ...]:
    if isinstance(read, Mapping) and isinstance(stated, Mapping):
        keys = [*stated, *(key for key in read if key not in stated)]
        return tuple(
            f"{key}: wheel {_shown(read.get(key))}, catalog {_shown(stated.get(key))}"
            for key in keys
            if read.get(key) != stated.get(key)
        )
    if isinstance(read, frozenset) and isinstance(stated, frozenset):
        lines = (("wheel alone", read - stated), ("catalog alone", stated - read))
        return tuple(f"{who}: {_shown(names)}" for who, names in lines if names)
    return (f"wheel: {_shown(read)}", f"catalog: {_shown(stated)}")


def _shown(value: Any) -> str:
    """Write a value in one line; of long ones how many there are."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        different = {repr(part): part for part in value.values()}
        if len(value) > 1 and len(different) == 1:
            return f"{_shown(next(iter(different.values())))} in {len(value)} cases"
        text = ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
        return text if len(text) <= _LONGEST else f"{len(value)} cases"
    if isinstance(value, frozenset | tuple | list):
        parts = sorted(value) if isinstance(value, frozenset) else value
        text = ", ".join(map(_shown, parts)) or "none"
        return text if len(text) <= _LONGEST else f"{len(parts)} values, from {_shown(parts[0])} to {_shown(parts[-1])}"
    return str(value)


def gpus_of(engine: Engine) -> tuple[Gpu, ...]:
    """Return the GPUs of the catalog that an engine runs on."""
    return tuple(gpu for gpu in all_gpus() if not engine.refusal(gpu))


def stated_graphs(engine: Engine, gpu: Gpu, version: str, *, seqs: int, tokens: int, tp: int = 1) -> tuple[int, ...]:
    """Return the batch sizes that the catalog says CUDA graphs are captured for."""
    deployment = Deployment(
        engine=engine.name,
        engine_version=version,
        tp=tp,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        compiled=True,
    )
    return graph_sizes(engine, gpu, deployment)


def is_later(engine: Engine, wheel: Wheel) -> bool:
    """Return whether a wheel is of a later release than the one that the fit is of."""
    return minor_release(wheel.version) > minor_release(engine.fitted_release or engine.version)


def online_quantisation(path: str, read: Callable[[Wheel, Engine], frozenset[str]]) -> Fact:
    """Return the fact which formats an engine makes of 16-bit weights while it loads them."""
    return Fact(name="online quantisation", path=path, read=read, stated=lambda engine, _: frozenset(engine.online))


def metrics(paths: Callable[[Wheel], list[str]], where: str) -> Fact:
    """Return the fact that the metrics of the catalog are those of the engine."""

    def read(wheel: Wheel, engine: Engine) -> frozenset[str]:
        text = "".join(wheel.source(path) for path in paths(wheel))
        declared = {_bare(name) for name in re.findall(rf"[\"']({wheel.engine}:[a-z0-9_]+)[\"']", text)}
        return frozenset(declared.intersection(map(_bare, engine.metrics.names)))

    return Fact(
        name="metrics", path=where, read=read, stated=lambda engine, _: frozenset(map(_bare, engine.metrics.names))
    )


def _bare(metric: str) -> str:
    """Return a metric's name as it is declared: clients append "_total" to counters."""
    return metric.removesuffix("_total")


def options(path: str) -> Fact:
    """Return the fact that the engine takes every option that its commands are written with."""

    def written(engine: str) -> frozenset[str]:
        text = Path(launch.__file__).with_name(f"{engine}.py").read_text(encoding="utf-8")
        return frozenset(re.findall(r"\"(--[a-z0-9-]+)\"", text))

    return Fact(
        name="options of our commands",
        path=path,
        read=lambda wheel, engine: written(engine.name) & frozenset(command_options(wheel)),
        stated=lambda engine, _: written(engine.name),
    )
