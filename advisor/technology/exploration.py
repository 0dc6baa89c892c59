"""Explore technology: inference or training over a sweep, where the bottleneck moves, and two generations taken apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, Literal

from advisor.perf_model.cost import CAUSES
from advisor.prediction.estimation import estimate
from advisor.prediction.inputs import plain_fields, read_cluster, read_model
from advisor.prediction.presentation import header
from advisor.technology.sweeps import AXES, FACTORS, points
from advisor.technology.whatif_gpu import FLOPS, network_of
from advisor.training.estimation import recommend_training
from catalog.errors import InputError, Note
from catalog.gpus import find_gpu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.technology.whatif_gpu import WhatIf
    from catalog.schema import Cluster, Gpu, Model

SCHEMA = "exploration/1"
HALF = 0.5
"""Elasticity below which more of a resource no longer pays: doubling it saves less than 30% of the time."""
CHANGES = ("arithmetic", "precision", "memory bandwidth", "memory capacity", "links in a node", "network")
"""What two generations of GPUs differ in, each of which brings a part of the gain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplorationPoint:
    """One GPU of a sweep and what it does."""

    label: str
    x: float
    gpu: Mapping[str, float]
    """Its figures: fp16_tflops, memory_bandwidth_gbps, memory_gib, nvlink_gbps, network_gbps, tdp_w."""
    ms: float | None
    """Time of an output token (inference) or of a step (training); None where the model does not fit."""
    low: float | None
    high: float | None
    shares: Mapping[str, float]
    """Shares of that time by cause, 0 to 1."""
    bottleneck: str
    limit: str
    extrapolated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """A sweep, or two generations taken apart."""

    model: Model
    cluster: Cluster
    task: Literal["inference", "training"]
    sweep: str
    axis: str
    points: Sequence[ExplorationPoint]
    turn: float | None
    """Value of the axis from which on doubling it saves less than 30% of the time; None where that is nowhere."""
    shifts: Sequence[tuple[str, str, str]]
    """Where the bottleneck changes: from, to, and at which point."""
    speedup: float | None
    """Of the other generation over this one, where two are compared."""
    factors: Mapping[str, float]
    """Factors that multiply to the speed-up: the share of each change, averaged over all orders (Shapley, of logarithms)."""
    notes: tuple[Note, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {
            **header(SCHEMA),
            **plain_fields(self),
            "model": self.model.name,
            "cluster": str(self.cluster),
            "notes": [note.text for note in self.notes],
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row a point, or a factor where two generations are compared."""
        if self.factors:
            return [{"factor": name, "speedup": value} for name, value in self.factors.items()]
        return [
            {
                "label": point.label,
                "x": point.x,
                **point.gpu,
                "ms": point.ms,
                "ms_low": point.low,
                "ms_high": point.high,
                **{f"{cause}_share": share for cause, share in point.shares.items()},
                "bottleneck": point.bottleneck,
                "limit": point.limit,
                "extrapolated": point.extrapolated,
            }
            for point in self.points
        ]

    def to_frame(self) -> Any:
        """Return the rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows())


def explore(
    model: str | Model,
    gpus: str | Cluster,
    *,
    task: str = "inference",
    sweep: str = "bandwidth",
    to: str | None = None,
    batch: int = 1,
    tp: int | None = None,
    pp: int | None = None,
    input_len: int = 1024,
    output_len: int = 128,
    sequence_length: int | None = None,
    precision: str = "bf16",
    to_precision: str | None = None,
    factors: Sequence[float] = FACTORS,
    node: str | None = None,
    dram: str | None = None,
    area_mm2: float | None = None,
    power_w: float | None = None,
    set_gpu: Mapping[str, float | str] | None = None,
) -> Exploration:
    """Sweep what a GPU is made of, and say where the bottleneck moves; or take two generations apart.

    Args:
        model: catalog name or alias, Hugging Face id, path to a ``config.json``, or a ``Model``.
        gpus: ``"4xA100"``, ``"128x8xA100"`` (nodes x GPUs), or a ``Cluster``.
        task: "inference": the time of an output token; "training": the time of a step with the fastest layout.
        sweep: "node" (logic from 12 to 1 nm), "dram" (GDDR6 to HBM4E), "link", "network" (generations), or "bandwidth", "flops",
            "capacity" (times ``factors``).
        to: another GPU, such as "B200": its gain is taken apart, and nothing is swept. Training only.
        batch: sequences at once per replica, or of a training step.
        tp: GPUs that share each layer; None: all of a node in inference, searched in training.
        pp: stages; None: 1 in inference, searched in training.
        input_len: tokens of a prompt.
        output_len: tokens generated for each request.
        sequence_length: tokens of a training sequence.
        precision: "bf16", "fp8" or "fp4" products of training.
        to_precision: precision on the other GPU; None: the narrowest it has.
        factors: of the sweeps of a field.
        node: logic node of all points, such as "N3".
        dram: memory of all points, such as "HBM4".
        area_mm2: area of logic; None: the GPU's.
        power_w: power of the GPU; None: its own.
        set_gpu: what-if values for fields of the GPU, ``network_gbps`` too.

    Raises:
        InputError: a name, number or combination that cannot be; the message says what would be right.

    """
    if task not in ("inference", "training"):
        raise InputError(f"task is {task!r:.40}; it must be inference or training")
    if task == "inference" and output_len == 1:
        raise InputError("output_len is 1; the time of an output token after the first takes at least 2")
    resolved, placed = read_model(model), read_cluster(gpus, set_gpu)
    cluster, notes = placed.value, (*resolved.notes, *placed.notes)
    workload = _Task(
        model=resolved.value,
        training=task == "training",
        batch=batch,
        tp=tp,
        pp=pp,
        input_len=input_len,
        output_len=output_len,
        sequence_length=sequence_length,
        precision=precision,
    )
    if to is not None:
        if task != "training":
            raise InputError("--to takes training apart; add --task training")
        return _taken_apart(workload, cluster, to, to_precision, notes)
    swept = points(cluster, sweep, factors=factors, node=node, dram=dram, area_mm2=area_mm2, power_w=power_w)
    evaluated = [workload.point(made) for made in swept]
    if any(point.extrapolated for point in evaluated):
        notes += (Note("points marked * are extrapolated"),)
    return Exploration(
        model=resolved.value,
        cluster=cluster,
        task="training" if workload.training else "inference",
        sweep=sweep,
        axis=AXES[sweep],
        points=tuple(evaluated),
        turn=None if sweep == "node" else _turn(evaluated),
        shifts=tuple(
            (one.bottleneck, other.bottleneck, other.label)
            for one, other in pairwise(evaluated)
            if one.bottleneck != other.bottleneck
        ),
        speedup=None,
        factors={},
        notes=notes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """What every point of a sweep is workload."""

    model: Model
    training: bool
    batch: int
    tp: int | None
    pp: int | None
    input_len: int
    output_len: int
    sequence_length: int | None
    precision: str

    def point(self, made: WhatIf) -> ExplorationPoint:
        """Return one GPU of the sweep and what it does."""
        gpu = made.cluster.gpu
        time, causes = self.train(made.cluster) if self.training else self.serve(made.cluster)
        total = sum(causes.values()) or 1.0
        shares = {cause: causes.get(cause, 0.0) / total for cause in CAUSES}
        return ExplorationPoint(
            label=made.label,
            x=made.x,
            gpu={
                name: float(getattr(gpu, name))
                for name in ("fp16_tflops", "memory_bandwidth_gbps", "memory_gib", "nvlink_gbps", "tdp_w")
            }
            | {"network_gbps": made.cluster.network_gbps},
            ms=time[0] if time else None,
            low=time[1] if time else None,
            high=time[2] if time else None,
            shares=shares,
            bottleneck=max(shares, key=lambda cause: shares[cause]) if time else "capacity",
            limit=made.limit,
            extrapolated=made.extrapolated,
        )

    def serve(self, cluster: Cluster) -> tuple[tuple[float, float, float] | None, Mapping[str, float]]:
        """Time of an output token with the ends of its interval, and what a decode step goes to."""
        estimated = estimate(
            self.model,
            cluster,
            tp=self.tp or cluster.gpus_per_node,
            pp=self.pp or 1,
            batch=self.batch,
            input_len=self.input_len,
            output_len=self.output_len,
        )
        if estimated.tpot_ms is None:
            return None, {}
        causes = dict.fromkeys(CAUSES, 0.0)
        for operator in estimated.breakdown["decode"].values():
            for cause, value in operator.items():
                causes[cause] += value
        return (estimated.tpot_ms, *estimated.interval("tpot_ms")), causes

    def train(
        self, cluster: Cluster, precision: str | None = None
    ) -> tuple[tuple[float, float, float] | None, Mapping[str, float]]:
        """Time of a step with the fastest layout, with the ends of its interval, and what it goes to."""
        best = recommend_training(
            self.model,
            cluster,
            batch=self.batch,
            tp=self.tp,
            pp=self.pp,
            sequence_length=self.sequence_length,
            precision=precision or self.precision,
            framework="megatron-core",
            top=1,
        ).best
        if best is None:
            return None, {}
        low, high = best.interval("step_s")
        return (best.step_s * 1e3, low * 1e3, high * 1e3), best.causes


def _turn(evaluated: Sequence[ExplorationPoint]) -> float | None:
    """Return the first value of the axis from which on more of it saves little; None where that is nowhere."""
    known = sorted((point.x, point.ms) for point in evaluated if point.ms is not None)
    if len({x for x, _ in known}) < 3:
        return None
    for (x, time), (further, faster) in pairwise(known):
        if further > x and -math.log(faster / time) / math.log(further / x) < HALF:
            return x
    return None


def _taken_apart(
    workload: _Task, cluster: Cluster, to: str, to_precision: str | None, notes: tuple[Note, ...]
) -> Exploration:
    """Say how much of another GPU's gain each of its changes brings, averaged over all orders in which they could come."""
    resolved = find_gpu(to)
    other, base = resolved.value, cluster.gpu
    narrowest = "fp4" if other.fp4_tflops else "fp8" if other.fp8_tflops else "bf16"
    precision = to_precision or narrowest
    network = (network_of(base) or cluster.network_gbps, network_of(other) or cluster.network_gbps)
    seconds: dict[frozenset[str], float] = {}
    for count in range(len(CHANGES) + 1):
        for chosen in combinations(CHANGES, count):
            changed = frozenset(chosen)
            made, format_ = _changed(base, other, changed, workload.precision, precision)
            between = network[1] if "network" in changed else network[0]
            time, _ = workload.train(replace(cluster, gpu=made, network_gbps=between), format_)
            if time is None:
                raise InputError(
                    f"{workload.model.name} does not fit {cluster} in training; --gpus more of them, or a smaller model"
                )
            seconds[changed] = time[0]
    total = seconds[frozenset()] / seconds[frozenset(CHANGES)]
    return Exploration(
        model=workload.model,
        cluster=cluster,
        task="training",
        sweep=f"{base.name} to {other.name}",
        axis="",
        points=(),
        turn=None,
        shifts=(),
        speedup=total,
        factors={name: math.exp(_shapley(name, seconds)) for name in CHANGES},
        notes=(
            *notes,
            *resolved.notes,
            Note(
                f"{workload.precision} on {base.name} with {network[0]:g} GB/s between nodes, {precision} on {other.name} with {network[1]:g}"
            ),
        ),
    )


def _changed(base: Gpu, other: Gpu, changed: frozenset[str], before: str, after: str) -> tuple[Gpu, str]:
    """Return the GPU with some of the other's figures, and the precision that is trained in.

    Arithmetic changes by the ratio of the 16-bit peaks; precision by that of the narrow peak over the 16-bit one.
    """
    ratio = other.fp16_tflops / base.fp16_tflops if "arithmetic" in changed else 1.0
    values = {"fp16_tflops": base.fp16_tflops * ratio} | {
        name: base.fp16_tflops * ratio * getattr(other, name) / other.fp16_tflops for name in FLOPS[1:]
    }
    if "memory bandwidth" in changed:
        values["memory_bandwidth_gbps"] = other.memory_bandwidth_gbps
    if "memory capacity" in changed:
        values["memory_gib"] = other.memory_gib
    if "links in a node" in changed:
        values["nvlink_gbps"] = other.nvlink_gbps
    gpu = replace(base, name=f"{base.name} ({', '.join(sorted(changed)) or 'as it is'})", **values)
    return gpu, after if "precision" in changed else before


def _shapley(name: str, seconds: Mapping[frozenset[str], float]) -> float:
    """Return the mean logarithm that a change adds to the speed-up over all orders of the changes (Shapley, 1953)."""
    others = [change for change in CHANGES if change != name]
    total = 0.0
    for count in range(len(others) + 1):
        weight = math.factorial(count) * math.factorial(len(others) - count) / math.factorial(len(CHANGES))
        for chosen in combinations(others, count):
            without = frozenset(chosen)
            total += weight * math.log(seconds[without] / seconds[without | {name}])
    return total
