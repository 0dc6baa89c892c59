"""What each part of the model of time is worth: the fit again without it, judged on the same runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from joblib import Parallel, delayed

from advisor.calibration.left_out import errors_of
from advisor.calibration.posterior import Effects, PooledEffects, fit_posterior, update
from advisor.calibration.residual_gp import fit_residuals
from advisor.calibration.surrogate import analytic_marginal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advisor.calibration.kernel_observations import KernelObservations
    from advisor.calibration.left_out import PredictionError
    from advisor.calibration.observations import Observations, RunGroup
    from advisor.calibration.parameter_posterior import ParameterPosterior

WHOLE = "everything"
NO_KERNELS = "without kernel times"
APART = "without hierarchy: each engine and GPU alone"
POOLED = "without hierarchy: one set for all"
NO_RUNS = "without runs: the priors"
NO_RESIDUALS = "without residuals"
NEARBY = "configurations left out: everything"
NEARBY_PLAIN = "configurations left out: without residuals"
"""Of models that were fitted, judged on other configurations of them."""


def ablations(
    fitted: Sequence[RunGroup],
    kernels: Sequence[KernelObservations],
    judged: Sequence[RunGroup],
    noise_of: Callable[[str, str, bool], float],
    *,
    jobs: int = 1,
) -> dict[str, list[PredictionError]]:
    """Return errors on ``judged`` of fits to ``fitted`` with one part after another taken out, the whole first.

    ``noise_of``: as ``residuals.fit_residuals`` takes it.
    """
    variants = (WHOLE, NO_KERNELS, APART, POOLED, NO_RUNS)
    by_variant = Parallel(n_jobs=jobs)(delayed(_errors)(name, fitted, kernels, judged, noise_of) for name in variants)
    return {name: errors for variants_errors in by_variant for name, errors in variants_errors.items()}


def _errors(
    variant: str,
    fitted: Sequence[RunGroup],
    kernels: Sequence[KernelObservations],
    judged: Sequence[RunGroup],
    noise_of: Callable[[str, str, bool], float],
) -> dict[str, list[PredictionError]]:
    marginal_of = _marginals(variant, fitted, kernels)
    plain = errors_of(judged, marginal_of)
    if variant != WHOLE:
        return {variant: plain}
    residuals = fit_residuals(fitted, lambda *pair: marginal_of(*pair).parameters, noise_of)
    return {WHOLE: errors_of(judged, marginal_of, residuals), NO_RESIDUALS: plain}


def _marginals(
    variant: str, fitted: Sequence[RunGroup], kernels: Sequence[KernelObservations]
) -> Callable[[str, str, int], ParameterPosterior]:
    parts: list[Observations] = [*fitted] if variant == NO_KERNELS else [*fitted, *kernels]
    if variant == NO_RUNS:
        return lambda *_: analytic_marginal()
    if variant == APART:

        def alone(engine: str, gpu: str, release: int = 0) -> ParameterPosterior:  # noqa: ARG001  one for all
            own = [group for group in parts if (group.engine, group.cluster.gpu.name) == (engine, gpu)]
            return update(analytic_marginal(), own) if own else analytic_marginal()

        return alone
    return fit_posterior(parts, index=(PooledEffects if variant == POOLED else Effects)(parts)).marginal
