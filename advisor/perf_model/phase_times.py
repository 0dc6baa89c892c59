"""Latencies of one replica and what they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advisor.perf_model.cost import Cost
    from catalog.units import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTimes:
    """Latencies of one replica and what they are made of; arrays have shape (n,)."""

    prefill_ms: Array
    ttft_ms: Array
    tpot_ms: Array
    e2e_ms: Array
    output_tok_s: Array
    """Of all replicas."""
    running: Array
    """Sequences that run at once on one replica: the batch, or what the engine's cap and its KV cache allow."""
    prefill: Cost
    decode: Cost
    """One decode step (static) or one mean step (steady)."""
