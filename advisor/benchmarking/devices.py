"""On what to measure: GPUs of this machine, processes on its CPU, or named GPUs for which a list is only made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.prediction.inputs import read_cluster
from catalog.errors import InputError, Note
from catalog.gpus import NO_GPU, find_gpu
from catalog.schema import Cluster, Gpu
from catalog.units import GIB
from probes.devices import in_the_way, local_gpus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from probes.gpu_telemetry import GpuState

HOW = "local for all of this machine's, 2 for two of them, 0,3 for these (3, for that one alone)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTarget:
    """GPUs or processes to measure on."""

    cluster: Cluster
    indices: tuple[int, ...] | None
    """As nvidia-smi counts them; on a CPU the numbers of processes. None: GPUs that are not here."""
    notes: tuple[Note, ...] = ()


def read_target(gpus: str | Cluster, *, device: str) -> ProbeTarget:
    """Read what ``gpus`` means: "local", a number, indices ("0,1"), or GPUs by name ("4xH200"), which are not looked
    for.

    Raises:
        InputError: no such GPU, GPUs of several kinds, or one that the catalog does not know.

    """
    if device not in ("cuda", "cpu"):
        raise InputError(f"device is {device!r:.40}; it must be cuda or cpu")
    if isinstance(gpus, Cluster):
        return ProbeTarget(cluster=gpus, indices=None)
    plain = gpus.strip().casefold()
    parts = [part.strip() for part in plain.split(",")]
    if plain != "local" and not all(part.isdigit() for part in parts if part):
        cluster = read_cluster(gpus)
        return ProbeTarget(cluster=cluster.value, indices=None, notes=cluster.notes)
    count = int(plain) if plain.isdigit() else None
    named = None if plain == "local" or count is not None else tuple(int(part) for part in parts if part)
    if count == 0 or named == () or (named and len(set(named)) < len(named)):
        raise InputError(f"gpus is {gpus!r:.40}; it must be {HOW}")
    if device == "cpu":
        indices = named or tuple(range(count or os.cpu_count() or 1))
        return ProbeTarget(cluster=Cluster(gpu=_cpu(len(indices)), gpus_per_node=len(indices)), indices=indices)
    return _here(local_gpus(), count, named)


def _here(states: Sequence[GpuState], count: int | None, named: tuple[int, ...] | None) -> ProbeTarget:
    if count is not None and count > len(states):
        raise InputError(f"gpus is {count}; there are {len(states)} here ({_names(states)})")
    known = {state.index: state for state in states}
    for index in named or ():
        if index not in known:
            raise InputError(f"there is no GPU {index} here; there are {', '.join(map(str, known))} ({_names(states)})")
    chosen = [known[index] for index in named] if named else list(states)[:count]
    if len({state.name for state in chosen}) > 1:
        kinds = ", ".join(f"GPU {state.index} is {state.name}" for state in chosen)
        raise InputError(
            f"GPUs of several kinds are named: {kinds}; name those of one kind, such as {chosen[0].index},"
        )
    try:
        gpu = find_gpu(chosen[0].name)
    except InputError as error:
        raise InputError(f"{error}; or describe it in gpus.toml of $ADVISOR_HOME") from error
    cluster = Cluster(gpu=gpu.value, gpus_per_node=len(chosen))
    return ProbeTarget(cluster=cluster, indices=tuple(state.index for state in chosen), notes=gpu.notes)


def check_free(indices: Sequence[int]) -> None:
    """Raise ``InputError`` if GPUs of this machine cannot be measured on as they stand: one line for all of them."""
    if lines := in_the_way(list(indices)):
        raise InputError("; ".join(lines))


def _names(states: Sequence[GpuState]) -> str:
    return ", ".join(dict.fromkeys(state.name for state in states))


def _cpu(processes: int) -> Gpu:
    """Describe one process's part of this machine's CPU: the user's own table of that name, or round figures to plan
    by.
    """
    try:
        return find_gpu(NO_GPU).value
    except InputError:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / processes / GIB
        return Gpu(name=NO_GPU, memory_gib=memory, memory_bandwidth_gbps=10.0, fp16_tflops=0.1)
