"""Predictions for CPUs beside what others published: ``python -m advisor.validation.cpu``.

The runs on one Xeon Max are judged by a fit to those in other number formats; a model of 72 B on several sockets by its interval.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.cpu_posterior import cpu_posterior, cpu_runs
from advisor.calibration.observations import group_runs
from advisor.calibration.posterior import log_residuals
from advisor.prediction.estimation import estimate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalog.schema import Measurement

LARGE_MODEL, LARGE_GPUS, LARGE_MS = "qwen2-72b", "4xXeon-8592+", 140.0
"""A model of 72 B at 140 ms a token on fifth-generation Xeons with oneCCL (He et al. 2024, arXiv 2407.00029, abstract); the number of
sockets is not stated there: four, for on fewer the weights alone take longer to read."""


def left_out_by_format() -> list[tuple[Measurement, float]]:
    """Pair every run with the relative error of its time by a fit to the runs in other formats."""
    runs, errors = cpu_runs(), []
    for dtype in sorted({run.dtype for run in runs}):
        fitted = cpu_posterior([run for run in runs if run.dtype != dtype])
        for group in group_runs([run for run in runs if run.dtype == dtype]):
            stated = np.where(group.used, log_residuals(group, fitted.mean), -np.inf)
            errors += list(zip(group.runs, np.expm1(np.max(stated, axis=0)).tolist(), strict=True))
    return errors


def report() -> Iterator[str]:
    """Yield the lines of the comparison."""
    by_kind = defaultdict(list)
    for run, error in left_out_by_format():
        kind = "decode" if run.tpot_ms else "prefill"
        by_kind[kind].append(abs(error))
        yield f"{run.gpu} {run.model.rpartition('/')[2]} {run.dtype} {kind}: {error:+.1%}"
    for kind, errors in by_kind.items():
        yield f"{kind}, left out by format: {len(errors)} runs, mean {np.mean(errors):.1%}, worst {max(errors):.1%}"
    estimated = estimate(LARGE_MODEL, LARGE_GPUS, tp=4, batch=1, input_len=1024, output_len=128)
    low, high = estimated.interval("tpot_ms")
    inside = "inside" if low <= LARGE_MS <= high else "outside"
    yield f"{LARGE_MODEL} on {LARGE_GPUS}: {estimated.tpot_ms:.0f} ms a token ({low:.0f}-{high:.0f}); {LARGE_MS:g} is {inside}"


def main() -> None:
    """Print the comparison."""
    for line in report():
        print(line)


if __name__ == "__main__":
    main()
