"""Predicted against measured memory of the plain PyTorch engine, part by part.

``python -m advisor.validation.memory_accuracy`` prints the table. The sizes that were taken from measurements are Llama-2-7B's and
Llama-3.1-8B's (role "fit"); all other loads only judge.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.dispatch import memory
from advisor.perf_model.memory.torch_engine import largest_batch, memory_use, stages_of, streams_used
from catalog.gpus import find_gpu
from catalog.models.find import find_model
from catalog.runs import shipped_runs
from catalog.schema import Cluster, Deployment
from catalog.tables import DATA
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from catalog.schema import Gpu, Measurement, Model

PARTS = DATA / "memory" / "torch-2.11.0_h200.csv"
GPU = "H200-SXM"
FITTED = ("Llama-2-7b", "Llama-3.1-8B")
MOST_SEQUENCES = 256
"""Running cap where a load names none (``probes.torch_engine.engine``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartError:
    """One quantity of one load, or of one run."""

    name: str
    """The load, or the run."""
    role: Literal["fit", "validate"]
    part: Literal["weights", "activations", "kv_tokens", "peak"]
    """The first two in GiB, on each stage's GPU; "peak" is all that a run had in use on the fullest GPU, GiB."""
    measured: float
    predicted: float

    @property
    def relative(self) -> float:
        return self.predicted / self.measured - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdFound:
    """The largest batch that memory allows."""

    name: str
    predicted: int
    ran: int
    failed: int

    @property
    def within_a_step(self) -> bool:
        """Return whether it is no further from what ran or failed than they are apart, which is as exact as they were looked for."""
        step = self.failed - self.ran
        return self.ran - step <= self.predicted < self.failed + step


def memory_errors() -> list[PartError]:
    """Return every shipped load's weights, activations and KV capacity, and every static run's peak."""
    gpu = find_gpu(GPU).value
    runs = _runs_by_load()
    with PARTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    errors: list[PartError] = []
    for load, members in groupby(rows, key=lambda row: row["load"]):
        if not load.endswith("-threshold"):
            errors += _of_load(load, list(members), [run for run in runs[load] if not run.oom], gpu)
    return errors


def memory_thresholds() -> list[ThresholdFound]:
    """Return the thresholds of every shipped load whose threshold was looked for."""
    gpu, thresholds = find_gpu(GPU).value, []
    for load, runs in _runs_by_load().items():
        if load.endswith("-threshold"):
            run = next(run for run in runs if not run.oom)
            batch = largest_batch(find_model(run.model).value, gpu, _resolved(run), run.input_len, run.output_len)
            failed = min(run.batch for run in runs if run.oom)
            thresholds.append(ThresholdFound(name=load, predicted=batch, ran=run.batch, failed=failed))
    return thresholds


def _runs_by_load() -> dict[str, list[Measurement]]:
    """Return the runs by load in the order in which they were measured; only those of today's engine."""
    by_load: dict[str, list[Measurement]] = defaultdict(list)
    for run in shipped_runs():
        if run.engine == "torch" and "-early-" not in run.run_id:
            by_load[run.run_id.rsplit("-b", 1)[0]].append(run)
    return by_load


def _resolved(run: Measurement) -> Deployment:
    knobs = run.deployment
    return replace(knobs, graphs=knobs.has_graphs, max_num_seqs=knobs.max_num_seqs or MOST_SEQUENCES)


def _of_load(
    load: str, rows: Sequence[Mapping[str, str]], runs: Sequence[Measurement], gpu: Gpu
) -> Iterable[PartError]:
    """Yield the errors of one load; ``rows`` are those of the load's GPUs, by rank."""
    model = find_model(rows[0]["model"]).value
    role: Literal["fit", "validate"] = "fit" if any(name in model.name for name in FITTED) else "validate"
    tp, pp = int(rows[0]["tp"]), int(rows[0]["pp"])
    deployment = _resolved(runs[0]) if runs else _of_row(rows[0])
    room = memory(model, Cluster(gpu=gpu, gpus_per_node=8), DeploymentArrays.of([deployment], model, gpu), "torch")

    def error(part: str, measured: float, predicted: float, name: str = load) -> PartError:
        return PartError(name=name, role=role, part=part, measured=measured, predicted=predicted)  # type: ignore[arg-type]

    yield error("kv_tokens", float(rows[0]["kv_tokens"]), float(room.kv_capacity_tokens[0]))
    firsts = [rows[stage * tp] for stage in range(pp)]
    held = stages_of(
        model,
        gpu,
        tp=tp,
        pp=pp,
        itemsize=2,
        offload=deployment.offload,
        compiled=deployment.compiled,
        positions=deployment.max_model_len or 0,
    )
    for row, stage in zip(firsts, held, strict=True):
        yield error("weights", float(row["weights_gib"]), stage.weight_bytes() / GIB)
    if runs:
        yield from _of_runs(model, deployment, firsts, runs, gpu, error)


def _of_runs(
    model: Model,
    deployment: Deployment,
    firsts: Sequence[Mapping[str, str]],
    runs: Sequence[Measurement],
    gpu: Gpu,
    error: Callable[..., PartError],
) -> Iterable[PartError]:
    shapes = [(run.batch, run.input_len) for run in runs]
    most = [0.0 for _ in firsts]
    streams = streams_used(deployment, shapes, agreement=runs[0].top1_agreement is not None)
    for run, count in zip(runs, streams, strict=True):
        kv_tokens = int(firsts[0]["kv_tokens"])
        used = memory_use(model, gpu, deployment, run.batch, run.input_len, kv_tokens=kv_tokens, streams=count)
        most = [max(before, stage.activations_gib) for before, stage in zip(most, used, strict=True)]
        if run.peak_memory_gib is not None:
            yield error("peak", run.peak_memory_gib, max(stage.total_gib for stage in used), run.run_id)
    for row, activations in zip(firsts, most, strict=True):
        yield error("activations", float(row["peak_activation_gib"]), activations)


def _of_row(row: Mapping[str, str]) -> Deployment:
    """Return the deployment of a load without a run."""
    return Deployment(
        engine="torch",
        tp=int(row["tp"]),
        pp=int(row["pp"]),
        dtype=row["dtype"],
        offload=float(row["offload"]),
        compiled=row["compiled"] == "true",
        gpu_memory_utilization=float(row["gpu_memory_utilization"]),
        max_num_seqs=MOST_SEQUENCES,
        max_num_batched_tokens=int(row["max_num_batched_tokens"]),
        max_model_len=int(row["max_model_len"]),
    )


def main() -> int:
    """Print mean and largest errors by part and role, and the thresholds."""
    errors = memory_errors()
    print(f"{'part':12} {'role':9} {'n':>4} {'mean':>7} {'worst':>7}  of")
    for part in ("weights", "kv_tokens", "activations", "peak"):
        for role in ("fit", "validate"):
            chosen = [part_error for part_error in errors if (part_error.part, part_error.role) == (part, role)]
            worst = max(chosen, key=lambda part_error: abs(part_error.relative))
            mean = sum(abs(part_error.relative) for part_error in chosen) / len(chosen)
            print(f"{part:12} {role:9} {len(chosen):4} {mean:7.2%} {abs(worst.relative):7.2%}  {worst.name}")
    for threshold in memory_thresholds():
        print(
            f"{threshold.name}: batch {threshold.predicted} predicted, {threshold.ran} ran, {threshold.failed} did not"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
