"""Where KV blocks live on that the GPUs' cache has no room for: CPU memory, disks, a store that all replicas share.

``cpu=200GB`` is vLLM's ``--kv-offloading-size`` (``OffloadingConnector``), ``disk`` and ``store`` are secondary tiers of its
``TieringOffloadingSpec``, LMCache's disk and remote back ends, or Mooncake's store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.perf_model.forward_pass import HOST_LINK
from catalog.errors import InputError, Note
from catalog.quantities import GIBIBYTES, GIGABYTES_PER_SECOND
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.schema import Cluster

TIERS = ("cpu", "disk", "store")
"""From the fastest to the slowest."""
WRITTEN = re.compile(r"(?P<name>[a-z]+)=(?P<size>[^@]+)(@(?P<speed>.+))?", re.ASCII)
DISK_READ_GBPS, DISK_WRITE_GBPS = 6.9, 4.1
"""One NVMe drive of a data centre, GB/s (Samsung PM9A3 7.68 TB, PCIe 4.0 x4: data sheet, sequential)."""
STORE_LINK = 0.87
"""Share of a network adapter that a transfer gets (Mooncake: 87 GB/s over four adapters of 200 Gb/s; Qin et al., FAST 2025)."""
DISK_LATENCY_S = 1e-4
"""Of a random read (the same data sheet: 80 us, and the file system)."""
STORE_LATENCY_S = 1e-3
"""Of a look-up over the network and the transfer that it starts."""
SMALLEST_GBPS, LARGEST_GBPS = 1e-3, 1e5


@dataclass(frozen=True, slots=True, kw_only=True)
class KvOffload:
    """One tier as it is asked for."""

    name: str
    """One of ``TIERS``."""
    size_bytes: float
    """Of one replica; of a store of all."""
    gbps: float | None = None
    """GB/s that it gives one replica, a store all of them together, to read and to write; None: what the hardware has."""

    def __post_init__(self) -> None:
        """Raise ``InputError`` for what cannot be."""
        if self.name not in TIERS:
            raise InputError(f"kv_offload is to {self.name!r:.40}; it must be to {', '.join(TIERS)}, such as cpu=200GB")
        if not 0.0 < self.size_bytes <= 1e18:
            raise InputError(
                f"kv_offload to {self.name} is of {self.size_bytes:g} bytes; it must be above 0, such as 200GB"
            )
        if self.gbps is not None and not SMALLEST_GBPS <= self.gbps <= LARGEST_GBPS:
            raise InputError(
                f"kv_offload to {self.name} is at {self.gbps:g} GB/s; it must be from {SMALLEST_GBPS:g} to {LARGEST_GBPS:g}"
            )

    @property
    def shared(self) -> bool:
        return self.name == "store"

    def __str__(self) -> str:
        speed = "" if self.gbps is None else f"@{self.gbps:g}GB/s"
        return f"{self.name}={self.size_bytes / 1e9:g}GB{speed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheTier:
    """One tier as the simulator's loop takes it."""

    name: str
    blocks: int
    """That it holds; for each replica, or for all together."""
    shared: bool
    load_s: float
    """Seconds for a block to come, one after the other,"""
    write_s: float
    """and to be written."""
    latency_s: float


def read_kv_offload(stated: str | Sequence[str | KvOffload]) -> tuple[KvOffload, ...]:
    """Read tiers such as "cpu=200GB" or "disk=2TB@6GB/s", in the order of ``TIERS``.

    Raises:
        InputError: one that cannot be, or is said twice.

    """
    several = [stated] if isinstance(stated, str) else list(stated)
    parts = [part for one in several for part in (one.split(",") if isinstance(one, str) else [one])]
    read = [part if isinstance(part, KvOffload) else _read(part) for part in parts]
    names = [tier.name for tier in read]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"kv_offload names {name} more than once; give each of {', '.join(TIERS)} once")
    return tuple(sorted(read, key=lambda tier: TIERS.index(tier.name)))


def _read(text: str) -> KvOffload:
    match = WRITTEN.fullmatch(text.strip()[:80]) if isinstance(text, str) else None
    if match is None:
        raise InputError(
            f"kv_offload is {text!r:.60}; it must be a tier and its size, such as cpu=200GB or disk=2TB@6GB/s"
        )
    gbps = None
    if match["speed"] is not None:
        gbps = GIGABYTES_PER_SECOND.read(match["speed"], f"bandwidth of kv_offload to {match['name']}")
    size = GIBIBYTES.read(match["size"], f"size of kv_offload to {match['name']}")
    return KvOffload(name=match["name"], size_bytes=size * GIB, gbps=gbps)


def tiers_of(stated: Sequence[KvOffload], cluster: Cluster, *, block_bytes: float, gpus: int) -> tuple[CacheTier, ...]:
    """Return the tiers behind replicas of so many GPUs whose KV blocks have so many bytes, over all of them."""
    return tuple(
        CacheTier(
            name=tier.name,
            blocks=max(int(tier.size_bytes // block_bytes), 1),
            shared=tier.shared,
            load_s=block_bytes / (1e9 * _speeds(tier, cluster, gpus)[0]),
            write_s=block_bytes / (1e9 * _speeds(tier, cluster, gpus)[1]),
            latency_s={"disk": DISK_LATENCY_S, "store": STORE_LATENCY_S}.get(tier.name, 0.0),
        )
        for tier in stated
    )


def _speeds(tier: KvOffload, cluster: Cluster, gpus: int) -> tuple[float, float]:
    """Return GB/s to read and to write."""
    if tier.gbps is not None:
        return tier.gbps, tier.gbps
    if tier.name == "cpu":  # each GPU moves its part of a block over its own link
        return (HOST_LINK * cluster.gpu.pcie_gbps * gpus,) * 2
    if tier.name == "disk":
        return DISK_READ_GBPS, DISK_WRITE_GBPS
    return (STORE_LINK * cluster.network_gbps,) * 2


def offload_note(stated: Sequence[KvOffload], tiers: Sequence[CacheTier], compute_ms: float) -> Note:
    """Say what the tiers hold, and what loading takes beside computing: ``compute_ms`` for 1000 tokens of a prompt."""
    from advisor.simulator.block_cache import BLOCK  # brings numba

    parts = []
    for tier, asked in zip(tiers, stated, strict=True):
        whose = "for all replicas" if tier.shared else "a replica"
        source = "" if asked.gbps is not None else f", {SOURCES[tier.name]}"
        load_ms = 1e3 * (1000 / BLOCK * tier.load_s + tier.latency_s)
        parts.append(f"{tier.name} {tier.blocks * BLOCK} tokens {whose}, 1000 of them in {load_ms:.3g} ms{source}")
    return Note(f"KV blocks live on in {'; '.join(parts)}; computing 1000 takes {compute_ms:.3g} ms", "asked")


SOURCES = {
    "cpu": "over 87% of the host link",
    "disk": "from one NVMe drive",
    "store": "over one network adapter",
}
"""What the speed is that nobody stated."""
