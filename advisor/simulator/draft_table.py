"""What drafts cost in a step and what they bring, as the scheduler's loop takes it.

A step that verifies k drafted tokens of every decoding sequence computes k + 1 tokens of each; what that takes beside the tables
of ``advisor.simulator.step_table`` is here: rows of the head, and the passes of what drafts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from catalog.errors import InputError
from catalog.speculation import acceptance_of, conditional_rates, tokens_of_rates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.perf_model.cost_model import CostModel
    from advisor.perf_model.drafting import DraftSteps
    from catalog.features import Drafting
    from catalog.speculation import Acceptance
    from catalog.units import Array


class Drafts(NamedTuple):
    """Drafts of every step, milliseconds unless said otherwise."""

    draft_len: int
    """Tokens drafted for a sequence."""
    lookahead: int
    """Tokens beyond those of a step for which blocks are held, where what drafts has a cache of its own."""
    rates: Array
    """Probability that the i-th drafted token is accepted if those before it were, shape (draft_len,)."""
    by_decodes: Array
    """Of the head for the drafted tokens of so many sequences, shape (cap + 1,)."""
    by_tokens: Array
    """Of the first drafting pass, over all tokens of the step, shape (budget + 1,)."""
    by_sequences: Array
    """Of the further ones and of the drafting heads, for so many sequences that get a token, shape (cap + 1,)."""

    def scaled(self, tokens: Array | float, sequences: Array | float) -> Drafts:
        """Return the times multiplied: by what steps of so many tokens take, and of so many sequences."""
        return self._replace(
            by_decodes=self.by_decodes * sequences,
            by_tokens=self.by_tokens * tokens,
            by_sequences=self.by_sequences * sequences,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculator:
    """What drafts for a deployment, and what is believed of how much of it is accepted."""

    drafting: Drafting
    steps: DraftSteps
    acceptance: Acceptance
    by_position: tuple[float, ...] = ()
    """Probability that the token at each place of a draft is accepted, where it was stated."""

    @classmethod
    def of(cls, drafting: Drafting, steps: DraftSteps, stated: float | Sequence[float] | None) -> Speculator:
        """Return what is believed of a method, or what was stated: of each token, or of the first, the second, ...

        Raises:
            InputError: what was stated are no probabilities that fall from place to place, one for each.

        """
        if stated is None or isinstance(stated, (int, float)):
            return cls(drafting=drafting, steps=steps, acceptance=acceptance_of(drafting.method, stated))
        places = tuple(float(rate) for rate in stated)
        if len(places) != drafting.draft_len:
            raise InputError(f"acceptance has {len(places)} probabilities for {drafting.draft_len} drafted tokens")
        rates = conditional_rates(places)
        known = acceptance_of(drafting.method, sum(rates) / len(rates))
        return cls(drafting=drafting, steps=steps, acceptance=known, by_position=places)

    def rates(self, share: float | None = None) -> Array:
        """Return the probability of each drafted token if those before it are accepted: the mean, or a quantile of what is believed."""
        if self.by_position:
            return np.array(conditional_rates(self.by_position))
        rate = self.acceptance.mean if share is None else self.acceptance.quantile(share)
        return np.full(self.drafting.draft_len, rate)

    def gain(self, share: float) -> float:
        """Return the logarithm of the tokens a step at a quantile over those at the mean."""
        return float(np.log(tokens_of_rates(self.rates(share)) / tokens_of_rates(self.rates())))

    def ended(self, level: float, step: float) -> tuple[Array, float]:
        """Return the rates at one end of an interval of that level, negative for the end at which more is accepted, and the share by
        which ``step``, what the times of the steps are then longer by as a logarithm, counts.

        The two are independent, so both together lie as far out as the root of the sum of their squares.
        """
        if self.by_position or self.acceptance.sigma == 0.0:
            return self.rates(), 1.0
        share = 0.5 - level / 2.0
        gain, step = abs(self.gain(share)), abs(step)
        part = math.hypot(gain, step) / (gain + step) if gain + step > 0.0 else 1.0
        mean = self.rates()
        return mean + part * (self.rates(share) - mean), part

    @property
    def cache_left(self) -> float:
        """Return the share of the KV cache's tokens that are left beside what drafts."""
        return self.steps.cache_left(self.drafting.draft_len)

    @property
    def lookahead(self) -> int:
        return 0 if self.drafting.method == "ngram" else self.drafting.draft_len

    @property
    def slots(self) -> int:
        """Count the tokens beyond its own for which a sequence holds blocks at the most."""
        return self.drafting.draft_len + self.lookahead

    def believing(self, cost_model: CostModel) -> Speculator:
        return replace(self, steps=self.steps.believing(cost_model))

    def attention_ms(self, by_context: Array, token_ms: Array) -> Array:
        """Return attention to cached contexts that verifies and makes drafts, of what it takes without, (sequences + 1, contexts).

        A cache is read once for all tokens of its sequence; where their products with it, ``token_ms`` of each, take longer, those count.
        """
        verified = 1.0 + self.drafting.draft_len
        return np.maximum(by_context, verified * token_ms) * (1.0 + self.steps.attention_share(self.drafting.draft_len))

    def table(self, *, budget: int, cap: int) -> Drafts:
        """Tabulate the drafts of steps of at most ``budget`` tokens and ``cap`` sequences."""
        length, steps = self.drafting.draft_len, self.steps
        number = np.arange(cap + 1.0)
        verified = np.maximum(number, 1.0)
        own = steps.head_ms(verified * (length + 1.0), drafting=False) - steps.head_ms(verified, drafting=False)
        head, body = steps.head_ms(verified, drafting=True), steps.pass_ms(verified)
        further = length * head + (length - 1.0) * body
        return Drafts(
            draft_len=length,
            lookahead=self.lookahead,
            rates=self.rates(),
            by_decodes=np.where(number > 0, own, 0.0),
            by_tokens=steps.pass_ms(np.maximum(np.arange(budget + 1.0), 1.0)),
            by_sequences=np.where(number > 0, further, 0.0),
        )
