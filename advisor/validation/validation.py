"""Predicted against measured: errors, coverage of the intervals, choices, other methods, and claims of published tables.

Three kinds of prediction are kept apart. "in-sample": the fit saw the run. "model, GPU or engine left out": a fit made
without it, and an interval whose width was set on the other folds only; "configuration left out": a fit with other
configurations of its model, which correct it where they are near (``residuals``). "not fitted": the run has ``role="validate"`` or
states no batch. A run that is looked up never counts as a prediction.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.calibration.fit_file import LEVELS
from advisor.calibration.intervals import LEVEL, STAGED
from advisor.calibration.kernel_observations import evidence_with
from advisor.calibration.left_out import configuration_errors, errors_of, left_out_errors
from advisor.calibration.observations import group_runs
from advisor.calibration.posterior import fit_posterior
from advisor.calibration.shipped_fit import (
    KIN,
    fitted_part,
    noises_of,
    other_kind,
    quantiles_of,
    sigma_of,
    unless_wider,
)
from advisor.calibration.surrogate import Surrogate, shipped_surrogate
from advisor.prediction.presentation import header
from advisor.validation.ablations import NEARBY, NEARBY_PLAIN, ablations
from advisor.validation.baselines import baselines
from advisor.validation.client_loops import client_checks
from advisor.validation.closed_loops import judge
from advisor.validation.prediction_errors import (
    USUAL,
    Check,
    ErrorSummary,
    Split,
    check_of,
    shipped_check,
    summarised,
)
from advisor.validation.published_claims import (
    PublishedClaim,
    layer_split_checks,
    layer_split_claims,
    layer_split_runs,
    small_gpu_claims,
)
from advisor.validation.ranking import RankedChoice, Ranking, choices, rankings
from catalog.client_loops import read_client_loops
from catalog.published_folder import read_published
from catalog.runs import shipped_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pandas as pd

    from advisor.calibration.left_out import PredictionError
    from advisor.validation.closed_loops import LoopJudgement
    from catalog.schema import Measurement

TIMED: Split = "GPU left out, kernels kept"
LEFT_OUT: dict[str, Split] = {
    "calibrated": "model left out",
    "transferred": "GPU left out",
    "analytic": "engine left out",
}
CLIENT_KEYS = ("split", "engine", "metric")
"""By what first-token times of benchmark clients are judged."""
OWN = "advisor"
"""Its name beside the other methods."""
COMPARED = ("prefill_ms", "tpot_ms", "e2e_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Errors of one method, or of a fit without one part, on static runs that were not fitted; as shares."""

    name: str
    engine: str
    parallel: str
    metric: str
    checks: int
    mean_error: float
    median_error: float
    bias: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """All checks and claims of one validation."""

    checks: tuple[Check, ...]
    claims: tuple[PublishedClaim, ...]
    left_out: dict[str, int]
    """Published rows that could not be used, by reason."""
    client: tuple[Check, ...] = ()
    """First-token times of published closed loops, as their benchmark clients report them (``advisor.validation.client_loops``)."""
    rivals: tuple[Rival, ...] = ()
    """Other methods, fitted to the same runs and judged on the same."""
    rival_rankings: dict[str, tuple[Ranking, ...]] = field(default_factory=dict)
    """Their choices."""
    ablation: tuple[Rival, ...] = ()
    """Fits without one part; and with and without residuals, other configurations of the models fitted."""

    def summary(self, by: Sequence[str] = USUAL) -> tuple[ErrorSummary, ...]:
        """Return errors by split, engine, regime, parallelism and metric, and all engines together; or by other keys.

        Raises:
            InputError: no such key.

        """
        return summarised(self.checks, by)

    def outside(self) -> tuple[Check, ...]:
        """Return the checks whose measured value is outside its interval."""
        return tuple(check for check in self.checks if not check.inside)

    def choices(self) -> tuple[RankedChoice, ...]:
        """Return what would have been chosen among the measured deployments of each model and workload, and what was best."""
        tables = set(layer_split_runs())  # judged by the claims
        return choices(check for check in self.checks if check.run not in tables)

    def rankings(self) -> tuple[Ranking, ...]:
        """Return the choices by split and objective."""
        return rankings(self.choices())

    def loops(self) -> LoopJudgement:
        """Return what the closed loops say of choosing within a limit on TPOT, and of which of two is faster."""
        return judge(self.checks)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a check."""
        import pandas as pd  # slow to import, and only this needs it

        return pd.DataFrame([check.to_dict() for check in self.checks])

    def to_dict(self, by: Sequence[str] = USUAL) -> dict[str, Any]:
        """Return everything as plain JSON types; ``by`` groups the summary."""
        return {
            **header("validation/1"),
            "summary": [row.to_dict() for row in self.summary(by)],
            "rankings": [row.to_dict() for row in self.rankings()],
            "choices": [row.to_dict() for row in self.choices()],
            "loops": self.loops().to_dict(),
            "client": [row.to_dict() for row in summarised(self.client, CLIENT_KEYS)],
            "baselines": [asdict(row) for row in self.rivals],
            "baseline_rankings": {name: [row.to_dict() for row in rows] for name, rows in self.rival_rankings.items()},
            "ablation": [asdict(row) for row in self.ablation],
            "claims": [asdict(claim) for claim in self.claims],
            "checks": [check.to_dict() for check in self.checks],
            "left_out": self.left_out,
        }


def validate(
    runs: Iterable[Measurement] | None = None,
    *,
    published: str | Path | None = None,
    surrogate: Surrogate | None = None,
    refit: bool = True,
    compare: bool = True,
    ablation: bool = False,
    jobs: int = 1,
) -> Validation:
    """Compare predictions with measured runs, and check the claims of the tables behind the project.

    Args:
        runs: what to judge on; None for the runs that ship.
        published: a folder of published benchmarks in long form to judge on as well; it then also refits without each
            model, GPU and engine in turn.
        surrogate: what to judge; None for the one that ships.
        refit: also leave out and refit (a minute with ``published``); otherwise in-sample and not fitted only.
        compare: also fit other methods (the roofline, the nearest run, trees) to the runs with role fit, to judge them on
            those with role validate.
        ablation: also fit again without one part after another (kernel times, hierarchy), judged on the same.
        jobs: processes for the refits.

    Raises:
        InputError: runs that cannot be read or name what the catalog does not hold.

    """
    judged = list(shipped_runs() if runs is None else runs)
    left_out: dict[str, int] = {}
    if published is not None:
        published_runs = read_published(Path(published))
        judged += published_runs.runs
        left_out = published_runs.left_out
    model = surrogate or shipped_surrogate()
    groups = list(group_runs(judged, by_release=True))
    checks = [shipped_check(error, model) for error in errors_of(groups, model.marginal)]
    fitted = fitted_part(group_runs((run for run in judged if run.role == "fit"), by_release=True))
    kernels = evidence_with(None if published is None else Path(published))
    loops = () if published is None else read_client_loops(Path(published))
    client: list[Check] = []
    near: list[PredictionError] = []
    plain: list[PredictionError] = []
    if refit and len(fitted) > 1:
        in_sample, errors = (
            errors_of(fitted, fit_posterior([*fitted, *kernels]).marginal),
            left_out_errors(fitted, kernels=kernels, jobs=jobs),
        )
        near, plain = configuration_errors(fitted, model.noise, kernels=kernels, jobs=jobs)
        checks += cross_checks(errors, in_sample) + near_checks(near, errors, in_sample)
        client = client_checks(loops, model.marginal, (fitted, kernels), jobs=jobs)
    elif loops:
        client = client_checks(loops, model.marginal)
    claims = [*layer_split_claims(model), *small_gpu_claims(model)]
    static = [run for run in judged if run.batch and run.regime == "static"]
    held = list(group_runs((run for run in static if run.role == "validate"), by_release=True))
    learned = list(group_runs(run for run in static if run.role == "fit"))
    others = baselines(learned, held) if compare and held and learned else {}
    if others:
        others = {
            OWN: [check for check in checks if check.run.role == "validate" and check.regime == "static"],
            **others,
        }
    parts: dict[str, list[PredictionError]] = {}
    if ablation and held and fitted:
        parts = ablations(fitted, kernels, held, model.noise, jobs=jobs)
    if ablation and near:
        parts |= {NEARBY: near, NEARBY_PLAIN: plain}
    return Validation(
        checks=(*checks, *layer_split_checks(model)),
        claims=tuple(claims),
        client=tuple(client),
        left_out=left_out,
        rivals=_rivals(
            {name: [(c.engine, c.run, c.metric, c.error) for c in members] for name, members in others.items()}
        ),
        rival_rankings={name: rankings(choices(members)) for name, members in others.items()},
        ablation=_rivals(
            {
                name: [(e.engine, e.run, e.metric, math.expm1(e.residual)) for e in members]
                for name, members in parts.items()
            }
        ),
    )


def _rivals(errors: dict[str, list[tuple[str, Measurement, str, float]]]) -> tuple[Rival, ...]:
    """Return the rivals by method, engine, parallelism and metric."""
    rivals = []
    for name, rows in errors.items():
        groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for engine, run, metric, error in rows:
            if metric in COMPARED:
                groups[engine, "PP" if run.pp > 1 else "TP", metric].append(error)
        for (engine, parallel, metric), values in sorted(groups.items()):
            rivals.append(
                Rival(
                    name=name,
                    engine=engine,
                    parallel=parallel,
                    metric=metric,
                    checks=len(values),
                    mean_error=float(np.mean(np.abs(values))),
                    median_error=float(np.median(np.abs(values))),
                    bias=float(np.median(values)),
                )
            )
    return tuple(rivals)


def cross_checks(errors: Sequence[PredictionError], in_sample: Sequence[PredictionError]) -> list[Check]:
    """Return left-out predictions with intervals whose quantile comes from the other folds.

    Each fold (a model, a GPU, an engine) is judged by the errors of all folds but its own, so that no interval has seen
    what it is tested on.
    """
    noises = noises_of(in_sample)
    fold_of: dict[str, Callable[[PredictionError], str]] = {
        "calibrated": lambda error: error.run.model,
        "transferred": lambda error: error.run.gpu,
        "analytic": lambda error: error.engine,
    }
    checks = []
    for provenance, fold in fold_of.items():
        members = [error for error in errors if error.provenance == provenance]
        for name in sorted({error.scale_name for error in members}):
            tested = [error for error in members if error.scale_name == name]
            for out, engine in sorted({(fold(error), error.engine) for error in tested}):
                kin = [e for e in members if e.scale_name in KIN.get(name, (name,)) and fold(e) != out]
                if not kin:
                    continue
                beside = [e for e in members if e.scale_name == other_kind(name) and fold(e) != out]
                quantiles = quantiles_of(kin, engine, noises, beside)
                if provenance == "analytic" and name.endswith(STAGED):
                    others = [e for e in members if fold(e) != out]
                    quantiles = unless_wider(quantiles, others, name, engine, noises)
                quantile = float(np.interp(LEVEL, LEVELS, quantiles))
                checks += [
                    check_of(error, TIMED if error.timed else LEFT_OUT[provenance], sigma_of(error, noises), quantile)
                    for error in tested
                    if (fold(error), error.engine) == (out, engine)
                ]
    return checks


def near_checks(
    near: Sequence[PredictionError], errors: Sequence[PredictionError], in_sample: Sequence[PredictionError]
) -> list[Check]:
    """Return predictions of configurations left out; ``errors`` are those without whole models, of which only other models' count."""
    noises = noises_of(in_sample)
    checks = []
    for model, engine, name in sorted({(error.run.model, error.engine, error.scale_name) for error in near}):
        kin = [
            e
            for e in errors
            if e.provenance == "calibrated" and e.scale_name in KIN.get(name, (name,)) and e.run.model != model
        ]
        if kin:
            quantile = float(np.interp(LEVEL, LEVELS, quantiles_of(kin, engine, noises)))
            checks += [
                check_of(error, "configuration left out", sigma_of(error, noises), quantile)
                for error in near
                if (error.run.model, error.engine, error.scale_name) == (model, engine, name)
            ]
    return checks
