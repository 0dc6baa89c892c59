"""By what the candidates of a recommendation are ordered, and why the first is first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.prediction.inputs import BARE_ESTIMATE
from advisor.prediction.prediction import HIGHER_IS_BETTER
from advisor.recommendation.problem import LEVEL_SHARE, OBJECTIVES
from advisor.render.numbers import share, short
from advisor.render.vocabulary import METRIC_NAMES

if TYPE_CHECKING:
    from advisor.recommendation.recommendation import Recommendation


def first_lines(answer: Recommendation) -> list[str]:
    """Say why the first layout is first where another has more by the estimate itself."""
    metric = OBJECTIVES[answer.objective][0]
    best, values = answer.best, [getattr(estimate, metric) for estimate in answer.candidates]
    if best is None or answer.confidence == BARE_ESTIMATE or None in values:
        return []
    sign = 1.0 if metric in HIGHER_IS_BETTER else -1.0
    own, place = sign * values[0], max(range(len(values)), key=lambda i: sign * values[i])
    other = answer.candidates[place]
    if sign * values[place] <= own * (1.0 + sign * LEVEL_SHARE) or metric == "usd_per_mtok":
        return []
    worse = 0 if sign > 0 else 1
    ends = [short(estimate.interval(metric)[worse]) for estimate in (other, best)]
    return [
        (
            f"{other.deployment.layout} has {short(values[place])} by the estimate, but {ends[0]} at the worse end of its interval, where "
            f"{best.deployment.layout} has {ends[1]}: --confidence 0.5 goes by the estimate"
        )
    ]


def order_line(answer: Recommendation) -> str:
    """Say by what the table of candidates is ordered."""
    metric = OBJECTIVES[answer.objective][0]
    others = {"output_tok_s_per_gpu": "tok/s per GPU", "output_tok_s": "tok/s in all", "usd_per_mtok": "cost"}
    name = METRIC_NAMES.get(metric) or others[metric]
    if answer.confidence == BARE_ESTIMATE:
        return f"by the estimate of {name}"
    return (
        f"by the worse end of the 90% interval of {name}; within {share(LEVEL_SHARE)} of each other, by fewer idle GPUs, then fewer "
        "stages, then smaller TP"
    )
