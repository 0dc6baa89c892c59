"""What a user's own runs have taught: which parameters moved, how wrong predictions were and are, which runs disagree."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from annotated_types import Interval

from advisor.calibration.fingerprint import Platform  # noqa: TC001  read by ``catalog.borders.checked``
from catalog.schema import Share  # noqa: TC001

Runs = Annotated[int, Interval(ge=0, le=10**9)]
Positive = Annotated[float, Interval(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterShift:
    """One parameter before and after, each with the ends of its 90% interval; in the units of ``parameters.PRIORS``."""

    name: str
    before: float
    before_low: float
    before_high: float
    after: float
    after_low: float
    after_high: float
    distance: Positive
    """How far it moved, in standard deviations of what was believed before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How well one quantity of the own runs is predicted; errors are means of the absolute ones, as shares."""

    metric: str
    """As ``advisor.calibration.intervals.scale_name`` has it: " PP" behind those of pipelines."""
    runs: Runs
    error_before: Positive
    error_left_out: Positive | None = None
    """Of predictions by fits that had not seen the run's configuration; None where there was but one."""
    error_after: Positive
    """In sample."""
    half_width_before: Positive
    """Median of half the 90% interval over the prediction, as a share; so below."""
    half_width_after: Positive
    held: Share | None = None
    """Share of left-out measurements inside their 90% interval, as it was before ``widening``."""
    widening: Annotated[float, Interval(ge=1, le=10**6)] = 1.0
    """Factor on the interval's width that the left-out errors ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """A measurement that the others contradict."""

    run_id: str
    metric: str
    measured: Positive
    predicted: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What the runs of one engine on one GPU say."""

    engine: str
    """As ``advisor.calibration.observations.engine_family`` names it."""
    gpu: str
    runs: Runs
    models: tuple[str, ...]
    platforms: tuple[Platform, ...]
    provenance_before: str
    """What an answer stood on before these runs."""
    moves: tuple[ParameterShift, ...]
    """The farthest first."""
    accuracy: tuple[Accuracy, ...]
    outliers: tuple[Outlier, ...]
    kernels: Runs = 0
    """Kernels and collectives timed alone that were fitted too."""

    def widening(self, metric: str) -> float:
        """Return the factor on the width of the intervals of a quantity."""
        return next((row.widening for row in self.accuracy if row.metric == metric), 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)
