"""What a measurement is worth: by how much it lowers the expected cost of what is then chosen.

Before it, a layout is trusted with what it carries at the wanted confidence. After it, what it carries is known, better or worse; the
choice is made again for every outcome that is likely, and the mean of its cost is compared (preposterior analysis, Raiffa and Schlaifer,
"Applied Statistical Decision Theory", 1961). What is measured is the time of the steps, all of it: an upper end, for a short probe leaves
some of it open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.capacity.fleet_options import HOURS_A_MONTH
from catalog.errors import Note

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from advisor.capacity.fleet_options import CapacityQuestion
    from advisor.simulator.replica_sizing import ReplicaSizing
    from catalog.schema import Deployment, Price

OUTCOMES = 5
"""Equally likely ones of a measurement."""
MEASURED_S = 40.0
"""Seconds of traffic that show how long a layout's steps take, its start not counted."""
LEAST_USD = 1.0
"""A month, below which a measurement is not worth a line."""
WORTHLESS = Note(
    "worth: measuring any one layout changes nothing of what is chosen that is worth a dollar a month", "asked"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementValue:
    """What measuring one layout is worth."""

    gpu: str
    deployment: Deployment
    """Of one replica."""
    usd_per_month: float
    """By which the expected cost falls."""
    usd_between: tuple[float, float]
    """The least and the most by which it falls, over the outcomes; below 0 it rises, where what was chosen turns out too small."""
    seconds: float = MEASURED_S
    model: str = ""
    """Where there are several."""
    changes: float = 0.0
    """Probability that another layout is chosen then."""


def measurement_values(
    ranked: Sequence[tuple[ReplicaSizing, int]], question: CapacityQuestion, prices: Mapping[str, Price | None]
) -> Iterator[MeasurementValue]:
    """Yield what measuring each of the ranked layouts alone is worth, where it is worth anything.

    ``ranked``: layouts with the replicas that keep the limits at the wanted confidence, best first.
    """
    costs = [question.hourly(fleet, replicas, prices) for fleet, replicas in ranked]
    if not costs or any(cost is None for cost in costs):
        return
    now = float(costs[0] or 0.0)
    for place, (fleet, _) in enumerate(ranked):
        others = min((float(cost or 0.0) for i, cost in enumerate(costs) if i != place), default=math.inf)
        saved: list[float] = []
        changed = 0
        for outcome in fleet.outcomes(OUTCOMES):
            needed = outcome.needed()
            own = math.inf if needed is None else float(question.hourly(fleet, needed, prices) or 0.0)
            # Where nothing else keeps the limits either, what was chosen before is kept.
            best = min(own, others)
            saved.append(0.0 if math.isinf(best) else (now - best) * HOURS_A_MONTH)
            changed += (own < others) != (place == 0)
        usd = math.fsum(saved) / OUTCOMES
        if usd >= LEAST_USD:
            yield MeasurementValue(
                gpu=fleet.cluster.gpu.name,
                deployment=fleet.engine.deployment,
                usd_per_month=usd,
                usd_between=(min(saved), max(saved)),
                changes=changed / OUTCOMES,
            )
