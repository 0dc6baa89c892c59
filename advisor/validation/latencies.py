"""Latencies of inference that NVIDIA published, beside their predictions: ``python -m advisor.validation.latencies``.

Llama-3.3-70B in 16 bits on 4 H100s and 8 A100s, 1 to 25 requests kept in flight. Nothing is fitted to a row, to this model, or to NIM;
the page names no engine: TensorRT-LLM before 1.0 is taken.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from advisor.prediction.batch_curve import curve
from catalog.runs import read_runs
from catalog.tables import DATA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalog.schema import Measurement

FILE = DATA / "latencies" / "nim_llama-3.3-70b.csv"
METRICS = {"tpot_ms": "TPOT", "output_tok_s": "output tok/s", "ttft_ms": "TTFT"}


def published_latencies() -> tuple[Measurement, ...]:
    """Return the published runs."""
    return read_runs(FILE)


def errors_of(run: Measurement) -> dict[str, tuple[float, bool]]:
    """Return the relative error of each metric of a run, and whether what was measured lies within the 90% interval."""
    predicted = curve(
        run.model,
        f"{run.gpus}x{run.gpu}",
        batches=[run.batch],
        tp=run.tp,
        input_len=run.input_len,
        output_len=run.output_len,
        engine=run.engine,
        engine_version=run.engine_version,
        dtype=run.dtype,
    )
    errors = {}
    for metric in METRICS:
        measured = getattr(run, metric)
        low, high = float(predicted.low[metric][0]), float(predicted.high[metric][0])
        errors[metric] = (float(predicted.metrics[metric][0]) / measured - 1.0, low <= measured <= high)
    return errors


def report() -> Iterator[str]:
    """Yield the lines of the comparison."""
    groups: dict[tuple[str, str], list[tuple[float, bool]]] = defaultdict(list)
    for run in published_latencies():
        alone = "alone" if run.batch == 1 else "in flight"
        for metric, judged in errors_of(run).items():
            if metric != "ttft_ms" or run.batch == 1:  # in flight a client's TTFT is that of its bursts
                groups[f"{run.gpus} x {run.gpu}, {alone}", METRICS[metric]].append(judged)
    for (what, metric), group in groups.items():
        off = [abs(error) for error, _ in group]
        held = float(np.mean([inside for _, inside in group]))
        bias = math.fsum(error for error, _ in group) / len(group)
        yield (
            f"{what}, {metric}: {len(group)} runs, mean {np.mean(off):.1%}, worst {max(off):.1%}, bias {bias:+.1%}; "
            f"{held:.0%} within 90% intervals"
        )


def main() -> None:
    """Print the comparison."""
    for line in report():
        print(line)


if __name__ == "__main__":
    main()
