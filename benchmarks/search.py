"""What searching costs, as ratios to what it cannot do without.

    python -m benchmarks.search

prints one line a measurement: CPU seconds, and the ratio to a yardstick taken on the same machine in the same run.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from search.pareto import non_dominated
from search.scores import Scores
from search.space import Axis, Space, batch_sizes
from search.study import explore

if TYPE_CHECKING:
    from collections.abc import Callable

    from search.scores import Direction
    from search.space import Columns

DIRECTIONS: dict[str, Direction] = {"tok_s_per_gpu": "maximize", "tpot_ms": "minimize"}


def cpu_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Return the least CPU seconds of some runs."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def objective(columns: Columns) -> Scores:
    """Score throughput that rises with the batch until memory is full: about the arithmetic of one operator."""
    tp, batch = columns["tp"].astype(float), columns["max_num_seqs"]
    dtype = np.array([1, 0.5, 0.28])[columns["dtype"]]
    share = columns.get("gpu_memory_utilization", 0.9)
    memory = (140 * dtype + batch * 0.3) / tp / (80 * share)
    step = (140 * dtype + batch * 0.3) / tp / 3 + 0.8 * np.log2(tp) + batch * columns["max_num_batched_tokens"] / 1e6
    return Scores(
        values=np.stack([1e3 * batch / step / tp, step], axis=1),
        violations=(memory - 1)[:, None],
        limits=("memory",),
        attributes={"num_gpus": columns["tp"] * columns["dp"]},
    )


def deployments(gpus: int, *knobs: Axis) -> Space:
    rows = [{"tp": tp, "dp": dp} for tp in (1, 2, 4, 8) for dp in range(1, gpus // tp + 1)]
    return Space(
        (
            Axis.table(rows),
            Axis.of("max_num_seqs", batch_sizes(1024)),
            Axis.of("max_num_batched_tokens", [512, 1024, 2048, 4096, 8192, 16384, 32768]),
            Axis.of("dtype", ["bfloat16", "fp8", "int4"]),
            *knobs,
        )
    )


def report(what: str, seconds: float, yardstick: float, name: str) -> None:
    print(f"{what:58s} {seconds:7.3f} s  {seconds / yardstick:7.1f} x {name}")


def main() -> None:
    draws = np.random.default_rng(0)
    million = draws.random((1_000_000, 3))
    sorting = cpu_seconds(lambda: np.lexsort(million.T))
    report(
        "front of a million points, two objectives",
        cpu_seconds(lambda: non_dominated(million[:, :2])),
        sorting,
        "a sort",
    )
    report(
        "front of a million points, three objectives", cpu_seconds(lambda: non_dominated(million)), sorting, "a sort"
    )
    plane = million / million.sum(axis=1, keepdims=True)
    worst = cpu_seconds(lambda: non_dominated(plane), repeats=1)
    report("the same, where every point is on the front", worst, sorting, "a sort")

    space = deployments(16)
    columns = space.columns()
    alone = cpu_seconds(lambda: objective(columns))
    whole = cpu_seconds(lambda: explore(space, objective, directions=DIRECTIONS, distinct=("tp", "dp")))
    report(f"{space.size:,} points explored, front and study included", whole, alone, "the objective alone")

    large = deployments(64, Axis.of("gpu_memory_utilization", [0.8, 0.85, 0.9, 0.95]))
    enumerated = cpu_seconds(lambda: explore(large, objective, directions=DIRECTIONS), repeats=1)
    exact = explore(large, objective, directions=DIRECTIONS)
    sampled = cpu_seconds(lambda: explore(large, objective, directions=DIRECTIONS, trials=1000), repeats=1)
    report(f"{large.size:,} points sampled with 1,000 trials", sampled, enumerated, "enumerating them")
    for seed in range(3):
        exploration = explore(large, objective, directions=DIRECTIONS, trials=1000, seed=seed)
        best = exploration.scores.values[0, 0] / exact.scores.values[0, 0]
        print(f"    seed {seed}: {100 * best:.2f} % of the optimum after {exploration.evaluated:,} points")


if __name__ == "__main__":
    main()
