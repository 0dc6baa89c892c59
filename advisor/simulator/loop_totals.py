"""What the scheduler's loop adds up over all requests. Importing this module imports numba; nothing but a simulation does."""

from __future__ import annotations

import math
from typing import Any

from advisor.simulator.compilation import compiled

LEAST_GAP_S = 1e-5
"""Lower end of the histogram of gaps between tokens."""
GAPS_PER_E = 200.0
"""Bins of the histogram for each factor e: half a per cent each."""
GAP_BINS = 4000

STEP_COLUMNS = (
    *("replica", "scheduled_s", "begin_s", "end_s", "prefill_tokens"),
    *("decodes", "sequences", "running", "waiting", "blocks"),
)
BIN_COLUMNS = ("busy_s", "running_s", "waiting_s", "blocks_s", "tokens", "preemptions")


@compiled
def gap_bin(gap: float) -> int:
    """Return the bin of a gap in seconds."""
    return int(min(max(math.log(max(gap, LEAST_GAP_S) / LEAST_GAP_S) * GAPS_PER_E, 0.0), GAP_BINS - 1.0))


@compiled
def tally(row: Any, busy: float, running: int, waiting: int, blocks: int, tokens: int) -> None:
    """Add a step that takes ``busy`` seconds of the first stage to its row of the curves, see ``BIN_COLUMNS``."""
    row[0] += busy
    row[1] += busy * running
    row[2] += busy * waiting
    row[3] += busy * blocks
    row[4] += tokens
