"""Simulated traffic against real time: ``python -P benchmarks/simulation.py``.

An hour at 30 requests a second (about 14 million tokens) on one replica, the loop compiled beforehand; and the cost of a
token as the traffic gets ten times longer. CPU time, the least of several runs. Exits with 1 where a ratio misses its
target.
"""

from __future__ import annotations

import argparse
import sys
import time

from advisor.simulation import simulate
from catalog.schema import Deployment, Workload

HOUR_S, RATE = 3600.0, 30.0
MOST_S = 5.0
LEAST_SPEED = 1000.0
"""Times faster than real time."""
MOST_GROWTH = 1.5
"""Cost of a token in an hour over that in six minutes."""


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    measure(1.0, 1)  # compiles, or loads what was compiled
    hour, tokens = measure(HOUR_S, repeats)
    tenth, few = measure(HOUR_S / 10, repeats)
    speed, growth = HOUR_S / hour, (hour / tokens) / (tenth / few)
    print(f"{hour:8.2f} s (at most {MOST_S:g}) for an hour at {RATE:g} requests/s, {tokens / 1e6:.1f} M output tokens")
    print(f"{speed:8,.0f} x real time (at least {LEAST_SPEED:,.0f})")
    print(f"{growth:8.2f} x the cost of a token of a tenth of it (at most {MOST_GROWTH:g})")
    sys.exit(0 if hour <= MOST_S and speed >= LEAST_SPEED and growth <= MOST_GROWTH else 1)


if __name__ == "__main__":
    main()
