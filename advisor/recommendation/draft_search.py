"""Speculation as a choice of the search: every deployment and batch is scored with the number of drafted tokens that is best for it, and the
best of them competes with the best that drafts nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.perf_model.drafting import DraftSteps, cache_left
from advisor.prediction.speculation import ENDS, SpeculationQuestion, mean_tokens, speculate, step_error
from advisor.recommendation.certainty import point_of
from advisor.recommendation.preference import by_worse_end
from catalog.errors import InputError, Note
from catalog.speculation import acceptance_of, tokens_per_step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.memory.parts import Memory
    from advisor.perf_model.phase_times import PhaseTimes
    from advisor.prediction.deployment_estimate import Estimate
    from advisor.prediction.prediction import Prediction
    from advisor.recommendation.problem import DeploymentSearch
    from advisor.recommendation.recommendation import Recommendation
    from catalog.schema import Model
    from catalog.speculation import Acceptance
    from catalog.units import Array
    from search.study import StudyResult

AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftGains:
    """What drafts of one method do to the deployments of a search."""

    asked: SpeculationQuestion
    belief: Acceptance
    confidence: float

    @property
    def lengths(self) -> list[int]:
        return self.asked.lengths

    def times(self, evaluation: Prediction) -> PhaseTimes:
        """Return times with the best number of drafted tokens: the decode steps' part of a token is shared by those of a step.

        What prompts add to it stays.
        """
        times = evaluation.times
        steps = DraftSteps(cost_model=evaluation.cost_model, method=self.asked.method, drafter=None)
        context = evaluation.input_len + evaluation.output_len / 2.0
        plain, drafted = steps.times(np.maximum(times.running, 1.0), self.lengths, context)
        tokens = np.array([mean_tokens(self.belief, length) for length in self.lengths])
        best = (drafted / tokens[:, None]).min(axis=0)
        tpot_ms = np.where(
            times.tpot_ms > 0, times.tpot_ms - np.minimum(plain, times.tpot_ms) * (1.0 - best / plain), 0.0
        )
        e2e_ms = times.ttft_ms + tpot_ms * (evaluation.output_len - 1.0)
        return replace(times, tpot_ms=tpot_ms, e2e_ms=e2e_ms, output_tok_s=times.output_tok_s * times.e2e_ms / e2e_ms)

    def held(self, model: Model, layout: DeploymentArrays, room: Memory) -> Array:
        """Return the share of the KV cache that is left beside what drafts, shape (n,)."""
        return cache_left(model, layout, room, self.asked.method, max(self.lengths))

    @property
    def upper(self) -> float:
        """Return the factor on the time of a token that as few accepted tokens as the confidence allows make."""
        length = max(self.lengths)
        low = self.belief.quantile(1.0 - self.confidence)
        return max(tokens_per_step(self.belief.mean, length) / tokens_per_step(low, length), 1.0)

    def described(self, estimate: Estimate, evaluation: Prediction, row: int) -> Estimate:
        """Return an estimate with drafts: its times, how wide their intervals are then, and what starts it."""
        if not estimate.fits or estimate.tpot_ms is None:
            return estimate
        times = self.times(evaluation)
        said = speculate(
            evaluation.cost_model.take(np.array([row])),
            estimate.deployment,
            self.asked,
            batch=max(estimate.running, 1),
            most=max(estimate.max_concurrency, 1),
            context=estimate.input_len + estimate.output_len / 2.0,
            step_error=step_error(estimate),
        )
        low, high = (tokens_per_step(self.belief.quantile(end), said.draft_len) for end in ENDS)
        accepted = math.log(high / low) / (2.0 * NormalDist().inv_cdf(ENDS[1]))
        sigmas = {
            name: math.hypot(sigma, accepted) if name in {"tpot_ms", "e2e_ms", "output_tok_s"} else sigma
            for name, sigma in estimate.sigmas.items()
        }
        tok_s = float(times.output_tok_s[row])
        faster = tok_s / (estimate.output_tok_s or tok_s)
        changed: dict[str, Any] = {
            "tpot_ms": float(times.tpot_ms[row]),
            "e2e_ms": float(times.e2e_ms[row]),
            "output_tok_s": tok_s,
            "output_tok_s_per_gpu": tok_s / estimate.deployment.num_gpus,
            "usd_per_mtok": None if estimate.usd_per_mtok is None else estimate.usd_per_mtok / faster,
            "energy_j_per_token": None,
            "client_ttft_ms": None,
        }
        floors = dict(estimate.floors)
        most = float(said.draft_len + 1)
        floors |= {name: floors[name] / most for name in ("tpot_ms", "e2e_ms") if name in floors}
        floors |= {name: floors[name] * most for name in ("output_tok_s",) if name in floors}
        deployment = replace(estimate.deployment, drafting=self.asked.drafting(said.draft_len))
        return replace(estimate, **changed, sigmas=sigmas, floors=floors, speculation=said, deployment=deployment)


def drafts_of(
    search: DeploymentSearch, text: str | None, draft_len: int | None, acceptance: float | None
) -> list[DraftGains]:
    """Return what competes: the method that is named, or with "auto" all that the model can be given without another model.

    Raises:
        InputError: there is no such method, it takes a model of its own, or prompts have something in common.

    """
    model = search.model
    heads = ["mtp"] if model.mtp_parameters else []
    names: list[str | None] = [text]
    if text is not None and text.strip().casefold() == AUTO:
        names = ["eagle", *heads, "ngram"]
    gains = []
    for name in names:
        asked = SpeculationQuestion.read(name, draft_len, acceptance)
        if asked is None:
            continue
        if asked.method == "draft":
            raise InputError(
                "recommend chooses among eagle, mtp, ngram and auto; ask simulate or plan about a draft model"
            )
        if search.caches is not None:
            raise InputError("recommend has drafts for prompts that share nothing; ask simulate or plan about both")
        belief = acceptance_of(asked.method, acceptance)
        gains.append(DraftGains(asked=asked, belief=belief, confidence=search.confidence))
    return gains


def with_drafts(
    plain: Recommendation,
    search: DeploymentSearch,
    answered: Callable[[DeploymentSearch, StudyResult], Recommendation],
    gains: Sequence[DraftGains],
    trials: int | None,
) -> Recommendation:
    """Return the best of the answers with drafts and without, and say how the others compare."""
    searches = [replace(search, drafts=each) for each in gains]
    answers = [plain, *(answered(each, each.run(trials=trials)) for each in searches)]
    able = [answer for answer in answers if answer.best is not None]
    if not able:
        return plain
    order = by_worse_end([answer.best for answer in able if answer.best], search.objective)
    chosen = next(answer for answer in able if answer.best is order[0])
    rates = ", ".join(
        f"{'none' if best.deployment.drafting is None else best.deployment.drafting} {best.output_tok_s_per_gpu:.4g}"
        for best in order
    )
    note = Note(f"drafts that competed, each with its best deployment, output tok/s of a GPU: {rates}")
    if chosen is plain and plain.best is not None:
        best = plain.best
        evaluated = search.evaluate(point_of(best, best.batch), {})
        said = speculate(
            evaluated.cost_model,
            best.deployment,
            gains[0].asked,
            batch=max(best.running, 1),
            most=max(best.max_concurrency, 1),
            context=best.input_len + best.output_len / 2.0,
            step_error=step_error(best),
        )
        chosen = replace(plain, best=replace(best, speculation=said))
    return replace(chosen, assumptions=(*chosen.assumptions, note), next_probe="")
