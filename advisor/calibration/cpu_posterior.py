"""What is believed of engines on CPUs: priors of their own, and the published runs that move them.

A CPU reads weights as fast as its memory or its cores allow, and every operator ends with a barrier over all of its cores, so that
fixed times are ten times those of a GPU. ``python -m advisor.calibration.cpu_posterior`` fits them and writes
``advisor/data/cpu_posterior.json``; ``python -m advisor.validation.cpu`` judges them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.observations import group_runs
from advisor.calibration.parameter_posterior import ParameterPosterior
from advisor.calibration.posterior import update, widened_for_new_machine
from advisor.perf_model.parameters import NAMES, PRIORS, Prior
from catalog.runs import read_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.schema import Measurement

FILE = Path(__file__).parents[1] / "data" / "cpu_posterior.json"
RUNS = Path(__file__).parents[2] / "catalog" / "data" / "cpu" / "xeon_max.csv"

TYPICAL = {
    "gemm_memory": (0.85, 0.5),
    "gemm_compute": (0.25, 0.6),
    "gemm_us": (40.0, 0.6),
    "attention_us": (60.0, 0.6),
    "kernel_us": (12.0, 0.6),
    "expert_us": (80.0, 0.6),
    "kv_memory": (0.5, 0.7),
    "attention_compute": (0.15, 0.7),
    "narrow8_memory": (1.0, 0.3),
    "layer_host_us": (20.0, 0.7),
    "expert_host_us": (40.0, 0.7),
    "step_ms": (1.0, 0.8),
    "collective_us": (15.0, 0.6),
    "ring_us": (40.0, 0.6),
}
"""Centre and spread of the priors that differ on a CPU: STREAM reaches 80 to 90% of the memory's peak (McCalpin), oneDNN's products 15
to 35% of AMX's peak at the sizes of a prompt, a barrier of OpenMP over 40 to 128 cores takes 5 to 20 microseconds (EPCC)."""


def _prior(name: str) -> Prior:
    typical, spread = TYPICAL.get(name, (PRIORS[name].typical, PRIORS[name].spread))
    return replace(PRIORS[name], typical=typical, spread=spread)


def cpu_start() -> ParameterPosterior:
    """Return what is believed before any run."""
    priors = [_prior(name) for name in NAMES]
    mean = np.array([prior.unbounded(prior.typical) for prior in priors])
    spread = np.array([prior.spread for prior in priors])
    return ParameterPosterior(mean=mean, covariance=np.diag(spread**2), provenance="analytic")


def cpu_runs() -> tuple[Measurement, ...]:
    """Return the published runs on CPUs."""
    return read_runs(RUNS)


def cpu_posterior(runs: Sequence[Measurement]) -> ParameterPosterior:
    """Return the parameters after some runs on CPUs."""
    return update(cpu_start(), group_runs(runs)) if runs else cpu_start()


@cache
def shipped_cpu_posterior() -> ParameterPosterior:
    """Return the parameters that ship; those that the file does not name are as believed before any run."""
    body = json.loads(FILE.read_text(encoding="utf-8"))
    start, names = cpu_start(), body["names"]
    rows = np.array([NAMES.index(name) for name in names])
    mean, covariance = start.mean.copy(), start.covariance.copy()
    mean[rows], covariance[np.ix_(rows, rows)] = body["mean"], body["covariance"]
    return replace(start, mean=mean, covariance=covariance, provenance="calibrated")


def cpu_marginal(name: str) -> ParameterPosterior:
    """Return the parameters of engines on the CPU of that name: of one without runs they are less certain."""
    fitted = shipped_cpu_posterior()
    if any(run.gpu == name for run in cpu_runs()):
        return fitted
    return replace(widened_for_new_machine(fitted), provenance="transferred")


def main() -> None:
    """Fit the runs, and write the file."""
    fitted = cpu_posterior(cpu_runs())
    body = {
        "names": list(NAMES),
        "mean": [round(float(value), 6) for value in fitted.mean],
        "covariance": [[round(float(value), 8) for value in row] for row in fitted.covariance],
    }
    FILE.write_text(json.dumps(body) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
