"""What a search of deployments can be asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from advisor.prediction.inputs import check_confidence
from advisor.recommendation.problem import OBJECTIVES
from advisor.recommendation.screening import ANY_FORMAT
from advisor.recommendation.token_budgets import BUDGETS
from catalog.errors import InputError
from catalog.schema import require_positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.schema import Model, Slo, Workload


def check_question(workload: Workload, slo: Slo, objective: str) -> None:
    """Raise ``InputError`` for a workload, an SLO or an objective that cannot be answered."""
    if objective not in OBJECTIVES:
        raise InputError(f"objective {objective!r} is not known; it must be one of {', '.join(OBJECTIVES)}")
    if workload.rate is not None:
        raise InputError(
            "recommend takes no rate; use advisor plan --rate 5 --tpot 50 for the GPUs of a rate, advisor simulate for one "
            "deployment, or state --concurrency"
        )
    if slo.percentile is not None:
        raise InputError(
            "percentiles need the serving simulator, which a search does not use: plan finds the GPUs for a rate, "
            "simulate judges one deployment; "
            "limits on means work (no percentile)"
        )
    require_positive("output_len", workload.output_len, most=2**24)
    if workload.concurrency is not None:
        require_positive("concurrency", workload.concurrency, most=10**6)
    for name, limit in slo.limits.items():
        require_positive(name, limit, whole=False, most=1e9)
    if slo.e2e_ms is not None and slo.ttft_ms is not None and slo.ttft_ms > slo.e2e_ms:
        raise InputError(
            f"the SLO contradicts itself: TTFT up to {slo.ttft_ms:g} ms can never be reached within E2E of {slo.e2e_ms:g} ms; "
            "make ttft at most e2e"
        )


def check_numbers(top: int, confidence: float, max_batch: int | None) -> None:
    """Raise ``InputError`` for numbers that cannot be."""
    require_positive("top", top, most=10_000)
    check_confidence(confidence)
    if max_batch is not None:
        require_positive("max_batch", max_batch, most=65536)


def formats(named: str | Sequence[str] | None, model: Model, offered: Sequence[str]) -> tuple[str, ...]:
    """Return formats as a tuple, of text those between commas; "any" is what the engine has of 16, 8 and 4 bits there."""
    texts = [named] if isinstance(named, str) else named or ["auto"]
    parts = [part.strip() for text in texts for part in str(text).split(",") if part.strip()]
    if "any" not in parts:
        return tuple(parts)
    if model.quantization:
        return ("auto",)
    return tuple(dict.fromkeys(("auto", *(name for name in (*parts, *ANY_FORMAT) if name in offered))))


def budgets(requested: int | str | Sequence[int] | None, default: int) -> tuple[int, ...]:
    """Return token budgets as a tuple; the engine's where none is stated, and of "any" all that are worth trying."""
    if isinstance(requested, str):
        if requested != "any":
            raise InputError(f"max_num_batched_tokens is {requested!r:.60}; it must be whole numbers above 0, or any")
        return (default, *(tokens for tokens in BUDGETS if tokens != default))
    stated = (default,) if requested is None else tuple(requested) if isinstance(requested, Iterable) else (requested,)
    for budget in stated:
        require_positive("max_num_batched_tokens", budget, most=2**24)
    return stated
