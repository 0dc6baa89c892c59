"""All layouts of a training task that some stated knobs leave open, and which of them is the fastest that fits."""

from __future__ import annotations

from dataclasses import fields
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.training.layouts import TrainingLayouts
from catalog.errors import InputError
from catalog.models.sizes import experts_of
from catalog.training import RECOMPUTATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from advisor.training.layouts import TrainingTask

LONGEST_PART = 4096
"""Tokens of a sequence that one GPU has at least where context parallelism is chosen, not stated: below it attention is too
short to hide the travel of keys and values (arXiv 2310.01889, section 3.2)."""
UNEVEN = 0.1
"""Share by which the fullest stage may exceed the mean one where stages are chosen, not stated."""
KNOBS = ("tp", "pp", "dp", "cp", "ep", "micro_batch", "interleave", "recompute", "sequence_parallel", "zero")


def divisors(number: int) -> list[int]:
    """Return the divisors of a whole number, the smallest first."""
    return (
        [divisor for divisor in range(1, number + 1) if number % divisor == 0]
        if number < 4096
        else _large_divisors(number)
    )


def _large_divisors(number: int) -> list[int]:
    low = [divisor for divisor in range(1, int(number**0.5) + 1) if number % divisor == 0]
    return sorted({*low, *(number // divisor for divisor in low)})


def layouts_of(task: TrainingTask, stated: Mapping[str, Any]) -> TrainingLayouts:
    """Return every layout with the ``stated`` knobs; the others take all the values they can.

    Raises:
        InputError: what is stated contradicts itself, the model, the batch or the cluster; the message says what would be right.

    """
    check_stated(task, stated)
    rows = list(_rows(task, stated))
    if not rows:
        raise InputError(_why_none(task, stated))
    table = np.array(rows, dtype=float)
    return TrainingLayouts(**{field.name: table[:, KNOBS.index(field.name)] for field in fields(TrainingLayouts)})


def _rows(task: TrainingTask, stated: Mapping[str, Any]) -> Iterator[tuple[int, ...]]:
    model, frame, gpus = task.model, task.framework, task.cluster.num_gpus
    layers = model.num_hidden_layers
    for tp, pp, cp in product(_degrees(task, stated, "tp"), _degrees(task, stated, "pp"), _degrees(task, stated, "cp")):
        if gpus % (tp * pp * cp):
            continue
        dp = stated.get("dp") or gpus // (tp * pp * cp)
        if tp * pp * cp * dp > gpus or ("dp" not in stated and tp * pp * cp * dp != gpus) or task.batch % dp:
            continue
        if pp > layers or (not _even(layers, pp) and "pp" not in stated):
            continue
        sequences = task.batch // dp
        for micro in _micro_batches(sequences, stated):
            number = sequences // micro
            for chunks, ep, recompute, zero, sliced in product(
                _chunks(task, stated, pp, number),
                _expert_degrees(task, stated, tp, dp * cp),
                _recomputations(task, stated),
                [stated["zero"]] if "zero" in stated else frame.stages,
                [int(stated["sequence_parallel"])] if "sequence_parallel" in stated else [int(tp > 1)],
            ):
                if "zero" not in stated and zero and dp * cp == 1 and zero != frame.stages[-1]:
                    continue
                yield tp, pp, dp, cp, ep, micro, chunks, RECOMPUTATIONS.index(recompute), sliced, zero


def _degrees(task: TrainingTask, stated: Mapping[str, Any], name: str) -> list[int]:
    if name in stated:
        return [stated[name]]
    if name not in task.framework.parallel:
        return [1]
    model, cluster = task.model, task.cluster
    if name == "tp":
        return [degree for degree in divisors(cluster.gpus_per_node) if model.num_attention_heads % degree == 0]
    if name == "cp":
        most = max(task.sequence_length // LONGEST_PART, 1)
        return [degree for degree in divisors(cluster.num_gpus) if degree <= most and degree & (degree - 1) == 0]
    return [degree for degree in divisors(cluster.num_gpus) if degree <= model.num_hidden_layers]


def _micro_batches(sequences: int, stated: Mapping[str, Any]) -> list[int]:
    if "micro_batch" in stated:
        return [stated["micro_batch"]] if sequences % stated["micro_batch"] == 0 else []
    return [size for size in divisors(sequences) if size & (size - 1) == 0]


def _chunks(task: TrainingTask, stated: Mapping[str, Any], pp: int, number: int) -> list[int]:
    """Return the chunks of layers a stage; micro-batches have to come in groups of the stages (Megatron's interleaved schedule)."""
    if "interleave" in stated:
        return [stated["interleave"]]
    can = task.framework.interleaves and task.schedule == "1f1b" and pp > 1 and number % pp == 0
    if not can or not _even(task.model.num_hidden_layers, pp):
        return [1]
    return divisors(-(-task.model.num_hidden_layers // pp))


def _even(layers: int, pp: int) -> bool:
    """Return whether stages are alike: some may have a layer less, as those with the embedding and the head (arXiv 2407.21783, 3.3.2)."""
    return -(-layers // pp) * pp <= layers * (1.0 + UNEVEN)


def _expert_degrees(task: TrainingTask, stated: Mapping[str, Any], tp: int, replicas: int) -> list[int]:
    if "ep" in stated:
        return [stated["ep"]]
    experts = experts_of(task.model)
    if experts is None or "ep" not in task.framework.parallel:
        return [1]
    return [1] + [
        degree
        for degree in divisors(experts.num_experts)
        if degree > 1 and degree % tp == 0 and replicas % (degree // tp) == 0
    ]


def _recomputations(task: TrainingTask, stated: Mapping[str, Any]) -> list[str]:
    if stated.get("recompute"):
        return [stated["recompute"]]
    # what fused attention keeps of its core is next to nothing: there is nothing to select
    return ["none", "full"] if task.framework.fused_attention else list(RECOMPUTATIONS)


def check_stated(task: TrainingTask, stated: Mapping[str, Any]) -> None:
    """Raise ``InputError`` where a stated knob cannot be."""
    model, frame, gpus = task.model, task.framework, task.cluster.num_gpus
    degrees = {name: stated.get(name, 1) for name in ("tp", "pp", "cp", "dp")}
    for name in ("tp", "pp", "cp", "ep"):
        if stated.get(name, 1) > 1 and name not in frame.parallel:
            raise InputError(
                f"{frame.name} has no {name}; beside data parallelism it has {', '.join(frame.parallel)}, or take another --framework"
            )
    layers, heads, pp, tp = model.num_hidden_layers, model.num_attention_heads, degrees["pp"], degrees["tp"]
    if pp > layers:
        raise InputError(f"pp={pp} stages are more than the {layers} layers of {model.name}; use at most {layers}")
    if heads % tp:
        below = max(degree for degree in divisors(heads) if degree < tp)
        above = [str(degree) for degree in divisors(heads) if degree > tp][:1]
        raise InputError(
            f"tp={tp} does not divide the {heads} attention heads of {model.name}; use {' or '.join([str(below), *above])}"
        )
    used = degrees["tp"] * degrees["pp"] * degrees["cp"] * degrees["dp"]
    if used > gpus or ("dp" not in stated and gpus % used):
        said = " x ".join(f"{name} {degree}" for name, degree in degrees.items() if name in stated) or "the layout"
        raise InputError(f"{said} needs {used} GPUs or a multiple of it, and there are {gpus}")
    chunks = stated.get("interleave", 1)
    fullest = -(-layers // pp)
    if chunks > 1 and (pp == 1 or not _even(layers, pp) or fullest % chunks):
        fitting = divisors(fullest) if pp > 1 and _even(layers, pp) else [1]
        raise InputError(
            f"interleave={chunks} does not divide the {fullest} layers of a stage with pp={pp}; "
            f"use one of {', '.join(map(str, fitting))}"
        )
    ep, experts = stated.get("ep", 1), experts_of(model)
    if ep > 1 and (experts is None or experts.num_experts % ep):
        what = f"has {experts.num_experts} experts" if experts else "has no experts"
        raise InputError(f"ep={ep}, but {model.name} {what}; ep has to divide their number")
    _check_batch(task, stated, degrees)


def _check_batch(task: TrainingTask, stated: Mapping[str, Any], degrees: Mapping[str, int]) -> None:
    """Refuse a batch that the replicas, where they follow from what is stated, and the micro-batch do not divide."""
    known = "dp" in stated or {"tp", "pp", "cp"} <= set(stated)
    dp = stated.get("dp") or task.cluster.num_gpus // (degrees["tp"] * degrees["pp"] * degrees["cp"]) if known else 1
    whole = dp * stated.get("micro_batch", 1)
    if task.batch % whole:
        below, above = task.batch // whole * whole, -(-task.batch // whole) * whole
        parts = [f"{dp} replicas"] * known + [f"micro-batches of {stated.get('micro_batch')}"] * (
            "micro_batch" in stated
        )
        right = f"{below} or {above}" if below else f"{above}"
        raise InputError(f"batch {task.batch} does not divide into {' x '.join(parts)}; use {right}")


def _why_none(task: TrainingTask, stated: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name} {value}" for name, value in stated.items()) or "no knob stated"
    gpus = task.cluster.num_gpus
    return (
        f"no layout of {task.model.name} on {gpus} GPUs with a batch of {task.batch} ({said}): a batch divides into replicas, "
        f"stages into layers; use a batch that is a multiple of {gpus}, or fewer replicas"
    )
