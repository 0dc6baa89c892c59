"""Speculative decoding as a decision: what drafts and their verification take, what they bring, and up to which batch.

A step drafts k tokens for every sequence, then the model itself computes k + 1 tokens of each in one pass and keeps those it
would have said. Times are those of the model of time; what is accepted is a belief (``catalog.speculation``). No run with
speculation was fitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.intervals import LEVEL
from advisor.perf_model.drafting import DraftSteps
from catalog.errors import InputError
from catalog.features import HEADS, MOST_DRAFT_LEN, Drafting
from catalog.names import suggestion
from catalog.schema import require_positive
from catalog.speculation import METHODS, Acceptance, acceptance_of, tokens_per_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.perf_model.cost_model import CostModel
    from advisor.prediction.deployment_estimate import Estimate
    from catalog.features import DraftMethod
    from catalog.schema import Deployment
    from catalog.units import Array

DRAFT_LENGTHS = (1, 2, 3, 5, 8)
"""Tokens a step that every command tries where nobody says how many; published chains are no longer, and between two of these the gain
is within some 2% of one of them."""
ENDS = (0.05, 0.95)
"""Between which a rate lies with 90%."""
SHARES = (np.arange(20) + 0.5) / 20
"""Quantiles of the rate over which gains are averaged."""
BATCHES = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLength:
    """One number of drafted tokens, at one batch."""

    draft_len: int
    step_ms: float
    """Of a step, drafts included."""
    tokens_per_step: float
    """Of a sequence, at the mean rate."""
    tpot_ms: float
    """At the mean rate."""
    speedup: float
    """Mean of the tokens a second over those without, over what is believed of the rate."""
    speedup_ends: tuple[float, float]
    """The 90% interval: of the rate, and of a step's time, which errs as one of the estimate does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """What speculation does to decoding at one batch."""

    method: DraftMethod
    drafter: str | None
    """Model that drafts, where that is one of its own."""
    batch: int
    """Sequences at once per replica."""
    acceptance: float
    """Mean probability that a drafted token is accepted."""
    acceptance_ends: tuple[float, float]
    """Of its 90% interval."""
    acceptance_source: str
    plain_ms: float
    """Of a step without."""
    lengths: tuple[DraftLength, ...]
    draft_len: int
    """The length that gains most at this batch, or the one stated."""
    largest_batch: int
    """That the replica runs at once."""
    most_batch: int | None
    """Largest batch at which the best length, or the stated one, gains; None: not even one sequence."""
    most_batch_ends: tuple[int | None, int | None]
    """The same at the ends of the rate's interval."""

    @property
    def best(self) -> DraftLength:
        """Return what ``draft_len`` does."""
        return next(length for length in self.lengths if length.draft_len == self.draft_len)

    @property
    def drafting(self) -> Drafting:
        """Return what an engine is started with for that."""
        return Drafting(method=self.method, model=self.drafter or "", draft_len=self.draft_len)

    @property
    def pays(self) -> bool:
        """Return whether it brings more than it costs at this batch."""
        return self.best.speedup > 1.0


def read_method(text: str) -> tuple[DraftMethod, str | None]:
    """Return the method that an option names, and what drafts: "eagle", "eagle:CHECKPOINT", "draft:llama-3.2-1b".

    Raises:
        InputError: there is none.

    """
    name, _, drafter = text.partition(":")
    name = name.strip().casefold()
    if name not in METHODS:
        hint = suggestion(name, METHODS, otherwise=f"known: {', '.join(METHODS[:3])}, draft:MODEL")
        raise InputError(f"there is no speculation {text!r:.40}; {hint}")
    method = METHODS[METHODS.index(name)]
    if method not in HEADS and (method == "draft") != bool(drafter.strip()):
        raise InputError(
            "a draft model is named behind a colon, such as draft:llama-3.2-1b, and a head's checkpoint, such as eagle:NAME; the other "
            "methods have none"
        )
    return method, drafter.strip() or None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationQuestion:
    """Speculation as it is asked about."""

    method: DraftMethod
    drafter: str | None
    draft_len: int | None
    """Tokens drafted a step; None: as many as gain most."""
    acceptance: float | Sequence[float] | None
    """Probability that a drafted token is accepted, of each or by its place; None: as published."""

    @classmethod
    def read(
        cls, speculate: str | None, draft_len: int | None, acceptance: float | Sequence[float] | None
    ) -> SpeculationQuestion | None:
        """Read the arguments of those names; None where nothing drafts.

        Raises:
            InputError: there is no such method, or a length or a rate without one.

        """
        if speculate is None:
            if not (draft_len is None and acceptance is None):
                raise InputError("draft_len and acceptance are of speculation; say which with speculate, such as eagle")
            return None
        method, drafter = read_method(speculate)
        if draft_len is not None:
            require_positive("draft_len", draft_len, most=MOST_DRAFT_LEN)
        elif acceptance is not None and not isinstance(acceptance, (int, float)):
            draft_len = len(acceptance)
        if isinstance(acceptance, (int, float)):
            acceptance_of(method, acceptance)
        return cls(method=method, drafter=drafter, draft_len=draft_len, acceptance=acceptance)

    def drafting(self, draft_len: int) -> Drafting:
        """Return it with so many tokens drafted."""
        return Drafting(method=self.method, model=self.drafter or "", draft_len=draft_len)

    @property
    def lengths(self) -> list[int]:
        """Return the numbers of drafted tokens to choose from: the stated one, or all that are tried."""
        return [*DRAFT_LENGTHS] if self.draft_len is None else [self.draft_len]

    @property
    def draftings(self) -> tuple[Drafting | None, ...]:
        """Return what to choose from: none, and those with each length."""
        return (None, *(self.drafting(length) for length in self.lengths))


def speculate(
    cost_model: CostModel,
    deployment: Deployment,
    asked: SpeculationQuestion,
    *,
    batch: int,
    most: int,
    context: float,
    step_error: float = 0.0,
) -> Speculation:
    """Return what speculation does on one deployment.

    Args:
        cost_model: of that deployment, one row.
        deployment: the same, resolved.
        asked: what drafts, how much, and how much of it is accepted.
        batch: sequences at once per replica.
        most: as many as may be.
        context: tokens that a sequence attends to in the mean.
        step_error: half the width of the 90% interval of a step's time, as a logarithm (``step_error``).

    Raises:
        InputError: what cannot be asked, or done with that model and engine.

    """
    steps = DraftSteps.of(cost_model, deployment, asked.method, asked.drafter)
    assert asked.acceptance is None or isinstance(asked.acceptance, (int, float))
    belief = acceptance_of(asked.method, asked.acceptance)
    lengths = asked.lengths
    plain, drafted = steps.times(np.array([float(batch)]), lengths, context)
    ends = tuple(belief.quantile(share) for share in ENDS)
    points = [
        DraftLength(
            draft_len=length,
            step_ms=float(drafted[row, 0]),
            tokens_per_step=tokens_per_step(belief.mean, length),
            tpot_ms=float(drafted[row, 0]) / tokens_per_step(belief.mean, length),
            speedup=float(mean_tokens(belief, length) * plain[0] / drafted[row, 0]),
            speedup_ends=_speedup_ends(belief, length, float(plain[0] / drafted[row, 0]), step_error),
        )
        for row, length in enumerate(lengths)
    ]
    grid = np.unique(np.rint(np.geomspace(1, max(most, batch), BATCHES)))
    plain, drafted = steps.times(grid, lengths, context)
    known = [Acceptance(mean=end, sigma=0.0, source="") for end in ends]
    batches = [_most_batch(grid, plain, drafted, lengths, rate) for rate in (belief, *known)]
    return Speculation(
        method=asked.method,
        drafter=asked.drafter,
        batch=batch,
        acceptance=belief.mean,
        acceptance_ends=(ends[0], ends[1]),
        acceptance_source=belief.source,
        plain_ms=float(steps.times(np.array([float(batch)]), lengths, context)[0][0]),
        lengths=tuple(points),
        draft_len=max(points, key=lambda point: point.speedup).draft_len,
        largest_batch=int(grid[-1]),
        most_batch=batches[0],
        most_batch_ends=(batches[1], batches[2]),
    )


def step_error(estimate: Estimate) -> float:
    """Return half the width of the 90% interval of the time of a token, as a logarithm."""
    sigma = estimate.sigmas.get("tpot_ms", 0.0)
    return float(estimate.scales["tpot_ms"].quantile(LEVEL) * sigma) if sigma else 0.0


def _speedup_ends(belief: Acceptance, length: int, times: float, error: float) -> tuple[float, float]:
    """Return the interval of the speed-up; ``times``: a step's time without over that with drafts.

    The rate and the time are independent, so each end is as far from the middle as the root of the sum of their squares.
    """
    middle = mean_tokens(belief, length)
    low, high = (math.log(tokens_per_step(belief.quantile(share), length) / middle) for share in ENDS)
    down, up = math.hypot(min(low, 0.0), error), math.hypot(max(high, 0.0), error)
    return middle * times * math.exp(-down), middle * times * math.exp(up)


def mean_tokens(belief: Acceptance, length: int) -> float:
    """Return the mean tokens a step over what is believed of the rate."""
    if belief.sigma == 0.0:
        return tokens_per_step(belief.mean, length)
    return float(np.mean([tokens_per_step(belief.quantile(float(share)), length) for share in SHARES]))


def _most_batch(grid: Array, plain: Array, drafted: Array, lengths: list[int], belief: Acceptance) -> int | None:
    """Return the largest batch of a grid up to which some length gains; None: it does at none."""
    gains = np.array([mean_tokens(belief, length) for length in lengths])[:, None] * plain / drafted
    pays = gains.max(axis=0) > 1.0
    if not pays[0]:
        return None
    return int(grid[-1] if pays.all() else grid[np.argmin(pays) - 1])
