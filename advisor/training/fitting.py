"""Fit what training reaches to step times that others published: ``python -m advisor.training.fitting``.

One set of efficiencies for all publications, a maximum a posteriori estimate by Gauss-Newton on the logarithm of the step time;
errors are judged with the whole publication left out. It writes ``advisor/data/training_efficiencies.json``.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.calibration.intervals import LEVEL
from advisor.perf_model.sensitivity import log_slopes, shifted
from advisor.training.efficiencies import FILE, NAMES, Efficiencies, TrainingFit, centres, spread_of_gpus, spreads
from advisor.training.layout_space import layouts_of
from advisor.training.layouts import TrainingTask
from advisor.training.step_time import step_time
from advisor.training.training_memory import memory_by_part
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.training import find_framework, training_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.training.layouts import TrainingLayouts
    from catalog.training import TrainingRun
    from catalog.units import Array

NOISE = 0.05
"""Standard deviation of the logarithm of a published step time that the fit takes: repeats differ by some percent."""
MEMORY_ERROR = 0.1
"""Share above a GPU's memory up to which a layout may have been what ran: memory is a count with an error, too."""
ITERATIONS = 8
NORMAL = NormalDist().inv_cdf(0.5 + LEVEL / 2.0)


@dataclass(frozen=True, slots=True)
class Judged:
    """A published step time beside the layouts that it leaves open; those that fit the memory, if any do."""

    run: TrainingRun
    task: TrainingTask
    layouts: TrainingLayouts

    @classmethod
    def of(cls, run: TrainingRun) -> Judged:
        """Read a published run; what it does not state is left open."""
        cluster = parse_cluster(f"{run.gpus}x{run.gpu}", {"network_gbps": run.network_gbps}).value
        framework = find_framework(run.framework)
        task = TrainingTask(
            model=find_model(run.model).value,
            cluster=cluster,
            framework=framework,
            batch=run.batch,
            sequence_length=run.sequence_length,
            precision=run.precision,
            lora_rank=run.lora_rank,
        )
        stated: dict[str, Any] = {
            "tp": run.tp,
            "pp": run.pp,
            "cp": run.cp,
            "micro_batch": run.micro_batch,
            "interleave": run.interleave,
            "recompute": run.recompute,
            "zero": framework.zero if run.zero is None else run.zero,
        }
        if not framework.fused_attention:  # of the time before it was usual
            stated["sequence_parallel"] = run.sequence_parallel
        layouts = layouts_of(task, {name: value for name, value in stated.items() if value not in (None, "")})
        memory = memory_by_part(task, layouts).total
        fits = memory <= cluster.gpu.memory_gib * (1.0 + MEMORY_ERROR)
        rows = np.flatnonzero(fits) if fits.any() else np.array([int(np.argmin(memory))])
        return cls(run, task, layouts.take(rows))

    def chosen(self, x: Array) -> TrainingLayouts:
        """Return the fastest of the layouts by one set of parameters."""
        times = step_time(self.task, self.layouts, Efficiencies.from_unbounded(x)).total
        return self.layouts.take(np.array([int(np.argmin(times))]))

    def seconds(self, x: Array, layouts: TrainingLayouts) -> Array:
        """Return the step time of one layout by s sets of parameters ``x`` (s, len(NAMES)), shape (s,)."""
        total = step_time(self.task, layouts, Efficiencies.from_unbounded(x)).total
        return np.broadcast_to(total, (len(x), 1))[:, 0] * 1e-3


def local_times(judged: Judged, x: Array) -> tuple[float, Array]:
    """Return the logarithm of the step time at ``x``, and its slopes by every parameter."""
    layouts = judged.chosen(x)
    seconds = judged.seconds(shifted(x), layouts)
    return math.log(seconds[0]), log_slopes(seconds)


def fit(runs: Sequence[Judged]) -> tuple[Array, Array]:
    """Return the mean and covariance of the parameters on the unbounded scale."""
    prior, precision = centres(), np.diag(1.0 / spreads() ** 2)
    x = prior.copy()
    seconds = np.log([judged.run.step_s for judged in runs]) if runs else np.zeros(0)
    hessian = precision
    for _ in range(ITERATIONS):
        local = [local_times(judged, x) for judged in runs]
        values = np.array([value for value, _ in local])
        slopes = np.array([slope for _, slope in local]).reshape(len(runs), len(NAMES))
        residual = seconds - values
        # errors have long tails: what is far off counts less (Student's t with 4 degrees of freedom)
        weights = 5.0 / (4.0 + (residual / NOISE) ** 2) / NOISE**2
        hessian = precision + slopes.T @ (weights[:, None] * slopes)
        gradient = slopes.T @ (weights * residual) - precision @ (x - prior)
        x = x + np.clip(np.linalg.solve(hessian, gradient), -0.7, 0.7)
    return x, np.asarray(np.linalg.inv(hessian), dtype=float)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A published step time beside what was said of it with its publication left out."""

    run: TrainingRun
    layout: str
    predicted_s: float
    parameter_sigma: float
    memory_share: float
    """Lower end of the layout's memory over that of the GPU: above 1, it could not have run."""

    @property
    def error(self) -> float:
        """Return the relative error."""
        return self.predicted_s / self.run.step_s - 1.0


def left_out(runs: Sequence[Judged]) -> list[LeftOut]:
    """Judge every run by a fit to all other publications."""
    by_publication = defaultdict(list)
    for judged_run in runs:
        by_publication[judged_run.run.publication].append(judged_run)
    judged = []
    for publication, own in by_publication.items():
        x, covariance = fit([judged_run for judged_run in runs if judged_run.run.publication != publication])
        judged += [predicted(judged_run, x, covariance) for judged_run in own]
    return judged


def predicted(judged: Judged, x: Array, covariance: Array) -> LeftOut:
    """Set a published step time beside what a fit says of it."""
    value, slope = local_times(judged, x)
    layout = judged.chosen(x)
    least, _ = memory_by_part(judged.task, layout).interval
    return LeftOut(
        run=judged.run,
        layout=layout.row(0).label,
        predicted_s=math.exp(value),
        parameter_sigma=math.sqrt(float(slope @ covariance @ slope)),
        memory_share=float(least[0]) / judged.task.cluster.gpu.memory_gib,
    )


def pretraining(runs: Sequence[TrainingRun]) -> list[Judged]:
    """Return the runs that are fitted, which are also judged with their publication left out."""
    return [Judged.of(run) for run in runs if run.role == "fit"]


def held(runs: Sequence[Judged]) -> list[LeftOut]:
    """Predict what nothing is fitted to: fine-tuning, and publications that state no layout or a total alone."""
    x, covariance = fit(runs)
    return [predicted(Judged.of(run), x, covariance) for run in training_runs() if run.role == "validate"]


def spread_of_publications(judged: Sequence[LeftOut]) -> float:
    """Return the root mean square of the mean logarithmic errors of publications that a fit does not know."""
    errors = defaultdict(list)
    for run in judged:
        errors[run.run.publication].append(math.log1p(run.error))
    return math.sqrt(float(np.mean([np.mean(own) ** 2 for own in errors.values()])))


def intervals(judged: Sequence[LeftOut]) -> tuple[float, float]:
    """Return the spread beyond the parameters' own and the standard deviations that hold 90% of what was left out.

    The spread is the one with which the errors are as likely as can be (normal, over a grid); no fewer deviations than a normal one
    has, for of few publications the next one may be the worst.
    """
    errors = np.array([math.log1p(error.error) for error in judged])
    own = np.array([error.parameter_sigma for error in judged])
    grid = np.geomspace(0.01, 0.3, 200)
    variance = own[None, :] ** 2 + grid[:, None] ** 2
    likelihood = -0.5 * np.sum(np.log(variance) + errors**2 / variance, axis=1)
    sigma = float(grid[int(np.argmax(likelihood))])
    quantile = float(np.quantile(np.abs(errors) / np.hypot(own, sigma), LEVEL, method="higher"))
    return sigma, max(quantile, NORMAL)


def shipped() -> tuple[TrainingFit, list[LeftOut]]:
    """Fit all publications, and judge each by the others."""
    runs = pretraining(training_runs())
    judged = left_out(runs)
    sigma, quantile = intervals(judged)
    mean, covariance = fit(runs)
    measured = frozenset((judged_run.run.gpu, judged_run.run.precision) for judged_run in runs)
    return (
        TrainingFit(
            mean=mean,
            covariance=covariance,
            sigma=sigma,
            unseen_sigma=math.hypot(sigma, spread_of_gpus(), spread_of_publications([*judged, *held(runs)])),
            quantile=quantile,
            measured=measured,
        ),
        judged,
    )


def main() -> None:
    """Fit, write the file, and print the parameters."""
    fitted, _ = shipped()
    body = {
        "names": list(NAMES),
        "mean": [round(float(value), 6) for value in fitted.mean],
        "covariance": [[round(float(value), 8) for value in row] for row in fitted.covariance],
        "sigma": round(fitted.sigma, 5),
        "unseen_sigma": round(fitted.unseen_sigma, 5),
        "quantile": round(fitted.quantile, 4),
        "measured": sorted(fitted.measured),
    }
    FILE.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    for name in NAMES:
        i = NAMES.index(name)
        one = Efficiencies.from_unbounded(fitted.mean)
        value = getattr(one, name, None)
        value = getattr(one.operators, name) if value is None else value
        print(f"{name:20}{float(value):8.3f}  sd {math.sqrt(fitted.covariance[i, i]):.2f} of prior {spreads()[i]:.2f}")


if __name__ == "__main__":
    main()
