"""Simulated traffic against real time: ``python -P benchmarks/simulation.py``.

An hour at 30 requests a second (about 14 million tokens) on one replica, the loop compiled beforehand; and the cost of a
token as the traffic gets ten times longer. CPU time, the least of several runs. With ``--requests 10000000`` also so many
requests of 16 output tokens beside a tenth of them: the cost of one, and the memory at its peak. Exits with 1 where a ratio
misses its target.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

from advisor.serving.simulation import simulate
from catalog.schema import Deployment, Workload

HOUR_S, RATE = 3600.0, 30.0
MOST_S = 5.0
LEAST_SPEED = 1000.0
"""Times faster than real time."""
MOST_GROWTH = 1.5
"""Cost of a token in an hour over that in six minutes; of a request of many over that of a tenth of them."""
MOST_BYTES = 150.0
"""Of memory for each request."""


def measure(duration_s: float, repeats: int) -> tuple[float, int]:
    """Least CPU seconds, and the tokens that came in and went out."""
    least, tokens = float("inf"), 0
    for _ in range(repeats):
        start = time.process_time()
        found = simulate(
            "llama-3.1-8b", "H200", deployment=Deployment(max_num_seqs=256, max_model_len=8192),
            workload=Workload(rate=RATE, input_len=256, output_len=130), duration_s=duration_s, draws=0,
        )  # fmt: skip
        least = min(least, time.process_time() - start)
        tokens = int(found.served.output_len.sum())
        assert found.saturation_s > RATE, "the load must be one that can be served"
    return least, tokens


def many(requests: int) -> tuple[float, float]:
    """CPU seconds for so many short requests, and the peak of the memory in bytes."""
    start = time.process_time()
    found = simulate(
        "llama-3.1-8b", "H200", deployment=Deployment(max_num_seqs=256, max_model_len=8192),
        workload=Workload(rate=RATE, input_len=256, output_len=16), duration_s=requests / RATE, draws=0,
    )  # fmt: skip
    assert len(found.served) > 0.99 * requests
    return time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=0, help="also serve so many, in all")
    arguments = parser.parse_args()
    repeats = arguments.repeats
    measure(1.0, 1)  # compiles, or loads what was compiled
    hour, tokens = measure(HOUR_S, repeats)
    tenth, few = measure(HOUR_S / 10, repeats)
    speed, growth = HOUR_S / hour, (hour / tokens) / (tenth / few)
    print(f"{hour:8.2f} s (at most {MOST_S:g}) for an hour at {RATE:g} requests/s, {tokens / 1e6:.1f} M output tokens")
    print(f"{speed:8,.0f} x real time (at least {LEAST_SPEED:,.0f})")
    print(f"{growth:8.2f} x the cost of a token of a tenth of it (at most {MOST_GROWTH:g})")
    good = hour <= MOST_S and speed >= LEAST_SPEED and growth <= MOST_GROWTH
    if arguments.requests:
        few_s, before = many(arguments.requests // 10)
        many_s, after = many(arguments.requests)
        ratio, each = many_s / few_s / 10.0, (after - before) / (0.9 * arguments.requests)
        print(f"{many_s:8.1f} s for {arguments.requests / 1e6:g} M requests, {after / 2**30:.2f} GiB at the peak")
        print(f"{ratio:8.2f} x the cost of a request of a tenth of them (at most {MOST_GROWTH:g})")
        print(f"{each:8.0f} bytes of memory for each more (at most {MOST_BYTES:g})")
        good = good and ratio <= MOST_GROWTH and each <= MOST_BYTES
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
