"""What each class of requests met: statistics of its own, how far they spread, and whether its limits are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from advisor.calibration.intervals import LEVEL
from advisor.simulator.request_results import RequestResults
from advisor.simulator.summary_statistics import SHARES, meets, numbers, surely_between
from catalog.schema import LATENCIES
from catalog.wording import statistic_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.calibration.surrogate import IntervalScale
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.summary_statistics import Spread
    from catalog.schema import Slo

    Numbers = Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassOutcome:
    """One class of the requests that were served."""

    name: str
    priority: int
    slo: Slo
    requests: int
    """That count, of which the rest is."""
    input_len: float
    """Mean tokens, as the next."""
    output_len: float
    metrics: Mapping[str, Mapping[str, float]]
    """Of TTFT, TPOT and E2E, in ms: the mean and percentiles, named as those of all requests."""
    good: float
    """Share that keeps every limit of the class."""
    goodput_s: float
    """Requests a second that do; those of all classes sum to the goodput of all."""
    meets: bool | None
    """Whether the limits are kept; None without limits."""
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """Where ``metrics`` and, under "shares", ``good`` are expected with 90%; empty without draws."""

    @property
    def statistic(self) -> str:
        """Return the name of the statistic that its limits are on: of a class without limits the 95th percentile."""
        return statistic_name(self.slo.percentile) if self.slo.limits else "p95"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSpreads:
    """The classes of one simulation as believed, and how far their statistics spread."""

    results: tuple[RequestResults, ...]
    """Of each class."""
    statistics: tuple[Numbers, ...]
    """As ``numbers`` gives them, of the latencies and the share of good ones."""
    sigmas: tuple[Mapping[str, Mapping[str, Spread]], ...]


def class_results(served: Any) -> tuple[RequestResults, ...]:
    """Return the requests of each class; none where they are all alike."""
    if not isinstance(served, RequestResults) or served.classes is None:
        return ()
    return tuple(served.of_class(number) for number in range(len(served.classes.classes)))


def class_numbers(served: Any, traffic: Arrivals) -> tuple[Numbers, ...]:
    """Return the statistics of the latencies and of the share of good requests of each class; none where they are all alike."""
    if not isinstance(served, RequestResults) or served.classes is None:
        return ()
    parts = zip(served.classes.classes, class_results(served), strict=True)
    return tuple(
        {
            (owner, name): value
            for (owner, name), value in numbers(part, traffic, kind.slo).items()
            if owner in LATENCIES or (owner, name) == (SHARES, "good")
        }
        for kind, part in parts
    )


def class_outcomes(
    spreads: ClassSpreads | None, good_s: float, scale: IntervalScale | None
) -> tuple[ClassOutcome, ...]:
    """Return what each class met; ``good_s``: requests a second that count, good or not, of all classes."""
    if spreads is None:
        return ()
    counted = sum(int(part.counted.sum()) for part in spreads.results)
    outcomes = []
    for number, (part, statistics) in enumerate(zip(spreads.results, spreads.statistics, strict=True)):
        assert part.classes is not None
        kind, mine = part.classes.classes[number], int(part.counted.sum())
        metrics = {
            metric: {name: value for (owner, name), value in statistics.items() if owner == metric}
            for metric in LATENCIES
        }
        good = part.good({})
        given, made = part.mean_lengths if len(part) else (float("nan"), float("nan"))
        outcomes.append(
            ClassOutcome(
                name=kind.name,
                priority=kind.priority,
                slo=kind.slo,
                requests=mine,
                input_len=given,
                output_len=made,
                metrics=metrics,
                good=good,
                goodput_s=good * mine / counted * good_s if mine else 0.0,
                meets=meets(part, kind.slo),
                intervals={} if scale is None else _intervals(part, metrics, spreads.sigmas[number], scale),
            )
        )
    return tuple(outcomes)


def _intervals(
    part: RequestResults,
    metrics: Mapping[str, Mapping[str, float]],
    sigmas: Mapping[str, Mapping[str, Spread]],
    scale: IntervalScale,
) -> dict[str, dict[str, tuple[float, float]]]:
    quantile = scale.quantile(LEVEL)
    intervals = {
        metric: {name: sigmas[metric][name].around(value, quantile) for name, value in values.items()}
        for metric, values in metrics.items()
    }
    count, good = int(part.counted.sum()), part.good({})
    low, high = sigmas[SHARES]["good"].around_share(surely_between(good, count), quantile)
    return intervals | {SHARES: {"good": (min(low, good), max(high, good))}}


def all_kept(outcomes: Sequence[ClassOutcome]) -> bool | None:
    """Return whether every class keeps its limits; None where none has any."""
    verdicts = [outcome.meets for outcome in outcomes if outcome.meets is not None]
    return all(verdicts) if verdicts else None
