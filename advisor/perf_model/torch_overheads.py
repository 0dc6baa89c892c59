"""What the plain PyTorch engine of the probes takes beyond what its kernels do: plain operations in place of fused ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.cost import ELEMENTWISE, ROUTING, Cost
from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES
from advisor.perf_model.operators import elementwise_bytes

if TYPE_CHECKING:
    from advisor.perf_model.cost_model import CostModel
    from advisor.perf_model.operators import ForwardPass
    from catalog.units import Array

UNFUSED_US = 45.0
UNFUSED_TRAFFIC = 4.5
"""What plain element-wise kernels add: GPU time a layer, and memory traffic over the ideal (Llama-3.1-8B on one H200,
compiled against not, in CUDA graphs both; ``catalog/data/runs/torch-2.11.0_h200.csv``)."""

ROUTING_US = 40.0
ROUTING_TRAFFIC = 13.0
"""What our PyTorch engine adds in each layer with experts by sorting tokens in plain operations: GPU time, and times that it
moves the hidden state of each token and expert. Qwen3-30B-A3B on one H200: batches of one token are 45 us a layer slower than
their kernels alone, prefill of 8192 tokens 0.8 ms (``catalog/data/kernels``, experts, and ``catalog/data/runs``)."""


def unfused(cost_model: CostModel, step: ForwardPass, gpu_ms: Array) -> Cost:
    """Return what the plain PyTorch engine takes longer than ``gpu_ms`` where its element-wise kernels are not fused;
    other engines' are written as one.
    """
    plain = 1.0 - cost_model.layout.compiled + np.zeros_like(gpu_ms)
    bandwidth = cost_model.cluster.gpu.memory_bandwidth_gbps * 1e6
    traffic = UNFUSED_TRAFFIC * elementwise_bytes(cost_model.model, cost_model.layout, step) / bandwidth
    return Cost.of(
        ELEMENTWISE, memory=plain * traffic, overhead=plain * cost_model.model.num_hidden_layers * UNFUSED_US * 1e-3
    )


def routing(cost_model: CostModel, step: ForwardPass) -> Cost:
    """Return what the plain PyTorch engine takes to send tokens to experts and back."""
    model = cost_model.model
    sent = ROUTING_TRAFFIC * step.tokens * model.num_experts_per_tok * model.hidden_size * ACTIVATION_BYTES
    layer_cost = Cost.of(
        ROUTING,
        memory=sent / (cost_model.cluster.gpu.memory_bandwidth_gbps * 1e6),
        overhead=ROUTING_US * 1e-3 + np.zeros_like(sent),
    )
    return layer_cost * float(model.moe_layers)
