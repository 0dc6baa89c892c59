"""Tiers that KV blocks are kept in below the GPUs' cache, as ``Deployment.kv_offload`` states them: "cpu=200GB+disk=2TB@6GB/s".

``cpu`` is vLLM's ``--kv-offloading-size``; ``disk`` and ``store`` are secondary tiers of its ``TieringOffloadingSpec``
(v1/kv_offload/tiering), LMCache's disk and remote back ends, or Mooncake's store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from catalog.errors import InputError
from catalog.quantities import GIBIBYTES, GIGABYTES_PER_SECOND
from catalog.units import GIB

TIERS = ("cpu", "disk", "store")
"""From the fastest to the slowest."""
_WRITTEN = re.compile(r"\s*(?P<name>[a-z]+)\s*=(?P<size>[^@]+)(@(?P<speed>.+))?", re.ASCII)
_LONGEST = 60
_MOST_BYTES = 1e18
_LEAST_GBPS, _MOST_GBPS = 1e-3, 1e5
_EXAMPLE = "cpu=200GB or disk=2TB@6GB/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvTier:
    """One tier as it is asked for."""

    name: str
    """One of ``TIERS``."""
    size_bytes: float
    """Of one replica; of a store of all replicas together."""
    gbps: float | None = None
    """GB/s that one replica, or a store's replicas together, read and write; None: what the hardware has."""

    def __post_init__(self) -> None:
        """Raise ``InputError`` for what cannot be."""
        if self.name not in TIERS:
            raise InputError(
                f"kv_offload names the tier {self.name!r:.40}; it must be one of {', '.join(TIERS)}, such as {_EXAMPLE}"
            )
        if not 0.0 < self.size_bytes <= _MOST_BYTES:
            raise InputError(
                f"kv_offload: {self.name} of {self.size_bytes:g} bytes; it must be above 0 and below 1 EB, such as 200GB"
            )
        if self.gbps is not None and not _LEAST_GBPS <= self.gbps <= _MOST_GBPS:
            raise InputError(
                f"kv_offload: {self.name} at {self.gbps:g} GB/s; it must be from {_LEAST_GBPS:g} to {_MOST_GBPS:g}"
            )

    @property
    def shared(self) -> bool:
        """Return whether all replicas have it together."""
        return self.name == "store"


def read_kv_offload(text: str | None) -> tuple[KvTier, ...]:
    """Read tiers with "+" or commas between them, in the order of ``TIERS``; none of an empty text or "none".

    Raises:
        InputError: one that cannot be, or is named twice.

    """
    if not text or text.strip() in {"", "none"}:
        return ()
    tiers = [_tier(part) for part in re.split(r"[+,]", text)]
    names = [tier.name for tier in tiers]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"kv_offload names {name} more than once; state each tier once")
    return tuple(sorted(tiers, key=lambda tier: TIERS.index(tier.name)))


def _tier(text: str) -> KvTier:
    match = _WRITTEN.fullmatch(text[:_LONGEST])
    if match is None:
        raise InputError(f"kv_offload is {text!r:.60}; it must be a tier and its size, such as {_EXAMPLE}")
    name, speed = match["name"], match["speed"]
    return KvTier(
        name=name,
        size_bytes=GIBIBYTES.read(match["size"], f"kv_offload: the size of {name}") * GIB,
        gbps=None if speed is None else GIGABYTES_PER_SECOND.read(speed, f"kv_offload: the bandwidth of {name}"),
    )
