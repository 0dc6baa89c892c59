"""Fit the surrogate that ships, and test its intervals on what the fit has not seen.

Run as ``python -m advisor.calibration.shipped_fit``; it writes ``advisor/data/surrogate.json``. The published benchmarks that it learns
from (see ``catalog.published``) lie in ``benchmarks/published`` of the repository and do not ship; what is learned from them does.
With ``--check`` it writes nothing and exits with 1 where the file is not what it would write.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.blas_threads import one_blas_thread
from advisor.calibration.fit_comparison import check_rebuilt
from advisor.calibration.fit_file import LEVELS
from advisor.calibration.intervals import EXPERTS, STAGED
from advisor.calibration.kernel_observations import evidence_with
from advisor.calibration.left_out import PredictionError, errors_of, left_out_errors
from advisor.calibration.observations import RunGroup, group_runs
from advisor.calibration.posterior import fit_posterior
from advisor.calibration.residual_gp import fit_residuals
from advisor.calibration.surrogate import ANY, SHIPPED, IntervalScale, Surrogate
from catalog.published_folder import read_published
from catalog.runs import shipped_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from advisor.calibration.residual_gp import Residuals
    from catalog.schema import Measurement
    from catalog.units import Array

PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "published"
"""In the repository, not in the wheel."""

LEAST_NOISE = 0.02
"""No quantity is believed to better than this, the spread of repeated prefills."""

LEAST_RUNS = 30
"""Left-out predictions of one engine from which its errors are kept apart from the others'."""

LEAST_MODELS = 4.0
"""Models of one engine from which its errors are kept apart: two that are alike say little of a third."""

ALIKE = 0.5
"""Correlation of the left-out errors of closed loops of one engine and model on different GPUs and in different formats: 0.33 and 0.35 with
models left out (dense, experts), rounded up."""

RAISE = 0.25
"""Share of the finite-sample term that counts for closed loops, whose errors are of few models but hundreds of loops: of 0, 0.25, 0.35 and
0.5 the one at which most engines' intervals hold in 85 to 95% of the loops of a model left out, with quantiles of other models alone."""

KIN = {
    metric + staged: (metric + staged, other + staged)
    for metric, other in (("tpot_ms", "e2e_ms"), ("ttft_ms", "prefill_ms"))
    for staged in ("", STAGED, EXPERTS)
} | {"steady ttft_ms": ("steady ttft_ms", "ttft_ms")}
"""Quantities whose errors are judged together, for few sources state the first: the time of a whole static batch is
mostly its decode steps, the time to the first token mostly the prefill."""

LEAST_WITH_KIN = 10
"""In-sample residuals of one engine from which the noise of such a quantity is kept apart."""


def fitted_part(groups: Iterable[RunGroup]) -> list[RunGroup]:
    """Return the groups whose runs state their batch; saturated runs are for checking."""
    kept = []
    for group in groups:
        static = [run for run in group.runs if run.batch > 0]
        kept += [group] if len(static) == len(group.runs) else list(group_runs(static, by_release=True))
    return kept


def noises_of(in_sample: Sequence[PredictionError]) -> dict[tuple[str, str], float]:
    """Return the residual standard deviation by engine (and ``ANY``) and quantity, robustly from the in-sample errors."""
    together: dict[tuple[str, str], list[float]] = defaultdict(list)
    for error in in_sample:
        together[error.engine, error.scale_name].append(error.residual)
        together[ANY, error.scale_name].append(error.residual)
    return {
        key: max(float(f"{1.4826 * np.median(np.abs(residuals)):.4g}"), LEAST_NOISE)
        for key, residuals in together.items()
        if key[0] == ANY or len(residuals) >= (LEAST_WITH_KIN if key[1] in KIN else LEAST_RUNS)
    }


def scales_of(
    in_sample: Sequence[PredictionError], left_out: Sequence[PredictionError]
) -> dict[tuple[str, str, str], IntervalScale]:
    """Return the residual noise from the in-sample errors, quantiles from the left-out ones; by engine where enough are known.

    Saturated runs are never fitted, so all their errors count as left out.
    """
    left_out = [*left_out, *(error for error in in_sample if error.run.batch == 0)]
    noises = noises_of(in_sample)
    scales: dict[tuple[str, str, str], IntervalScale] = {}
    for engine, name in noises:
        tested = [e for e in left_out if e.scale_name in KIN.get(name, (name,))]
        for provenance in ("calibrated", "transferred", "analytic"):
            same = [e for e in tested if e.provenance == provenance]
            own = [e for e in same if engine in (ANY, e.engine)]
            if tested and (engine == ANY or len(own) >= LEAST_RUNS):
                beside = [e for e in left_out if e.provenance == provenance and e.scale_name == other_kind(name)]
                quantiles = quantiles_of(same or tested, engine, noises, beside)
                if provenance == "analytic" and name.endswith(STAGED):
                    quantiles = unless_wider(quantiles, left_out, name, engine, noises)
                scale = IntervalScale(noise=noises[engine, name], quantiles=quantiles, runs=len(own))
                scales[provenance, engine, name] = scale
    return {key: _no_surer_than_dense(key, scale, scales) for key, scale in scales.items()}


def _no_surer_than_dense(
    key: tuple[str, str, str], scale: IntervalScale, scales: Mapping[tuple[str, str, str], IntervalScale]
) -> IntervalScale:
    """Return the scale of a static quantity of models with experts or states on a GPU or an engine without runs, at least as wide as that of
    dense models: nearly all of those static batches are of one GPU, and say too little of another.
    """
    provenance, engine, name = key
    dense = scales.get((provenance, engine, name.removesuffix(EXPERTS)))
    if provenance == "calibrated" or not name.endswith(EXPERTS) or name.startswith("steady") or dense is None:
        return scale
    at_least = np.array(dense.quantiles) * (dense.noise / scale.noise)
    return replace(scale, quantiles=tuple(float(f"{q:.4g}") for q in np.maximum(scale.quantiles, at_least)))


def other_kind(name: str) -> str:
    """Return under which name closed loops of dense models are kept, where ``name`` is that of models with experts, and the other way
    round; "": none.
    """
    if not name.startswith("steady output"):
        return ""
    return name.removesuffix(EXPERTS) if name.endswith(EXPERTS) else name + EXPERTS


def _models(errors: Iterable[PredictionError]) -> float:
    """Return how many models the errors speak for: closed loops of one on several GPUs, and in several formats, for more than one as far as
    they are not alike (the design effect of Kish, Survey Sampling, 1965).
    """
    places: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for error in errors:
        run = error.run
        places[run.model].add((run.gpu, run.dtype) if error.scale_name.startswith("steady") else ("", ""))
    return sum(len(kinds) / (1.0 + (len(kinds) - 1.0) * ALIKE) for kinds in places.values())


def quantiles_of(
    errors: Sequence[PredictionError],
    engine: str,
    noises: Mapping[tuple[str, str], float],
    beside: Sequence[PredictionError] = (),
) -> tuple[float, ...]:
    """Return quantiles of |error| / sigma at ``LEVELS``; those of one engine alone where there are enough of them.

    Where an engine has runs of few models, its own count for m / ``LEAST_MODELS`` of m models, the middle of all engines' for
    the rest: one engine with a bad server should not widen everybody's. What the engine's closed loops of the other kind of model
    (``beside``: dense, or with experts) say counts as one engine more. The rank is raised by the usual finite-sample term
    (n + 1) / n with n the number of (engine, GPU, model) combinations: errors of one combination are alike, so it is
    combinations that are exchangeable, not runs; by a part of it for closed loops (``RAISE``).
    """
    own = [error for error in errors if engine in (ANY, error.engine)]
    weight = min(_models(own) / LEAST_MODELS, 1.0) if len(own) >= LEAST_RUNS else 0.0
    combinations = len({(e.engine, e.run.gpu, e.run.model) for e in errors})
    share = RAISE if all(error.scale_name.startswith("steady") for error in errors) else 1.0
    rank = np.minimum(np.array(LEVELS) * (1.0 + share / combinations), 1.0)

    def of(chosen: Sequence[PredictionError]) -> Array:
        return np.quantile([abs(error.residual) / sigma_of(error, noises) for error in chosen], rank)

    quantiles = of(own if weight else errors)
    known = [name for name, runs in Counter(error.engine for error in errors).items() if runs >= LEAST_RUNS]
    if engine != ANY and weight < 1.0 and known:
        witnesses = [[error for error in errors if error.engine == name] for name in known]
        sibling = [error for error in beside if error.engine == engine]
        middle = np.median([of(w) for w in (*witnesses, sibling) if len(w) >= LEAST_RUNS], axis=0)
        quantiles = weight * quantiles + (1.0 - weight) * middle
    return tuple(float(f"{q:.4g}") for q in quantiles)


def unless_wider(
    quantiles: tuple[float, ...],
    left_out: Sequence[PredictionError],
    name: str,
    engine: str,
    noises: Mapping[tuple[str, str], float],
) -> tuple[float, ...]:
    """Return quantiles of pipelined runs of engines that nobody measured, or those of all their runs where these are wider.

    Only two engines were measured with pipelines, and how one of them differs from the other says too little of a third.
    """
    names = {candidate for other in KIN.get(name, (name,)) for candidate in (other, other.removesuffix(STAGED))}
    every = [e for e in left_out if e.provenance == "analytic" and e.scale_name in names]
    return tuple(np.maximum(quantiles, quantiles_of(every, engine, noises)).tolist()) if every else quantiles


def sigma_of(error: PredictionError, noises: Mapping[tuple[str, str], float]) -> float:
    """Return the standard deviation expected of one error: of the parameters and of the residual."""
    return error.sigma(noises.get((error.engine, error.scale_name), noises[ANY, error.scale_name]))


@one_blas_thread  # as for its workers, so that sums are of one order wherever it runs
def calibrate(
    runs: Sequence[Measurement], *, sources: tuple[str, ...], published: Path | None = None, jobs: int = 1
) -> Surrogate:
    """Fit all runs with ``role="fit"`` and test the intervals by leaving models, GPUs and engines out; ``published``: folder whose kernels
    count, too.
    """
    groups = list(group_runs((run for run in runs if run.role == "fit"), by_release=True))
    fitted = fitted_part(groups)
    kernels = evidence_with(published)
    posterior = fit_posterior([*fitted, *kernels])
    left_out = left_out_errors(fitted, kernels=kernels, jobs=jobs)
    saturated = [
        replace(error, provenance="calibrated")
        for error in errors_of(groups, posterior.marginal)
        if error.run.batch == 0
    ]
    in_sample = [*errors_of(fitted, posterior.marginal), *saturated]
    index = posterior.index
    keys = list(index.pairs)
    keys += [(engine, ANY) for engine in index.engines] + [(ANY, gpu) for gpu in index.gpus] + [(ANY, ANY)]
    # An engine that is known on some GPU meets GPUs it is not known on: the GPU's own effect still counts.
    keys += [(e, g) for e in index.engines for g in index.gpus if (e, g) not in index.pairs]
    digest = hashlib.sha256("\n".join(sorted(repr(run) for run in runs)).encode()).hexdigest()[:16]
    surrogate = Surrogate(
        marginals={key: posterior.marginal(*key) for key in keys},
        scales=scales_of(in_sample, left_out),
        sources=sources,
        data_hash=digest,
        releases={
            (engine, gpu, release): posterior.marginal(engine, gpu, release)
            for engine in index.engines
            for release in index.releases[engine]
            for gpu in (ANY, *(gpu for of, gpu in index.pairs if of == engine))
            if release
        },
    )
    return replace(surrogate, residuals=shipped_residuals(surrogate))


def shipped_residuals(surrogate: Surrogate) -> tuple[Residuals, ...]:
    """Return what a surrogate misses at the runs with ``role="fit"`` that ship; a published one is of a machine nobody knows."""
    groups = group_runs((run for run in shipped_runs() if run.role == "fit"), by_release=True)
    return fit_residuals(groups, lambda *where: surrogate.marginal(*where).parameters, surrogate.noise)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 1 where ``--check`` met a difference."""
    parser = argparse.ArgumentParser(prog="python -m advisor.calibration.shipped_fit", description=__doc__)
    parser.add_argument("--published", type=Path, default=PUBLISHED, help="folder of published benchmarks")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="say where the file differs from what would be written")
    parser.add_argument("--tolerance", type=float, default=0.0, help="share by which numbers may differ in a check")
    chosen = parser.parse_args(arguments)
    runs = [*shipped_runs(), *read_published(chosen.published).runs]
    sources = tuple(sorted({run.source for run in runs if run.role == "fit"}))
    surrogate = calibrate(runs, sources=sources, published=chosen.published, jobs=chosen.jobs)
    if chosen.check:
        difference = check_rebuilt(surrogate, chosen.out, chosen.tolerance)
        print(difference or f"{chosen.out} is what the repository makes")
        return int(difference is not None)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    surrogate.write(chosen.out)
    for (provenance, engine, metric), scale in sorted(surrogate.scales.items()):
        ends = f"noise {scale.noise:.3f}  q90 {scale.quantile(0.9):5.2f}  runs {scale.runs}"
        print(f"{provenance:12s} {engine:14s} {metric:22s} {ends}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
