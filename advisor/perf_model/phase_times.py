"""Latencies of one replica and what they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.cost import Cost, joined

if TYPE_CHECKING:
    from collections.abc import Callable

    from advisor.perf_model.cost_model import CostModel
    from catalog.units import Array

BLOCK = 8_192
"""Configurations that are timed at once: as many as the arrays of a pass stay in a processor's cache with."""


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

    def first(self) -> PhaseTimes:
        """Return the times at the first of several parameters."""
        times = {name: getattr(self, name) for name in PhaseTimes.__slots__ if name not in ("prefill", "decode")}
        first: dict[str, Array] = {name: time[0] if time.ndim > 1 else time for name, time in times.items()}
        return PhaseTimes(**first, prefill=self.prefill.first(), decode=self.decode.first())


def in_blocks(
    times_of: Callable[[CostModel, Array, Array, Array], PhaseTimes],
    cost_model: CostModel,
    batch: Array,
    input_len: Array,
    output_len: Array,
) -> PhaseTimes:
    """Return the times of all configurations, timed block by block; see ``BLOCK``."""
    n = len(batch)
    if n <= BLOCK:
        return times_of(cost_model, batch, input_len, output_len)
    blocks = [np.arange(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK)]
    times = [times_of(cost_model.take(rows), batch[rows], input_len[rows], output_len[rows]) for rows in blocks]
    sizes = [len(rows) for rows in blocks]
    arrays = {
        name: joined([getattr(time, name) for time in times], sizes)
        for name in PhaseTimes.__slots__
        if name not in ("prefill", "decode")
    }
    prefill, decode = (Cost.joined(costs, sizes) for costs in zip(*((t.prefill, t.decode) for t in times), strict=True))
    return PhaseTimes(**arrays, prefill=prefill, decode=decode)
