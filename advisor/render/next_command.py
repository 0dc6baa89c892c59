"""The command to type after an answer, with the question's own lengths and limits."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from advisor.prediction.option_words import ADAPTER_OPTIONS, lengths, limits
from advisor.render.document import ShellCommand
from advisor.simulator.routers import FCFS
from catalog.features import HEADS, Adapters
from catalog.gpus import FABRIC, find_gpu
from catalog.schema import Cluster

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from catalog.schema import Deployment, Gpu, Model, Slo, Workload

NEXT = "next"
CHANGED = re.compile(r"(.+) \((\w+=[^,]+(?:, \w+=[^,]+)*)\)")
"""The name of a GPU with fields that ``--set-gpu`` changed (``catalog.gpus.with_overrides``)."""
USUAL = {field.name: field.default for field in fields(Cluster) if field.name in FABRIC}


def gpu_words(gpus: str | Cluster) -> list[str]:
    """Return the options of GPUs as they would be typed, what was changed of them and of the network included."""
    changed = CHANGED.fullmatch(str(gpus))
    name, changes = (changed[1], changed[2].split(", ")) if changed else (str(gpus), [])
    if isinstance(gpus, Cluster):
        changes += [f"{field}={value:g}" for field, usual in USUAL.items() if (value := getattr(gpus, field)) != usual]
    return ["--gpus", name.replace(" ", "-"), *(word for change in changes for word in ("--set-gpu", change))]


def command(
    name: str,
    model: Model,
    gpus: str | Cluster,
    *words: str,
    workload: Workload | None = None,
    slo: Slo | None = None,
    options: Mapping[str, object] | None = None,
    comment: str = "",
) -> ShellCommand:
    """Return ``advisor NAME`` of a model on GPUs.

    Args:
        name: of the command.
        model: the model.
        gpus: a cluster, or a count and a name.
        words: further words.
        workload: whose lengths are stated where they are not the default ones.
        slo: whose limits are stated.
        options: further options and their values; None is left out.
        comment: what there is to know about it.

    """
    argv: list[str] = ["advisor", name, "--model", model.name, *gpu_words(gpus), *words]
    if workload is not None and model.images is not None:
        images = model.images
        workload = replace(workload, input_len=max(workload.input_len - images.tokens, 1))
        argv += ["--images", str(images.number), "--image-size", f"{images.height}x{images.width}"]
    argv += [] if workload is None else lengths(workload)
    argv += [] if slo is None else limits(slo)
    for option, value in (options or {}).items():
        argv += [] if value is None else [option, f"{value:g}" if isinstance(value, float) else str(value)]
    return ShellCommand(argv=argv, comment=comment, label=NEXT)


def queue_words(policy: str) -> str:
    """Say what the engine is started with where its queue goes by priority."""
    return "" if policy == FCFS else f"; add --scheduling-policy {policy}"


def drafting_words(deployment: Deployment) -> list[str]:
    """Return the options of speculative decoding as it is started; none without."""
    drafting = deployment.drafting
    if drafting is None:
        return []
    method = f"{drafting.method}:{drafting.model}" if drafting.model else drafting.method
    return ["--speculate", method, "--draft-len", str(drafting.draft_len)]


def adapter_words(deployment: Deployment) -> list[str]:
    """Return the options of LoRA adapters; none without."""
    adapters = deployment.adapters
    if adapters is None:
        return []
    usual = Adapters(number=adapters.number)
    words = [ADAPTER_OPTIONS["number"], str(adapters.number)]
    for name, option in ADAPTER_OPTIONS.items():
        if (value := getattr(adapters, name)) != getattr(usual, name):
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    return words


def started_words(deployment: Deployment) -> tuple[list[str], str]:
    """Return the options with which ``export`` writes a layout, and what it cannot know, to be added by hand."""
    words, drafting = [*layout_words(deployment), *adapter_words(deployment)], deployment.drafting
    added = ""
    if drafting is not None and drafting.method in HEADS and not drafting.model:
        added += f"; add --speculate {drafting.method}:CHECKPOINT --draft-len {drafting.draft_len} with the head's checkpoint"
    else:
        words += drafting_words(deployment)
    return words, added


def pool_words(prefill: Deployment | None, gpu: str | None) -> list[str]:
    """Return the options of a pool for prompts, on GPUs of another kind where one is named; none without a pool."""
    if prefill is None:
        return []
    where = []
    if gpu is not None:
        known = find_gpu(gpu.partition(" (")[0]).value
        where = ["--prefill-gpus", whole_servers(prefill.num_gpus, known, gpu.replace(" ", "-"))]
    return [*where, "--prefill-replicas", str(prefill.dp), "--prefill-tp", str(prefill.tp)]


def whole_servers(number: int, gpu: Gpu, name: str) -> str:
    """Write so many GPUs as a count and a name; of more than one server holds, as whole servers."""
    most = max(gpu.gpus_per_node, 1)
    return f"{number if number <= most else math.ceil(number / most) * most}x{name}"


def layout_words(deployment: Deployment) -> Sequence[str]:
    """Return the options of a layout, of degrees above 1."""
    degrees = {f"--{name}": getattr(deployment, name) for name in ("tp", "pp", "dp", "ep", "dcp")}
    words = [word for option, degree in degrees.items() if degree > 1 for word in (option, str(degree))]
    return words or ["--tp", "1"]
