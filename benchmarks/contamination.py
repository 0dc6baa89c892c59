"""What a run that is wrong does to answers nearby: ``python -m benchmarks.contamination``.

Runs of one model that ship are taken as a user's own, as measured or on a GPU of which nothing is known; then one of them, or one in
ten, is made three times too slow or too fast. Told are the largest move of a median and the least growth of an interval over TPOT,
prefill and E2E of the model itself and of two others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import advisor
from advisor.prediction.evidence import ExtraRuns
from catalog.runs import shipped_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.prediction.deployment_estimate import Estimate
    from catalog.schema import Measurement

TIMES = ("prefill_ms", "ttft_ms", "tpot_ms", "e2e_ms")
METRICS = ("prefill_ms", "tpot_ms", "e2e_ms")
MODEL = "meta-llama/Llama-2-13b-hf"
QUESTIONS = (("llama-2-13b", 1, 30), ("llama-3.1-8b", 1, 30), ("llama-3.1-70b", 4, 16))
"""Model, tensor parallel degree and batch; 1000 tokens in and 200 out."""
GPUS = ("H200-SXM", "H100-SXM")
"""One with shipped runs of vLLM, and one without."""
OFF = (3.0, 0.3)
OWN = 1.05
"""How much slower the user's machine is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What wrong runs did."""

    gpu: str
    case: str
    own: int
    wrong: int
    moved: float
    """Largest |median / median without the wrong runs - 1|."""
    widened: float
    """Least ratio of the intervals' widths, as logarithms."""
    provenance: str


def as_own(run: Measurement, factor: float, gpu: str, number: int) -> Measurement:
    """Return the run as if the user had measured it, ``factor`` times slower."""
    times = {name: value * factor for name in TIMES if (value := getattr(run, name)) is not None}
    rate = None if run.output_tok_s is None else run.output_tok_s / factor
    return replace(run, run_id=f"own {number}", source="own", role="fit", gpu=gpu, output_tok_s=rate, **times)


def answers(runs: Sequence[Measurement], gpu: str) -> list[Estimate]:
    return [
        advisor.estimate(
            model, f"{tp}x{gpu}", tp=tp, batch=batch, input_len=1000, output_len=200, runs=ExtraRuns(runs)
        )
        for model, tp, batch in QUESTIONS
    ]  # fmt: skip


def effect(gpu: str, case: str, right: Sequence[Measurement], wrong: Sequence[Measurement], bad: int) -> Effect:
    """Compare ``wrong``, the runs with ``bad`` wrong ones, with ``right``."""
    before, after = answers(right, gpu), answers(wrong, gpu)
    pairs = [(a, b, metric) for a, b in zip(before, after, strict=True) for metric in METRICS]
    return Effect(
        gpu=gpu, case=case, own=len(wrong), wrong=bad, provenance=after[0].provenance,
        moved=max(abs(getattr(b, metric) / getattr(a, metric) - 1.0) for a, b, metric in pairs),
        widened=min(_width(b, metric) / _width(a, metric) for a, b, metric in pairs),
    )  # fmt: skip


def _width(estimate: Estimate, metric: str) -> float:
    low, high = estimate.interval(metric)
    return math.log(high / low)


def effects() -> list[Effect]:
    """Measure every case on every GPU."""
    like = [
        run for run in shipped_runs()
        if (run.engine, run.model, run.tp, run.pp, run.regime) == ("vllm", MODEL, 1, 1, "static") and not run.oom
    ]  # fmt: skip
    rows = []
    for gpu in GPUS:
        own = [as_own(run, OWN, gpu, i) for i, run in enumerate(like)]
        for factor in OFF:
            alone = [as_own(like[len(like) // 3], factor, gpu, 0)]
            rows.append(effect(gpu, f"one run alone, x{factor:g}", (), alone, 1))
            mixed = [as_own(run, factor if i % 10 == 4 else OWN, gpu, i) for i, run in enumerate(like)]
            bad = sum(i % 10 == 4 for i in range(len(like)))
            rows.append(effect(gpu, f"one row in ten, x{factor:g}", own, mixed, bad))
    return rows


def main() -> None:
    print(f"{'GPU':10s} {'case':24s} {'own runs':>8s} {'wrong':>5s} {'median moved':>12s} {'width':>6s}  provenance")
    for row in effects():
        print(
            f"{row.gpu:10s} {row.case:24s} {row.own:8d} {row.wrong:5d} {row.moved:12.2%} x{row.widened:5.2f}  {row.provenance}"
        )


if __name__ == "__main__":
    main()
