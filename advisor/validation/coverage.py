"""Intervals for kinds of work that no run behind a fit had: ``python -m advisor.validation.coverage``.

One engine on one GPU is fitted from the priors to its shipped runs without those of one kind, and predicts these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.intervals import LEVEL
from advisor.calibration.left_out import errors_of
from advisor.calibration.observations import RunGroup, group_runs
from advisor.calibration.posterior import update
from advisor.calibration.shipped_fit import fitted_part
from advisor.calibration.surrogate import analytic_marginal, shipped_surrogate
from catalog.runs import shipped_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from advisor.calibration.parameter_posterior import ParameterPosterior
    from catalog.schema import Measurement
    from catalog.units import Array

METRICS = ("prefill_ms", "tpot_ms", "e2e_ms")

LEFT_OUT: Mapping[str, Callable[[Measurement], bool]] = {
    "8-bit weights": lambda run: run.dtype == "fp8",
    "an 8-bit KV cache": lambda run: run.kv_dtype == "fp8",
    "tensor parallel over more than 2 GPUs": lambda run: run.tp > 2,
    "more than 2 pipeline stages": lambda run: run.pp > 2,
}
"""What shipped runs with role "fit" have, and others of the same engine and GPU have not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Predictions of runs of a kind by a fit without any; means over the runs."""

    kind: str
    metric: str
    runs: int
    error: float
    """Mean of |predicted / measured - 1|."""
    held: float
    """Share inside the 90% interval."""
    width: float
    """Half of the interval, in logarithms."""
    held_before: float
    """The same two as if the kind were one like those seen."""
    width_before: float


def trials(kinds: Iterable[str] = tuple(LEFT_OUT), engine: str = "vllm", gpu: str = "H200-SXM") -> list[Trial]:
    """Return each kind left out in turn, by kind and metric."""
    runs = [
        run
        for run in shipped_runs()
        if (run.engine, run.gpu, run.role, run.regime) == (engine, gpu, "fit", "static")
        and run.compiled
        and not run.oom
        and not run.offload
    ]
    results = []
    for kind in kinds:
        is_of = LEFT_OUT[kind]
        posterior = update(analytic_marginal(), fitted_part(group_runs(run for run in runs if not is_of(run))))
        out = fitted_part(group_runs(run for run in runs if is_of(run)))
        results += [_trial(kind, metric, posterior, out) for metric in METRICS]
    return results


def _trial(kind: str, metric: str, marginal: ParameterPosterior, out: Sequence[RunGroup]) -> Trial:
    surrogate = shipped_surrogate()

    def within(blind: bool) -> tuple[Array, Array]:
        believed = replace(marginal, seen=None) if blind else marginal
        errors = [error for error in errors_of(out, lambda *_: believed) if error.metric == metric]
        scales = [surrogate.scale("calibrated", error.engine, error.scale_name) for error in errors]
        half = [s.quantile(LEVEL) * e.sigma(s.noise) for e, s in zip(errors, scales, strict=True)]
        return np.array([error.residual for error in errors]), np.array(half)

    residuals, half = within(blind=False)
    _, half_before = within(blind=True)
    return Trial(
        kind=kind,
        metric=metric,
        runs=len(residuals),
        error=float(np.mean(np.abs(np.expm1(residuals)))),
        held=float(np.mean(np.abs(residuals) <= half)),
        width=float(np.mean(half)),
        held_before=float(np.mean(np.abs(residuals) <= half_before)),
        width_before=float(np.mean(half_before)),
    )


def main() -> None:
    print(
        f"{'left out':38s} {'metric':11s} {'runs':>4s} {'error':>6s} {'90% held':>9s} {'+-':>5s}   {'else held':>9s} {'+-':>5s}"
    )
    for trial in trials():
        print(
            f"{trial.kind:38s} {trial.metric:11s} {trial.runs:4d} {trial.error:6.1%} {trial.held:9.0%} {trial.width:5.0%}"
            f"   {trial.held_before:9.0%} {trial.width_before:5.0%}"
        )


if __name__ == "__main__":
    main()
