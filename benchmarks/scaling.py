"""One fleet on 1 and 2 processes, Dask and Ray with 2 workers, and 64 on paper: ``python -m benchmarks.scaling``.

Answers are compared, and the efficiency told: the time on one process over twice that on two workers, of the judging of replicas, on
workers that have started and compiled. On paper, a worker takes a pair of model and GPU at a time; what stops it is the longest pair, the
pairs there are, and what the one that hands them out takes for each, all measured here.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import time
from typing import TYPE_CHECKING, Any

from advisor.fleet.question import pairs_of, read_fleet
from advisor.fleet.replica_type import replica_types
from advisor.fleet.workers import workers_of

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = ("llama-3.1-8b", "qwen2.5-7b", "qwen2.5-14b", "qwen3-8b", "mistral-7b", "phi-4", "llama-3.2-3b", "qwen2.5-32b")
GPUS = ("L40S", "A100-SXM-80GB", "H100", "H200")
ON_PAPER = (1, 2, 8, 16, 32, 64)


def timed(pair: tuple[Any, ...]) -> tuple[Any, float]:
    """Judge one pair; return the result and the seconds that it took."""
    began = time.perf_counter()
    result = replica_types(*pair)
    return result, time.perf_counter() - began


def backends(names: list[str]) -> Iterator[tuple[str, str | int]]:
    """Yield each backend's name and its address, with two workers where it is a cluster."""
    if "1" in names:
        yield "1 process", 1
    if "2" in names:
        yield "2 processes", 2
    if "dask" in names:
        import distributed

        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
            yield "Dask, 2 workers", f"dask://{cluster.scheduler_address.removeprefix('tcp://')}"
    if "ray" in names:
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield "Ray, 2 workers", "ray://auto"
        ray.shutdown()


def makespan(seconds: list[float], workers: int, dispatch_s: float) -> float:
    """Return the seconds until the last pair is done; each goes to whoever is free first, ``dispatch_s`` after the one before."""
    free, handed = [0.0] * workers, 0.0
    for took in seconds:
        handed += dispatch_s
        first = min(range(workers), key=free.__getitem__)
        free[first] = max(free[first], handed) + took
    return max(free)


def main() -> None:
    parser = argparse.ArgumentParser(description="Scaling of a fleet's plan.")
    parser.add_argument("--backends", nargs="*", default=["1", "2", "dask", "ray"])
    parser.add_argument("--models", type=int, default=len(MODELS))
    given = parser.parse_args()
    fleet = {
        "models": [{"model": name, "rate": 5, "use": "chat"} for name in MODELS[: given.models]],
        "pools": [{"gpu": gpu, "price": 2.0} for gpu in GPUS],
    }
    question = read_fleet(fleet)
    pairs = [((question, number, gpu, None, node),) for number, gpu, node in pairs_of(question)]
    first: list[Any] | None = None
    alone = dispatch_s = 0.0
    seconds: list[float] = []
    for name, address in backends(given.backends):
        with workers_of(address) as calls:
            list(calls(timed, pairs[:4]))  # everybody has started and compiled
            began = time.perf_counter()
            answers = list(calls(timed, pairs))
            took = time.perf_counter() - began
        results = [result for result, _ in answers]
        if first is None:
            first, alone, seconds = results, took, [own for _, own in answers]
        same = "the same" if results == first else "OTHER RESULTS"
        efficiency = alone / took / (1 if address == 1 else 2)
        print(f"{name:18}{took:8.1f} s  efficiency {efficiency:5.2f}  {same}", flush=True)
    sizes = [
        len(pickle.dumps(pair)) + len(pickle.dumps(result)) for pair, result in zip(pairs, first or [], strict=True)
    ]
    with workers_of(2) as calls:
        list(calls(abs, [(1,)] * 8))
        began = time.perf_counter()
        list(calls(abs, [(number,) for number in range(400)]))
        dispatch_s = (time.perf_counter() - began) / 400
    print(
        f"a pair takes {statistics.mean(seconds):.2f} s (longest {max(seconds):.2f}), its messages {statistics.mean(sizes) / 1e3:.1f} kB, handing it out {1e3 * dispatch_s:.2f} ms"
    )
    longest = sorted(seconds * 5, reverse=True)
    for workers in ON_PAPER:
        whole = makespan(longest, workers, dispatch_s)
        print(
            f"on paper, {len(longest)} pairs on {workers:2} workers: {whole:7.1f} s, efficiency {sum(longest) / whole / workers:4.2f}"
        )


if __name__ == "__main__":
    main()
