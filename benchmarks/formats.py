"""Errors of vLLM's shipped static batches by release, weight format and model, of those that were fitted and of those that judge; and of
the closed loops of vLLM 0.33 in ``benchmarks/measured``, none of which was fitted.

python -m benchmarks.formats [models|judged|loops]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.intervals import LEVEL
from advisor.calibration.left_out import PredictionError, errors_of
from advisor.calibration.observations import group_runs
from advisor.calibration.surrogate import shipped_surrogate
from catalog.mixers import Recurrence
from catalog.models.find import find_model
from catalog.models.stack import stack
from catalog.runs import read_runs, shipped_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from catalog.schema import Measurement

METRICS = ("prefill_ms", "tpot_ms", "e2e_ms")
OF_LOOPS = ("ttft_ms", "tpot_ms", "output_tok_s")


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


def print_table(
    names: Sequence[str],
    errors: Iterable[PredictionError],
    key: Callable[..., tuple[str, ...]],
    metrics: Sequence[str] = METRICS,
) -> None:
    """Print median and mean error and the share of 90% intervals that held, a row a key, as a Markdown table."""
    surrogate = shipped_surrogate()
    together: dict[tuple[str, ...], dict[str, list[tuple[float, bool]]]] = defaultdict(lambda: defaultdict(list))
    for error in errors:
        scale = surrogate.scale(error.provenance, error.engine, error.scale_name)
        held = abs(error.residual) <= scale.quantile(LEVEL) * error.sigma(scale.noise)
        together[key(error)][error.metric].append((float(np.expm1(error.residual)), held))
    print("| " + " | ".join((*names, *(f"{m}: median, mean, held" for m in metrics))) + " |")
    print("|---" * (len(names) + len(metrics)) + "|")
    for row, by_metric in sorted(together.items()):
        cells = []
        for metric in metrics:
            values = np.array(by_metric.get(metric, []), dtype=float)
            off = np.abs(values[:, 0]) if len(values) else values
            cells.append(
                f"{np.median(off):.1%}, {off.mean():.1%}, {values[:, 1].mean():.0%} of {len(values)}"
                if len(off)
                else ""
            )
        print("| " + " | ".join((*row, *cells)) + " |")
    print()


def measured_loops() -> list[Measurement]:
    """Return the closed loops of vLLM 0.33 without speculation."""
    folder = Path(__file__).with_name("measured")
    runs: list[Measurement] = []
    for name in ("vllm_0.33_h200_serving", "vllm_0.33_h200_layouts", "vllm_0.33_h200_replicas"):
        stated = json.loads((folder / f"{name}_loads.json").read_text(encoding="utf-8"))
        drafted = tuple(load["name"] for load in stated if "draft_config" in load)
        loops = (run for run in read_runs(folder / f"{name}_runs.csv") if run.regime == "steady")
        runs += [run for run in loops if not run.run_id.startswith(drafted or ("-",))]
    return runs


def loop(error: PredictionError) -> tuple[str, ...]:
    """Return role, model, layout and requests in flight of one error."""
    run = error.run
    layout = f"PP{run.pp}" if run.pp > 1 else f"attention DP{run.dp}" if run.dp > 1 else f"TP{run.tp}"
    return run.role, run.model.split("/")[-1], layout, f"{run.batch:4.0f}"


def print_models() -> None:
    errors = static_errors()
    print_table(("release", "role", "model", "weights", "cache", ""), errors, label)


def print_judged() -> None:
    print_table(("release", "judged", ""), [error for error in static_errors() if error.run.role == "validate"], kind)


def print_loops() -> None:
    errors = errors_of(group_runs(measured_loops(), by_release=True), shipped_surrogate().marginal)
    print_table(("role", "model", "layout", "in flight of a replica"), errors, loop, OF_LOOPS)


def static_errors() -> list[PredictionError]:
    """Return the errors of vLLM's static batches."""
    runs = [run for run in shipped_runs() if run.engine == "vllm" and run.regime == "static" and run.batch]
    return errors_of(group_runs(runs, by_release=True), shipped_surrogate().marginal)


TABLES = {"models": print_models, "judged": print_judged, "loops": print_loops}
"""By model, of the models that only judge by kind, and of closed loops."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.formats", description=__doc__)
    parser.add_argument("table", nargs="?", choices=TABLES, help="one table alone")
    chosen = parser.parse_args(argv).table
    for name, show in TABLES.items():
        if chosen in (None, name):
            show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
