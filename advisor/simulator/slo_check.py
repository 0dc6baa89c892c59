"""What a fleet makes of its traffic, held against limits: of all requests, or of each class against its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from advisor.simulator.class_outcomes import class_results
from advisor.simulator.summary_statistics import latency_intervals
from catalog.schema import LATENCIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor.simulator.request_results import RequestResults
    from catalog.schema import Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCheck:
    """What a fleet makes of one class of requests, at the percentile of its limits, or on the mean."""

    name: str
    priority: int
    slo: Slo
    latencies: Mapping[str, float]
    """Milliseconds by metric; NaN of a class of which no request is simulated."""
    upper: Mapping[str, float]
    """The same at the wanted confidence."""
    good: float
    """Share of its requests that keep every limit."""

    @property
    def excess(self) -> float:
        """Return the largest ratio of one of those to its limit."""
        return excess_of(self.upper, self.slo.limits)


def excess_of(latencies: Mapping[str, float], limits: Mapping[str, float]) -> float:
    """Return the largest ratio of a latency to its limit; 0 without limits. A request of one token has no TPOT and keeps any limit of it."""
    ratios = [0.0 if math.isnan(latencies[name]) else latencies[name] / limit for name, limit in limits.items()]
    return max(ratios, default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SloCheck:
    """What a fleet makes of the traffic: at the percentile of the limits, or on the mean."""

    latencies: Mapping[str, float]
    """Milliseconds by metric."""
    upper: Mapping[str, float]
    """The same at the wanted confidence."""
    excess: float
    """Largest ratio of one of those to its limit, of classes of each to its own; the limits are kept up to 1."""
    classes: tuple[ClassCheck, ...] = ()
    """What each class meets; none where requests are all alike."""

    @classmethod
    def of(
        cls, latencies: Mapping[str, float], upper: Mapping[str, float], classes: tuple[ClassCheck, ...], slo: Slo
    ) -> SloCheck:
        """Return the check of requests that are all alike, or of several classes."""
        excess = max(kind.excess for kind in classes) if classes else excess_of(upper, slo.limits)
        return cls(latencies=latencies, upper=upper, excess=excess, classes=classes)

    def uppers(self, slo: Slo) -> dict[tuple[str, str], tuple[float, float]]:
        """Return each limit in ms with what there is at the wanted confidence, by the name of the class, "" of all, and the metric."""
        of_whom = [(kind.name, kind.slo, kind.upper) for kind in self.classes] or [("", slo, self.upper)]
        return {
            (name, metric): (most, upper[metric])
            for name, limits, upper in of_whom
            for metric, most in limits.limits.items()
        }

    @property
    def meets(self) -> bool:
        return self.excess <= 1.0

    def beside(self, slow: SloCheck, slo: Slo, quantile: float) -> SloCheck:
        """Return the same with upper ends by slower steps, ``quantile`` standard deviations, as those at the wanted confidence."""
        return SloCheck.of(
            self.latencies,
            _upper(self.latencies, slow.latencies, quantile),
            tuple(
                replace(kind, upper=_upper(kind.latencies, slower.latencies, quantile))
                for kind, slower in zip(self.classes, slow.classes, strict=True)
            ),
            slo,
        )


def _upper(latencies: Mapping[str, float], slow: Mapping[str, float], quantile: float) -> dict[str, float]:
    return {name: high for name, (_, high) in latency_intervals(latencies, [slow], quantile).items()}


def latencies_of(served: RequestResults, slo: Slo) -> dict[str, float]:
    """Return the latencies, in ms by metric, at the percentile of the limits, or their means."""
    if slo.percentile is None:
        return {name: served.mean(name) for name in LATENCIES}
    return {name: served.percentile(name, slo.percentile) for name in LATENCIES}


def check_of(served: RequestResults, slo: Slo) -> SloCheck:
    """Hold requests against their limits; those of classes each against its own."""
    latencies, classes = latencies_of(served, slo), []
    for kind, part in zip(served.classes.classes if served.classes else (), class_results(served), strict=True):
        met = latencies_of(part, kind.slo)
        classes.append(
            ClassCheck(
                name=kind.name, priority=kind.priority, slo=kind.slo, latencies=met, upper=met, good=part.good({})
            )
        )
    return SloCheck.of(latencies, latencies, tuple(classes), slo)
