"""What LoRA adapters take on a deployment: bytes, seconds to load, seconds of their kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.adapters import KERNELS, WEIGHT_BYTES, adapter_parameters
from advisor.perf_model.forward_pass import HOST_LINK
from advisor.simulator.cache_tiers import DISK_READ_GBPS
from catalog.units import GIB

if TYPE_CHECKING:
    from advisor.perf_model.cost_model import CostModel
    from catalog.features import Adapters
    from catalog.schema import Deployment
    from catalog.units import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterTerms:
    """Adapters as the scheduler's loop needs to know them (``advisor.simulator.adapter_slots.AdapterSlots``)."""

    popularity: Array
    slots: int
    cpu_slots: int
    cpu_s: float
    disk_s: float
    pass_s: float
    token_s: float
    adapter_s: float
    gib: float
    """Of all slots on one GPU."""

    def hits(self, loads: tuple[int, ...]) -> dict[str, float]:
        """Return the shares of requests by where their adapter was, and the milliseconds that loading takes."""
        total = max(sum(loads), 1)
        shares = {name: count / total for name, count in zip(("slot", "cpu", "disk"), loads, strict=True)}
        return shares | {"cpu_ms": 1e3 * self.cpu_s, "disk_ms": 1e3 * (self.cpu_s + self.disk_s)}

    @classmethod
    def of(cls, adapters: Adapters, cost_model: CostModel, deployment: Deployment) -> AdapterTerms:
        """Return what adapters take on one resolved deployment; of every product, each GPU has its part of both matrices."""
        model, gpu = cost_model.model, cost_model.cluster.gpu
        gpus = deployment.tp * deployment.pp
        whole = float(adapter_parameters(model, adapters.rank)) * WEIGHT_BYTES
        parameters = cost_model.parameters
        read_s = whole / gpus / (gpu.memory_bandwidth_gbps * 1e9)
        return cls(
            popularity=popularity(adapters.number, adapters.skew),
            slots=min(adapters.max_loras, adapters.number),
            cpu_slots=max(adapters.max_cpu_loras or adapters.max_loras, adapters.max_loras),
            cpu_s=whole / gpus / (HOST_LINK * gpu.pcie_gbps * 1e9),
            disk_s=whole / (DISK_READ_GBPS * 1e9),
            pass_s=KERNELS * model.num_hidden_layers / deployment.pp * float(parameters.kernel_us) * 1e-6,
            token_s=2.0 * whole / WEIGHT_BYTES / gpus / float(cost_model.layout.half_flops[0]),
            adapter_s=read_s,
            gib=adapters.max_loras * whole / gpus / GIB,
        )


def popularity(number: int, skew: float) -> Array:
    """Return the shares of requests that are of the first 1, 2, ... adapters, by Zipf's law with that exponent, shape (number,)."""
    weights = np.arange(1.0, number + 1.0) ** -skew
    shares = np.cumsum(weights) / weights.sum()
    shares[-1] = 1.0
    return np.asarray(shares)
