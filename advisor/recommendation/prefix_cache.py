"""What prefix caches hit on each deployment of a search: the traffic is served by the simulator, and what it hits goes into the search.

How much of the prompts a cache has depends on the layout (how large it is, over how many replicas sessions are spread) and on the batch,
whose requests fill it. Deployments that were not simulated yet are taken to hit as much as a cache without end would, so that none is
passed over; what then comes first is simulated, and the search looks again, until what comes first has been simulated.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.prediction.option_words import lengths
from advisor.simulator.routers import ROUTERS, check_router
from catalog.errors import Note

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from advisor.prediction.demand import Demand
    from advisor.prediction.deployment_estimate import Estimate
    from advisor.prediction.evidence import Evidence
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.conversations import Conversations
    from advisor.simulator.routers import Router
    from catalog.schema import Model, Workload
    from catalog.units import Array

NEAR = 1.1
"""Batches within this factor of one that was simulated hit as much."""
SAMPLE_RATE, SAMPLE = 8.0, 4000
"""Requests a second, and how many, of which mean lengths and what a cache without end would hit are read."""
MOST_LOOPED = 40_000
"""Requests of a loop that a deployment is simulated with, about."""
NOTHING = {"shared_prefix": 0, "num_prefixes": 1, "turns": 1}
"""What requests have in common where nobody says."""
KEY = ("tp", "pp", "dp", "ep", "dcp", "dtype", "kv_dtype")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCaches:
    """What is known of the caches of a search's deployments."""

    traffic: Callable[[float, float], Arrivals]
    """Requests at so many a second, for so many seconds,"""
    loop: Callable[[int, float], Arrivals] | None
    """and those of which so many are kept in flight, where so many a second are completed; None where a file says what comes."""
    knowledge: Evidence
    serving: Mapping[str, Any]
    """Arguments of ``advisor.simulator.server.scheduler_of``, the router among them."""
    options: tuple[str, ...]
    """Of the command line, which say what requests share; none where a file does."""
    ceiling: float
    """Share of the prompts' tokens that came before, which a cache without end has."""
    simulated: dict[tuple[Any, ...], dict[int, float]] = field(default_factory=dict)
    """Hit rates by deployment and batch per replica,"""
    tiers: dict[tuple[Any, ...], dict[int, dict[str, float]]] = field(default_factory=dict)
    """and of that those of the tiers below the GPUs, by their names."""

    def hit_rates(self, columns: Mapping[str, Any]) -> Array:
        """Return the share of the prompts' tokens that each deployment's caches have, shape (n,).

        Between batches that were simulated it is interpolated; below the smallest it tends to that of a cache without end.
        """
        batches = np.asarray(columns["max_num_seqs"], dtype=float)
        rates = np.full(len(batches), self.ceiling)
        if not self.simulated:
            return rates
        columns_of_key = [np.broadcast_to(np.asarray(columns.get(name, 1), dtype=object), len(batches)) for name in KEY]
        for key, known in self.simulated.items():
            rows = np.ones(len(batches), dtype=bool)
            for values, value in zip(columns_of_key, key, strict=True):
                rows &= values == value
            if rows.any():
                sizes = sorted(known)
                rates[rows] = np.interp(batches[rows], [0.0, *sizes], [self.ceiling, *(known[size] for size in sizes)])
        return rates

    def described(self, estimate: Estimate) -> Estimate:
        """Return an estimate with what was simulated of its deployment, at its batch or one near it; as it is where nothing was."""
        known = self.simulated.get(key_of(estimate), {})
        near = [size for size in known if max(size, estimate.batch) <= NEAR * min(size, estimate.batch)]
        if not near:
            return estimate
        size = min(near, key=lambda size: abs(size - estimate.batch))
        return replace(estimate, hit_rate=known[size], tier_hit_rates=self.tiers[key_of(estimate)][size] or None)

    def simulate(self, estimate: Estimate) -> None:
        """Serve the traffic on a deployment and keep what its caches hit: the loop that keeps its batch in flight, as ``simulate`` does
        with a concurrency, or of a file as many requests a second as it is taken to complete.

        Raises:
            InputError: the deployment cannot be served.

        """
        from advisor.simulator.arrivals import DRAWN_S, FEWEST, MOST_DRAWN  # only where something is shared
        from advisor.simulator.server import AggregatedServer

        rate = (estimate.output_tok_s or 0.0) / estimate.output_len
        seconds = min(max(DRAWN_S, FEWEST / rate), MOST_DRAWN / rate)
        deployment = replace(estimate.deployment, max_num_seqs=estimate.batch)
        server = AggregatedServer.of(estimate.model, estimate.cluster, deployment, self.knowledge, self.serving)
        come = self.traffic(rate, seconds) if self.loop is None else self.loop(estimate.batch * deployment.dp, rate)
        served = server.served(come.within(server.longest), server.believed_times())
        hit_rate = served.hit_rate if served.counted.any() else 0.0
        key, below = key_of(estimate), served.tier_hit_rates if served.counted.any() else []
        self.simulated.setdefault(key, {})[estimate.batch] = min(float(hit_rate), self.ceiling)
        names = server.scheduler.tier_names
        self.tiers.setdefault(key, {})[estimate.batch] = dict(zip(names, below, strict=False))

    @property
    def counted(self) -> str:
        """Say that caches were counted, and what they have at most."""
        return f"prefix caches were counted: one without end would have {self.ceiling:.0%} of the prompts' tokens"

    def notes(self, best: Estimate | None) -> tuple[Note, ...]:
        """Say where the hit rates of an answer are from; ``best`` is None where nothing is feasible."""
        if best is None:
            known = "" if self.simulated else ", and no deployment was taken to have less"
            return (Note(f"{self.counted}{known}", "asked"),)
        router = self.serving.get("router", "round_robin")
        said = [
            f"{self.counted}; the traffic was simulated behind the router {router}; energy and a client's burst are not estimated with caches"
        ]
        if best.deployment.kv_offload:
            said.append(
                "blocks that are loaded from below the GPUs are no work; the time of loading is not in TTFT here, but in simulate's"
            )
        return tuple(Note(text, "asked") for text in said)


def caches_of(
    demand: Demand,
    workload: object,
    model: Model,
    *,
    common: Mapping[str, Any],
    sessions: str | Path | None,
    router: Router,
    max_model_len: int | None,
) -> tuple[Callable[[Evidence], PrefixCaches] | None, Demand]:
    """Return what makes the caches of the traffic, and the demand with the mean lengths of its requests; None where they share nothing.

    ``common``: shared_prefix, num_prefixes and turns.

    Raises:
        InputError: something that cannot be, or two that contradict each other.

    """
    check_router(router)
    trace: Any = workload if getattr(workload, "sharing", None) is not None else None
    if common == NOTHING and sessions is None and trace is None:
        return None, demand
    from advisor.simulator.conversations import Conversations  # only where something is shared
    from advisor.simulator.offered_traffic import lasting_s
    from advisor.simulator.session_files import read_sessions

    talk = Conversations(**common, think_s=demand.think_s if common["turns"] > 1 else 0.0)
    talk.check()
    if sessions is not None or trace is not None:
        talk.check_alone("a trace" if sessions is None else "a file of sessions")
    longest = max_model_len or model.max_position_embeddings
    stated = demand.workload
    read = trace if sessions is None else read_sessions(sessions)

    drawn: dict[str, Any] = {"seed": 0, "spread": demand.spread(None), "burstiness": 1.0}

    def traffic(rate: float, seconds: float) -> Arrivals:
        if read is not None:
            return _stretched(read.within(longest), rate, seconds)
        return talk.traffic(replace(stated, rate=rate, concurrency=None), duration_s=seconds, longest=longest, **drawn)

    def loop(in_flight: int, rate: float) -> Arrivals:
        asked = replace(stated, rate=None, concurrency=in_flight)
        seconds = min(max(lasting_s(asked), talk.lasting_s), MOST_LOOPED / rate)
        return talk.traffic(asked, duration_s=seconds, longest=longest, **drawn)

    sample = traffic(SAMPLE_RATE, SAMPLE / SAMPLE_RATE)
    ceiling = repeated_share(sample)
    means = [max(round(float(tokens.mean())), 1) for tokens in (sample.input_len, sample.output_len)]
    mean_lengths = replace(stated, input_len=means[0], output_len=means[1])
    options = () if read is not None else _options(talk, stated, demand.spread(None), router)
    made = partial(PrefixCaches, traffic=traffic, loop=None if read is not None else loop, options=options)
    serving = {"router": router}
    return lambda knowledge: made(knowledge=knowledge, serving=serving, ceiling=ceiling), replace(
        demand, workload=mean_lengths
    )


def _options(talk: Conversations, stated: Workload, spread: float, router: str) -> tuple[str, ...]:
    """Return the options that ask ``simulate`` for the same traffic; of the lengths those that are stated."""
    usual = {
        "--shared-prefix": 0,
        "--num-prefixes": 1,
        "--turns": 1,
        "--think-time": 0.0,
        "--spread": 0.0,
        "--router": ROUTERS[0],
    }
    values = (talk.shared_prefix, talk.num_prefixes, talk.turns, talk.think_s, spread, router)
    words = lengths(stated)
    for (option, value), asked in zip(usual.items(), values, strict=True):
        if asked != value:
            words += [option, f"{asked:g}" if isinstance(asked, float) else str(asked)]
    return tuple(words)


def _stretched(requests: Arrivals, rate: float, seconds: float) -> Arrivals:
    """Return the first requests that fill so many seconds at a rate; evenly spaced where the file has no times."""
    if requests.arrival_s[-1] <= 0.0:
        times = np.arange(len(requests)) / rate
        requests = replace(requests, arrival_s=times, duration_s=len(requests) / rate)
    return requests.at_rate(rate).beginning(max(round(rate * seconds), 1))


def key_of(estimate: Estimate) -> tuple[Any, ...]:
    """Return what decides about a deployment's caches beside its batch."""
    return tuple(getattr(estimate.deployment, name) for name in KEY)


def repeated_share(requests: Arrivals) -> float:
    """Return the share of the prompts' tokens that a cache without end has, whole blocks alone, by serving them one after the other."""
    from advisor.simulator.scheduler import Scheduler, serve
    from advisor.simulator.step_duration import NODES_PER_OCTAVE
    from advisor.simulator.step_table import OCTAVES, StepConstants, StepTimes

    longest = int((requests.input_len + requests.output_len).max())
    total = int(requests.input_len.sum() + requests.output_len.sum())
    contexts = int(OCTAVES * NODES_PER_OCTAVE) + 1
    instant = StepTimes(
        by_tokens=np.full(longest + 1, 1e-6),
        by_sequences=np.zeros(2),
        by_context=np.zeros((2, contexts)),
        constants=StepConstants(),
        shares=np.ones(1),
    )
    alone = Scheduler(
        replicas=1,
        max_num_seqs=1,
        max_num_batched_tokens=longest,
        kv_blocks=total // 16 + len(requests) + 1,
        front_end_ms=0.0,
    )
    return float(serve(requests, instant, alone).hit_rate)
