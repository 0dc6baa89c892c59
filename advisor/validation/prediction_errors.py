"""Single measurements beside their predictions, and errors of groups of them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.stats import bootstrap

from advisor.calibration.intervals import LEVEL
from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.wording import parallelism

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from advisor.calibration.left_out import PredictionError
    from advisor.calibration.surrogate import Surrogate
    from catalog.schema import Measurement
    from catalog.units import Array

Split = Literal[
    "in-sample",
    "configuration left out",
    "model left out",
    "GPU left out, kernels kept",
    "GPU left out",
    "engine left out",
    "not fitted",
]
KEYS = (
    *("split", "engine", "version", "gpu", "model", "experts", "format", "regime", "parallel", "layout"),
    *("batch", "lengths", "metric"),
)
"""By what checks can be grouped."""
USUAL = ("split", "engine", "regime", "parallel", "metric")
BATCHES = ((1, "1"), (8, "2-8"), (32, "9-32"), (128, "33-128"), (math.inf, "129-"))
"""Largest batch of a group, and what it is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One measured quantity beside its prediction."""

    run: Measurement
    engine: str
    """As ``advisor.calibration.observations.engine_family`` names it."""
    metric: str
    split: Split
    measured: float
    predicted: float
    low: float
    high: float
    """Ends of the 90% interval."""

    @property
    def error(self) -> float:
        """Return (predicted - measured) / measured."""
        return self.predicted / self.measured - 1.0

    @property
    def inside(self) -> bool:
        return self.low <= self.measured <= self.high

    @property
    def regime(self) -> str:
        return "saturated" if self.run.batch == 0 else self.run.regime

    @property
    def parallel(self) -> str:
        return "PP" if self.run.pp > 1 else "TP"

    def group(self, key: str) -> str:
        """Return what the check belongs to, by one of ``KEYS``."""
        run = self.run
        if key in ("split", "engine", "regime", "parallel", "metric"):
            return str(getattr(self, key))
        if key == "layout":
            return parallelism(run.tp, run.pp, run.ep)
        if key == "batch":
            return "full" if run.batch == 0 else next(name for most, name in BATCHES if run.batch <= most)
        if key == "lengths":
            return f"{run.input_len}/{run.output_len}"
        if key == "experts":
            return "experts" if find_model(run.model).value.moe_layers else "dense"
        if key == "format":
            return run.dtype
        if key == "version":
            return run.engine_version.split(" ", maxsplit=1)[0] or "-"
        return str(getattr(run, key))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        run = self.run
        return {
            "run_id": run.run_id,
            "source": run.source,
            "split": self.split,
            "engine": self.engine,
            "gpu": run.gpu,
            "model": run.model,
            "tp": run.tp,
            "pp": run.pp,
            "batch": run.batch,
            "input_len": run.input_len,
            "output_len": run.output_len,
            "regime": self.regime,
            "metric": self.metric,
            "measured": self.measured,
            "predicted": self.predicted,
            "low": self.low,
            "high": self.high,
            "error": self.error,
            "inside": self.inside,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSummary:
    """Errors of one group of checks, as shares (0.1 is 10%)."""

    group: dict[str, str]
    """By some of ``KEYS``; "all" where several are taken together."""
    checks: int
    median_error: float
    mean_error: float
    bias: float
    """Median of the signed error."""
    coverage: float
    """Share of measured values inside their 90% interval."""
    coverage_low: float
    coverage_high: float
    """95% confidence interval of the coverage, by resampling whole models; 0 and 1 of a single one."""
    half_width: float
    """Median of half the interval's width over the prediction."""
    mean_half_width: float
    runs: int = 0
    """Measured configurations behind the checks,"""
    models: int = 0
    """and their models: runs of one model are alike, so it is models that a figure stands on."""
    error_low: float | None = None
    """Ends of the 95% confidence interval of the mean error, by resampling whole models; None of a single one."""
    error_high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, the group's parts beside the numbers."""
        return self.group | {name: getattr(self, name) for name in self.__slots__ if name != "group"}


def checked_keys(keys: Iterable[str]) -> tuple[str, ...]:
    """Return the keys themselves, each once.

    Raises:
        InputError: there is no such key.

    """
    named = tuple(dict.fromkeys(key.strip().casefold() for key in keys))
    for key in named:
        if key not in KEYS:
            raise InputError(f"errors are not grouped by {key!r:.40}; the keys are {', '.join(KEYS)}")
    return named


def summarised(checks: Iterable[Check], by: Sequence[str] = USUAL) -> tuple[ErrorSummary, ...]:
    """Return errors by the keys, sorted; by ``USUAL``, those of all engines together, too.

    Raises:
        InputError: no such key.

    """
    by = checked_keys(by)
    groups: dict[tuple[str, ...], list[Check]] = defaultdict(list)
    for check in checks:
        own = tuple(check.group(key) for key in by)
        groups[own].append(check)
        if by == USUAL:
            groups[own[0], "all", *own[2:]].append(check)
    return tuple(
        _summary(dict(zip(by, key, strict=True)), members) for key, members in sorted(groups.items(), key=_order)
    )


def _order(item: tuple[tuple[str, ...], list[Check]]) -> tuple[tuple[float, str], ...]:
    """Return numbers by size, then names."""
    numbers = [re.match(r"\d+", part) for part in item[0]]
    return tuple(
        (float(number[0]) if number else math.inf, part) for number, part in zip(numbers, item[0], strict=True)
    )


def _summary(group: dict[str, str], checks: Sequence[Check]) -> ErrorSummary:
    errors = np.array([check.error for check in checks])
    inside = [check.inside for check in checks]
    held: dict[str, list[bool]] = defaultdict(list)
    wrong: dict[str, list[float]] = defaultdict(list)
    for check in checks:
        held[check.run.model].append(check.inside)
        wrong[check.run.model].append(abs(check.error))
    low, high = coverage_interval(list(held.values()))
    least, most = error_interval(list(wrong.values()))
    widths = [(check.high - check.low) / 2.0 / check.predicted for check in checks]
    return ErrorSummary(
        group=group,
        checks=len(checks),
        median_error=float(np.median(np.abs(errors))),
        mean_error=float(np.mean(np.abs(errors))),
        bias=float(np.median(errors)),
        coverage=float(np.mean(inside)),
        coverage_low=low,
        coverage_high=high,
        half_width=float(np.median(widths)),
        mean_half_width=float(np.mean(widths)),
        runs=len({check.run.run_id for check in checks}),
        models=len(held),
        error_low=least,
        error_high=most,
    )


def coverage_interval(clusters: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """Return 95% confidence interval of a share of hits, from resampling whole clusters; (0, 1) from a single cluster."""
    hits = np.array([sum(cluster) for cluster in clusters], dtype=float)
    sizes = np.array([len(cluster) for cluster in clusters], dtype=float)
    if len(clusters) < 2:
        return 0.0, 1.0
    if hits.sum() in (0.0, sizes.sum()):
        share = hits.sum() / sizes.sum()
        # No spread to resample: the rule of three, with clusters as the units.
        return (max(0.0, 1.0 - 3.0 / len(clusters)), 1.0) if share else (0.0, min(1.0, 3.0 / len(clusters)))
    return _resampled(hits, sizes)


def error_interval(clusters: Sequence[Sequence[float]]) -> tuple[float, float] | tuple[None, None]:
    """Return 95% confidence interval of a mean, from resampling whole clusters; None from a single cluster."""
    if len(clusters) < 2:
        return None, None
    sums, sizes = (np.array([float(of(cluster)) for cluster in clusters]) for of in (sum, len))
    return _resampled(sums, sizes)


def _resampled(sums: Array, sizes: Array) -> tuple[float, float]:
    interval = bootstrap(
        (sums, sizes),
        lambda s, n, axis=-1: s.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def shipped_check(error: PredictionError, surrogate: Surrogate) -> Check:
    """Return one quantity beside what the surrogate predicts, whether its fit saw the run or not."""
    scale = surrogate.scale(error.provenance, error.engine, error.scale_name)
    fitted = error.run.role == "fit" and error.run.batch > 0 and error.run.source in surrogate.sources
    return check_of(error, "in-sample" if fitted else "not fitted", error.sigma(scale.noise), scale.quantile(LEVEL))


def check_of(error: PredictionError, split: Split, sigma: float, quantile: float) -> Check:
    """Make a check of an error and how wide errors of its kind are."""
    measured = float(getattr(error.run, error.metric))
    predicted = measured * math.exp(error.residual)
    factor = math.exp(quantile * sigma)
    return Check(
        run=error.run,
        engine=error.engine,
        metric=error.metric,
        split=split,
        measured=measured,
        predicted=predicted,
        low=predicted / factor,
        high=predicted * factor,
    )
