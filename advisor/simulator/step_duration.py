"""How long one step of the engine takes, by the tables of ``advisor.simulator.step_table``.

Importing this module imports numba; nothing but a simulation does.
"""

from __future__ import annotations

import math
from typing import Any

from advisor.simulator.compilation import compiled

NODES_PER_OCTAVE = 4.0
"""Contexts at which decode attention is tabulated, for each doubling."""


@compiled
def step_ms(
    by_tokens: Any,
    by_sequences: Any,
    by_context: Any,
    constants: Any,
    tokens: int,
    sequences: int,
    decodes: int,
    context: float,
    pairs: float,
    windowed_pairs: float,
    prefills: bool,
) -> float:
    """Return milliseconds of one pass; ``context`` is the sum over the decoding sequences, ``prefills`` whether prompts are in it.

    ``constants``: see ``advisor.simulator.step_table.StepConstants``.
    """
    gpu = (
        by_tokens[tokens]
        + by_sequences[sequences]
        + constants.pair_ms * pairs
        + constants.windowed_pair_ms * windowed_pairs
        + constants.prompt_token_ms * (tokens - decodes)
    )
    if decodes > 0:
        mean = max(context / decodes, 1.0)
        place = math.log2(mean) * NODES_PER_OCTAVE
        low = min(int(place), by_context.shape[1] - 2)
        left, right = 2.0 ** (low / NODES_PER_OCTAVE), 2.0 ** ((low + 1) / NODES_PER_OCTAVE)
        share = (mean - left) / (right - left)
        attention = decodes * (by_context[decodes, low] * (1.0 - share) + by_context[decodes, low + 1] * share)
        gpu += attention * (constants.mixed_attention if prefills else 1.0)
    launched = prefills or constants.captured_tokens < 1.0
    if tokens > constants.captured_tokens and launched:
        gpu = max(gpu, constants.launch_ms)
    return float(max(gpu, constants.stream_ms) + constants.host_ms + constants.sequence_ms * sequences)


@compiled
def causal(length: float, window: float) -> float:
    """Count query-key pairs of a causal sequence, each query seeing at most ``window`` keys."""
    if length <= window:
        return length * (length + 1.0) / 2.0
    return window * (window + 1.0) / 2.0 + (length - window) * window


@compiled
def seen_within(start: int, new: int, window: float) -> float:
    """Count query-key pairs of ``new`` tokens behind ``start`` others, each seeing at most ``window`` keys."""
    return causal(float(start + new), window) - causal(float(start), window)
