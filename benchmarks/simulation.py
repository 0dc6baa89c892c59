"""Simulated traffic against real time: ``python -P benchmarks/simulation.py``.

An hour at 30 requests a second (about 14 million tokens) on one replica, the loop compiled beforehand; the same in sessions of
four turns behind a system prompt, whose blocks are cached; and the cost of a token as the traffic gets ten times longer. CPU time, the least of several runs. With ``--requests 10000000`` also so many
requests of 16 output tokens beside a tenth of them: the cost of one, and the memory at its peak. With ``--trace-gb 10`` also
``advisor simulate --trace`` of a CSV file of that size, as BurstGPT's, beside a tenth of it, its first hour alone, and the
file with a bad last line. Exits with 1 where a ratio misses its target.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from advisor.simulator.simulation import simulate
from catalog.schema import Deployment, Workload
from catalog.units import HOUR_S

RATE = 30.0
MOST_S = 5.0
MOST_CACHED_S = 2.0
"""With prefix caches."""
SESSIONS = {"shared_prefix": 1024, "turns": 4, "think_time": 10.0}
LEAST_SPEED = 1000.0
"""Times faster than real time."""
MOST_GROWTH = 1.5
"""Cost of a token in an hour over that in six minutes; of a request of many over that of a tenth of them."""
MOST_MEMORY = 1.1
"""Peak of the memory over that of a tenth of the requests."""
HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
EACH_S = 30
"""Requests a second in the file."""
DEPLOYMENT = ("--model", "llama-3.1-8b", "--gpus", "H200", "--max-num-seqs", "256", "--max-model-len", "8192")


def measure(duration_s: float, repeats: int, **sharing: Any) -> tuple[float, int]:
    """Measure the least CPU seconds, and the tokens that went out."""
    least, tokens = float("inf"), 0
    for _ in range(repeats):
        start = time.process_time()
        simulation = simulate(
            "llama-3.1-8b",
            "H200",
            deployment=Deployment(max_num_seqs=256, max_model_len=8192),
            workload=Workload(rate=RATE, input_len=256, output_len=130),
            duration_s=duration_s,
            draws=0,
            **sharing,
        )
        least = min(least, time.process_time() - start)
        tokens = int(simulation.served.loads.made)
        assert simulation.saturation_s > RATE, "the load must be one that can be served"
    return least, tokens


def many(requests: int) -> tuple[float, float]:
    """Measure CPU seconds for so many short requests, and the peak of the memory in bytes."""
    start = time.process_time()
    simulation = simulate(
        "llama-3.1-8b",
        "H200",
        deployment=Deployment(max_num_seqs=256, max_model_len=8192),
        workload=Workload(rate=RATE, input_len=256, output_len=16),
        duration_s=requests / RATE,
        draws=0,
    )
    assert len(simulation.served) > 0.99 * requests
    return time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def write_trace(path: Path, size: float) -> int:
    """Write a CSV of so many bytes with BurstGPT's columns and whole seconds; return its requests."""
    random = np.random.default_rng(0)
    lengths = zip(random.integers(16, 1000, 997 * EACH_S), random.integers(1, 32, 997 * EACH_S), strict=True)
    rows = [f"@,ChatGPT,{inputs},{outputs},{inputs + outputs},Conversation log\n" for inputs, outputs in lengths]
    seconds = ["".join(rows[i : i + EACH_S]) for i in range(0, len(rows), EACH_S)]
    second = 0
    with path.open("w", encoding="utf-8") as file:
        written = file.write(HEADER)
        while written < size:
            written += file.write(seconds[second % len(seconds)].replace("@", str(second)))
            second += 1
    return second * EACH_S


def served(path: Path, *options: str) -> tuple[float, float, float, str]:
    """Return seconds, those of the CPU, the peak of the memory in GiB, and what the command says at last."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "advisor", "simulate", *DEPLOYMENT, "--trace", str(path), "--format", "csv", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.read().strip().splitlines()[-1]
    _, _, used = os.wait4(process.pid, 0)
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20, said


def trace(gigabytes: float) -> bool:
    """Return whether the memory stays as the file grows, told line by line."""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.csv")
        for size in (gigabytes / 10, gigabytes):
            requests = write_trace(path, 1e9 * size)
            wall, cpu, peak, _ = served(path)
            peaks.append(peak)
            print(
                f"{wall:8.0f} s ({cpu:.0f} of the CPU), {peak:.2f} GiB for {size:g} GB, {requests / 1e6:.1f} M requests"
            )
        wall, cpu, peak, _ = served(path, "--duration", str(HOUR_S))
        print(f"{wall:8.0f} s ({cpu:.0f} of the CPU), {peak:.2f} GiB for the first hour of it")
        with path.open("a", encoding="utf-8") as file:
            file.write("0,ChatGPT,1,1,2,Conversation log\n")
        wall, _, peak, said = served(path)
        print(f"{wall:8.0f} s, {peak:.2f} GiB until {said.replace(folder, '')!r}")
    print(f"{peaks[1] / peaks[0]:8.2f} x the memory of a tenth of it (at most {MOST_MEMORY:g})")
    return peaks[1] <= MOST_MEMORY * peaks[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=0, help="also serve so many, in all")
    parser.add_argument(
        "--trace-gb",
        type=float,
        default=0.0,
        help="also serve a file of so many GB, 1 or more: a tenth of less is kept whole",
    )
    arguments = parser.parse_args()
    repeats = arguments.repeats
    measure(1.0, 1)  # compiles, or loads what was compiled
    hour, tokens = measure(HOUR_S, repeats)
    tenth, few = measure(HOUR_S / 10, repeats)
    speed, growth = HOUR_S / hour, (hour / tokens) / (tenth / few)
    print(f"{hour:8.2f} s (at most {MOST_S:g}) for an hour at {RATE:g} requests/s, {tokens / 1e6:.1f} M output tokens")
    print(f"{speed:8,.0f} x real time (at least {LEAST_SPEED:,.0f})")
    print(f"{growth:8.2f} x the cost of a token of a tenth of it (at most {MOST_GROWTH:g})")
    measure(HOUR_S / 10, 1, **SESSIONS)
    cached, tokens = measure(HOUR_S, repeats, **SESSIONS)
    print(
        f"{cached:8.2f} s (at most {MOST_CACHED_S:g}) for it in sessions with prefix caches, {tokens / 1e6:.1f} M output tokens"
    )
    good = hour <= MOST_S and cached <= MOST_CACHED_S and speed >= LEAST_SPEED and growth <= MOST_GROWTH
    if arguments.requests:
        few_s, before = many(arguments.requests // 10)
        many_s, after = many(arguments.requests)
        ratio, growth = many_s / few_s / 10.0, after / before
        print(f"{many_s:8.1f} s for {arguments.requests / 1e6:g} M requests, {after / 2**30:.2f} GiB at the peak")
        print(f"{ratio:8.2f} x the cost of a request of a tenth of them (at most {MOST_GROWTH:g})")
        print(f"{growth:8.2f} x their memory (at most {MOST_MEMORY:g})")
        good = good and ratio <= MOST_GROWTH and growth <= MOST_MEMORY
    if arguments.trace_gb:
        good = trace(arguments.trace_gb) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
