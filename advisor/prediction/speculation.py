"""Speculative decoding as a decision: what drafts and their verification take, what they bring, and up to which batch.

A step drafts k tokens for every sequence, then the model itself computes k + 1 tokens of each in one pass and keeps those it
would have said. Times are those of the model of time; what is accepted is a belief (``catalog.speculation``). No run with
speculation was fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.cost import ATTENTION, HOST, LM_HEAD
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.forward_pass import decode_pass, forward_pass_cost
from advisor.perf_model.memory.dispatch import memory
from catalog.engines import resolve
from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.names import suggestion
from catalog.schema import require_positive
from catalog.speculation import METHODS, Acceptance, Method, acceptance_of, tokens_per_step

if TYPE_CHECKING:
    from advisor.perf_model.cost_model import CostModel
    from catalog.schema import Deployment, Model
    from catalog.units import Array

MOST_DRAFTED = 8
"""Tokens a step that are tried where nobody says how many; published chains are no longer."""
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
    """At the ends of the rate's 90% interval; the times are taken as known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """What speculation does to decoding at one batch."""

    method: Method
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
    def pays(self) -> bool:
        """Return whether it brings more than it costs at this batch."""
        return self.best.speedup > 1.0


def read_method(text: str) -> tuple[Method, str | None]:
    """Return the method that an option names, and the drafter: "eagle", "draft:llama-3.2-1b".

    Raises:
        InputError: there is none.

    """
    name, _, drafter = text.partition(":")
    name = name.strip().casefold()
    if name not in METHODS:
        hint = suggestion(name, METHODS, otherwise=f"known: {', '.join(METHODS[:3])}, draft:MODEL")
        raise InputError(f"there is no speculation {text!r:.40}; {hint}")
    method = METHODS[METHODS.index(name)]
    if (method == "draft") != bool(drafter.strip()):
        raise InputError(
            "a draft model is named behind a colon, such as draft:llama-3.2-1b; the other methods have none"
        )
    return method, drafter.strip() or None


def speculate(
    cost_model: CostModel,
    deployment: Deployment,
    text: str,
    *,
    batch: int,
    most: int,
    context: float,
    draft_len: int | None = None,
    acceptance: float | None = None,
) -> Speculation:
    """Return what speculation does on one deployment.

    Args:
        cost_model: of that deployment, one row.
        deployment: the same, resolved.
        text: the method, see ``read_method``.
        batch: sequences at once per replica.
        most: as many as may be.
        context: tokens that a sequence attends to in the mean.
        draft_len: tokens drafted a step; None: as many as gain most.
        acceptance: probability that a drafted token is accepted; None: as published.

    Raises:
        InputError: what cannot be asked, or done with that model and engine.

    """
    method, drafter = read_method(text)
    if draft_len is not None:
        require_positive("draft_len", draft_len, most=64)
    if not cost_model.timing.cuts_prompts:
        raise InputError("engine torch does not speculate; leave out speculate")
    if method == "mtp" and not cost_model.model.mtp_parameters:
        raise InputError(
            f"{cost_model.model.name} has no heads that predict several tokens; take eagle, ngram or draft:MODEL"
        )
    steps = _Steps(cost_model, method, None if drafter is None else _drafter(cost_model, deployment, drafter), context)
    belief = acceptance_of(method, acceptance)
    lengths = [draft_len] if draft_len is not None else list(range(1, MOST_DRAFTED + 1))
    plain, drafted = steps.times(np.array([float(batch)]), lengths)
    ends = tuple(belief.quantile(share) for share in ENDS)
    points = [
        DraftLength(
            draft_len=length,
            step_ms=float(drafted[row, 0]),
            tokens_per_step=tokens_per_step(belief.mean, length),
            tpot_ms=float(drafted[row, 0]) / tokens_per_step(belief.mean, length),
            speedup=float(_gain(belief, length) * plain[0] / drafted[row, 0]),
            speedup_ends=(
                float(tokens_per_step(ends[0], length) * plain[0] / drafted[row, 0]),
                float(tokens_per_step(ends[1], length) * plain[0] / drafted[row, 0]),
            ),
        )
        for row, length in enumerate(lengths)
    ]
    grid = np.unique(np.rint(np.geomspace(1, max(most, batch), BATCHES)))
    plain, drafted = steps.times(grid, lengths)
    known = [Acceptance(mean=end, sigma=0.0, source="") for end in ends]
    batches = [_most_batch(grid, plain, drafted, lengths, rate) for rate in (belief, *known)]
    return Speculation(
        method=method,
        drafter=drafter,
        batch=batch,
        acceptance=belief.mean,
        acceptance_ends=(ends[0], ends[1]),
        acceptance_source=belief.source,
        plain_ms=float(steps.times(np.array([float(batch)]), lengths)[0][0]),
        lengths=tuple(points),
        draft_len=max(points, key=lambda point: point.speedup).draft_len,
        largest_batch=int(grid[-1]),
        most_batch=batches[0],
        most_batch_ends=(batches[1], batches[2]),
    )


def _gain(belief: Acceptance, length: int) -> float:
    """Return the mean tokens a step over what is believed of the rate."""
    if belief.sigma == 0.0:
        return tokens_per_step(belief.mean, length)
    return float(np.mean([tokens_per_step(belief.quantile(float(share)), length) for share in SHARES]))


def _most_batch(grid: Array, plain: Array, drafted: Array, lengths: list[int], belief: Acceptance) -> int | None:
    """Return the largest batch of a grid up to which some length gains; None: it does at none."""
    gains = np.array([_gain(belief, length) for length in lengths])[:, None] * plain / drafted
    pays = gains.max(axis=0) > 1.0
    if not pays[0]:
        return None
    return int(grid[-1] if pays.all() else grid[np.argmin(pays) - 1])


@dataclass(frozen=True, slots=True)
class _Steps:
    """Steps with and without drafts of one deployment."""

    cost_model: CostModel
    method: Method
    drafter: CostModel | None
    context: float

    def times(self, batches: Array, lengths: list[int]) -> tuple[Array, Array]:
        """Return milliseconds of a step without, shape (n,), and with each length, (lengths, n)."""
        plain = self._verified(self.cost_model, batches, 1)
        drafted = [
            self._verified(self.cost_model, batches, length + 1) + self._drafts(batches, length) for length in lengths
        ]
        return plain, np.array(drafted)

    def _verified(self, cost_model: CostModel, batches: Array, tokens: int) -> Array:
        """Return milliseconds of a pass that computes so many tokens of each sequence, shape (n,).

        A sequence's cache is read once for all of its tokens; where their products with it take longer, those count.
        """
        rows = cost_model.take(np.zeros(len(batches), dtype=np.intp))
        step = decode_pass(cost_model.model, batches, np.full(len(batches), self.context))
        step = replace(step, tokens=batches * tokens, sequences=batches * tokens)
        cost = forward_pass_cost(rows, step, prefills=0.0)
        read = cost.by_operator().get(ATTENTION, 0.0)
        zero = np.zeros_like(batches)
        pairs = batches * tokens * self.context
        windowed = batches * tokens * step.windowed_context
        alone = forward_pass_cost(rows, replace(step, decodes=zero, pairs=pairs, windowed_pairs=windowed), prefills=0.0)
        compute = alone.by_operator().get(ATTENTION, 0.0)
        # The host handles sequences, however many tokens each has in a step.
        spared = cost_model.parameters.sequence_us * 1e-3 * batches * (tokens - 1)
        return np.asarray((cost.total_ms + np.maximum(compute - read, 0.0) - spared) * cost_model.factors[1])

    def _drafts(self, batches: Array, length: int) -> Array:
        """Return milliseconds of drafting so many tokens, one after the other; the first pass takes in what was accepted."""
        if self.method == "ngram":
            return np.zeros_like(batches)
        if self.drafter is not None:
            passes = [self._verified(self.drafter, batches, length + 1), self._verified(self.drafter, batches, 1)]
        else:
            passes = [self._layer(batches, length + 1), self._layer(batches, 1)]
        return passes[0] + (length - 1) * passes[1]

    def _layer(self, batches: Array, tokens: int) -> Array:
        """Return milliseconds of one layer like the model's own, and its head for a token of each sequence: what an EAGLE
        head or a predictor of several tokens is. The host launches it as it does a pass.
        """
        rows = self.cost_model.take(np.zeros(len(batches), dtype=np.intp))
        step = decode_pass(self.cost_model.model, batches, np.full(len(batches), self.context))
        cost = forward_pass_cost(rows, replace(step, tokens=batches * tokens), prefills=0.0)
        by_operator = cost.by_operator()
        head = by_operator.get(LM_HEAD, np.zeros_like(batches))
        layers = cost.total_ms - head - by_operator.get(HOST, 0.0)
        layer = layers / self.cost_model.model.num_hidden_layers
        return np.asarray((layer + head + self.cost_model.parameters.step_ms) * self.cost_model.factors[1])


def _drafter(cost_model: CostModel, deployment: Deployment, name: str) -> CostModel:
    """Return the model that drafts, laid out as the one it drafts for."""
    model: Model = find_model(name).value
    chosen = resolve(replace(deployment, dtype="auto", ep=1), model, cost_model.cluster).value
    layout = DeploymentArrays.of([chosen], model, cost_model.cluster.gpu)
    return replace(
        cost_model,
        model=model,
        layout=layout,
        memory=memory(model, cost_model.cluster, layout, chosen.engine),
        correction=None,
    )
