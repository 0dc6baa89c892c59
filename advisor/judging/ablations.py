"""What each part of the model of time is worth: the fit again without it, judged on the same runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from joblib import Parallel, delayed

from advisor.fitting.calibration import errors_of
from advisor.fitting.posterior import Effects, Pooled, fit_posterior, update
from advisor.fitting.surrogate import analytic_marginal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advisor.fitting.calibration import Error
    from advisor.fitting.evidence import Evidence, Group, Products
    from advisor.fitting.surrogate import Marginal

WHOLE = "everything"
NO_KERNELS = "without kernel times"
APART = "without hierarchy: each engine and GPU alone"
POOLED = "without hierarchy: one set for all"
NO_RUNS = "without runs: the priors"


def ablations(
    fitted: Sequence[Group], kernels: Sequence[Products], judged: Sequence[Group], *, jobs: int = 1
) -> dict[str, list[Error]]:
    """Errors on ``judged`` of fits to ``fitted`` with one part after another taken out, the whole first."""
    variants = (WHOLE, NO_KERNELS, APART, POOLED, NO_RUNS)
    found = Parallel(n_jobs=jobs)(delayed(_errors)(name, fitted, kernels, judged) for name in variants)
    return dict(zip(variants, found, strict=True))


def _errors(
    variant: str, fitted: Sequence[Group], kernels: Sequence[Products], judged: Sequence[Group]
) -> list[Error]:  # fmt: skip
    return errors_of(judged, _marginals(variant, fitted, kernels))


def _marginals(
    variant: str, fitted: Sequence[Group], kernels: Sequence[Products]
) -> Callable[[str, str], Marginal]:  # fmt: skip
    parts: list[Evidence] = [*fitted] if variant == NO_KERNELS else [*fitted, *kernels]
    if variant == NO_RUNS:
        return lambda _engine, _gpu: analytic_marginal()
    if variant == APART:

        def alone(engine: str, gpu: str) -> Marginal:
            own = [each for each in parts if (each.engine, each.cluster.gpu.name) == (engine, gpu)]
            return update(analytic_marginal(), own) if own else analytic_marginal()

        return alone
    return fit_posterior(parts, index=(Pooled if variant == POOLED else Effects)(parts)).marginal
