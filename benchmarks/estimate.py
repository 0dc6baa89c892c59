"""Deployments estimated a second on one core: ``python benchmarks/estimate.py``.

Every figure is CPU time of the whole evaluation (memory, capacity, latencies, throughput) from columns of knobs, the least
of several runs. Beside it the ratio to a plain loop over ``advisor.prediction.estimation.estimate``, which answers one deployment at
a time with intervals and a report of every matrix product; and the CPU time of one call of it. Exits with 1 where a figure misses
its target.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.parameters import Parameters
from advisor.prediction.estimation import estimate
from advisor.prediction.prediction import Prediction
from catalog.gpus import parse_cluster
from catalog.models.find import find_model

TARGET = 100_000
"""Deployments a second."""
ONE_MS = 5.0
"""Milliseconds of CPU that one call of ``estimate`` takes at the most, once all is loaded."""
MODELS = ("llama-13b", "mixtral-8x7b", "deepseek-v3")
"""Dense, mixture of experts, and latent attention with experts."""


def columns(count: int) -> dict[str, np.ndarray]:
    """Return knobs of ``count`` deployments, as a search crosses them."""
    pick = np.random.default_rng(0)
    return {
        "tp": pick.choice([1, 2, 4, 8], count),
        "pp": pick.choice([1, 2, 4], count),
        "dp": pick.choice([1, 2], count),
        "max_num_seqs": pick.integers(1, 512, count),
        "max_num_batched_tokens": pick.choice([2048, 8192], count),
    }


def per_second(name: str, regime: str, count: int, repeats: int) -> float:
    model, cluster, knobs = find_model(name).value, parse_cluster("2x8xH100").value, columns(count)
    parameters, taken = Parameters.typical(), []
    for _ in range(repeats + 1):  # the first one warms the caches
        start = time.process_time()
        layout = DeploymentArrays.from_columns(knobs, model, cluster.gpu)
        Prediction.of(
            model,
            cluster,
            layout,
            batch=layout.max_num_seqs,
            input_len=1024,
            output_len=256,
            regime=regime,
            parameters=parameters,
        )
        taken.append(time.process_time() - start)
    return count / min(taken[1:])


def one_at_a_time(name: str, repeats: int) -> tuple[float, float]:
    """Return deployments a second of a plain loop over ``estimate``, and the milliseconds of the quickest call."""
    model, cluster = find_model(name).value, parse_cluster("2x8xH100").value
    taken = []
    for batch in range(1, repeats + 3):  # the first two warm the caches
        start = time.process_time()
        estimate(model, cluster, tp=8, batch=batch, input_len=1024, output_len=256, max_model_len=4096)
        taken.append(time.process_time() - start)
    return repeats / sum(taken[2:]), 1e3 * min(taken[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deployments", type=int, default=65_536)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    slow = False
    for name in MODELS:
        loop, least_ms = one_at_a_time(name, 4 * chosen.repeats)
        slow |= least_ms > ONE_MS
        print(f"{least_ms:9.1f} ms of CPU one estimate (at most {ONE_MS:g})  {name}")
        for regime in ("static", "steady"):
            rates = per_second(name, regime, chosen.deployments, chosen.repeats)
            slow |= rates < TARGET
            print(f"{rates:9,.0f} a second (at least {TARGET:,})  {rates / loop:6,.0f} x a plain loop  {name} {regime}")
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
