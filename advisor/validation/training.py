"""Training predictions beside what others published: ``python -m advisor.validation.training``.

Step times are judged with their whole publication left out of the fit; memory has nothing fitted.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.training.efficiencies import shipped_fit
from advisor.training.fitting import held, intervals, left_out, pretraining
from advisor.training.layouts import TrainingLayouts, TrainingTask
from advisor.training.training_memory import memory_by_part
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.training import (
    TrainingLayout,
    find_framework,
    training_memory_figures,
    training_runs,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from advisor.training.fitting import LeftOut
    from catalog.training import TrainingMemoryFigure

ALIKE = 0.02
"""Relative difference of two throughputs below which neither layout is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryComparison:
    """A published figure of memory beside ours."""

    figure: TrainingMemoryFigure
    predicted: float

    @property
    def difference(self) -> float:
        """Return the percentage points of a percentage, else the relative difference in percent."""
        if self.figure.quantity == "activations_percent":
            return self.predicted - self.figure.value
        return 100.0 * (self.predicted / self.figure.value - 1.0)


def memory_errors() -> list[MemoryComparison]:
    """Set every published figure of memory beside ours, on a GPU of a middle stage as the paper counts it."""
    return [MemoryComparison(figure=figure, predicted=_memory(figure)) for figure in training_memory_figures()]


def _memory(figure: TrainingMemoryFigure) -> float:
    own = {name: getattr(figure, name) for name in ("tp", "pp", "interleave", "micro_batch")}
    chosen = TrainingLayout(recompute=figure.recompute, sequence_parallel=figure.sequence_parallel, **own)  # type: ignore[arg-type]
    task = TrainingTask(
        model=find_model(figure.model).value,
        cluster=parse_cluster(f"{figure.gpus}xA100-SXM-80GB").value,
        framework=find_framework("megatron-lm"),
        batch=figure.batch,
        sequence_length=figure.sequence_length,
    )
    memory = memory_by_part(task, TrainingLayouts.of([chosen, TrainingLayout(**own)]), middle=True)
    if figure.quantity == "states_gib":
        return float((memory.weights + memory.gradients + memory.optimizer)[0])
    if figure.quantity == "activations_gib":
        return float(memory.activations[0])
    return float(100.0 * memory.activations[0] / memory.activations[1])


def nested_coverage(judged: Sequence[LeftOut]) -> dict[str, list[bool]]:
    """Say by publication which step times lie within 90% intervals that the other publications' errors gave."""
    covered: dict[str, list[bool]] = {}
    for publication in dict.fromkeys(run.run.publication for run in judged):
        sigma, quantile = intervals([run for run in judged if run.run.publication != publication])
        covered[publication] = [_inside(run, sigma, quantile) for run in judged if run.run.publication == publication]
    return covered


def _inside(run: LeftOut, sigma: float, quantile: float) -> bool:
    return abs(math.log1p(run.error)) <= quantile * math.hypot(run.parameter_sigma, sigma)


def comparisons(judged: Sequence[LeftOut]) -> list[bool]:
    """Say for every pair of configurations of one model and publication whether the better one was predicted to be."""
    groups = defaultdict(list)
    for run in judged:
        groups[run.run.publication, run.run.model].append(run)
    right = []
    for group in groups.values():
        for one, other in itertools.combinations(group, 2):
            measured = _per_gpu(one, one.run.step_s) / _per_gpu(other, other.run.step_s)
            said = _per_gpu(one, one.predicted_s) / _per_gpu(other, other.predicted_s)
            if abs(measured - 1.0) > ALIKE:
                right.append((measured > 1.0) == (said > 1.0))
    return right


def _per_gpu(run: LeftOut, seconds: float) -> float:
    """Return the tokens a second and GPU."""
    return run.run.batch * run.run.sequence_length / seconds / run.run.gpus


def report() -> Iterator[str]:
    """Yield the lines of the comparison."""
    errors = memory_errors()
    for quantity, name, unit in (
        ("activations_percent", "activations, share of the baseline (figure 7)", "points"),
        ("activations_gib", "activations (figure 1)", "%"),
        ("states_gib", "weights, gradients, optimizer (figure 1)", "%"),
    ):
        off = [abs(row.difference) for row in errors if row.figure.quantity == quantity]
        yield f"memory: {name}: {len(off)} figures, mean {np.mean(off):.2f} {unit}, worst {max(off):.2f}"
    runs = pretraining(training_runs())
    judged, others = left_out(runs), held(runs)
    shares = [row.memory_share for row in (*judged, *others)]
    yield (
        f"memory: {sum(share <= 1.0 for share in shares)} of {len(shares)} published runs fit their GPU at the lower end of its interval; "
        f"the fullest is at {max(shares):.0%}"
    )
    covered = nested_coverage(judged)
    for publication, inside in covered.items():
        off = [100.0 * abs(row.error) for row in judged if row.run.publication == publication]
        yield (
            f"step time: {publication}, left out: {len(off)} step times, mean {np.mean(off):.2f}%, worst {max(off):.1f}%; "
            f"{np.mean(inside):.0%} within 90% intervals"
        )
    everything = [row for inside in covered.values() for row in inside]
    off = [100.0 * abs(row.error) for row in judged]
    yield (
        f"step time: all: {len(off)} step times, mean {np.mean(off):.2f}%; {np.mean(everything):.0%} within 90% intervals "
        f"made without their publication"
    )
    right = comparisons(judged)
    yield f"better of two configurations of one model: {np.mean(right):.0%} of {len(right)} right"
    shipped = shipped_fit()
    for row in others:
        sigma = shipped.unseen_sigma if row.run.lora_rank else shipped.sigma
        rank = f", LoRA {row.run.lora_rank}" if row.run.lora_rank else ""
        yield (
            f"held: {row.run.publication} {row.run.model}{rank} {row.run.recompute or ''}: {row.predicted_s:.2f} s against "
            f"{row.run.step_s:.2f} ({100.0 * row.error:+.1f}%, {'inside' if _inside(row, sigma, shipped.quantile) else 'outside'}), {row.layout}"
        )


def main() -> None:
    """Print the comparison."""
    for line in report():
        print(line)


if __name__ == "__main__":
    main()
