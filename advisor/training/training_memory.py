"""Memory of one GPU in training, by part: weights, gradients, optimizer states, activations, buffers.

Activations follow from the parts of a layer: every matrix keeps its input for the gradient of its weights, and what stands
between two matrices keeps its own. For a GPT this is table 2 of Korthikanti et al. 2022 (arXiv 2205.05198), for others the
same count over their parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.memory.torch_engine import CONTEXT_GIB, OUTSIDE_GIB
from advisor.perf_model.memory.weights import columns, layer_elements, rows
from advisor.training.layouts import FULL, SELECTIVE
from catalog.mixers import HALF_BYTES, Attention, LatentAttention
from catalog.models.sizes import embedding_parameters, head_parameters
from catalog.models.stack import stack
from catalog.parts import Dense, Experts
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterable

    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.training.layouts import TrainingLayouts, TrainingTask
    from catalog.mixers import Matrix
    from catalog.parts import Layer
    from catalog.schema import Model
    from catalog.units import Array

SCORE_BYTES = 5.0
"""Bytes that unfused attention keeps a query-key pair and head: softmax and dropout in 16 bits, the mask in 8 (table 2)."""
MASK_BYTES = 1.0
STATISTIC_BYTES = 4.0
"""Bytes that fused attention keeps a token and head, the logarithm of its sum (FlashAttention-2, arXiv 2307.08691)."""
LOGIT_BYTES = 6.0
"""Bytes a logit of the last stage: 16 bits, and 32 in the loss (arXiv 2205.05198, section 4.3)."""
OUTSIDE = CONTEXT_GIB + OUTSIDE_GIB["both"]
"""GiB outside of PyTorch's allocator: the CUDA context, cuBLAS and NCCL, as measured for the PyTorch engine."""
FRAGMENTATION, MOST_FRAGMENTATION = 0.04, 1.0 / 0.9 - 1.0
"""Share by which PyTorch's allocator reserves more than is used, as a rule and at most (GMLake, arXiv 2401.08156, figure 3: 90 to 97%
used without and with recomputation)."""
LAYERS_GATHERED = 2.0
"""Layers whose whole weights ZeRO-3 holds at once: the one that computes, and the next one on its way (FSDP's prefetch)."""

PARTS = ("weights", "gradients", "optimizer", "activations", "buffers", "outside")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """GiB on the fullest GPU, by part; arrays have shape (n,)."""

    weights: Array
    gradients: Array
    optimizer: Array
    activations: Array
    """Of the layers: what lies between forward and backward."""
    buffers: Array
    """What lives for a short while: logits, a layer that is recomputed, weights that are gathered, fragmentation."""
    outside: Array
    """CUDA context, libraries and NCCL."""

    @property
    def total(self) -> Array:
        return np.asarray(sum(getattr(self, part) for part in PARTS))

    @property
    def interval(self) -> tuple[Array, Array]:
        """Return GiB without any fragmentation and no more than a CUDA context outside, and with the most of both."""
        lived = (self.total - self.outside) / (1.0 + FRAGMENTATION)
        return lived + CONTEXT_GIB, lived * (1.0 + MOST_FRAGMENTATION) + 2.0 * self.outside - CONTEXT_GIB


def layer_parameters(model: Model, layer: Layer, deployments: DeploymentArrays) -> tuple[Array, Array]:
    """Count one layer's weights on one GPU, and those of them that are routed experts; arrays of shape (n,)."""
    counted = layer_elements(layer, model.hidden_size, deployments)
    total = sum((part.quantised + part.plain for part in counted.values()), start=np.zeros(len(deployments)))
    experts = counted["experts"].quantised if "experts" in counted else np.zeros(len(deployments))
    return total, experts


def stage_parameters(task: TrainingTask, layouts: TrainingLayouts, *, middle: bool = False) -> tuple[Array, Array]:
    """Count the weights of the fullest stage on one GPU: those that all replicas share, and routed experts.

    ``middle``: of a stage without embeddings.
    """
    model, deployments = task.model, layouts.deployments(task, plain=True)
    share = layouts.stage_layers(model) / model.num_hidden_layers
    dense, experts = np.zeros(len(layouts)), np.zeros(len(layouts))
    for count, layer in stack(model).counts:
        total, routed = layer_parameters(model, layer, deployments)
        dense, experts = dense + count * share * (total - routed), experts + count * share * routed
    if not middle:
        table = embedding_parameters(model) - model.learned_positions * model.hidden_size
        head = head_parameters(model)
        one = np.maximum(table, head) if head else table
        dense = dense + np.where(layouts.pp > 1, one, table + head) / layouts.tp
        dense = dense + model.learned_positions * model.hidden_size
    return dense, experts


def adapter_parameters(task: TrainingTask, layouts: TrainingLayouts) -> Array:
    """Count the trained weights of low-rank adapters beside every matrix of a stage's layers, on one GPU."""
    tp, hidden = layouts.tp, task.model.hidden_size
    share = layouts.stage_layers(task.model) / task.model.num_hidden_layers
    total = np.zeros(len(layouts))
    for count, layer in stack(task.model).counts:
        for matrix in _matrices(layer, hidden):
            total = total + count * task.lora_rank * (rows(matrix, tp) + columns(matrix, tp))
    return total * share


def trained_parameters(task: TrainingTask, layouts: TrainingLayouts, *, middle: bool = False) -> tuple[Array, Array]:
    """Count what has gradients on one GPU: dense weights or adapters, and routed experts."""
    if task.lora_rank:
        return adapter_parameters(task, layouts), np.zeros(len(layouts))
    return stage_parameters(task, layouts, middle=middle)


def shards(layouts: TrainingLayouts) -> tuple[Array, Array]:
    """Return among how many GPUs ZeRO divides a dense weight and a routed expert's."""
    own = np.maximum(layouts.replicas * layouts.tp / np.maximum(layouts.ep, layouts.tp), 1.0)
    return layouts.replicas, np.where(layouts.ep > 1, own, layouts.replicas)


def _matrices(layer: Layer, hidden: int) -> Iterable[Matrix]:
    for mixer in layer.mixers:
        yield from mixer.matrices(hidden)
    if isinstance(layer.feed_forward, Dense):
        yield from layer.feed_forward.matrices(hidden)


def _between(matrices: Iterable[Matrix], tp: Array) -> Array:
    """Count the numbers a token that a part keeps behind its input: what matrices give, and what the last ones take."""
    kept = np.zeros_like(tp)
    for matrix in matrices:
        kept = kept + (rows(matrix, tp) if matrix.sliced == "k" else columns(matrix, tp))
    return kept


def layer_activation_bytes(task: TrainingTask, layer: Layer, layouts: TrainingLayouts) -> Array:
    """Return the bytes a token that one layer keeps without any recomputation, scores of attention left out, shape (n,)."""
    hidden, tp = float(task.model.hidden_size), layouts.tp
    along = np.where(layouts.sequence_parallel > 0, tp, 1.0)
    parts = bool(layer.mixers) + (layer.feed_forward is not None)
    # inputs of the norms and of the first matrices, and dropout's masks, are whole unless the sequence is sliced
    whole = HALF_BYTES * (min(layer.norms, 2) + parts) * hidden + MASK_BYTES * parts * hidden * task.framework.dropout
    kept = np.zeros_like(tp)
    for mixer in layer.mixers:
        kept = kept + _between(mixer.matrices(task.model.hidden_size), tp)
    block = layer.feed_forward
    if isinstance(block, Dense):
        kept = kept + _between(block.matrices(task.model.hidden_size), tp)
    elif isinstance(block, Experts):
        routed = block.inputs(task.model.hidden_size) + (block.inner + block.width) / np.where(layouts.ep > 1, 1.0, tp)
        kept = kept + block.num_experts_per_tok * routed
        if block.shared:
            kept = kept + _between(block.shared.matrices(task.model.hidden_size), tp)
    return whole / along + HALF_BYTES * kept


def score_bytes(task: TrainingTask, layer: Layer, layouts: TrainingLayouts) -> Array:
    """Return the bytes a token that the core of attention keeps: scores, or where it is fused the statistics of each head."""
    scores = np.zeros(len(layouts))
    for mixer in layer.mixers:
        if isinstance(mixer, (Attention, LatentAttention)):
            pairs = STATISTIC_BYTES if task.framework.fused_attention else SCORE_BYTES * task.sequence_length
            scores = scores + mixer.heads * pairs / layouts.tp
    return scores


def activation_bytes(task: TrainingTask, layouts: TrainingLayouts) -> Array:
    """Return the bytes a token that all layers keep between forward and backward, as if on one stage, shape (n,)."""
    hidden = HALF_BYTES * float(task.model.hidden_size)
    checkpoint = hidden / np.where(layouts.sequence_parallel > 0, layouts.tp, 1.0)
    total = np.zeros(len(layouts))
    for count, layer in stack(task.model).counts:
        kept = layer_activation_bytes(task, layer, layouts)
        scores = score_bytes(task, layer, layouts)
        kept = kept + np.where((layouts.recompute == SELECTIVE) & (not task.framework.fused_attention), 0.0, scores)
        total = total + count * np.where(layouts.recompute == FULL, np.minimum(checkpoint, kept), kept)
    return total


def memory_by_part(task: TrainingTask, layouts: TrainingLayouts, *, middle: bool = False) -> TrainingMemory:
    """Account for the memory of n layouts on the fullest GPU; ``middle``: on one of a stage without embeddings and logits."""
    frame, model = task.framework, task.model
    dense, experts = stage_parameters(task, layouts, middle=middle)
    trained, trained_experts = trained_parameters(task, layouts, middle=middle)
    dense_shards, expert_shards = shards(layouts)

    def divided(own: Array, routed: Array, stage: int) -> Array:
        if stage == 0:
            return own + routed
        split = layouts.zero >= stage
        return own / np.where(split, dense_shards, 1.0) + routed / np.where(split, expert_shards, 1.0)

    weights = frame.weight_bytes * divided(dense, experts, 3)
    gradients = frame.gradient_bytes * divided(trained, trained_experts, 2)
    optimizer = (0.0 if task.offload else frame.optimizer_bytes) * divided(trained, trained_experts, 1)
    if task.lora_rank:
        weights = weights + frame.weight_bytes * trained
    tokens = layouts.tokens(task)
    stage_share = layouts.stage_layers(model) / model.num_hidden_layers
    kept = activation_bytes(task, layouts) * tokens * stage_share * layouts.in_flight(task)
    largest = np.zeros(len(layouts))
    gathered = np.zeros(len(layouts))
    for _, layer in stack(model).counts:
        whole = (layer_activation_bytes(task, layer, layouts) + score_bytes(task, layer, layouts)) * tokens
        scores = score_bytes(task, layer, layouts) * tokens * (not task.framework.fused_attention)
        again = np.where(layouts.recompute == FULL, whole, np.where(layouts.recompute == SELECTIVE, scores, 0.0))
        largest = np.maximum(largest, np.minimum(again, whole))
        total, _ = layer_parameters(model, layer, layouts.deployments(task, plain=True))
        gathered = np.maximum(gathered, LAYERS_GATHERED * total * (frame.weight_bytes + frame.reduced_bytes / 2.0))
    buffers = largest + np.where(layouts.zero >= 3, gathered, 0.0)
    if not middle:
        buffers = buffers + LOGIT_BYTES * tokens * model.vocab_size / layouts.tp
    lived = weights + gradients + optimizer + kept + buffers
    return TrainingMemory(
        weights=weights / GIB,
        gradients=gradients / GIB,
        optimizer=optimizer / GIB,
        activations=kept / GIB,
        buffers=(buffers + FRAGMENTATION * lived) / GIB,
        outside=np.full(len(layouts), OUTSIDE),
    )
