"""What training a number of tokens takes: days, dollars, energy, and what failures and checkpoints add."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.models.sizes import parameters
from catalog.schema import require_positive
from catalog.units import DAY_S

if TYPE_CHECKING:
    from catalog.schema import Cluster, Model, Price

GPU_HOURS_BETWEEN_FAILURES = 54 * 24 * 16_384 / 419
"""GPU-hours between two unexpected interruptions: 419 in 54 days of 16,384 GPUs (Llama 3, arXiv 2407.21783, section 3.3.4)."""
CHECKPOINT_GBPS = 1.0
"""GB/s that a node writes checkpoints at: 2 TB/s sustained by a cluster of some 2,000 such nodes (arXiv 2407.21783, 3.3.1)."""
CHECKPOINT_BYTES = 14.0
"""Bytes a parameter in a checkpoint: the 16-bit weight, and Adam's states with the 32-bit weight."""
RESTART_S = 900.0
"""Seconds from a failure to the first step after it, what is done again not counted (MegaScale, arXiv 2402.15627, section 6.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBudget:
    """What a number of tokens takes on all GPUs."""

    tokens: float
    days: float
    """Failures and checkpoints included."""
    days_undisturbed: float
    gpu_hours: float
    usd: float | None
    energy_mwh: float | None
    """At most: what the GPUs may draw, for as long as it takes; None where no limit is known."""
    checkpoint_minutes: float
    """Between two checkpoints, where failures cost least."""
    failures: float
    """Unexpected interruptions to be expected."""


def overhead(step_s: float, cluster: Cluster, model: Model) -> tuple[float, float]:
    """Return the factor that failures and checkpoints put on the time, and the best interval between checkpoints in seconds.

    Daly's model of exponential failures (Future Generation Computer Systems 22, 2006, equations 13 and 20), whose first-order
    interval is Young's sqrt(2 x checkpoint time x mean time between failures).
    """
    between = GPU_HOURS_BETWEEN_FAILURES * 3600.0 / cluster.num_gpus
    writing = CHECKPOINT_BYTES * parameters(model) / (CHECKPOINT_GBPS * 1e9 * cluster.nodes)
    young = math.sqrt(2.0 * writing * between)
    interval = max(young - writing if writing < between / 2.0 else between, step_s)
    factor = between / interval * math.exp(RESTART_S / between) * math.expm1((interval + writing) / between)
    return factor, interval


def budget(
    tokens: float, *, tokens_s: float, step_s: float, cluster: Cluster, model: Model, price: Price | None
) -> TrainingBudget:
    """Return what ``tokens`` take at ``tokens_s`` tokens a second.

    Raises:
        InputError: no number of tokens above 0.

    """
    require_positive("tokens", tokens, most=1e18, whole=False)
    factor, interval = overhead(step_s, cluster, model)
    seconds = tokens / tokens_s
    hours = seconds * factor / 3600.0 * cluster.num_gpus
    tdp = cluster.gpu.tdp_w
    return TrainingBudget(
        tokens=tokens,
        days=seconds * factor / DAY_S,
        days_undisturbed=seconds / DAY_S,
        gpu_hours=hours,
        usd=hours * price.usd_per_gpu_hour if price else None,
        energy_mwh=hours * tdp / 1e6 if tdp else None,
        checkpoint_minutes=interval / 60.0,
        failures=hours / GPU_HOURS_BETWEEN_FAILURES,
    )
