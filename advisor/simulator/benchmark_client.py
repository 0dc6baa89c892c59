"""Benchmark clients: how each program loads a server at a concurrency, and which requests its figures are of.

A client sends ``concurrency`` requests at once, then one for each that is answered. Its figures are of all requests, the burst at
the beginning included, where a steady state has none: the mean time to the first token differs between the two by 1.1 times
at a concurrency of 4 and by 4.6 at 512.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from advisor.simulator.arrivals import MOST_LOOP_S, MOST_REQUESTS, SERVED_PER_SECOND, Arrivals
from catalog.errors import InputError
from catalog.schema import Workload, require_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkClient:
    """One program, or a recipe of one."""

    name: str
    prompts: int | None = None
    """Requests of a run,"""
    prompts_per_concurrency: int | None = None
    """or so many for each that is kept in flight; without either, as many as are answered in the duration."""
    length_ratio: float = 1.0
    """Lengths are uniform between this share of what is stated and all of it."""
    source: str = ""

    def __post_init__(self) -> None:
        if self.prompts is not None:
            require_positive("prompts", self.prompts, most=MOST_REQUESTS)
        if not 0.0 <= self.length_ratio <= 1.0:
            raise InputError(
                f"length_ratio is {self.length_ratio:g}; it is the shortest length as a share of the longest, from 0 to 1"
            )

    def count(self, concurrency: int) -> int | None:
        """Return the requests of a run at a concurrency; None where time ends it."""
        if self.prompts is not None:
            return self.prompts
        return None if self.prompts_per_concurrency is None else self.prompts_per_concurrency * concurrency

    def changed(self, prompts: int | None, length_ratio: float | None) -> BenchmarkClient:
        """Return the client with what its user set, where that is not None."""
        client = self if prompts is None else replace(self, prompts=prompts)
        return client if length_ratio is None else replace(client, length_ratio=length_ratio)


CLIENTS = (
    BenchmarkClient(
        name="vllm",
        prompts=1000,
        source="vllm bench serve --max-concurrency: --num-prompts 1000, --random-range-ratio 0",
    ),
    BenchmarkClient(
        name="sglang",
        prompts=1000,
        length_ratio=0.0,
        source="sglang.bench_serving --max-concurrency: --num-prompts 1000, --random-range-ratio 0 (lengths from 1)",
    ),
    BenchmarkClient(
        name="inferencex",
        prompts_per_concurrency=10,
        length_ratio=0.8,
        source="InferenceX (InferenceMAX) recipes: ten prompts for each in flight, --random-range-ratio 0.8",
    ),
    BenchmarkClient(name="guidellm", source="guidellm benchmark --rate-type concurrent --max-seconds"),
)
CLIENT_NAMES = tuple(client.name for client in CLIENTS)


def find_client(name: str, *, prompts: int | None = None, length_ratio: float | None = None) -> BenchmarkClient:
    """Return a client by its name, with what its user set.

    Raises:
        InputError: there is none of that name, or a number cannot be.

    """
    client = next((client for client in CLIENTS if client.name == name), None)
    if client is None:
        raise InputError(f"client is {name!r:.40}; it must be one of {', '.join(CLIENT_NAMES)}")
    return client.changed(prompts, length_ratio)


def client_loop(
    workload: Workload, client: BenchmarkClient, *, duration_s: float, longest: int, seed: int = 0
) -> Arrivals:
    """Draw the requests of a client that keeps ``workload.concurrency`` in flight.

    Args:
        workload: the longest lengths, and the concurrency.
        client: how many there are, and how lengths vary.
        duration_s: how long a client goes on that time ends.
        longest: prompt and output together are at most that many tokens.
        seed: of the lengths.

    Raises:
        InputError: a number that cannot be.

    """
    require_positive("input_len", workload.input_len, most=2**24)
    require_positive("output_len", workload.output_len, most=2**24)
    require_positive("concurrency", workload.concurrency or 0, most=10**6)
    require_positive("duration", duration_s, most=MOST_LOOP_S, whole=False)
    concurrency = workload.concurrency or 0
    counted = client.count(concurrency)
    count = counted or min(concurrency + math.ceil(duration_s * SERVED_PER_SECOND), MOST_REQUESTS)
    if count > MOST_REQUESTS:
        raise InputError(f"the client sends {count} requests; a closed loop takes at most {MOST_REQUESTS}")
    random = np.random.default_rng((seed, 4))
    inputs, outputs = (
        random.integers(max(math.ceil(client.length_ratio * most), 1), most, count, endpoint=True)
        for most in (workload.input_len, workload.output_len)
    )
    return Arrivals(
        arrival_s=np.zeros(count),
        input_len=inputs,
        output_len=np.minimum(outputs, np.maximum(longest - inputs, 1)),
        duration_s=math.inf if counted else duration_s,
        concurrency=min(concurrency, count),
        burst=True,
        counted_out=counted is not None,
    )
