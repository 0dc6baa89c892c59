"""What one micro-batch costs one GPU, as if all layers were on one stage: forward, backward and recomputation.

The operators are those of inference, their inputs and outputs counted too; the backward pass computes every product twice, for
the gradient of its input and of its weights (Narayanan et al. 2021, arXiv 2104.04473, appendix).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.cost import ALL_REDUCE, ATTENTION, LM_HEAD, Cost
from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES
from advisor.perf_model.forward_pass import prefill_pass
from advisor.perf_model.operators import (
    AttentionWork,
    CollectiveWork,
    ElementwiseWork,
    Product,
    RecurrenceWork,
    causal_pairs,
    operators,
)
from advisor.perf_model.parameters import scaled_odds
from advisor.perf_model.roofline import attention_cost, operator_cost, product_cost
from advisor.training.layouts import FORMATS, FULL, SELECTIVE
from catalog.mixers import Attention, LatentAttention
from catalog.models.stack import stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advisor.perf_model.operators import ForwardPass
    from advisor.training.efficiencies import Efficiencies
    from advisor.training.layouts import TrainingLayouts, TrainingTask
    from catalog.units import Array

BACKWARD_PRODUCTS = 2.0
"""Products of the backward pass for each of the forward one: the gradient of the input, and that of the weights."""
FROZEN_PRODUCTS = 1.0
"""The same of weights that are not trained."""
FUSED_BACKWARD = 2.5
"""Products of fused attention's backward pass over its forward one: it computes the scores again (arXiv 2307.08691, 4.1)."""
ELEMENTWISE_BACKWARD = 2.0
"""Bytes of the backward pass over those of the forward one: it reads what was kept beside the gradient it passes on."""
SCORE_FORWARD_BYTES, SCORE_BACKWARD_BYTES = 13.0, 17.0
"""Bytes of memory traffic a query-key pair and head of unfused attention: scores written, softmax, dropout with its mask, read
for the values; backward their gradients likewise, with what was kept read again."""
CONVERSION_BYTES = 4.0
"""Bytes of traffic in which a number becomes an 8-bit one: read in 16 bits, written as it is and transposed for the gradient of
the weights (FP8 formats for deep learning, arXiv 2209.05433; TransformerEngine's cast-transpose)."""
LOSS_BYTES = 16.0
"""Bytes of traffic a logit: written, read in 32 bits for the loss, its gradient written and read."""

LAST_PRODUCT = "down"
"""The product that ends a dense layer; nothing in the layer's backward pass needs what it gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchCost:
    """Costs of one micro-batch over all layers; arrays have shape (n,) or (s, n)."""

    forward: Cost
    backward: Cost
    again: Cost
    """What is recomputed."""
    head: Cost
    """The output head and the loss, forward and backward."""
    tensor: Array
    """Milliseconds of tensor-parallel communication, recomputation's included, ..."""
    context: Array
    """... of keys and values that travel among the GPUs of a sequence, ..."""
    expert: Array
    """... and of tokens on their way to experts and back."""
    attention_ms: Array
    """Milliseconds of attention, forward and backward, which the travel of keys and values runs beside."""

    @property
    def layers_ms(self) -> Array:
        """Return the milliseconds that all layers compute."""
        return self.forward.total_ms + self.backward.total_ms + self.again.total_ms


def micro_batch(task: TrainingTask, layouts: TrainingLayouts) -> ForwardPass:
    """Return the forward pass of one micro-batch on one GPU."""
    sequences = layouts.micro_batch / layouts.cp
    length = np.full(len(layouts), float(task.sequence_length))
    whole = length * length if not task.framework.fused_attention else causal_pairs(length)
    window = max((part.window for layer in stack(task.model).kinds for part in layer.mixers), default=0)
    windowed = causal_pairs(length, float(window)) if window and task.framework.fused_attention else whole
    tokens = layouts.tokens(task)
    return prefill_pass(tokens, tokens, sequences * whole, sequences * windowed)


def layer_products(task: TrainingTask, layouts: TrainingLayouts) -> Iterator[Product]:
    """Yield every product of a forward pass, the head's too, with its inputs and outputs among what is read."""
    for operator in operators(task.model, layouts.deployments(task), micro_batch(task, layouts)):
        if isinstance(operator, Product):
            moved = operator.flops / 2.0 * (1.0 / np.asarray(operator.k) + 1.0 / np.asarray(operator.n))
            yield replace(operator, weights=operator.weights + moved)


def _plain_cost(task: TrainingTask, layouts: TrainingLayouts, efficiencies: Efficiencies) -> tuple[Cost, Cost]:
    """Forward cost of the products: of the layers, and of the head."""
    deployments, gpu = layouts.deployments(task), task.cluster.gpu
    layers, head = Cost(), Cost()
    for product in layer_products(task, layouts):
        cost = product_cost(product, deployments, gpu, efficiencies.operators)
        if product.name == LM_HEAD:
            head = head + cost
        else:
            layers = layers + cost
    return layers, head


def _attention(
    task: TrainingTask, layouts: TrainingLayouts, efficiencies: Efficiencies, work: AttentionWork, *, backward: bool
) -> Cost:
    """Price the core of attention of all layers, in 16 bits whatever products run in."""
    parameters, fused = efficiencies.operators, task.framework.fused_attention
    if backward:
        efficiency = scaled_odds(parameters.attention_compute, efficiencies.attention_backward)
        parameters = replace(parameters, attention_compute=efficiency)
    if not fused:
        parameters = replace(parameters, attention_tile=0.0)
    gpu = task.cluster.gpu
    cost = attention_cost(work, layouts.deployments(task, plain=True), gpu, parameters)
    if backward:
        cost = cost * (FUSED_BACKWARD if fused else BACKWARD_PRODUCTS)
    if not fused:
        heads = sum(
            count * mixer.heads
            for count, layer in stack(task.model).counts
            for mixer in layer.mixers
            if isinstance(mixer, (Attention, LatentAttention))
        )
        pairs = micro_batch(task, layouts).pairs
        moved = pairs * heads / layouts.tp * (SCORE_BACKWARD_BYTES if backward else SCORE_FORWARD_BYTES)
        cost = cost + Cost.of(ATTENTION, memory=moved * efficiencies.score_traffic / (gpu.memory_bandwidth_gbps * 1e6))
    return cost


def _without(cost: Cost, operator: str) -> Cost:
    """Return a cost but for one operator."""
    return Cost(times={key: time for key, time in cost.times.items() if key[0] != operator})


def _conversions(task: TrainingTask, layouts: TrainingLayouts, efficiencies: Efficiencies, *, inputs: bool) -> Cost:
    """Bring what products take into their narrow format: ``inputs`` of the forward pass, or gradients of its outputs."""
    if FORMATS[task.precision] == FORMATS["bf16"]:
        return Cost()
    moved = sum(
        product.flops / 2.0 / np.asarray(product.n if inputs else product.k) * product.layers
        for product in layer_products(task, layouts)
        if product.kind != "half"
    )
    traffic = CONVERSION_BYTES * moved * efficiencies.operators.elementwise_traffic
    return Cost.of("conversion", memory=traffic / (task.cluster.gpu.memory_bandwidth_gbps * 1e6))


def micro_batch_cost(task: TrainingTask, layouts: TrainingLayouts, efficiencies: Efficiencies) -> MicroBatchCost:
    """Price one micro-batch with n layouts, for one set of efficiencies or s of them."""
    model, cluster = task.model, task.cluster
    efficiencies = efficiencies.on_gpu(cluster.gpu, flash_2=task.framework.flash_2)
    parameters = efficiencies.operators
    matrices, head = _plain_cost(task, layouts, efficiencies)
    plain = layouts.deployments(task, plain=True)
    step = micro_batch(task, layouts)
    core, core_back, state, light = Cost(), Cost(), Cost(), Cost()
    for operator in operators(model, plain, step):
        if isinstance(operator, AttentionWork):
            core, core_back = (
                _attention(task, layouts, efficiencies, operator, backward=backward) for backward in (False, True)
            )
        elif isinstance(operator, RecurrenceWork):
            state = operator_cost(operator, plain, cluster, parameters)
        elif isinstance(operator, ElementwiseWork):
            light = operator_cost(operator, plain, cluster, parameters)
    forward = matrices + core + state + light + _conversions(task, layouts, efficiencies, inputs=True)
    trained = FROZEN_PRODUCTS if task.lora_rank else BACKWARD_PRODUCTS
    backward = matrices * trained + core_back + state * BACKWARD_PRODUCTS + light * ELEMENTWISE_BACKWARD
    backward = backward + _conversions(task, layouts, efficiencies, inputs=False)
    scores = np.where(layouts.recompute == SELECTIVE, 0.0 if task.framework.fused_attention else 1.0, 0.0)
    full = np.where(layouts.recompute == FULL, 1.0, 0.0)
    again = (_without(forward, LAST_PRODUCT) if task.framework.stops_recomputation else forward) * full + core * scores
    loss = LOSS_BYTES * step.tokens * model.vocab_size / layouts.tp
    head = head * (1.0 + trained) + Cost.of(
        "loss", memory=loss * parameters.elementwise_traffic / (cluster.gpu.memory_bandwidth_gbps * 1e6)
    )
    return MicroBatchCost(
        forward=forward,
        backward=backward,
        again=again,
        head=head,
        tensor=_tensor_ms(task, layouts, efficiencies),
        context=_context_ms(task, layouts, efficiencies),
        expert=_expert_ms(task, layouts, efficiencies),
        attention_ms=core.total_ms + core_back.total_ms,
    )


def _passes(layouts: TrainingLayouts) -> Array:
    """Count the passes over the layers: forward, backward, and where all is recomputed forward again."""
    return np.asarray(2.0 + (layouts.recompute == FULL))


def _tensor_ms(task: TrainingTask, layouts: TrainingLayouts, efficiencies: Efficiencies) -> Array:
    """Return the milliseconds of tensor parallelism: an all-reduce, or its two halves, behind each part in every pass."""
    times = [
        operator_cost(operator, layouts.deployments(task), task.cluster, efficiencies.operators).total_ms
        for operator in operators(task.model, layouts.deployments(task), micro_batch(task, layouts))
        if isinstance(operator, CollectiveWork) and operator.name == ALL_REDUCE
    ]
    return np.asarray(sum(times) * _passes(layouts))


def _context_ms(task: TrainingTask, layouts: TrainingLayouts, efficiencies: Efficiencies) -> Array:
    """Return the milliseconds in which keys and values of all layers are gathered, and their gradients scattered (arXiv 2310.01889)."""
    numbers = sum(count * part.read[0] for count, layer in stack(task.model).counts for part in layer.mixers)
    message = layouts.micro_batch * task.sequence_length * numbers * ACTIVATION_BYTES / layouts.tp
    gathered = CollectiveWork(
        name="context", op="all_gather", message_bytes=message, group=layouts.cp, times=1.0, stride=layouts.tp
    )
    one = operator_cost(gathered, layouts.deployments(task), task.cluster, efficiencies.operators).total_ms
    return np.asarray(one * (_passes(layouts) + 1.0))


def _expert_ms(task: TrainingTask, layouts: TrainingLayouts, efficiencies: Efficiencies) -> Array:
    """Return the milliseconds in which tokens travel to their experts and back, in every pass."""
    model = task.model
    if not model.moe_layers:
        return np.zeros(len(layouts))
    chosen = max(getattr(layer.feed_forward, "num_experts_per_tok", 0) for layer in stack(model).kinds)
    message = layouts.tokens(task) * chosen * model.hidden_size * ACTIVATION_BYTES / layouts.tp
    sent = CollectiveWork(
        name="expert", op="all_to_all", message_bytes=message, group=layouts.ep, times=2.0 * model.moe_layers
    )
    one = operator_cost(sent, layouts.deployments(task), task.cluster, efficiencies.operators).total_ms
    return np.asarray(one * _passes(layouts))


def model_flops(task: TrainingTask) -> float:
    """Count the operations of a step as model FLOPs utilisation counts them: three passes, every query with every key.

    Weights that are not trained need no gradients: two passes over their products, and three over the core of attention.
    What is recomputed is not counted, and causal masks save nothing (PaLM, arXiv 2204.02311, appendix B; arXiv
    2205.05198, appendix A).
    """
    from advisor.training.layouts import TrainingLayouts
    from catalog.training import TrainingLayout

    alone = TrainingLayouts.of([TrainingLayout()])
    pairs = float(task.sequence_length) ** 2
    matrices = sum(float(np.sum(product.flops)) * product.layers for product in layer_products(task, alone))
    core = sum(
        count * part.pair_flops(absorbed=False) * pairs
        for count, layer in stack(task.model).counts
        for part in layer.mixers
    )
    over_weights = 1.0 + (FROZEN_PRODUCTS if task.lora_rank else BACKWARD_PRODUCTS)
    return task.batch * (over_weights * matrices + (1.0 + BACKWARD_PRODUCTS) * core)
