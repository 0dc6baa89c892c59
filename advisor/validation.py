"""Predicted against measured: errors, coverage of the intervals, and the claims that published tables make.

Three kinds of prediction are kept apart. "in-sample": the fit saw the run. "model, GPU or engine left out": a fit made
without it, and an interval whose width was set on the other folds only. "not fitted": the run has ``role="validate"`` or
states no batch. A run that is looked up never counts as a prediction.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.stats import bootstrap

from advisor.calibration import (
    CUBLAS,
    KIN,
    Error,
    errors_of,
    fitted_part,
    left_out_errors,
    noises_of,
    quantiles_of,
    sigma_of,
)
from advisor.evaluation import Evaluation
from advisor.evidence import group_kernels, group_runs
from advisor.layout import Layout
from advisor.memory import max_concurrency, memory
from advisor.posterior import fit_posterior
from advisor.surrogate import LEVELS, Surrogate, shipped_surrogate
from catalog.gpus import parse_cluster
from catalog.kernels import shipped_kernels
from catalog.models import find_model
from catalog.published import read_published
from catalog.runs import read_runs, shipped_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pandas as pd

    from catalog.schema import Measurement

Split = Literal["in-sample", "model left out", "GPU left out", "engine left out", "not fitted"]
LEFT_OUT: dict[str, Split] = {
    "calibrated": "model left out", "transferred": "GPU left out", "analytic": "engine left out",
}  # fmt: skip
LEVEL = 0.9
LAYER_SPLIT_TABLE = Path(__file__).parent.parent / "catalog" / "data" / "reports" / "layer_split_a100.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One measured quantity beside its prediction."""

    run: Measurement
    engine: str
    """As ``advisor.evidence.dialect`` names it."""
    metric: str
    split: Split
    measured: float
    predicted: float
    low: float
    high: float
    """Ends of the 90% interval."""

    @property
    def error(self) -> float:
        """(predicted - measured) / measured."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Something that must come out, and whether it does."""

    text: str
    holds: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Errors of one group of checks, as shares (0.1 is 10%)."""

    split: str
    engine: str
    regime: str
    parallel: str
    metric: str
    checks: int
    median_error: float
    mean_error: float
    bias: float
    """Median of the signed error."""
    coverage: float
    """Share of measured values inside their 90% interval."""
    coverage_low: float
    coverage_high: float
    """95% confidence interval of the coverage, clustered by model and GPU."""
    half_width: float
    """Median of half the interval's width over the prediction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """All checks and claims of one validation."""

    checks: tuple[Check, ...]
    claims: tuple[Claim, ...]
    left_out: dict[str, int]
    """Published rows that could not be used, by reason."""

    def summary(self) -> tuple[Summary, ...]:
        """Errors by split, engine, regime, parallelism and metric; then all engines together."""
        groups: dict[tuple[str, str, str, str, str], list[Check]] = defaultdict(list)
        for check in self.checks:
            for engine in (check.engine, "all"):
                groups[check.split, engine, check.regime, check.parallel, check.metric].append(check)
        return tuple(_summary(key, checks) for key, checks in sorted(groups.items()))

    def outside(self) -> tuple[Check, ...]:
        """Checks whose measured value is outside its interval."""
        return tuple(check for check in self.checks if not check.inside)

    def to_frame(self) -> pd.DataFrame:
        """One row a check."""
        import pandas as pd  # noqa: PLC0415  slow to import, and only this needs it

        return pd.DataFrame([_row(check) for check in self.checks])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return {
            "summary": [{name: getattr(row, name) for name in row.__slots__} for row in self.summary()],
            "claims": [{name: getattr(claim, name) for name in claim.__slots__} for claim in self.claims],
            "checks": [_row(check) for check in self.checks],
            "left_out": self.left_out,
        }


def _row(check: Check) -> dict[str, Any]:
    run = check.run
    return {
        "run_id": run.run_id, "source": run.source, "split": check.split, "engine": check.engine, "gpu": run.gpu,
        "model": run.model, "tp": run.tp, "pp": run.pp, "batch": run.batch, "input_len": run.input_len,
        "output_len": run.output_len, "regime": check.regime, "metric": check.metric, "measured": check.measured,
        "predicted": check.predicted, "low": check.low, "high": check.high, "error": check.error,
        "inside": check.inside,
    }  # fmt: skip


def _summary(key: tuple[str, str, str, str, str], checks: Sequence[Check]) -> Summary:
    errors = np.array([check.error for check in checks])
    inside = [check.inside for check in checks]
    clusters: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for check in checks:
        clusters[check.run.model, check.run.gpu].append(check.inside)
    low, high = coverage_interval(list(clusters.values()))
    split, engine, regime, parallel, metric = key
    return Summary(
        split=split, engine=engine, regime=regime, parallel=parallel, metric=metric, checks=len(checks),
        median_error=float(np.median(np.abs(errors))), mean_error=float(np.mean(np.abs(errors))),
        bias=float(np.median(errors)), coverage=float(np.mean(inside)), coverage_low=low, coverage_high=high,
        half_width=float(np.median([(check.high - check.low) / 2.0 / check.predicted for check in checks])),
    )  # fmt: skip


def coverage_interval(clusters: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """95% confidence interval of a share of hits, from resampling whole clusters; (0, 1) from a single cluster."""
    hits = np.array([sum(cluster) for cluster in clusters], dtype=float)
    sizes = np.array([len(cluster) for cluster in clusters], dtype=float)
    if len(clusters) < 2:
        return 0.0, 1.0
    if hits.sum() in (0.0, sizes.sum()):
        share = hits.sum() / sizes.sum()
        # No spread to resample: the rule of three, with clusters as the units.
        return (max(0.0, 1.0 - 3.0 / len(clusters)), 1.0) if share else (0.0, min(1.0, 3.0 / len(clusters)))
    found = bootstrap(
        (hits, sizes), lambda h, n, axis=-1: h.sum(axis=axis) / n.sum(axis=axis), paired=True, vectorized=True,
        n_resamples=2000, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def validate(
    runs: Iterable[Measurement] | None = None,
    *,
    published: str | Path | None = None,
    surrogate: Surrogate | None = None,
    refit: bool = True,
    jobs: int = 1,
) -> Validation:
    """Compare predictions with measured runs, and check the claims of the tables behind the project.

    Args:
        runs: what to judge on; None for the runs that ship.
        published: a folder of published benchmarks in long form to judge on as well; it then also refits without each
            model, GPU and engine in turn.
        surrogate: what to judge; None for the one that ships.
        refit: also leave out and refit (a minute with ``published``); otherwise in-sample and not fitted only.
        jobs: processes for the refits.

    Raises:
        InputError: runs that cannot be read or name what the catalog does not hold.

    """
    judged = list(shipped_runs() if runs is None else runs)
    left_out: dict[str, int] = {}
    if published is not None:
        found = read_published(Path(published))
        judged += found.runs
        left_out = found.left_out
    model = surrogate or shipped_surrogate()
    groups = list(group_runs(judged))
    checks = [_shipped_check(error, model) for error in errors_of(groups, model.marginal)]
    fitted = fitted_part(group_runs(run for run in judged if run.role == "fit"))
    if refit and len(fitted) > 1:
        kernels = [kernel for engine in CUBLAS for kernel in group_kernels(shipped_kernels(), engine)]
        start = fit_posterior([*fitted, *kernels])
        checks += cross_checks(
            left_out_errors(fitted, start, kernels=kernels, jobs=jobs), errors_of(fitted, start.marginal)
        )
    claims = [*layer_split_claims(model), *small_gpu_claims(model)]
    checks += layer_split_checks(model)
    return Validation(checks=tuple(checks), claims=tuple(claims), left_out=left_out)


def _shipped_check(error: Error, surrogate: Surrogate) -> Check:
    scale = surrogate.scale(error.provenance, error.engine, error.scale_name)
    fitted = error.run.role == "fit" and error.run.batch > 0 and error.run.source in surrogate.sources
    return _check(
        error,
        "in-sample" if fitted else "not fitted",
        math.hypot(scale.noise, math.sqrt(error.variance)),
        scale.at(LEVEL),
    )


def _check(error: Error, split: Split, sigma: float, quantile: float) -> Check:
    measured = float(getattr(error.run, error.metric))
    predicted = measured * math.exp(error.residual)
    factor = math.exp(quantile * sigma)
    return Check(
        run=error.run, engine=error.engine, metric=error.metric, split=split, measured=measured, predicted=predicted,
        low=predicted / factor, high=predicted * factor,
    )  # fmt: skip


def cross_checks(errors: Sequence[Error], in_sample: Sequence[Error]) -> list[Check]:
    """Left-out predictions with intervals whose quantile comes from the other folds.

    Each fold (a model, a GPU, an engine) is judged by the errors of all folds but its own, so that no interval has seen
    what it is tested on.
    """
    noises = noises_of(in_sample)
    fold_of: dict[str, Callable[[Error], str]] = {
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
                quantile = float(np.interp(LEVEL, LEVELS, quantiles_of(kin, engine, noises)))
                checks += [
                    _check(error, LEFT_OUT[provenance], sigma_of(error, noises), quantile)
                    for error in tested
                    if (fold(error), error.engine) == (out, engine)
                ]
    return checks


def layer_split_runs() -> tuple[Measurement, ...]:
    """The table of model against tensor parallel inference in plain PyTorch on up to four A100."""
    return read_runs(LAYER_SPLIT_TABLE)


def layer_split_checks(surrogate: Surrogate) -> list[Check]:
    """Every cell of that table beside its prediction."""
    return [_shipped_check(error, surrogate) for error in errors_of(group_runs(layer_split_runs()), surrogate.marginal)]


def layer_split_claims(surrogate: Surrogate) -> list[Claim]:
    """Tensor parallel is above layer split in every comparable cell, and rises with GPUs."""
    cells = {(check.run.model, check.run.tp, check.run.pp): check for check in layer_split_checks(surrogate)}
    predicted = {key: check.predicted for key, check in cells.items()}
    models = sorted({model for model, _, _ in cells})
    pairs = [(m, n) for m in models for n in (2, 4) if (m, n, 1) in cells]
    rising = [[predicted[m, n, 1] for n in (1, 2, 4) if (m, n, 1) in cells] for m in models]

    def shown(key: tuple[str, int, int]) -> str:
        check, (model, tp, pp) = cells[key], key
        kind = f"TP{tp}" if pp == 1 else f"layer split {pp}"
        interval = f"{check.predicted:.0f} ({check.low:.0f}-{check.high:.0f})"
        return f"{model.split('/')[1]} {kind}: measured {check.measured:.0f}, predicted {interval}"

    return [
        Claim(
            text="A100, plain PyTorch: tensor parallel above layer split in every comparable cell",
            holds=all(predicted[m, n, 1] > predicted[m, 1, n] for m, n in pairs),
            detail=f"tok/s; {'; '.join(shown(key) for key in cells)}",
        ),
        Claim(
            text="A100, plain PyTorch: tensor parallel rises with GPUs",
            holds=all(all(a < b for a, b in itertools.pairwise(values)) for values in rising),
            detail="; ".join(
                f"{m.split('/')[1]} {', '.join(f'{value:.0f}' for value in values)} tok/s"
                for m, values in zip(models, rising, strict=True)
            ),
        ),
    ]


SMALL_GPU_LAYOUTS = ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (2, 2))


def small_gpu_claims(surrogate: Surrogate) -> list[Claim]:
    """Llama-2-7B float16 on V100-16GB, 128 tokens in and out, the largest batch that fits (run.ai, February 2024).

    There, splitting a model that fits one GPU raised throughput per GPU by 57% (vLLM) at TP2; total throughput still rose
    at TP4 and fell per GPU. Judged with the parameters of vLLM's generation of that time.
    """
    model, cluster = find_model("meta-llama/Llama-2-7b-hf").value, parse_cluster("4xV100-SXM2-16GB").value
    marginal = surrogate.marginal("vllm 0.2", cluster.gpu.name)
    columns = {
        "tp": [tp for tp, _ in SMALL_GPU_LAYOUTS], "pp": [pp for _, pp in SMALL_GPU_LAYOUTS], "dtype": "float16",
        "max_num_batched_tokens": 2560, "max_num_seqs": 256, "max_model_len": 256,
    }  # fmt: skip
    layout = Layout.from_columns(columns, model, cluster.gpu)
    most = np.minimum(
        max_concurrency(model, memory(model, cluster, layout), layout, np.full(len(layout), 256.0)), 256.0
    )
    found = Evaluation.of(
        model, cluster, replace(layout, max_num_seqs=most), batch=most, input_len=128, output_len=128, regime="steady",
        parameters=marginal.parameters,
    )  # fmt: skip
    total = dict(zip(SMALL_GPU_LAYOUTS, found.times.output_tok_s.tolist(), strict=True))
    per_gpu = {layout: value / (layout[0] * layout[1]) for layout, value in total.items()}
    gain = per_gpu[2, 1] / per_gpu[1, 1] - 1.0
    batches = dict(zip(SMALL_GPU_LAYOUTS, most.astype(int).tolist(), strict=True))
    rows = "; ".join(
        f"TP{t} PP{p}: batch {batches[t, p]}, {total[t, p]:.0f} tok/s, {per_gpu[t, p]:.0f} per GPU"
        for t, p in SMALL_GPU_LAYOUTS
    )
    return [
        Claim(
            text="V100-16GB, Llama-2-7B: TP2 per GPU at least 40% above one GPU (measured there: 57%)",
            holds=gain >= 0.4,
            detail=(
                f"predicted +{gain:.0%}; {rows}. Engines of that time ran their pipeline stages one after another, which "
                "the blog's PP rows (below TP2) show; these predictions keep every stage busy, as engines now do"
            ),
        ),
        Claim(
            text="V100-16GB, Llama-2-7B: TP4 above TP2 in total and below it per GPU",
            holds=total[4, 1] > total[2, 1] and per_gpu[4, 1] < per_gpu[2, 1],
            detail=f"predicted total {total[2, 1]:.0f} and {total[4, 1]:.0f}, per GPU {per_gpu[2, 1]:.0f} and {per_gpu[4, 1]:.0f}",
        ),
    ]
