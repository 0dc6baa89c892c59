"""What the competing layouts of a plan come to: the best of them and how far they carry, or what comes nearest."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.capacity.budget_variants import with_better_budgets
from advisor.capacity.fleet_options import CHANGES, RATES, Reach, best_of
from advisor.progress import Course

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.capacity.candidates import Layouts
    from advisor.capacity.fleet_options import FleetOption
    from advisor.capacity.relaxation import Shortfall
    from advisor.progress import Watch
    from advisor.recommendation.question_change import Relaxation
    from advisor.simulator.replica_sizing import ReplicaSizing


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetChoice:
    """The best layouts, or where none keeps the limits what would have to give."""

    ranked: Sequence[tuple[ReplicaSizing, int]]
    """Layouts with their replicas, best first; empty where none keeps the limits."""
    reach: Reach
    """Of the best."""
    answers: Sequence[ReplicaSizing]
    """Layouts that are shown."""
    nearest: FleetOption | None = None
    relaxations: tuple[Relaxation, ...] = ()

    @classmethod
    def of(
        cls, layouts: Layouts, short: Shortfall, top: int, progress: Watch | None, *, search_budgets: bool
    ) -> FleetChoice:
        """Rank the layouts, the best ``top`` of every kind of GPU; ``short``: what is asked of them, and how to ask it again."""
        question, prices = short.question, short.prices
        course = Course(watch=progress, steps=len(layouts.fleets) + 2 * RATES + len(CHANGES))
        groups = []
        for group, shown in layouts.groups(top):
            ranking = best_of(group, question, prices, shown, course)
            if search_budgets:
                ranking = with_better_budgets(ranking, group, question, prices, shown)
            groups.append(ranking)
        rankings = sorted(itertools.chain.from_iterable(groups), key=lambda ranking: ranking[0])
        ranked = [(fleet, replicas) for _, fleet, replicas in rankings]
        if ranked:
            reach = Reach.of(*ranked[0], question, prices, short.headroom, course)
            return cls(ranked=ranked, reach=reach, answers=[fleet for fleet, _ in ranked])
        course.tell("what comes nearest", len(layouts.fleets))
        closest, nearest, relaxations = short.nearest(layouts.fleets)
        return cls(ranked=[], reach=Reach(), answers=[closest], nearest=nearest, relaxations=relaxations)
