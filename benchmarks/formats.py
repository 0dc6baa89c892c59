"""Errors of vLLM's shipped static batches by release, weight format and model, of those that were fitted and of those that judge.

python -m benchmarks.formats
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from advisor.calibration.intervals import LEVEL
from advisor.calibration.observations import group_runs
from advisor.calibration.shipped_fit import PredictionError, errors_of
from advisor.calibration.surrogate import shipped_surrogate
from catalog.runs import shipped_runs

METRICS = ("prefill_ms", "tpot_ms", "e2e_ms")


def label(error: PredictionError) -> tuple[str, ...]:
    run = error.run
    staged = "PP" if run.pp > 1 else "TP"
    return run.engine_version, run.role, run.model.split("/")[-1], run.dtype, run.kv_dtype, staged


def main() -> None:
    surrogate = shipped_surrogate()
    runs = [run for run in shipped_runs() if run.engine == "vllm" and run.regime == "static" and run.batch]
    together: dict[tuple[str, ...], dict[str, list[tuple[float, bool]]]] = defaultdict(lambda: defaultdict(list))
    for error in errors_of(group_runs(runs, by_release=True), surrogate.marginal):
        scale = surrogate.scale(error.provenance, error.engine, error.scale_name)
        held = abs(error.residual) <= scale.quantile(LEVEL) * error.sigma(scale.noise)
        together[label(error)][error.metric].append((float(np.expm1(error.residual)), held))
    print("| release | role | model | weights | cache | | " + " | ".join(f"{m}: mean, held" for m in METRICS) + " |")
    print("|---" * (6 + len(METRICS)) + "|")
    for key, errors in sorted(together.items()):
        cells = []
        for metric in METRICS:
            values = np.array(errors.get(metric, []), dtype=float)
            cells.append(
                f"{np.abs(values[:, 0]).mean():.1%}, {values[:, 1].mean():.0%} of {len(values)}" if len(values) else ""
            )
        print("| " + " | ".join((*key, *cells)) + " |")


if __name__ == "__main__":
    main()
