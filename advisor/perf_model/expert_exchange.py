"""Time and buffers of DeepEP's kernels, which send each token only to the GPUs of its experts, and back.

Bytes, with routing uniform over ``ep`` GPUs: the low-latency kernels send a token once for each of its k experts; the normal ones once to each
of the ep (1 - (1 - 1/ep)^k) GPUs that hold any of them, and over the network once to each such node. Numbers are in 8 bits on their way to
experts that are multiplied in 8 bits by blocks, else in 16, and in 16 back. What is fixed, and the share of NVLink that is reached, were fitted to
48 times of eight H200s by ``python -m benchmarks.expert_exchange``, which also says how far they are off on H100s and over networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.collectives import link_gbps
from advisor.perf_model.cost import EXPERT_EXCHANGE, Cost
from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES
from catalog.engines.all_to_all import BY_TOKENS, HIGH_THROUGHPUT, KERNELS, LOW_LATENCY, LOW_LATENCY_WIDTHS
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.parameters import Parameters
    from catalog.schema import Cluster, Model
    from catalog.units import Array

FIXED_US = {"dispatch": (250.4, 50.8), "combine": (85.0, 53.4)}
"""Microseconds of the normal kernels and of the low-latency ones, whatever they send."""
NVLINK_SHARE = {"dispatch": (0.541, 0.412), "combine": (0.457, 0.743)}
"""Share of NVLink that the same reach."""
SCALED_BYTES = 1.0 + 4.0 / 128.0
"""Of a number in 8 bits, with the 32-bit scale that 128 of them share."""
BY_TOKENS_MOST = 128.0
"""Tokens a GPU up to which SGLang's "deepep" takes the low-latency kernels (``SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK``)."""
NO_LATENCY_US = 1e-6
"""Latency of links below which parameters are those of a floor."""
BUFFER_GIB = 1.0
"""Of each kind of link that vLLM sets aside (``VLLM_DEEPEP_BUFFER_SIZE_MB``, 1024 by default)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeWork:
    """One way of the tokens of ``layers`` layers, to their experts or back; arrays have shape (n,), zero where nothing goes that way."""

    phase: str
    layers: float
    low_latency: Array
    """1.0 with the low-latency kernels, 0.0 with the normal ones."""
    takes_part: Array
    inside_bytes: Array
    """That a GPU sends to others of its node."""
    across_bytes: Array
    """That it sends to other nodes."""


def exchanges_of(model: Model, layout: DeploymentArrays, tokens: Array, cluster: Cluster) -> Iterator[ExchangeWork]:
    """Yield the ways of ``tokens`` tokens of each replica, where DeepEP sends them."""
    code = layout.exchange
    takes_part = (code > 0) & (layout.ep > layout.tp)
    own = tokens / layout.tp  # a replica's are divided among its GPUs (``use_sequence_parallel_moe``)
    low = (code == KERNELS.index(LOW_LATENCY)) | ((code == KERNELS.index(BY_TOKENS)) & (own <= BY_TOKENS_MOST))
    top, ep = float(model.num_experts_per_tok), np.maximum(layout.ep, 1.0)
    local = np.minimum(ep, float(cluster.gpus_per_node))
    nodes = np.maximum(ep / local, 1.0)
    beside, away = (local - 1.0) / ep, 1.0 - local / ep
    gpus, servers = ep * (1.0 - (1.0 - 1.0 / ep) ** top), nodes * (1.0 - (1.0 - 1.0 / nodes) ** top)
    inside = np.where(low, top * beside, gpus * (local - 1.0) / local)
    across = np.where(low, top * away, servers * (nodes - 1.0) / nodes)
    width = np.where(low, rounded_width(model.hidden_size), float(model.hidden_size))
    narrow = np.where(layout.block_scales > 0, SCALED_BYTES, ACTIVATION_BYTES)
    for phase, number in (("dispatch", narrow), ("combine", ACTIVATION_BYTES)):
        sent = np.where(takes_part, own * width * number, 0.0)
        yield ExchangeWork(
            phase=phase,
            layers=float(model.moe_layers),
            low_latency=np.where(low, 1.0, 0.0),
            takes_part=np.where(takes_part, 1.0, 0.0),
            inside_bytes=sent * inside,
            across_bytes=sent * across,
        )


def rounded_width(hidden: int) -> float:
    """Return the hidden size for which low-latency kernels are built, at least ``hidden``."""
    return float(next((width for width in LOW_LATENCY_WIDTHS if width >= hidden), hidden))


def exchange_cost(work: ExchangeWork, cluster: Cluster, parameters: Parameters) -> Cost:
    """Price one way, which is communication; NVLink and network work at the same time."""
    bare = np.asarray(parameters.collective_us) < NO_LATENCY_US
    low = work.low_latency > 0
    fixed = np.where(bare, 0.0, np.where(low, FIXED_US[work.phase][1], FIXED_US[work.phase][0]))
    share = np.where(bare, 1.0, np.where(low, NVLINK_SHARE[work.phase][1], NVLINK_SHARE[work.phase][0]))
    inside = work.inside_bytes / (link_gbps(cluster, np.maximum(work.takes_part, 1.0)) * share * 1e6)
    across = work.across_bytes / (cluster.network_gbps * parameters.ring_link * 1e6)
    time = fixed * 1e-3 + np.maximum(inside, across)
    return Cost.of(EXPERT_EXCHANGE, communication=np.where(work.takes_part > 0, time, 0.0)) * work.layers


def buffer_gib(model: Model, layout: DeploymentArrays, cluster: Cluster) -> Array:
    """Return the buffers that vLLM allocates for DeepEP on each GPU, shape (n,).

    Low-latency ones by DeepEP's csrc/config.hpp ``LowLatencyLayout``: two of each, for sending and receiving, a message of every expert for each
    token of a step.
    """
    # SGLang's come out of its reserve.
    low, high = (layout.exchange == KERNELS.index(name) for name in (LOW_LATENCY, HIGH_THROUGHPUT))
    width = rounded_width(model.hidden_size)
    message = ACTIVATION_BYTES * width + max(16.0, 4.0 * width / 128.0)
    queues = 4.0 * model.num_experts * layout.max_num_batched_tokens * message / GIB
    across = layout.ep > cluster.gpus_per_node
    return np.where(low, BUFFER_GIB + queues, 0.0) + np.where(high, BUFFER_GIB * np.where(across, 2.0, 1.0), 0.0)
