"""Predictions of runs by fits that have not seen them: their model, their GPU, their engine or their configuration."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from joblib import Parallel, delayed

from advisor.calibration.blas_threads import one_blas_thread
from advisor.calibration.intervals import beyond_dense, implementation_variance, scale_name
from advisor.calibration.observations import METRICS, Observations, RunGroup, group_runs
from advisor.calibration.posterior import fit_posterior, sensitivities
from advisor.calibration.residual_gp import fit_residuals, of_model
from advisor.calibration.support import extrapolation_variance, pipelines_of_one_model, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from advisor.calibration.kernel_observations import KernelObservations
    from advisor.calibration.parameter_posterior import ParameterPosterior, Provenance
    from advisor.calibration.residual_gp import Residuals
    from catalog.schema import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionError:
    """One prediction of a run that the fit had not seen (or, for in-sample errors, had)."""

    run: Measurement
    engine: str
    """As ``engine_family`` names it."""
    metric: str
    residual: float
    """log(predicted / measured)."""
    variance: float
    """Of the logarithm, from the parameters alone."""
    provenance: Provenance
    experts: bool = False
    """Whether the model has some, or recurrent layers."""
    left: float = 1.0
    """Share of the residual's variance that runs of the same model nearby leave."""
    dispersion: float = 1.0
    """As ``ParameterPosterior`` has it."""
    timed: bool = False
    """Whether the GPU that was left out kept the kernels that were timed on it alone."""

    def sigma(self, noise: float) -> float:
        """Return the standard deviation expected of it, of the parameters and of the residual; ``noise``: of the latter far from runs."""
        return math.sqrt(self.variance + (self.dispersion * noise) ** 2 * self.left)

    @property
    def scale_name(self) -> str:
        return scale_name(
            self.metric,
            "static" if self.run.batch and self.run.regime == "static" else "steady",
            staged=self.run.pp > 1,
            experts=self.experts,
        )


def errors_of(
    groups: Iterable[RunGroup],
    marginal_of: Callable[[str, str, int], ParameterPosterior],
    residuals: Sequence[Residuals] = (),
) -> list[PredictionError]:
    """Return the errors of every measured quantity of the groups; of predictions corrected by ``residuals`` where some are near."""
    errors = []
    for group in groups:
        marginal = marginal_of(group.engine, group.cluster.gpu.name, group.release)
        nearby = of_model(residuals, group.engine, group.cluster.gpu.name, group.model, group.release)
        correction = None
        if nearby is not None:
            correction = nearby.correction(group.layout, group.batch, group.input_len, group.output_len)
        predicted = group.predict(marginal.parameters, correction)
        residual = np.log(np.maximum(predicted, 1e-12)) - np.log(group.measured)
        left = np.ones(residual.shape)
        if correction is not None:
            share = np.clip(predicted[METRICS.index("prefill_ms")] / predicted[METRICS.index("e2e_ms")], 0.0, 1.0)
            spreads = np.stack([correction.left_of(metric, share) for metric in METRICS])
            left = np.where(group.steady, 1.0, spreads)
        slopes = sensitivities(group, marginal.mean)
        variance = np.einsum("kpm,pq,kqm->km", slopes, marginal.covariance, slopes)
        variance += np.einsum("kpm,pm->km", slopes**2, extrapolation_variance(marginal.seen, group.model, group.layout))
        variance = np.maximum(variance, 0.0) + implementation_variance(marginal.provenance, group.layout.compiled)
        for k, m in np.argwhere(~np.isnan(group.measured)):
            errors.append(
                PredictionError(
                    run=group.runs[m],
                    engine=group.engine,
                    metric=METRICS[k],
                    residual=float(residual[k, m]),
                    variance=float(variance[k, m]),
                    provenance=marginal.provenance,
                    experts=beyond_dense(group.model),
                    left=float(left[k, m]),
                    dispersion=marginal.dispersion,
                )
            )
    return errors


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fold:
    """What is predicted by a fit without it."""

    provenance: Provenance
    out: Sequence[RunGroup]
    timed: bool
    """Whether the fit has the kernels of what is left out: of a model, for a probe of them needs no model; of a GPU, where others
    timed some on it; of an engine never.
    """

    def errors(self, groups: Sequence[RunGroup], kernels: Sequence[KernelObservations]) -> list[PredictionError]:
        kept: list[Observations] = [group for group in groups if not any(group is other for other in self.out)]
        pairs = set() if self.timed else {(group.engine, group.cluster.gpu.name) for group in self.out}
        kept += [kernel for kernel in kernels if (kernel.engine, kernel.cluster.gpu.name) not in pairs]
        return errors_of(self.out, fit_posterior(kept).marginal)


def _folds(groups: Sequence[RunGroup], kernels: Sequence[KernelObservations]) -> Iterator[_Fold]:
    """Yield what is left out, one after the other; a GPU with kernels of its own twice, without them and with them."""
    kinds: list[tuple[Provenance, Callable[[RunGroup], str]]] = [
        ("calibrated", lambda group: group.model.name),
        ("transferred", lambda group: group.cluster.gpu.name),
        ("analytic", lambda group: group.engine),
    ]
    timed = {kernel.cluster.gpu.name for kernel in kernels}
    for provenance, key in kinds:
        parts: dict[str, list[RunGroup]] = defaultdict(list)
        for group in groups:
            parts[key(group)].append(group)
        for name, out in parts.items():
            if len(out) < len(groups):
                yield _Fold(provenance=provenance, out=out, timed=provenance == "calibrated")
                if provenance == "transferred" and name in timed:
                    yield _Fold(provenance=provenance, out=out, timed=True)


@one_blas_thread
def left_out_errors(
    groups: Sequence[RunGroup], *, kernels: Sequence[KernelObservations] = (), jobs: int = 1
) -> list[PredictionError]:
    """Return errors of predictions made without the model, without the GPU, and without the engine.

    Each kind counts only where it leaves what it stands for: a run whose model is left out must still have its engine
    on its GPU, one whose GPU is left out its engine.
    """
    folds = list(_folds(groups, kernels))
    predicted = Parallel(n_jobs=jobs)(delayed(fold.errors)(groups, kernels) for fold in folds)
    # Where no other model ran an engine on a GPU, a model left out takes the pair along; who asks has the pair.
    kept = {"calibrated": ("calibrated", "transferred"), "transferred": ("transferred",), "analytic": ("analytic",)}
    only = pipelines_of_one_model(groups)
    return [
        replace(error, provenance=fold.provenance, timed=fold.timed and fold.provenance == "transferred")
        for fold, errors in zip(folds, predicted, strict=True)
        for error in errors
        if error.provenance in kept[fold.provenance]
        and not (fold.provenance == "calibrated" and error.run.pp > 1 and place_of(error.run) in only)
    ]


CONFIGURATION_FOLDS = 5
"""Refits for the errors of configurations left out."""


@one_blas_thread
def configuration_errors(
    groups: Sequence[RunGroup],
    noise_of: Callable[[str, str, bool], float],
    *,
    kernels: Sequence[KernelObservations] = (),
    jobs: int = 1,
) -> tuple[list[PredictionError], list[PredictionError]]:
    """Return errors of each static configuration (model, layout, batch and lengths) by fits that had others of its
    model: with the residuals that those had left, and without.
    """
    static = [run for group in groups for run in group.runs if run.regime == "static" and run.batch]
    keys = sorted({_configuration(run) for run in static})
    fold_of = {key: i % CONFIGURATION_FOLDS for i, key in enumerate(keys)}
    folds = [frozenset(key for key in keys if fold_of[key] == fold) for fold in range(CONFIGURATION_FOLDS)]
    pairs = Parallel(n_jobs=jobs)(delayed(_configuration_fold)(groups, out, kernels, noise_of) for out in folds if out)
    return [e for errors, _ in pairs for e in errors], [e for _, errors in pairs for e in errors]


def _configuration(run: Measurement) -> tuple[str, ...]:
    knobs = (run.tp, run.pp, run.ep, run.dtype, run.kv_dtype, run.compiled, run.graphs, run.offload)
    return tuple(map(str, (run.engine, run.gpu, run.model, *knobs, run.batch, run.input_len, run.output_len)))


def _configuration_fold(
    groups: Sequence[RunGroup],
    out: frozenset[tuple[str, ...]],
    kernels: Sequence[KernelObservations],
    noise_of: Callable[[str, str, bool], float],
) -> tuple[list[PredictionError], list[PredictionError]]:
    runs = [run for group in groups for run in group.runs]
    kept = group_runs(
        (run for run in runs if run.regime != "static" or _configuration(run) not in out), by_release=True
    )
    left = group_runs((run for run in runs if run.regime == "static" and _configuration(run) in out), by_release=True)
    posterior = fit_posterior([*kept, *kernels])
    residuals = fit_residuals(kept, lambda *pair: posterior.marginal(*pair).parameters, noise_of)
    return errors_of(left, posterior.marginal, residuals), errors_of(left, posterior.marginal)
