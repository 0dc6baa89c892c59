"""Time of collectives: a fixed latency and a bandwidth, for short and for long messages, for the links they really cross.

Ring volumes (Patarasuk and Yuan, 2009): an all-reduce of s bytes among g GPUs moves 2 s (g-1)/g through each GPU, an
all-gather or reduce-scatter half of that, an all-to-all s (g-1)/g; a send moves s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.cost import Cost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.perf_model.operators import CollectiveWork
    from advisor.perf_model.parameters import Parameters
    from catalog.schema import Cluster
    from catalog.units import Array

VOLUME = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}

MESH_SHARE = {2: 1.0 / 3.0, 3: 0.5, 4: 0.5}
"""Share of a GPU's links that a group can use in a DGX-1's hybrid cube mesh (NVIDIA DGX-1 V100 whitepaper, figure 4):
two neighbours are joined by at most 2 of 6 links, a quad by rings over 3 of them."""

XGMI_PEERS = 7.0
"""An 8-GPU xGMI mesh has one link to each of 7 peers: a group of g uses g-1 of them (AMD CDNA 3 whitepaper)."""

SLOW_LATENCY = {"pcie": 2.0, "network": 4.0}
"""Latency over PCIe and over a network, times that over NVLink. Medians of the 8 KiB to 64 KiB all-reduce rows of
Vidur and APEX+ (V100-PCIE, A100 and H100, 1 and several nodes) over those of NVLink within a node."""


def link_gbps(cluster: Cluster, group: Array) -> Array:
    """Return the bandwidth of one GPU's share of the slowest link that a group inside one node crosses, per direction, GB/s."""
    gpu = cluster.gpu
    if gpu.topology == "nvswitch" and gpu.nvlink_gbps:
        return np.full(np.shape(group), gpu.nvlink_gbps)
    if gpu.topology == "mesh" and gpu.nvlink_gbps:
        if gpu.vendor == "amd":
            return gpu.nvlink_gbps * np.clip(group - 1.0, 1.0, XGMI_PEERS) / XGMI_PEERS
        share = np.ones(np.shape(group))
        for size, part in MESH_SHARE.items():
            share = np.where(group == size, part, share)
        return gpu.nvlink_gbps * share
    # Bridges between pairs are an option nobody has stated, so PCIe; GPUs of one host share its root complex.
    return np.full(np.shape(group), gpu.pcie_gbps)


def _is_fast(cluster: Cluster) -> bool:
    return cluster.gpu.topology in {"nvswitch", "mesh"} and cluster.gpu.nvlink_gbps > 0


def collective_ms(
    op: str,
    message_bytes: Array,
    group: Array,
    cluster: Cluster,
    parameters: Parameters,
    *,
    stride: Array | float = 1.0,
) -> Array:
    """Return milliseconds of one collective of ``message_bytes`` (the full tensor) among ``group`` GPUs, shape (n,).

    ``stride``: distance between members of the group in GPUs; a group with ``group * stride`` above the node's size
    crosses the network. One GPU costs nothing.
    """
    local = np.clip(cluster.gpus_per_node / stride, 1.0, group)
    crosses = group * stride > cluster.gpus_per_node
    inside = VOLUME[op] * message_bytes * (local - 1.0) / np.maximum(local, 1.0)
    time = np.where(local > 1.0, _within_node_ms(inside, local, cluster, parameters), 0.0)
    if not np.any(crosses):
        return time
    # Hierarchical: each GPU of a node carries its slice of the message between nodes (NCCL's tree and ring over rails).
    nodes = np.maximum(group / local, 1.0)
    between = _between_nodes_ms(
        VOLUME[op] * message_bytes / local, nodes, np.maximum(stride * local, 1.0), cluster, parameters
    )
    return time + np.where(crosses, between, 0.0)


def _between_nodes_ms(
    slices: Array, nodes: Array, apart: Array | float, cluster: Cluster, parameters: Parameters
) -> Array:
    """Return the milliseconds in which ``nodes`` nodes combine slices of ``slices`` bytes, one rail each: first under the leaves, then the spine.

    Short messages climb a tree, so that their latency grows with the logarithm of the nodes (NCCL 2.4); long ones are bound by the
    slowest of the links they cross. ``apart``: distance between two members of a rail, in GPUs.
    """
    latency = parameters.collective_us * SLOW_LATENCY["network"] * 1e-3 * np.maximum(np.log2(nodes), 1.0)
    bandwidth = cluster.network_gbps * parameters.ring_link * 1e6
    if not cluster.leaf_nodes or cluster.oversubscription <= 1:
        return latency + slices * (nodes - 1.0) / nodes / bandwidth
    skipped = np.maximum(apart / cluster.gpus_per_node, 1.0)  # members of the group may stand some nodes apart
    under = np.clip(cluster.leaf_nodes / skipped, 1.0, nodes)
    leaves = nodes / under
    within = slices * (under - 1.0) / under / bandwidth
    above = slices / under * (leaves - 1.0) / leaves / (bandwidth / cluster.oversubscription)
    return latency + within + above


def _within_node_ms(volume: Array, group: Array, cluster: Cluster, parameters: Parameters) -> Array:
    """Return milliseconds inside a node; ``volume``: bytes through each of ``group`` GPUs.

    Engines sum short messages with kernels of their own, in which every GPU reads all others' (vLLM's and TensorRT-LLM's custom
    all-reduce, PyTorch's symmetric memory); long ones go through NCCL's rings, which take longer to begin and then are faster.
    The quicker of the two ways is taken, so that time and its share per byte have no jump.
    """
    gbps = link_gbps(cluster, group)
    if not _is_fast(cluster):
        return parameters.collective_us * SLOW_LATENCY["pcie"] * 1e-3 + volume / (gbps * parameters.ring_link * 1e6)
    short = parameters.collective_us * 1e-3 + volume / (gbps * parameters.link * 1e6)
    long = parameters.ring_us * 1e-3 + volume / (gbps * parameters.ring_link * 1e6)
    return np.minimum(short, long)


def collective_cost(operator: CollectiveWork, cluster: Cluster, parameters: Parameters) -> Cost:
    """Price collectives, which are all communication."""
    time = collective_ms(
        operator.op, operator.message_bytes, operator.group, cluster, parameters, stride=operator.stride
    )
    return Cost.of(operator.name, communication=np.where(operator.group > 1, time, 0.0)) * operator.times


def hand_over_ms(
    message_bytes: Array | float, cluster: Cluster, parameters: Parameters, *, crosses: NDArray[np.bool_] | bool
) -> Array:
    """Return milliseconds to hand ``message_bytes`` from one GPU to another that works on something else; ``crosses``: the network."""
    fast = link_gbps(cluster, np.full(np.shape(crosses), 2.0))
    gbps = np.where(crosses, np.minimum(cluster.network_gbps, fast), fast)
    factor = np.where(crosses, SLOW_LATENCY["network"], 1.0 if _is_fast(cluster) else SLOW_LATENCY["pcie"])
    return parameters.collective_us * factor * 1e-3 + message_bytes / (gbps * parameters.ring_link * 1e6)


def stage_hand_over_ms(message_bytes: Array, tp: Array, pp: Array, cluster: Cluster, parameters: Parameters) -> Array:
    """Return milliseconds to hand ``message_bytes`` from one pipeline stage to the next, shape (n,); 0 without pipeline.

    A pipeline that spans nodes is laid out with its stages in node order, so the hand-over crosses the network on at
    least one boundary; the slowest boundary sets the pace.
    """
    time = hand_over_ms(message_bytes, cluster, parameters, crosses=tp * pp > cluster.gpus_per_node)
    return np.where(pp > 1, time, 0.0)
