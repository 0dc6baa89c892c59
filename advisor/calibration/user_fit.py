"""A user's own runs on top of what ships: refined parameters, and what the runs taught.

What ships is a Gaussian for every engine and GPU, and the own runs update it by Bayes' rule (``posterior.update``):
seconds, and the same as a fit of everything at once as long as what the own runs say of other engines and GPUs is small
beside what is known of those. A GPU that nothing was known of is the exception, and is passed on: see ``_passed_on``.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.cpu_posterior import cpu_marginal, cpu_start
from advisor.calibration.fingerprint import platforms_of
from advisor.calibration.fit_report import Accuracy, FitReport, Outlier, ParameterShift
from advisor.calibration.intervals import LEVEL
from advisor.calibration.kernel_observations import KernelObservations, own_evidence
from advisor.calibration.left_out import errors_of
from advisor.calibration.observations import RunGroup, group_runs
from advisor.calibration.posterior import SHARES, own_start, update
from advisor.calibration.residual_gp import fit_residuals
from advisor.calibration.shipped_fit import LEAST_NOISE, fitted_part
from advisor.calibration.surrogate import ANY, Surrogate, analytic_marginal, shipped_surrogate
from advisor.perf_model.parameters import PRIORS, SPREADS
from catalog.errors import InputError
from catalog.kernels import read_kernels
from catalog.runs import shipped_runs, user_runs
from catalog.schema import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from advisor.calibration.left_out import PredictionError
    from advisor.calibration.parameter_posterior import ParameterPosterior

Z90 = 1.6449
"""Standard deviations from the middle of a Gaussian to the ends of its 90% interval."""

MOST_FOLDS = 8
"""Refits for the errors left out: what a fit takes grows with them."""

LEAST_TESTED = 10
"""Left-out predictions from which they may widen the intervals."""

FAR = 3.5
"""Robust standard deviations from the median at which a measurement is an outlier (Iglewicz and Hoaglin, 1993)."""

LEAST_COMPARED = 5
"""Residuals of a quantity from which on one of them can be an outlier."""


def fit(
    runs: str | Path | Iterable[Measurement | str | Path] | None = None,
    *,
    alone: bool = False,
    kernels: str | Path | Iterable[str | Path] = (),
) -> Surrogate:
    """Fit measured runs together with what ships.

    Args:
        runs: measured runs; or a file or folder, or several, in any format that ``import_runs`` reads; None for the
            user's own in ``$ADVISOR_HOME``. Those with ``role="validate"`` are not fitted.
        alone: start from the priors, without what ships.
        kernels: files of kernels and collectives timed alone (``probes.microbench.kernel_times``, ``probes.microbench.collective_times``), or of
            those that others timed, by engine; they say what the runs' GPU reaches; of a GPU without runs they may stand alone.

    Returns:
        What ``runs=`` of every question takes; ``write`` keeps it in a file, and ``lessons`` says what was learned.

    Raises:
        InputError: nothing can be read or fitted, or a name is not in the catalog.

    """
    timed = [time for path in _paths(kernels) for time in read_kernels(path)]
    read = [] if timed and runs is None and not user_runs() else _read(runs)
    members = [run for run in read if run.role == "fit"]
    if not alone:  # what ships has learned from these
        shipping = set(shipped_runs())
        members = [run for run in members if run not in shipping]
    groups = fitted_part(group_runs(members))
    by_kernels: dict[tuple[str, str], list[KernelObservations]] = defaultdict(list)
    for evidence in own_evidence(timed):
        by_kernels[evidence.engine, evidence.cluster.gpu.name].append(evidence)
    if not by_kernels and not any(group.used.any() for group in groups):
        raise InputError(
            f"of these runs {len(members)} are new and have role fit, and none has times of a static or steady run to be fitted"
        )
    shipped = shipped_surrogate()
    base = shipped
    if alone:
        base = replace(shipped, marginals={(ANY, ANY): analytic_marginal()}, releases={}, sources=(), residuals=())
    by_pair: dict[tuple[str, str], list[RunGroup]] = defaultdict(list)
    for group in groups:
        by_pair[group.engine, group.cluster.gpu.name].append(group)
    surrogate = replace(base, alone=alone)
    # An engine with many runs says most of a GPU that is new; the next one starts from that.
    pairs = dict.fromkeys([*by_pair, *by_kernels])
    for engine, gpu in sorted(pairs, key=lambda pair: -sum(len(group.runs) for group in by_pair[pair])):
        own, alone_timed = by_pair[engine, gpu], by_kernels[engine, gpu]
        known = surrogate.marginal(engine, gpu)
        if any(group.cluster.gpu.vendor == "cpu" for group in own):
            known = cpu_start() if alone else cpu_marginal(gpu)
        before = own_start(known, own) if own else known
        after = update(before, [*own, *alone_timed])
        if not own:  # no run of it has been seen
            after = replace(after, provenance=known.provenance, seen=known.seen)
        report = _fit_report((engine, gpu), own, alone_timed, base.marginal(engine, gpu), before, after, surrogate)
        passed_on = {}
        if not alone and not any(
            place == gpu and marginal.provenance == "calibrated" for (_, place), marginal in base.marginals.items()
        ):
            passed_on = _passed_on(surrogate, engine, gpu, before, after)
        others = [item for item in surrogate.residuals if (item.engine, item.gpu) != (engine, gpu)]
        agreeing = [group.without(after.contradicting) for group in own]
        nearby = fit_residuals(agreeing, lambda *_, one=after: one.parameters, surrogate.noise)
        if not any(group.used.any() for group in agreeing):  # nothing moved
            others, nearby = list(surrogate.residuals), ()
        for (other, place), marginal in {(engine, gpu): after, **passed_on}.items():
            surrogate = surrogate.with_marginal(other, place, marginal)
        surrogate = replace(surrogate, lessons=(*surrogate.lessons, report), residuals=(*others, *nearby))
    digest = hashlib.sha256("\n".join([base.data_hash, *sorted(repr(item) for item in (*members, *timed))]).encode())
    sources = tuple(sorted({*base.sources, *(run.source for run in members)}))
    return replace(surrogate, sources=sources, data_hash=digest.hexdigest()[:16])


def _read(runs: str | Path | Iterable[Measurement | str | Path] | None) -> list[Measurement]:
    if runs is None:
        own = list(user_runs())
        if not own:
            raise InputError(
                "there are no runs of yours in $ADVISOR_HOME/runs; name a file, such as advisor fit runs.jsonl"
            )
        return own
    given = [runs] if isinstance(runs, (str, Path)) else list(runs)
    measured = [item for item in given if isinstance(item, Measurement)]
    paths = [item for item in given if not isinstance(item, Measurement)]
    if paths:
        from advisor.calibration.importing import import_runs  # only for files

        measured += import_runs(paths)
    return list({run.run_id: run for run in measured}.values())


def _paths(kernels: str | Path | Iterable[str | Path]) -> list[str | Path]:
    return [kernels] if isinstance(kernels, (str, Path)) else list(kernels)


def _fit_report(
    pair: tuple[str, str],
    groups: Sequence[RunGroup],
    kernels: Sequence[KernelObservations],
    shipped: ParameterPosterior,
    before: ParameterPosterior,
    after: ParameterPosterior,
    surrogate: Surrogate,
) -> FitReport:
    runs = [run for group in groups for run in group.runs]
    old, new = (errors_of(groups, lambda *_, one=marginal: one) for marginal in (shipped, after))
    agreeing = [group.without(after.contradicting) for group in groups]
    left_out = left_out_errors(agreeing, before, surrogate.noise, kernels=kernels)
    return FitReport(
        engine=pair[0],
        gpu=pair[1],
        runs=len(runs),
        kernels=sum(timed_group.measured.size for timed_group in kernels),
        models=tuple(sorted({run.model for run in runs})),
        platforms=platforms_of(runs),
        provenance_before=shipped.provenance,
        moves=_parameter_shifts(shipped, after),
        accuracy=_accuracy(old, new, left_out, surrogate),
        outliers=_outliers(new, surrogate, after.contradicting),
    )


def left_out_errors(
    groups: Sequence[RunGroup],
    before: ParameterPosterior,
    noise_of: Callable[[str, str, bool], float],
    *,
    kernels: Sequence[KernelObservations] = (),
) -> list[PredictionError]:
    """Return errors of each own configuration (model and layout) by a fit to the others; of at most ``MOST_FOLDS`` fits."""
    runs = [group.runs[i] for group in groups for i in np.flatnonzero(group.used.any(axis=0))]
    kinds = list(dict.fromkeys((run.model, run.tp, run.pp, run.ep) for run in runs))
    folds = {kind: i % MOST_FOLDS for i, kind in enumerate(kinds)}
    errors: list[PredictionError] = []
    for fold in range(min(len(kinds), MOST_FOLDS) if len(kinds) > 1 else 0):
        out = [run for run in runs if folds[run.model, run.tp, run.pp, run.ep] == fold]
        kept = [run for run in runs if folds[run.model, run.tp, run.pp, run.ep] != fold]
        others = group_runs(kept)
        marginal = update(before, [*others, *kernels])
        nearby = fit_residuals(others, lambda *_, one=marginal: one.parameters, noise_of)
        errors += errors_of(group_runs(out), lambda *_, one=marginal: one, nearby)
    return errors


def _parameter_shifts(before: ParameterPosterior, after: ParameterPosterior) -> tuple[ParameterShift, ...]:
    shifts = []
    for i, (name, prior) in enumerate(PRIORS.items()):
        spread, left = math.sqrt(before.covariance[i, i]), math.sqrt(after.covariance[i, i])
        ends = [
            float(prior.bounded(value))
            for centre, width in ((before.mean[i], spread), (after.mean[i], left))
            for value in (centre, centre - Z90 * width, centre + Z90 * width)
        ]
        shifts.append(
            ParameterShift(
                name=name,
                before=ends[0],
                before_low=ends[1],
                before_high=ends[2],
                after=ends[3],
                after_low=ends[4],
                after_high=ends[5],
                distance=float(abs(after.mean[i] - before.mean[i]) / spread),
            )
        )
    return tuple(sorted(shifts, key=lambda move: -move.distance))


def _accuracy(
    old: Sequence[PredictionError],
    new: Sequence[PredictionError],
    left_out: Sequence[PredictionError],
    surrogate: Surrogate,
) -> tuple[Accuracy, ...]:
    rows = []
    for name in dict.fromkeys(error.scale_name for error in old):
        before, after, tested = ([e for e in errors if e.scale_name == name] for errors in (old, new, left_out))
        scores = np.array([abs(error.residual) / _sigma(error, surrogate) for error in tested])
        scale = surrogate.scale("calibrated", new[0].engine, name)
        widening = 1.0
        if len(scores) >= LEAST_TESTED:
            widening = max(1.0, float(np.quantile(scores, LEVEL)) / scale.quantile(LEVEL))
        rows.append(
            Accuracy(
                metric=name,
                runs=len(before),
                error_before=_mean_error(before),
                error_after=_mean_error(after),
                error_left_out=_mean_error(tested) if tested else None,
                half_width_before=_half_width(before, surrogate),
                half_width_after=_half_width(after, surrogate, widening),
                held=float(np.mean(scores <= scale.quantile(LEVEL))) if tested else None,
                widening=round(widening, 3),
            )
        )
    return tuple(rows)


def _mean_error(errors: Sequence[PredictionError]) -> float:
    return float(np.mean(np.abs(np.expm1([error.residual for error in errors]))))


def _sigma(error: PredictionError, surrogate: Surrogate) -> float:
    scale = surrogate.scale(error.provenance, error.engine, error.scale_name)
    return error.sigma(scale.noise)


def _half_width(errors: Sequence[PredictionError], surrogate: Surrogate, widening: float = 1.0) -> float:
    """Return the median of half the interval over the prediction."""
    ends = [
        widening
        * surrogate.scale(error.provenance, error.engine, error.scale_name).quantile(LEVEL)
        * _sigma(error, surrogate)
        for error in errors
    ]
    return float(np.median(np.sinh(ends)))


def _outliers(
    errors: Sequence[PredictionError], surrogate: Surrogate, contradicting: Collection[str]
) -> tuple[Outlier, ...]:
    """Return the measurements outside their interval that are of a run that contradicts the others, or far from where the others lie in
    theirs; the farthest first.
    """
    outliers: list[tuple[float, Outlier]] = []
    for name in dict.fromkeys(error.scale_name for error in errors):
        members = [error for error in errors if error.scale_name == name]
        residuals = np.array([error.residual for error in members])
        off = residuals - np.median(residuals)
        spread = max(1.4826 * float(np.median(np.abs(off))), LEAST_NOISE)
        if len(members) < LEAST_COMPARED:
            off, spread = residuals, LEAST_NOISE
        for error, distance in zip(members, np.abs(off) / spread, strict=True):
            scale = surrogate.scale(error.provenance, error.engine, name)
            apart = distance > FAR and len(members) >= LEAST_COMPARED
            if (apart or error.run.run_id in contradicting) and abs(error.residual) > scale.quantile(LEVEL) * _sigma(
                error, surrogate
            ):
                measured = float(getattr(error.run, error.metric))
                outlier = Outlier(
                    run_id=error.run.run_id,
                    metric=error.metric,
                    measured=measured,
                    predicted=measured * math.exp(error.residual),
                )
                outliers.append((float(distance), outlier))
    return tuple(outlier for _, outlier in sorted(outliers, key=lambda item: -item[0]))


def _passed_on(
    surrogate: Surrogate, engine: str, gpu: str, before: ParameterPosterior, after: ParameterPosterior
) -> dict[tuple[str, str], ParameterPosterior]:
    """Return parameters of the other engines on a GPU that was new, from what ``engine``'s runs say of the GPU.

    The parameters are sums of effects, one of them the GPU's (see ``posterior``), with prior covariance G. Of a Gaussian
    sum that moved from (m, C) to (m', C'), the part moves by G C^-1 (m' - m), and its covariance becomes
    G - G C^-1 (C - C') C^-1 G (Rasmussen and Williams, 2006, eq. A.6, once more integrated over the sum).
    """
    effect = np.diag((SHARES["gpu"] * SPREADS) ** 2)
    gain = effect @ np.linalg.inv(before.covariance)
    shift = gain @ (after.mean - before.mean)
    shares = (
        after.covariance * (before.dispersion / after.dispersion) ** 2
    )  # its runs disagree about it, not about the GPU
    learned = gain @ (before.covariance - shares) @ gain.T
    measured = {(report.engine, report.gpu) for report in surrogate.lessons}
    marginals = {}
    for other in {key[0] for key in surrogate.marginals} - {engine}:
        if (other, gpu) not in measured:
            known = surrogate.marginal(other, gpu)
            marginals[other, gpu] = replace(known, mean=known.mean + shift, covariance=known.covariance - learned)
    return marginals
