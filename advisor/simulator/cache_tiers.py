"""The tiers below the GPUs' KV cache as the simulator takes them: blocks, and seconds to load and to write one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.perf_model.forward_pass import HOST_LINK
from catalog.errors import Note
from catalog.kv_offload import read_kv_offload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.kv_offload import KvTier
    from catalog.schema import Cluster, Deployment

DISK_READ_GBPS, DISK_WRITE_GBPS = 6.9, 4.1
"""GB/s of one NVMe drive of a data centre (Samsung PM9A3 7.68 TB, PCIe 4.0 x4: its data sheet, sequential)."""
STORE_LINK = 0.87
"""Share of a network adapter that transfers get (Mooncake: 87 GB/s over four adapters of 200 Gb/s; Qin et al., FAST 2025)."""
CPU_LATENCY_S = 0.018
"""From the admission of a request until the scheduler sees what was loaded for it, less what the bytes take: vLLM 0.33 with
Llama-3.1-8B on an H200, the lower quartile of first tokens of turns that were loaded less that of turns that the GPU had, in the
conversations ``pressure`` (``python -m benchmarks.prefix_caches``, which judges on ``turns``)."""
LATENCY_S = {"cpu": CPU_LATENCY_S, "disk": 1e-4, "store": 1e-3}
"""Seconds before a load begins: of a drive a random read (80 us by the same data sheet) and the file system, of a store a look-up over
the network; a load from either goes through CPU memory where that is a tier."""
SOURCES = {
    "cpu": f"{HOST_LINK:.0%} of the host link",
    "disk": "one NVMe drive",
    "store": f"{STORE_LINK:.0%} of one network adapter",
}
"""What bandwidths are of that nobody states."""

UNUSED = Note(
    "prompts have nothing in common that is known, so kv_offload changes nothing; say what they share: turns, shared_prefix or sessions",
    "warning",
)
"""Of tiers that nothing could be hit in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheTier:
    """One tier of the replicas of a deployment."""

    name: str
    """As ``catalog.kv_offload.TIERS`` has it."""
    blocks: int
    """That it holds, for each replica or for all together."""
    shared: bool
    load_s: float
    """Seconds for a block to come, one after the other,"""
    write_s: float
    """and to be written."""
    latency_s: float
    stated: bool = False
    """Whether the bandwidth was."""


def tiers_of(deployment: Deployment, cluster: Cluster, *, block_bytes: float) -> tuple[CacheTier, ...]:
    """Return the tiers of a deployment, of whose KV blocks each has so many bytes over the GPUs of a replica."""
    gpus = deployment.tp * deployment.pp
    tiers = []
    for tier in read_kv_offload(deployment.kv_offload):
        read, write = _speeds(tier, cluster, gpus)
        tiers.append(
            CacheTier(
                name=tier.name,
                blocks=max(int(tier.size_bytes // block_bytes), 1),
                shared=tier.shared,
                load_s=block_bytes / (1e9 * read),
                write_s=block_bytes / (1e9 * write),
                latency_s=LATENCY_S[tier.name],
                stated=tier.gbps is not None,
            )
        )
    return tuple(tiers)


def _speeds(tier: KvTier, cluster: Cluster, gpus: int) -> tuple[float, float]:
    """Return GB/s to read and to write; of CPU memory each GPU moves its part of a block over its own link."""
    if tier.gbps is not None:
        return tier.gbps, tier.gbps
    if tier.name == "disk":
        return DISK_READ_GBPS, DISK_WRITE_GBPS
    link = HOST_LINK * cluster.gpu.pcie_gbps * gpus if tier.name == "cpu" else STORE_LINK * cluster.network_gbps
    return link, link


def tier_notes(tiers: Sequence[CacheTier], block: int, compute_ms: float, pool: int) -> tuple[Note, ...]:
    """Say what tiers of blocks of ``block`` tokens hold, and from how many tokens on loading is quicker than computing, which
    takes ``compute_ms`` for 1000 of them; the GPUs of a replica hold ``pool`` blocks.
    """
    notes = []
    for tier in tiers:
        whose = "for all replicas" if tier.shared else "a replica"
        by = "" if tier.stated else f", {SOURCES[tier.name]}"
        path = {tiers[0].name: tiers[0], tier.name: tier} if tiers[0].name == "cpu" else {tier.name: tier}
        load_ms = sum(1e6 / block * link.load_s for link in path.values())
        begins_ms = sum(1e3 * link.latency_s for link in path.values())
        text = f"{tier.name} keeps {tier.blocks * block} tokens {whose}; loading takes {begins_ms:.3g} ms and {load_ms:.3g} ms for 1000 tokens{by}"
        if load_ms >= compute_ms:
            notes.append(Note(f"{text}, longer than computing them: {compute_ms:.3g} ms", "warning"))
        else:
            least = 1000 * begins_ms / (compute_ms - load_ms)
            notes.append(Note(f"{text}, computing {compute_ms:.3g} ms: it is quicker from {least:.0f} tokens on"))
        if tier.blocks <= pool and not tier.shared:
            text = f"{tier.name} holds no more than the {pool * block} tokens of the GPUs' KV cache, so it has little that those have not"
            notes.append(Note(text, "warning"))
    return tuple(notes)
