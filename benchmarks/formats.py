"""Errors of vLLM's shipped static batches by release, weight format and model, of those that were fitted and of those that judge.

python -m benchmarks.formats
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.intervals import LEVEL
from advisor.calibration.observations import group_runs
from advisor.calibration.shipped_fit import PredictionError, errors_of
from advisor.calibration.surrogate import shipped_surrogate
from catalog.mixers import Recurrence
from catalog.models.find import find_model
from catalog.models.stack import stack
from catalog.runs import shipped_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from catalog.schema import Measurement

METRICS = ("prefill_ms", "tpot_ms", "e2e_ms")


def label(error: PredictionError) -> tuple[str, ...]:
    """Return release, role, model, formats of weights and cache, and how the layers are split, of one error."""
    run = error.run
    return run.engine_version, run.role, run.model.split("/")[-1], run.dtype, run.kv_dtype, _split(run)


def kind(error: PredictionError) -> tuple[str, ...]:
    """Return the release, the kind of model and how its layers are split, of one error."""
    run = error.run
    model = find_model(run.model).value
    recurrent = any(isinstance(mixer, Recurrence) for layer in stack(model).kinds for mixer in layer.mixers)
    return (
        run.engine_version,
        "recurrent layers" if recurrent else "experts" if model.moe_layers else "dense",
        _split(run),
    )


def _split(run: Measurement) -> str:
    return "PP" if run.pp > 1 else "TP"


def print_table(names: Sequence[str], errors: Iterable[PredictionError], key: Callable[..., tuple[str, ...]]) -> None:
    """Print median and mean error and the share of 90% intervals that held, a row a key, as a Markdown table."""
    surrogate = shipped_surrogate()
    together: dict[tuple[str, ...], dict[str, list[tuple[float, bool]]]] = defaultdict(lambda: defaultdict(list))
    for error in errors:
        scale = surrogate.scale(error.provenance, error.engine, error.scale_name)
        held = abs(error.residual) <= scale.quantile(LEVEL) * error.sigma(scale.noise)
        together[key(error)][error.metric].append((float(np.expm1(error.residual)), held))
    print("| " + " | ".join((*names, *(f"{m}: median, mean, held" for m in METRICS))) + " |")
    print("|---" * (len(names) + len(METRICS)) + "|")
    for row, by_metric in sorted(together.items()):
        cells = []
        for metric in METRICS:
            values = np.array(by_metric.get(metric, []), dtype=float)
            off = np.abs(values[:, 0]) if len(values) else values
            cells.append(
                f"{np.median(off):.1%}, {off.mean():.1%}, {values[:, 1].mean():.0%} of {len(values)}"
                if len(off)
                else ""
            )
        print("| " + " | ".join((*row, *cells)) + " |")
    print()


def main() -> None:
    """Print errors by model, and of the models that only judge by kind."""
    runs = [run for run in shipped_runs() if run.engine == "vllm" and run.regime == "static" and run.batch]
    errors = errors_of(group_runs(runs, by_release=True), shipped_surrogate().marginal)
    print_table(("release", "role", "model", "weights", "cache", ""), errors, label)
    print_table(("release", "judged", ""), [error for error in errors if error.run.role == "validate"], kind)


if __name__ == "__main__":
    main()
