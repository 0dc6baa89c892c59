"""What a fit's file holds, part by part: types and bounds, which ``catalog.borders`` holds every file to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval, Len

from advisor.calibration.fit_report import FitReport  # noqa: TC001  this and below: read by ``checked``
from advisor.calibration.parameter_posterior import Provenance, TrainingSupport  # noqa: TC001
from advisor.perf_model.correction import PHASES
from advisor.perf_model.parameters import NAMES

SCHEMA = 2
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
"""Levels at which quantiles are kept; others are interpolated."""
MOST_NOISE, MOST_QUANTILE = 5.0, 1000.0
"""Noise of a logarithm and quantiles of |error| / sigma beyond which an interval says nothing; those that ship: 0.3 and 31."""
MOST_DISPERSION = 100.0
"""Factor on standard deviations beyond which the same holds; runs that all contradict each other ask for 10."""
MOST_RUNS = 400
"""Of one model; of more the latest. The solution takes milliseconds."""
MOST_LOG = 50.0
"""Size of a logarithm beyond which nothing was measured."""

MOST_RELEASES = 1000

UPPER = len(NAMES) * (len(NAMES) + 1) // 2
Logarithm = Annotated[float, Interval(ge=-MOST_LOG, le=MOST_LOG)]
Noise = Annotated[float, Interval(gt=0, le=MOST_LOG)]


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginalRow:
    """``ParameterPosterior`` of an engine on a GPU."""

    engine: str
    gpu: str
    provenance: Provenance
    mean: Annotated[tuple[float, ...], Len(len(NAMES), len(NAMES))]
    covariance: Annotated[tuple[float, ...], Len(UPPER, UPPER)]
    """The upper triangle, row by row."""
    seen: TrainingSupport | None = None
    dispersion: Annotated[float, Interval(ge=1, le=MOST_DISPERSION)] = 1.0
    release: Annotated[int, Interval(ge=-MOST_RELEASES, le=MOST_RELEASES)] = 0
    """Minor releases from the one that fits are of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRow:
    """``IntervalScale`` of a metric of an engine."""

    provenance: Provenance
    engine: str
    metric: str
    noise: Annotated[float, Interval(ge=0, le=MOST_NOISE)]
    quantiles: Annotated[tuple[Annotated[float, Interval(ge=0, le=MOST_QUANTILE)], ...], Len(len(LEVELS), len(LEVELS))]
    runs: Annotated[int, Interval(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualsRow:
    """``Residuals`` of a model's n runs."""

    engine: str
    gpu: str
    model: str
    release: Annotated[int, Interval(ge=-MOST_RELEASES, le=MOST_RELEASES)] = 0
    sizes: dict[str, float]
    places: Annotated[tuple[tuple[float, ...], ...], Len(1, MOST_RUNS)]
    residual: Annotated[tuple[tuple[Logarithm | None, ...], ...], Len(len(PHASES), len(PHASES))]
    noise: Annotated[tuple[tuple[Noise, Noise], ...], Len(len(PHASES), len(PHASES))]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitFile:
    """A whole file."""

    schema: int
    parameters: tuple[str, ...]
    """As ``parameters.NAMES`` has them."""
    sources: tuple[str, ...]
    data_hash: str
    marginals: tuple[MarginalRow, ...]
    scales: tuple[ScaleRow, ...]
    residuals: tuple[ResidualsRow, ...] = ()
    alone: bool = False
    lessons: tuple[FitReport, ...] = ()
