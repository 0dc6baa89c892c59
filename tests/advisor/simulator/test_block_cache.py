"""Prefix caches: hits, steps and times as a plain cache gives them, the laws of LRU, and routers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.simulator.arrivals import Arrivals
from advisor.simulator.block_cache import BLOCK
from advisor.simulator.prompt_sharing import PromptSharing, apart
from advisor.simulator.routers import ROUTERS
from advisor.simulator.scheduler import Scheduler, saturation_rate, serve
from tests.advisor import block_cache_reference as reference
from tests.advisor.serving_reference import Job
from tests.advisor.simulator.test_scheduler_loop import linear_times, plain_engines, times_of


def said_by(sharing, lengths):
    """The tokens of every request: (stream, place) pairs, each owned by the stream that says it first."""

    def token(stream, place):
        while sharing.parent[stream] >= 0 and place < sharing.branch[stream]:
            stream = sharing.parent[stream]
        return int(stream), place

    return [
        [token(stream, place) for place in range(length)]
        for stream, length in zip(sharing.stream, lengths, strict=True)
    ]


@st.composite
def conversations(draw, *, replicas=(1, 1, 2, 3), scarce=True):
    """Small trees of streams with turns that wait, where blocks, places and tokens are scarce."""
    streams = draw(st.integers(1, 6))
    parent = np.array([draw(st.integers(-1, stream - 1)) for stream in range(streams)])
    branch = np.array([0 if above < 0 else draw(st.integers(1, 90)) for above in parent])
    n = draw(st.integers(1, 14))
    stream = np.array([draw(st.integers(0, streams - 1)) for _ in range(n)])
    after = np.array([draw(st.sampled_from([-1, -1, *range(number)])) for number in range(n)])
    inputs = np.array([draw(st.integers(1, 130)) for _ in range(n)])
    outputs = np.array([draw(st.integers(1, 70)) for _ in range(n)])
    gaps = np.array([draw(st.floats(0.0, 0.05)) for _ in range(n)])
    arrival = np.cumsum(gaps + 1e-5 * np.sqrt(np.arange(1, n + 1)))
    wait = 1e-3 * np.sqrt(np.arange(2, n + 2)) * draw(st.sampled_from([0.1, 10.0]))
    least = int(-(-(inputs + outputs).max() // BLOCK))
    scheduler = Scheduler(
        replicas=draw(st.sampled_from(replicas)),
        max_num_seqs=draw(st.integers(1, 8)),
        max_num_batched_tokens=draw(st.integers(8, 300)),
        kv_blocks=least + (draw(st.integers(0, 30)) if scarce else 1000),
        stages=draw(st.sampled_from([1, 1, 1, 2])),
        asynchronous=draw(st.booleans()),
        front_end_ms=0.0,
    )
    offered = Arrivals(
        arrival_s=np.where(after < 0, arrival, 0.0),
        input_len=inputs,
        output_len=outputs,
        duration_s=9.0,
        sharing=PromptSharing(
            stream=stream, parent=parent, branch=branch, session=np.arange(n), after=after, wait_s=wait
        ),
    )
    return offered, scheduler


def plain(offered, scheduler, flight=None):
    """The same by the reference: engines, when each request came, and where to."""
    said = said_by(offered.sharing, offered.input_len + offered.output_len)
    jobs = [
        Job(number=number, prompt=int(prompt), wanted=int(wanted), cached=0)
        for number, (prompt, wanted) in enumerate(zip(offered.input_len, offered.output_len, strict=True))
    ]
    for job, tokens in zip(jobs, said, strict=True):
        job.said = tokens
    engines = plain_engines(scheduler, reference.CachingEngine)
    turns = iter(range(10**6))
    came, places = reference.simulate(
        jobs,
        engines,
        arrivals=offered.arrival_s,
        after=offered.sharing.after,
        wait_s=offered.sharing.wait_s,
        route=lambda _, engines: next(turns) % len(engines),
        flight=flight,
    )
    return jobs, engines, came, places


@settings(deadline=None, max_examples=200)
@given(case=conversations())
def test_hits_and_times_are_those_of_a_plain_cache(case):
    offered, scheduler = case
    served = serve(offered, times_of(scheduler), scheduler, steps_logged=20_000)
    jobs, engines, came, places = plain(offered, scheduler)
    order = sorted(came, key=lambda number: (came[number], number))
    hits = {number: hit for engine in engines for number, hit in engine.hits.items()}
    assert served.cached.tolist() == [hits[number] for number in order]
    assert served.arrival_s == pytest.approx([came[number] for number in order], rel=1e-9)
    assert served.replica.tolist() == [places[number] for number in order]
    assert served.preemptions.tolist() == [sum(e.preempted.count(number) for e in engines) for number in order]
    last = [1e3 * (jobs[number].tokens[-1] - came[number]) for number in order]
    assert served.e2e_ms == pytest.approx(last, rel=1e-6, abs=1e-6)
    for replica, engine in enumerate(engines):
        own = served.log[served.log[:, 0] == replica]
        assert own[:, 4:].tolist() == np.array(engine.steps).reshape(-1, 8)[:, 2:].tolist()


@settings(deadline=None, max_examples=100)
@given(case=conversations(), flight=st.integers(1, 5))
def test_a_closed_loop_lets_in_what_a_plain_one_does(case, flight):
    offered, scheduler = case
    flight = min(flight, int((offered.sharing.after < 0).sum()))
    loop = replace(offered, arrival_s=np.zeros(len(offered)), duration_s=1e4, concurrency=flight, starters=flight)
    served = serve(loop, times_of(scheduler), scheduler)
    jobs, engines, came, places = plain(loop, scheduler, flight)
    assert sorted(served.arrival_s.tolist()) == pytest.approx(sorted(came.values()), rel=1e-9)
    hits = {number: hit for engine in engines for number, hit in engine.hits.items()}
    assert sorted(served.cached.tolist()) == sorted(hits.values())
    last = [1e3 * (jobs[number].tokens[-1] - came[number]) for number in came]
    assert sorted(served.e2e_ms) == pytest.approx(sorted(last), rel=1e-6, abs=1e-6)
    assert np.bincount(served.replica).sum() == len(places)


@settings(deadline=None, max_examples=100)
@given(case=conversations())
def test_no_request_and_no_block_is_lost(case):
    offered, scheduler = case
    served = serve(offered, times_of(scheduler), scheduler, steps_logged=20_000)
    assert len(served) == len(offered)
    assert sorted(served.input_len.tolist()) == sorted(offered.input_len.tolist())
    assert served.gaps.sum() == (served.output_len - 1).sum()
    assert (served.cached < served.input_len).all()
    assert (served.cached % BLOCK == 0).all()
    assert served.most_blocks <= scheduler.kv_blocks
    assert (served.log[:, 9] >= 0).all()
    computed = served.log[:, 4].sum() + served.log[:, 5].sum()
    if not served.preemptions.any():
        assert computed == (served.input_len - served.cached + served.output_len - 1).sum()


@settings(deadline=None, max_examples=100)
@given(case=conversations(replicas=(1,)), factor=st.integers(1, 4), more=st.integers(0, 20))
def test_more_cache_never_hits_less(case, factor, more):
    """The stack property of LRU (Mattson et al., 1970): one request at a time, so that both caches see the same accesses."""
    offered, scheduler = case
    n = len(offered)
    one_by_one = replace(
        offered,
        arrival_s=np.arange(n) * 1e4,
        sharing=replace(offered.sharing, after=np.full(n, -1), wait_s=np.zeros(n)),
    )
    larger = replace(scheduler, kv_blocks=factor * scheduler.kv_blocks + more)
    few, many = (serve(one_by_one, times_of(each), each) for each in (scheduler, larger))
    assert not few.preemptions.any()
    assert (many.cached >= few.cached).all()


def test_the_random_cases_hit_evict_and_preempt():
    """The agreement above would say little if nothing were ever found, taken away or preempted."""
    seen = {"hit": 0, "evicted": 0, "preempted": 0, "waited": 0}

    @settings(max_examples=150, database=None, derandomize=True, deadline=None)
    @given(case=conversations())
    def look(case):
        offered, scheduler = case
        served = serve(offered, times_of(scheduler), scheduler)
        ample = serve(offered, times_of(scheduler), replace(scheduler, kv_blocks=10_000))
        seen["hit"] += bool(served.cached.any())
        seen["evicted"] += bool(served.cached.sum() < ample.cached.sum())
        seen["preempted"] += bool(served.preemptions.any())
        seen["waited"] += offered.sharing.follows

    look()
    assert min(seen.values()) >= 5, seen


def prompts(n, *, groups=1, common=512, own=64, gap_s=0.02, outputs=16):
    """Requests that begin with one of some system prompts."""
    number = np.arange(n)
    return Arrivals(
        arrival_s=number * gap_s,
        input_len=np.full(n, common + own),
        output_len=np.full(n, outputs),
        duration_s=n * gap_s,
        sharing=PromptSharing(
            stream=groups + number,
            parent=np.concatenate([np.full(groups, -1), number % groups]),
            branch=np.concatenate([np.zeros(groups, np.int64), np.full(n, common)]),
            session=number % groups,
            after=np.full(n, -1),
            wait_s=np.zeros(n),
        ),
    )


SCHEDULER = Scheduler(replicas=1, max_num_seqs=16, max_num_batched_tokens=1024, kv_blocks=2000, front_end_ms=0.0)
TIMES = linear_times(1024, 16)


def test_traffic_that_differs_only_in_its_hashes_is_served_differently():
    alike = prompts(200)
    different = replace(alike, sharing=apart(200))
    one, other = (serve(offered, TIMES, SCHEDULER) for offered in (alike, different))
    assert one.cached.sum() == 199 * 512
    assert other.cached.sum() == 0
    assert one.ttft_ms.mean() < 0.5 * other.ttft_ms.mean()
    rates = [saturation_rate(offered, TIMES, SCHEDULER) for offered in (alike, different)]
    assert rates[0] > 1.5 * rates[1]


def test_requests_with_nothing_in_common_are_served_as_without_a_cache():
    different = replace(prompts(200), sharing=apart(200))
    one, other = serve(different, TIMES, SCHEDULER), serve(replace(different, sharing=None), TIMES, SCHEDULER)
    assert np.array_equal(one.ttft_ms, other.ttft_ms)
    assert np.array_equal(one.e2e_ms, other.e2e_ms)
    assert one.most_blocks == other.most_blocks


def test_without_prefix_caching_nothing_is_found():
    served = serve(prompts(50), TIMES, replace(SCHEDULER, prefix_caching=False))
    assert served.cached.sum() == 0


def test_blocks_that_requests_share_are_held_once():
    together = prompts(16, common=1600, own=16, gap_s=0.05, outputs=400)
    shared, alone = (
        serve(replace(together, sharing=sharing), TIMES, SCHEDULER).most_blocks
        for sharing in (together.sharing, apart(16))
    )
    assert shared < alone / 3


def test_a_prefix_aware_router_finds_what_a_round_robin_misses():
    """Nine system prompts on four replicas that hold three each: spread over all of them they push each other out."""
    offered = prompts(400, groups=9, common=1600, own=16, gap_s=0.05)
    scheduler = replace(SCHEDULER, replicas=4, kv_blocks=330)
    hits = {router: serve(offered, TIMES, replace(scheduler, router=router)).loads.cached for router in ROUTERS}
    assert min(hits["prefix_aware"], hits["session_sticky"]) > 1.5 * max(
        hits[router] for router in ("round_robin", "least_loaded", "power_of_two")
    )


def test_a_sticky_router_keeps_a_session_on_its_replica():
    offered = prompts(100, groups=7)
    served = serve(offered, TIMES, replace(SCHEDULER, replicas=3, router="session_sticky"))
    homes = {int(served.replica[number]) for number in range(0, 100, 7)}
    assert len(homes) == 1
    assert len(set(served.replica.tolist())) == 3


def test_two_choices_balance_better_than_turns_that_ignore_the_load():
    random = np.random.default_rng(2)
    n = 4000
    offered = Arrivals(
        arrival_s=np.cumsum(random.exponential(0.018, n)),
        input_len=random.integers(1, 900, n),
        output_len=random.integers(1, 120, n),
        duration_s=0.018 * n,
    )
    waits = {}
    for router in ("round_robin", "power_of_two", "least_loaded"):
        served = serve(offered, TIMES, replace(SCHEDULER, replicas=6, max_num_seqs=2, router=router))
        waits[router] = served.percentile("ttft_ms", 95)
        assert len(set(served.replica.tolist())) == 6
    assert waits["least_loaded"] <= waits["power_of_two"] < waits["round_robin"]
