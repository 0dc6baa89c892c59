"""What is trained and how it is laid out: one question, and many layouts of it side by side as arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.perf_model.deployment_arrays import DeploymentArrays
from catalog.training import RECOMPUTATIONS, TrainingLayout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from catalog.schema import Cluster, Model
    from catalog.training import Framework, Schedule
    from catalog.units import Array

FORMATS = {"bf16": "bfloat16", "fp8": "fp8", "fp4": "nvfp4"}
"""Format of products by the name that trainers give it."""
SELECTIVE, FULL = RECOMPUTATIONS.index("selective"), RECOMPUTATIONS.index("full")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTask:
    """What is trained on what, whatever the layout."""

    model: Model
    cluster: Cluster
    framework: Framework
    batch: int
    """Sequences of one step, over all replicas."""
    sequence_length: int
    precision: str = "bf16"
    schedule: Schedule = "1f1b"
    lora_rank: int = 0
    """Rank of low-rank adapters (arXiv 2106.09685), which alone are trained; 0: all weights are."""
    offload: bool = False
    """Whether the optimizer and its states are in CPU memory (ZeRO-Offload, arXiv 2101.06840)."""

    @property
    def tokens(self) -> int:
        """Count the tokens of one step."""
        return self.batch * self.sequence_length


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLayouts:
    """n layouts; every array has shape (n,). The fields are those of ``TrainingLayout``."""

    tp: Array
    pp: Array
    dp: Array
    cp: Array
    ep: Array
    micro_batch: Array
    interleave: Array
    recompute: Array
    """Index into ``RECOMPUTATIONS``."""
    sequence_parallel: Array
    """1.0 where norms and dropout are sliced along the sequence too (arXiv 2205.05198, section 4.2.2)."""
    zero: Array

    @classmethod
    def of(cls, layouts: Sequence[TrainingLayout]) -> TrainingLayouts:
        """Return layouts side by side."""
        return cls(
            **{
                field.name: np.array(
                    [
                        RECOMPUTATIONS.index(layout.recompute)
                        if field.name == "recompute"
                        else float(getattr(layout, field.name))
                        for layout in layouts
                    ],
                    dtype=float,
                )
                for field in fields(cls)
            }
        )

    def __len__(self) -> int:
        return len(self.tp)

    def take(self, rows: NDArray[Any]) -> TrainingLayouts:
        """Return the chosen rows, by index or mask."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def row(self, number: int) -> TrainingLayout:
        """Return one layout."""
        values: dict[str, Any] = {field.name: int(getattr(self, field.name)[number]) for field in fields(self)}
        values["recompute"] = RECOMPUTATIONS[values["recompute"]]
        values["sequence_parallel"] = bool(values["sequence_parallel"])
        return TrainingLayout(**values)

    @property
    def replicas(self) -> Array:
        """Count the GPUs that hold the same weights: those that states and gradients are divided among and summed over."""
        return self.dp * self.cp

    def micro_batches(self, task: TrainingTask) -> Array:
        """Count the micro-batches of a step on one replica."""
        return task.batch / (self.dp * self.micro_batch)

    def tokens(self, task: TrainingTask) -> Array:
        """Count the tokens of a micro-batch on one GPU."""
        return self.micro_batch * task.sequence_length / self.cp

    def stage_layers(self, model: Model) -> Array:
        """Count the layers of the fullest stage."""
        chunks = self.pp * self.interleave
        return np.ceil(model.num_hidden_layers / chunks) * self.interleave

    def in_flight(self, task: TrainingTask) -> Array:
        """Count the micro-batches whose activations the first stage holds at once, in those of a whole stage.

        GPipe holds all; 1F1B as many as there are stages; interleaved 1 + (p - 1) / (p v) times as many (arXiv 2205.05198,
        section 4.2.3).
        """
        if task.schedule == "gpipe":
            return self.micro_batches(task)
        more = np.where(self.interleave > 1, 1.0 + (self.pp - 1.0) / (self.pp * self.interleave), 1.0)
        return np.minimum(self.pp * more, self.micro_batches(task))

    def deployments(self, task: TrainingTask, *, plain: bool = False) -> DeploymentArrays:
        """Return what the operators of inference ask of a layout; ``plain``: in 16 bits whatever products run in."""
        dtype = FORMATS["bf16" if plain else task.precision]
        if dtype == "bfloat16" and not task.cluster.gpu.bf16:
            dtype = "float16"
        columns = {
            "tp": self.tp,
            "pp": self.pp,
            "dp": self.dp,
            "ep": self.ep,
            "sequence_parallel": self.sequence_parallel,
            "dtype": dtype,
        }
        return DeploymentArrays.from_columns(columns, task.model, task.cluster.gpu)
