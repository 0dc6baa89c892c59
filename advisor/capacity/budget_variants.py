"""Other token budgets of a step for fleets that limits make larger than saturation does: prompts in smaller chunks delay answers less.

A step with a long prompt lasts many times a step that only decodes, and everybody's next token waits for it. A smaller
``max_num_batched_tokens`` cuts it up (Agrawal et al., "Sarathi-Serve", OSDI 2024). It is tried only where a limit, and not saturation, decides
how many replicas there are, or where none are enough.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from advisor.recommendation.token_budgets import BUDGETS
from advisor.simulator.server import AggregatedServer
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from advisor.capacity.fleet_options import CapacityQuestion
    from advisor.simulator.replica_sizing import ReplicaSizing
    from catalog.schema import Price

Ranking = tuple[tuple[float, ...], "ReplicaSizing", int]
"""What is to be small, a layout, and its replicas."""
MOST_LAYOUTS = 3
"""Layouts of a kind of GPU for which other budgets are tried where none keeps the limits, those nearest to saturation last."""


def with_better_budgets(
    ranking: Sequence[Ranking],
    group: Sequence[ReplicaSizing],
    question: CapacityQuestion,
    prices: Mapping[str, Price | None],
    top: int,
) -> list[Ranking]:
    """Return the best layouts of a group, the first of them with another budget where that saves replicas; where none keeps the limits
    those that do with another budget.
    """
    if ranking:
        _, first, replicas = ranking[0]
        tried = _fewest(first, replicas - 1) if replicas > first.surely else None
    else:
        able = sorted(
            (fleet for fleet in group if fleet.surely <= fleet.most), key=lambda fleet: fleet.surely * fleet.gpus
        )
        tried = next((variant for fleet in able[:MOST_LAYOUTS] if (variant := _fewest(fleet, fleet.most))), None)
    if tried is None:
        return [*ranking]
    fleet, needed = tried
    better = (question.loss(fleet, needed, prices), fleet, needed)
    return sorted([better, *ranking], key=lambda place: place[0])[:top]


def _fewest(fleet: ReplicaSizing, most: int) -> tuple[ReplicaSizing, int] | None:
    """Return the layout with the budget that keeps the limits with fewest replicas, at most ``most``; None where none does."""
    best = None
    for other in _variants(fleet):
        needed = other.needed(at_most=most) if other.surely <= most else None
        if needed is not None:
            best, most = (other, needed), needed - 1
    return best


def _variants(fleet: ReplicaSizing) -> Iterator[ReplicaSizing]:
    """Yield the layout with smaller budgets, the largest first."""
    if not isinstance(fleet.engine, AggregatedServer):
        return
    usual = fleet.engine.scheduler.max_num_batched_tokens
    for tokens in sorted((tokens for tokens in BUDGETS if tokens < usual), reverse=True):
        with suppress(InputError):
            yield replace(fleet, engine=fleet.engine.with_budget(tokens))
