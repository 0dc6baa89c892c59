"""KV blocks below the GPUs' cache: hits, loads and times as plain tiers give them, and the laws of LRU."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from advisor.simulator.block_cache import BLOCK
from advisor.simulator.cache_tiers import CacheTier
from advisor.simulator.scheduler import serve
from tests.advisor import block_cache_reference as reference
from tests.advisor.serving_reference import Job
from tests.advisor.simulator.test_block_cache import SCHEDULER, TIMES, conversations, prompts, said_by
from tests.advisor.simulator.test_scheduler_loop import plain_engines, times_of

NAMES = (
    ("cpu",),
    ("disk",),
    ("store",),
    ("cpu", "disk"),
    ("cpu", "store"),
    ("disk", "store"),
    ("cpu", "disk", "store"),
)


def tier(name="cpu", blocks=1000, block_s=1e-3, latency_s=0.0):
    return CacheTier(
        name=name, blocks=blocks, shared=name == "store", load_s=block_s, write_s=1.3 * block_s, latency_s=latency_s
    )


@st.composite
def tiered(draw, *, replicas=(1, 1, 2, 3)):
    """Small conversations with few blocks on the GPUs, and few below; times that are no multiples of each other."""
    offered, scheduler = draw(conversations(replicas=replicas))
    tiers = tuple(
        tier(
            name,
            blocks=draw(st.integers(2, 25) if name == "cpu" else st.integers(10, 40)),
            block_s=draw(st.sampled_from([1e-5, 1e-3, 1e-2])) * np.sqrt(2 + number),
            latency_s=draw(st.sampled_from([0.0, 1.1e-3])),
        )
        for number, name in enumerate(draw(st.sampled_from(NAMES)))
    )
    return offered, replace(scheduler, tiers=tiers)


def plain_tiers(scheduler):
    """One engine for each replica, with shelves of its own, or of all."""
    pool, tiers = scheduler.kv_blocks, scheduler.tiers
    above = [pool, *[tiers[0].blocks if tiers[0].name == "cpu" else pool] * (len(tiers) - 1)]
    common = [reference.Shelf(each, blocks) for each, blocks in zip(tiers, above, strict=True)]
    engines = plain_engines(scheduler, reference.TieredEngine, tiers=[])
    for engine in engines:
        engine.tiers = [
            (each, shelf if each.shared else reference.Shelf(each, blocks))
            for each, shelf, blocks in zip(tiers, common, above, strict=True)
        ]
    return engines


@settings(deadline=None, max_examples=200)
@given(case=tiered())
def test_loads_and_times_are_those_of_plain_tiers(case):
    offered, scheduler = case
    served = serve(offered, times_of(scheduler), scheduler, steps_logged=20_000)
    jobs = [
        Job(number=number, prompt=int(prompt), wanted=int(wanted), cached=0)
        for number, (prompt, wanted) in enumerate(zip(offered.input_len, offered.output_len, strict=True))
    ]
    for job, tokens in zip(jobs, said_by(offered.sharing, offered.input_len + offered.output_len), strict=True):
        job.said = tokens
    engines, turns = plain_tiers(scheduler), iter(range(10**6))
    came, _ = reference.simulate(
        jobs,
        engines,
        arrivals=offered.arrival_s,
        after=offered.sharing.after,
        wait_s=offered.sharing.wait_s,
        route=lambda _, engines: next(turns) % len(engines),
    )
    order = sorted(came, key=lambda number: (came[number], number))
    hits = {number: hit for engine in engines for number, hit in engine.hits.items()}
    loaded = {number: tokens for engine in engines for number, tokens in engine.loaded.items()}
    assert served.cached.tolist() == [hits[number] for number in order]
    assert served.loaded.tolist() == [loaded[number] for number in order]
    assert served.arrival_s == pytest.approx([came[number] for number in order], rel=1e-9)
    last = [1e3 * (jobs[number].tokens[-1] - came[number]) for number in order]
    assert served.e2e_ms == pytest.approx(last, rel=1e-6, abs=1e-6)
    for replica, engine in enumerate(engines):
        own = served.log[served.log[:, 0] == replica]
        assert own[:, 4:].tolist() == np.array(engine.steps).reshape(-1, 8)[:, 2:].tolist()


@settings(deadline=None, max_examples=100)
@given(case=tiered())
def test_no_request_and_no_block_is_lost(case):
    offered, scheduler = case
    served = serve(offered, times_of(scheduler), scheduler, steps_logged=20_000)
    assert sorted(served.input_len.tolist()) == sorted(offered.input_len.tolist())
    assert served.gaps.sum() == (served.output_len - 1).sum()
    assert (served.cached < served.input_len).all()
    assert (served.loaded % BLOCK == 0).all()
    assert (served.loaded.sum(axis=1) <= served.cached).all()
    assert served.most_blocks <= scheduler.kv_blocks
    if not served.preemptions.any():
        computed = served.log[:, 4].sum() + served.log[:, 5].sum()
        assert computed == (served.input_len - served.cached + served.output_len - 1).sum()


@settings(deadline=None, max_examples=100)
@given(case=tiered(replicas=(1,)), more=st.integers(1, 60))
def test_more_room_below_never_hits_less(case, more):
    """The stack property of LRU (Mattson et al., 1970), one request at a time, where one prompt has room below."""
    offered, scheduler = case
    n, longest = len(offered), int(offered.input_len.max()) // BLOCK + 1
    alone = replace(
        offered,
        arrival_s=np.arange(n) * 1e4,
        sharing=replace(offered.sharing, after=np.full(n, -1), wait_s=np.zeros(n)),
    )
    blocks = max(scheduler.tiers[0].blocks, longest)
    none, few, many = (
        serve(alone, times_of(scheduler), replace(scheduler, tiers=tiers))
        for tiers in ((), (tier(blocks=blocks),), (tier(blocks=blocks + more),))
    )
    assert (few.cached >= none.cached).all()
    assert (many.cached >= few.cached).all()


def met(case):
    """What happens in a case."""
    offered, scheduler = case
    served = serve(offered, times_of(scheduler), scheduler)
    ample = replace(scheduler, tiers=tuple(replace(each, blocks=10_000) for each in scheduler.tiers))
    tokens = dict(zip(scheduler.tier_names, served.loaded.sum(axis=0).tolist(), strict=True))
    return {name for name, loaded in tokens.items() if loaded} | {
        name
        for name, happens in {
            "pushed out": served.cached.sum() < serve(offered, times_of(scheduler), ample).cached.sum(),
            "preempted": served.preemptions.any() and served.loaded.any(),
            "together": sum(map(bool, tokens.values())) > 1,
        }.items()
        if happens
    }


@pytest.mark.parametrize("event", ["cpu", "disk", "store", "pushed out", "preempted", "together"])
def test_the_random_cases_load_from_every_tier_evict_and_preempt(event):
    """The agreement above would say little if nothing were ever loaded, pushed out or preempted."""
    found = find(
        tiered(),
        lambda case: event in met(case),
        settings=settings(max_examples=5000, database=None, derandomize=True, deadline=None, phases=[Phase.generate]),
    )
    assert event in met(found)


CROWDED = prompts(400, groups=9, common=1600, own=16, gap_s=0.05)
SMALL = replace(SCHEDULER, kv_blocks=330)


def test_a_tier_that_nothing_is_found_in_changes_nothing():
    without = serve(CROWDED, TIMES, SMALL)
    tiny = serve(CROWDED, TIMES, replace(SMALL, tiers=(tier(blocks=1),)))
    assert not tiny.loaded.any()
    assert np.array_equal(without.e2e_ms, tiny.e2e_ms)
    assert without.loaded.shape == (400, 0)


def test_what_the_gpus_evict_lives_on_below_and_is_waited_for():
    without = serve(CROWDED, TIMES, SMALL)
    fast, slow = (serve(CROWDED, TIMES, replace(SMALL, tiers=(tier(block_s=each),))) for each in (1e-5, 3e-4))
    assert without.cached.sum() == 0
    assert fast.loaded.sum() > 300 * 1600
    assert fast.ttft_ms.mean() < 0.1 * without.ttft_ms.mean()
    # a load takes 100 blocks' time
    later = np.median(slow.ttft_ms[200:]) - np.median(fast.ttft_ms[200:])
    assert later == pytest.approx(100 * (3e-4 - 1e-5) * 1e3, rel=0.35)


def test_loads_share_the_link():
    """Four prompts that come together wait for each other's loads."""
    together = replace(
        CROWDED, arrival_s=np.where(np.arange(400) < 36, np.arange(400) * 2.0, 100.0 + np.arange(400) // 4)
    )
    served = serve(together, TIMES, replace(SMALL, kv_blocks=800, tiers=(tier(block_s=1e-3),)))
    waits = served.ttft_ms[36:].reshape(-1, 4)
    spread = waits.max(axis=1) - waits.min(axis=1)
    assert np.median(spread) > 200.0


def test_a_store_is_of_all_replicas():
    """Two replicas in turn: what one has computed the other finds in a store, not in memory of its own."""
    offered = prompts(40, groups=1, common=1600, own=16, gap_s=1.0)
    two = replace(SCHEDULER, replicas=2)
    own, common = (serve(offered, TIMES, replace(two, tiers=(tier(name),))) for name in ("cpu", "store"))
    assert own.cached[1] == 0
    assert common.loaded[1, 0] == common.cached[1] == 1600


def test_a_link_that_cannot_keep_up_drops_what_it_would_write():
    slow = serve(CROWDED, TIMES, replace(SMALL, tiers=(replace(tier(), write_s=10.0),)))
    assert slow.loaded.sum() < 0.3 * serve(CROWDED, TIMES, replace(SMALL, tiers=(tier(),))).loaded.sum()
