"""The time of one training step: micro-batches through the stages of a pipeline, what replicas exchange, the optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.collectives import collective_ms, stage_hand_over_ms
from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES
from advisor.training.step_cost import micro_batch_cost
from advisor.training.training_memory import shards, stage_parameters, trained_parameters

if TYPE_CHECKING:
    from advisor.training.efficiencies import Efficiencies
    from advisor.training.layouts import TrainingLayouts, TrainingTask
    from advisor.training.step_cost import MicroBatchCost
    from catalog.units import Array

OPTIMIZER_BYTES = 34.0
"""Bytes that a step of Adam moves a parameter: gradient, 32-bit weight and two moments read, the gradient once more for its
norm, weight, moments and the 16-bit copy written (arXiv 1910.02054, section 3.1, read and written once)."""
HOST_ADAM_GBPS = 100.0
"""GB/s at which a host's Adam goes through states in its memory (ZeRO-Offload, arXiv 2101.06840, table 4: 1 billion
parameters in 0.2 to 0.3 s)."""
FLAT_COPIES = 3.0
"""Times that ZeRO-3 moves a gradient in 16 bits within a GPU's memory: read, written beside others of its unit and read again to be
sent in another format (FSDP's FlatParameter, arXiv 2304.11277, section 4.2)."""

PARTS = (
    "forward",
    "backward",
    "recomputation",
    "tensor",
    "context",
    "expert",
    "stages",
    "bubble",
    "replicas",
    "optimizer",
)
"""What a step is made of, as it passes on the slowest stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Milliseconds of one step by part; arrays have shape (n,) or (s, n)."""

    forward: Array
    backward: Array
    recomputation: Array
    tensor: Array
    """Tensor-parallel communication that nothing runs beside; the same of those below."""
    context: Array
    expert: Array
    stages: Array
    """Activations handed over between stages."""
    bubble: Array
    """Stages that wait for others at the ends of a step."""
    replicas: Array
    """Gradients and weights on their way among replicas."""
    optimizer: Array

    @property
    def total(self) -> Array:
        return np.asarray(sum(getattr(self, part) for part in PARTS))


def exposed(time: Array, room: Array, overlap: Array | float) -> Array:
    """Return the milliseconds of communication that nothing hides: a share of it always, and all beyond the computation beside it."""
    return np.maximum(time * (1.0 - overlap), time - room)


def step_time(task: TrainingTask, layouts: TrainingLayouts, efficiencies: Efficiencies) -> StepTime:
    """Time of one step with n layouts, for one set of efficiencies or s of them side by side."""
    frame, model = task.framework, task.model
    cost = micro_batch_cost(task, layouts, efficiencies)
    share = layouts.stage_layers(model) / model.num_hidden_layers
    number = layouts.micro_batches(task)
    overlap = efficiencies.overlap
    products_ms = cost.layers_ms * share
    tensor = cost.tensor * share
    if frame.overlaps_tensor:
        tensor = exposed(tensor, products_ms, overlap)
    context = exposed(cost.context * share, cost.attention_ms * share, overlap)
    expert = cost.expert * share
    if frame.overlaps_tensor:  # of another micro-batch (DualPipe, arXiv 2412.19437, section 3.2.1)
        expert = exposed(expert, products_ms, overlap)
    per_stage = products_ms + tensor + context + expert
    hand_over = _hand_over_ms(task, layouts, efficiencies)
    if frame.overlaps_stages:
        hand_over = exposed(hand_over, per_stage, overlap)
    bubble = (layouts.pp - 1.0) / layouts.interleave * (per_stage + hand_over)
    head = cost.head.total_ms
    return StepTime(
        forward=number * (cost.forward.total_ms * share + head / 3.0),
        backward=number * (cost.backward.total_ms * share + head * 2.0 / 3.0),
        recomputation=number * cost.again.total_ms * share,
        tensor=number * tensor,
        context=number * context,
        expert=number * expert,
        stages=number * hand_over,
        bubble=bubble,
        replicas=_replicas_ms(task, layouts, efficiencies, cost, share),
        optimizer=_optimizer_ms(task, layouts, efficiencies),
    )


def step_causes(task: TrainingTask, layouts: TrainingLayouts, efficiencies: Efficiencies) -> dict[str, Array]:
    """Return the milliseconds of a step by cause: compute, memory, communication, and overhead, which bubbles count as."""
    time = step_time(task, layouts, efficiencies)
    cost = micro_batch_cost(task, layouts, efficiencies)
    share = layouts.stage_layers(task.model) / task.model.num_hidden_layers
    everything = (cost.forward + cost.backward + cost.again) * share + cost.head
    causes = (everything * layouts.micro_batches(task)).by_cause()
    causes["memory"] = causes["memory"] + time.optimizer
    causes["communication"] = time.tensor + time.context + time.expert + time.stages + time.replicas
    causes["overhead"] = causes["overhead"] + time.bubble
    return causes


def _hand_over_ms(task: TrainingTask, layouts: TrainingLayouts, efficiencies: Efficiencies) -> Array:
    """Return the milliseconds in which a micro-batch enters or leaves the chunks of a stage, forward and backward.

    Each tensor-parallel rank sends its slice (scatter and gather, arXiv 2104.04473, section 4.1).
    """
    message = layouts.tokens(task) * task.model.hidden_size * ACTIVATION_BYTES / layouts.tp
    one = stage_hand_over_ms(message, layouts.tp, layouts.pp, task.cluster, efficiencies.operators)
    host = np.where(layouts.pp > 1, efficiencies.operators.stage_ms, 0.0)
    return (one + host) * 2.0 * layouts.interleave


def _replicas_ms(
    task: TrainingTask, layouts: TrainingLayouts, efficiencies: Efficiencies, cost: MicroBatchCost, share: Array
) -> Array:
    """Return the milliseconds in which replicas sum gradients and share weights, as far as nothing hides them."""
    frame, operators = task.framework, efficiencies.operators
    dense, experts = trained_parameters(task, layouts)
    whole, whole_experts = stage_parameters(task, layouts)
    dense_shards, expert_shards = shards(layouts)

    def travel(op: str, own: Array, routed: Array) -> Array:
        time = collective_ms(op, own, dense_shards, task.cluster, operators, stride=layouts.tp)
        beside = collective_ms(
            op, routed, expert_shards, task.cluster, operators, stride=np.maximum(layouts.ep, layouts.tp)
        )
        return np.where(dense_shards > 1, time, 0.0) + np.where((routed > 0) & (expert_shards > 1), beside, 0.0)

    reduced = (dense * frame.reduced_bytes, experts * frame.reduced_bytes)
    gathered = (dense * frame.weight_bytes, experts * frame.weight_bytes)
    everything = (whole * frame.weight_bytes, whole_experts * frame.weight_bytes)
    summed = travel("all_reduce", *reduced)
    halves = travel("reduce_scatter", *reduced) + travel("all_gather", *gathered)
    number = layouts.micro_batches(task)
    # ZeRO-3 gathers the weights for both passes of every micro-batch, and scatters its gradients
    sharded = number * (travel("reduce_scatter", *reduced) + 2.0 * travel("all_gather", *everything))
    time = np.where(layouts.zero >= 3, sharded, np.where(layouts.zero >= 1, halves, summed))
    if frame.overlaps_gradients:
        one = cost.layers_ms * share + cost.head.total_ms
        room = np.where(layouts.zero >= 3, number, 1.0) * one
        time = exposed(time, room, efficiencies.overlap)
    copied = (dense + experts) * (FLAT_COPIES * frame.weight_bytes + frame.reduced_bytes)
    copies = number * copied / (task.cluster.gpu.memory_bandwidth_gbps * 1e6)
    return time + np.where((layouts.zero >= 3) & (layouts.replicas > 1), copies, 0.0)


def _optimizer_ms(task: TrainingTask, layouts: TrainingLayouts, efficiencies: Efficiencies) -> Array:
    """Return the milliseconds of Adam on the weights that one GPU keeps the states of."""
    dense, experts = trained_parameters(task, layouts)
    dense_shards, expert_shards = shards(layouts)
    split = layouts.zero >= 1
    own = dense / np.where(split, dense_shards, 1.0) + experts / np.where(split, expert_shards, 1.0)
    if task.offload:
        cluster = task.cluster
        link = task.framework.gradient_bytes + task.framework.weight_bytes
        there = own * link / (cluster.gpu.pcie_gbps * 1e6)
        return there + own * OPTIMIZER_BYTES * cluster.gpus_per_node / (HOST_ADAM_GBPS * 1e6)
    return own * OPTIMIZER_BYTES / (task.cluster.gpu.memory_bandwidth_gbps * 1e6 * efficiencies.operators.gemm_memory)
