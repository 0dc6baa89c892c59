"""What a recommendation costs and how near a sampled one comes: ``python -m benchmarks.recommend``.

First the CPU seconds of questions of several sizes within one process (``benchmarks/cli.py`` times whole processes), the
time of importing left out. Then spaces of about a million deployments: the exact optimum, and by how much the sampler
misses it after a few hundred trials. Exits with 1 where it misses by more than the limit.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from advisor.recommendation.recommendation import Recommendation, recommend
from catalog.schema import Slo, Workload

QUESTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("llama-13b", "4xA100", {}),
    ("llama-3.1-8b", "2x8xH100", {"slo": Slo(tpot_ms=30)}),
    ("mixtral-8x7b", "2x8xH100", {}),
    ("mixtral-8x7b", "8x8xH100", {"workload": Workload(concurrency=512)}),
    ("llama-3.1-70b", "1xA100", {}),  # does not fit: what would
    ("qwen2.5-7b", "1xL40S", {"slo": Slo(ttft_ms=20)}),  # cannot be had: what can
)

MILLION = {
    "dtypes": ["bfloat16", "fp8", "int8"],
    "kv_dtypes": ["auto", "fp8"],
    "price": 2.0,
    "max_num_batched_tokens": list(range(256, 8193, 256)),
}
LARGE: tuple[tuple[str, str, Slo], ...] = (
    ("llama-3.1-8b", "throughput_per_gpu", Slo(tpot_ms=25, ttft_ms=300)),
    ("qwen3-30b-a3b", "throughput_per_gpu", Slo()),
    ("llama-3.1-70b", "latency", Slo()),
    ("qwen3-30b-a3b", "cost", Slo(e2e_ms=10000)),
)
METRIC = {"throughput_per_gpu": "output_tok_s_per_gpu", "latency": "e2e_ms", "cost": "usd_per_mtok"}
MOST_MISSED = 0.01


def timed(model: str, gpus: str, **question: Any) -> tuple[Recommendation, float]:
    start = time.process_time()
    answer = recommend(model, gpus, **question)
    return answer, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[200, 800])
    trials = parser.parse_args().trials
    timed("llama-13b", "1xA100")  # imports and catalogs
    for model, gpus, question in QUESTIONS:
        answer, seconds = timed(model, gpus, **question)
        summary = f"{answer.evaluated:,} deployments" if answer.best else "; ".join(answer.relaxations)
        print(f"{seconds:6.2f} s  {model} on {gpus}: {summary}")
    missed = 0.0
    for model, objective, slo in LARGE:
        exact, seconds = timed(model, "2x8xH100", objective=objective, slo=slo, top=1, **MILLION)
        print(f"{seconds:6.2f} s  {model} {objective}: all {exact.evaluated:,} deployments")
        for count in trials:
            answer, seconds = timed(model, "2x8xH100", objective=objective, slo=slo, top=1, trials=count, **MILLION)
            optimum, best = (getattr(result.best, METRIC[objective]) for result in (exact, answer))
            missed = max(missed, abs(best / optimum - 1.0))
            print(
                f"{seconds:6.2f} s    {count} trials, {answer.evaluated:,} evaluated: {abs(best / optimum - 1.0):.3%} off"
            )
    sys.exit(1 if missed > MOST_MISSED else 0)


if __name__ == "__main__":
    main()
