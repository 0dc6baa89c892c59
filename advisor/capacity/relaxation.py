"""Where no fleet keeps the limits: what comes nearest, and what would have to give, each change tried before it is told."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from advisor.recommendation.question_change import Relaxation
from advisor.simulator.replica_sizing import MOST_REPLICAS, ReplicaSizing, TrafficSpec
from catalog.errors import InputError
from catalog.wording import latency_label

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from advisor.capacity.candidates import Layouts
    from advisor.capacity.fleet_options import CapacityQuestion, FleetOption
    from catalog.schema import Deployment, Price

TRIES = 6
"""Times that a number is made easier by ``EASIER`` until the question with it has an answer."""
EASIER = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """A question that no fleet answers, and how to ask it again."""

    question: CapacityQuestion
    prices: Mapping[str, Price | None]
    headroom: float
    at_rate: Callable[[float], TrafficSpec]
    """The demand of a rate, headroom included, as a plan for that rate would have it."""
    layouts_of: Callable[[Deployment], Layouts]
    """The layouts with other knobs of the engine."""
    base: Deployment
    """Those knobs as they were stated."""

    def nearest(self, fleets: Sequence[ReplicaSizing]) -> tuple[ReplicaSizing, FleetOption, tuple[Relaxation, ...]]:
        """Find what comes nearest, as an option, and what would have to give."""
        able = [fleet for fleet in fleets if fleet.alone.meets]
        if able:
            carried = [(fleet.most_rate(fleet.most), -fleet.gpus, -i) for i, fleet in enumerate(able)]
            rate, _, place = max(carried)
            fleet = able[-place]
            nearest = self.question.option(fleet, fleet.most, self.prices)
            return fleet, nearest, (*self._rates(fleet, rate), *self._formats(), *self._more(fleet, nearest.gpus))
        fleet = min(fleets, key=lambda candidate: (candidate.alone.excess, candidate.gpus))
        nearest = self.question.option(fleet, 1, self.prices, alone=True)
        return fleet, nearest, (*self._limits(fleet), *self._formats())

    def _rates(self, fleet: ReplicaSizing, rate: float) -> list[Relaxation]:
        """Say up to which rate the same GPUs do, rounded down."""
        lower = _down(rate / (1.0 + self.headroom)) if rate else 0.0
        for _ in range(TRIES if lower else 0):
            if fleet.for_demand(self.at_rate(lower * (1.0 + self.headroom))).needed() is not None:
                gpus = (fleet.most + self.question.spares) * fleet.gpus
                text = f"a rate of at most {lower:g} requests/s on {gpus} x {fleet.cluster.gpu.name}"
                return [Relaxation(text=text, changes={"rate": lower})]
            lower = _down(lower * (1.0 - EASIER))
        return []

    def _more(self, fleet: ReplicaSizing, gpus: int) -> list[Relaxation]:
        """Say how many GPUs do, of the numbers that servers come with."""
        needed = replace(fleet, most=MOST_REPLICAS).needed()
        if not needed:
            return []
        count, server = (needed + self.question.spares) * fleet.gpus, fleet.cluster.gpu.gpus_per_node
        rented = math.ceil(count / server) * server if count > server else 2 ** math.ceil(math.log2(count))
        name = fleet.cluster.gpu.name
        text = f"{rented} x {name} in place of at most {gpus}"
        return [Relaxation(text=text, changes={"gpus": f"{rented}x{name}"})]

    def _limits(self, fleet: ReplicaSizing) -> list[Relaxation]:
        """Say which limits the traffic can keep, rounded up."""
        demand = fleet.demand
        uppers = fleet.alone.uppers(demand.slo)
        if fleet.surely <= fleet.most:
            met = fleet.slowest(min(2 * fleet.surely, fleet.most)).uppers(demand.slo)
            uppers = {key: (most, max(value, met[key][1])) for key, (most, value) in uppers.items()}
        raised = {key: value for key, (most, value) in uppers.items() if value > most}
        for _ in range(TRIES):
            raised = {key: math.ceil(10.0 * value) / 10.0 for key, value in raised.items()}
            if fleet.for_demand(demand.with_limits(raised)).needed() is not None:
                limits_kept = [
                    f"{_label(key)} of {value:g} ms in place of {uppers[key][0]:g}" for key, value in raised.items()
                ]
                text = f"limits that this traffic can keep: at least {' and '.join(limits_kept)}"
                return [
                    Relaxation(text=text, changes={name: value for (kind, name), value in raised.items() if not kind})
                ]
            raised = {key: value * (1.0 + EASIER) for key, value in raised.items()}
        names = " and ".join(_label(key) for key in raised)
        text = f"{names} limits above what a request without any load meets, and a lower rate or more GPUs"
        return [Relaxation(text=text)]

    def _formats(self) -> list[Relaxation]:
        """Name the first change of formats that is enough."""
        from advisor.recommendation.relaxation import FORMATS  # brings Optuna

        for words, formats in FORMATS.items():
            knobs: dict[str, Any] = {name.removesuffix("s"): values[0] for name, values in formats.items()}
            with suppress(InputError):
                fleets = self.layouts_of(replace(self.base, **knobs)).fleets
                if any(fleet.alone.meets and fleet.needed() is not None for fleet in fleets):
                    return [Relaxation(text=words, changes=knobs)]
        return []


def _label(key: tuple[str, str]) -> str:
    """Write whose limit it is, where that is a class's, and of what."""
    kind, metric = key
    return f"{kind} {latency_label(metric)}".lstrip()


def _down(value: float) -> float:
    """Round down to three significant digits."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.floor(value / digit * (1 + 1e-12)) * digit:.6g}")
