"""Which engines share parameters: offsets from a kin engine's, and an effect of its own on each vendor's GPUs."""

from __future__ import annotations

from functools import cache

from catalog.engines import all_engines
from catalog.errors import InputError
from catalog.gpus import find_gpu


@cache
def kin_of(family: str) -> str:
    """Return the engine from whose parameters those of a family are offsets; empty: none."""
    return next((engine.kin for engine in all_engines() if engine.name == family), "")


@cache
def stack_of(family: str, gpu: str) -> str:
    """Return under which name the effect of an engine on GPUs of one vendor is kept: on AMD's its kernels are others."""
    try:
        vendor = find_gpu(gpu).value.vendor
    except InputError:  # any GPU
        vendor = ""
    return f"{family}, AMD" if vendor == "amd" else family
