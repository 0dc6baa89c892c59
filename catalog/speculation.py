"""How many drafted tokens a model accepts: published rates by method, and what is believed where nobody measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from catalog.errors import InputError
from catalog.features import HEADS, DraftMethod  # DraftMethod is read where files are checked
from catalog.schema import Count  # noqa: TC001  read where files are checked
from catalog.tables import DATA, read_toml

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.units import Array

METHODS: tuple[DraftMethod, ...] = ("ngram", "eagle", "eagle3", "mtp", "draft")
LEAST_SPREAD = 0.1
"""Standard deviation of a rate over models and workloads, at the least: published ones of one method differ by as much."""
OPEN = {"ngram": (0.35, 0.22)}
"""Mean and standard deviation where published rates are of the best case only: n-grams are found where answers repeat their
prompts (edits, 0.70) and hardly where they do not. A stated prior, not a measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedAcceptance:
    """What one source says."""

    method: DraftMethod
    model: str
    workload: str
    draft_len: Count
    """Tokens drafted in a step."""
    tokens_per_step: Annotated[float, Interval(ge=1, le=100)] | None = None
    """Mean tokens that come of a step, the target's own included."""
    rate: Annotated[float, Interval(ge=0, le=1)] | None = None
    """Probability that a drafted token is accepted, those before it taken as accepted."""
    source: str

    @property
    def acceptance(self) -> float:
        """Return that probability, alike for every token of a draft (Leviathan et al., arXiv 2211.17192)."""
        if self.rate is not None:
            return self.rate
        assert self.tokens_per_step is not None
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2.0
            low, high = (
                (middle, high) if tokens_per_step(middle, self.draft_len) < self.tokens_per_step else (low, middle)
            )
        return (low + high) / 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What is believed of the rate of a method: a beta distribution."""

    mean: float
    sigma: float
    """Standard deviation; 0: it is known."""
    source: str

    def quantile(self, share: float) -> float:
        """Return the rate below which it lies with that probability."""
        if self.sigma == 0.0:
            return self.mean
        from scipy.stats import beta

        strength = self.mean * (1.0 - self.mean) / self.sigma**2 - 1.0
        return float(beta.ppf(share, self.mean * strength, (1.0 - self.mean) * strength))


def tokens_per_step(rate: float, draft_len: int) -> float:
    """Return the mean tokens that come of a step: 1 + a + a^2 + ... of as many drafted (arXiv 2211.17192, equation 1)."""
    return sum(rate**number for number in range(draft_len + 1))


def conditional_rates(by_position: Sequence[float]) -> tuple[float, ...]:
    """Return the probability that each token of a draft is accepted if those before it were, of the probabilities that it is at all.

    Raises:
        InputError: they are no probabilities, or rise from one place to the next.

    """
    before = (1.0, *by_position)
    for this, last in zip(by_position, before, strict=False):
        if not 0.0 <= this <= last:
            raise InputError(
                f"acceptance is {', '.join(f'{rate:g}' for rate in by_position)}; by place of a draft it must be from 0 to 1 and "
                "never rise"
            )
    return tuple(this / last if last > 0.0 else 0.0 for this, last in zip(by_position, before, strict=False))


def tokens_of_rates(rates: Sequence[float] | Array) -> float:
    """Return the mean tokens that come of a step by such rates: 1 + a1 + a1 a2 + ..."""
    tokens = together = 1.0
    for rate in rates:
        together *= float(rate)
        tokens += together
    return tokens


@cache
def published() -> tuple[PublishedAcceptance, ...]:
    """Return all published rates."""
    from catalog.borders import checked  # needs pydantic

    path = DATA / "speculation.toml"
    rows = read_toml(path)["acceptance"]
    assert isinstance(rows, list)
    return tuple(checked(PublishedAcceptance, row, f"{path}: row {number}") for number, row in enumerate(rows, 1))


def acceptance_of(method: DraftMethod, stated: float | None = None) -> Acceptance:
    """Return what is believed of the rate of a method, or what was stated.

    Raises:
        InputError: what was stated is no share.

    """
    if stated is not None:
        if not 0.0 <= stated <= 1.0:
            raise InputError(
                f"acceptance is {stated:g}; it must be from 0 to 1, the share of drafted tokens that are accepted"
            )
        return Acceptance(mean=stated, sigma=0.0, source="as stated")
    rates = [rate.acceptance for rate in published() if rate.method == ("eagle" if method in HEADS else method)]
    if method in OPEN:
        mean, sigma = OPEN[method]
        return Acceptance(
            mean=mean, sigma=sigma, source="a prior: from answers that repeat nothing to edits of their prompts"
        )
    mean = sum(rates) / len(rates)
    sigma = math.sqrt(sum((rate - mean) ** 2 for rate in rates) / max(len(rates) - 1, 1))
    return Acceptance(mean=mean, sigma=max(sigma, LEAST_SPREAD), source=f"{len(rates)} published rates")
