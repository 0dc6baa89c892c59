"""Step times at the ends of their intervals: traffic is simulated again as if every step took as long, or as short, as it may.

A latency under traffic rises with the time of every step, so what requests meet at an end of the steps' intervals is the end of
the latency's: near saturation too, where a latency is no straight line of the step's time and its interval far from symmetric.
Whole steps are compared, for a fit knows their time far better than how it divides between matrix products, attention and host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.simulator.step_table import context_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.simulator.draft_table import Drafts
    from advisor.simulator.step_table import StepTimes
    from catalog.units import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpread:
    """Standard deviations of the logarithms of whole steps' times."""

    by_tokens: Array
    """Of steps of so many tokens, shape (budget + 1,)."""
    by_sequences: Array
    """Of decode steps of so many sequences, shape (cap + 1,)."""

    @classmethod
    def of(cls, times: StepTimes, drawn: Sequence[StepTimes], context: float, prompt: float) -> StepSpread:
        """Measure draws of the step times against what is believed, at sequences of ``context`` and prompts of ``prompt`` tokens."""
        decodes, prompts = ([_steps(table, context, prompt)[i] for table in (times, *drawn)] for i in (0, 1))
        by_sequences, by_tokens = _spread(decodes), _spread(prompts)
        # As many tokens are a step of decodes or of prompts.
        computed = times.tokens_each * np.arange(len(by_sequences))
        most = min(int(computed[-1]) + 1, len(by_tokens))
        decoded = np.interp(np.arange(most), computed, by_sequences)
        by_tokens[:most] = np.maximum(by_tokens[:most], decoded)
        return cls(by_tokens=by_tokens, by_sequences=by_sequences)

    def end(self, times: StepTimes, quantile: float, least: StepTimes | None = None) -> StepTimes:
        """Return the times ``quantile`` standard deviations longer; where that is below 0 shorter, but none shorter than ``least``."""
        tokens, sequences = (
            np.exp(np.clip(quantile * sigmas, -50.0, 50.0)) for sigmas in (self.by_tokens, self.by_sequences)
        )
        prompts = float(tokens[-1])
        constants = times.constants.scaled(float(sequences[1] if len(sequences) > 1 else sequences[0]))
        constants = constants._replace(
            pair_ms=prompts * times.constants.pair_ms,
            windowed_pair_ms=prompts * times.constants.windowed_pair_ms,
            prompt_token_ms=prompts * times.constants.prompt_token_ms,
        )
        ended = replace(
            times,
            by_tokens=times.by_tokens * tokens,
            by_sequences=times.by_sequences * sequences,
            by_context=times.by_context * sequences[:, None],
            by_group=times.by_group * tokens[: len(times.by_group)],
            constants=constants,
            drafts=None if times.drafts is None else times.drafts.scaled(tokens, sequences),
        )
        return ended if least is None else _between(least, ended, times)


def _steps(times: StepTimes, context: float, prompt: float) -> tuple[Array, Array]:
    """Return milliseconds of steps of n decodes, shape (cap + 1,), and of n tokens of prompts, shape (budget + 1,)."""
    low, share = context_place(context)
    attention = (1.0 - share) * times.by_context[:, low] + share * times.by_context[:, low + 1]
    number = np.arange(len(times.by_sequences), dtype=float)
    constants = times.constants
    of_tokens = times.by_tokens + times.by_group if len(times.by_group) else times.by_tokens
    computed = np.minimum(times.tokens_each * number, len(times.by_tokens) - 1.0).astype(np.intp)
    decodes = of_tokens[computed] + times.by_sequences + number * attention
    if times.drafts is not None:
        drafts = times.drafts
        decodes = decodes + drafts.by_decodes + drafts.by_tokens[computed] + drafts.by_sequences
    decodes = decodes + constants.host_ms + number * constants.sequence_ms
    tokens = np.arange(len(times.by_tokens), dtype=float)
    pairs = 0.5 * tokens * np.minimum(tokens, prompt)
    return decodes, of_tokens + pairs * (constants.pair_ms + constants.windowed_pair_ms) + constants.host_ms


def _spread(steps: Sequence[Array]) -> Array:
    """Return the root of the mean square of the logarithms by which the others differ from the first."""
    if len(steps) == 1:
        return np.zeros_like(steps[0])
    logs = np.log(np.maximum(np.stack(steps[1:]), 1e-12) / np.maximum(steps[0], 1e-12))
    return np.asarray(np.sqrt(np.mean(logs**2, axis=0)))


def _between(least: StepTimes, times: StepTimes, most: StepTimes) -> StepTimes:
    """Return the times held between others."""

    def held(name: str) -> Array:
        low, middle, high = (getattr(table, name) for table in (least, times, most))
        return np.asarray(np.minimum(np.maximum(low, middle), high))

    pairs = {
        name: min(max(getattr(least.constants, name), getattr(times.constants, name)), getattr(most.constants, name))
        for name in ("pair_ms", "windowed_pair_ms", "prompt_token_ms")
    }
    return replace(
        times,
        by_tokens=held("by_tokens"),
        by_sequences=held("by_sequences"),
        by_context=held("by_context"),
        by_group=held("by_group"),
        constants=times.constants._replace(**pairs),
        drafts=_drafts_between(least.drafts, times.drafts),
    )


def _drafts_between(least: Drafts | None, drafts: Drafts | None) -> Drafts | None:
    """Return the times of drafts, none below others."""
    if least is None or drafts is None:
        return drafts
    names = ("by_decodes", "by_tokens", "by_sequences")
    return drafts._replace(**{name: np.maximum(getattr(drafts, name), getattr(least, name)) for name in names})
