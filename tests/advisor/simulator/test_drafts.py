"""Drafts in the scheduler's loop: laws of acceptance, conservation, and the plain case."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.simulator.draft_acceptance import accepted
from advisor.simulator.draft_table import Drafts
from advisor.simulator.scheduler import Scheduler, serve, serve_pieces
from catalog.speculation import conditional_rates, tokens_of_rates, tokens_per_step
from tests.advisor.simulator.test_scheduler_loop import cases, linear_times, times_of, traffic

VERIFY_MS, DRAFT_MS = 0.05, 0.4


def drafted(times, length, rate, *, lookahead=None, cost=1.0):
    """The same times with drafts that cost ``cost`` times the usual."""
    number = np.arange(len(times.by_sequences), dtype=float)
    drafts = Drafts(
        draft_len=length,
        lookahead=length if lookahead is None else lookahead,
        rates=np.full(length, float(rate)),
        by_decodes=cost * VERIFY_MS * length * number,
        by_tokens=np.full(len(times.by_tokens), cost * DRAFT_MS),
        by_sequences=cost * DRAFT_MS * np.minimum(number, 1.0) * (length - 1.0),
    )
    return replace(times, drafts=drafts)


def with_room(scheduler, length):
    """The same scheduler with blocks for what the longest request's drafts take."""
    slots = 2 * length
    return replace(scheduler, draft_slots=slots, kv_blocks=scheduler.kv_blocks + math.ceil(slots / 16) + 1)


AMPLE = Scheduler(
    replicas=1, max_num_seqs=64, max_num_batched_tokens=4096, kv_blocks=4000, front_end_ms=0.0, draft_slots=16
)


@settings(deadline=None, max_examples=100)
@given(case=cases(), length=st.integers(1, 8), rate=st.sampled_from([0.0, 0.4, 0.9, 1.0]))
def test_no_request_and_no_token_is_lost(case, length, rate):
    offered, scheduler = case
    scheduler = with_room(scheduler, length)
    found = serve(offered, drafted(times_of(scheduler), length, rate), scheduler, steps_logged=20_000)
    outputs = offered.output_len[: len(found)]
    assert len(found) == len(offered) if offered.concurrency is None else len(found) >= offered.concurrency
    assert np.isfinite(found.ttft_ms).all()
    assert (found.e2e_ms >= found.ttft_ms).all()
    assert found.bins[:, 4].sum() == outputs.sum()
    assert found.most_blocks <= scheduler.kv_blocks
    blocks, prefill, decodes = found.log[:, 9], found.log[:, 4], found.log[:, 5]
    assert ((blocks >= 0) & (blocks <= scheduler.kv_blocks)).all()
    assert (prefill + decodes <= scheduler.max_num_batched_tokens).all()


@settings(deadline=None, max_examples=50)
@given(case=cases())
def test_no_drafts_are_the_plain_case_exactly(case):
    offered, scheduler = case
    times = times_of(scheduler)
    plain = serve(offered, times, scheduler, steps_logged=500)
    off = replace(times, drafts=drafted(times, 1, 0.0, cost=0.0).drafts._replace(draft_len=0, lookahead=0))
    same = serve(offered, off, scheduler, steps_logged=500)
    for name in ("ttft_ms", "e2e_ms", "longest_itl_ms", "gaps", "bins", "log", "preemptions"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(same, name))


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 120)), min_size=1, max_size=20),
    gap=st.sampled_from([0.0, 1000.0]),  # all at once, or one by one: between, a request may come as a step ends
    length=st.integers(1, 8),
)
def test_nothing_accepted_is_never_faster_than_no_drafts(lengths, gap, length):
    inputs, outputs = zip(*lengths, strict=True)
    offered = traffic(np.arange(len(lengths)) * gap, inputs, outputs)
    times = linear_times(4096, 64)
    plain = serve(offered, times, AMPLE)
    drafting = serve(offered, drafted(times, length, 0.0), AMPLE)
    assert (drafting.e2e_ms >= plain.e2e_ms - 1e-9).all()
    assert drafting.end_s >= plain.end_s


@pytest.mark.parametrize("length", [1, 3, 8])
def test_all_accepted_gains_by_the_length(length):
    offered = traffic([0.0], [100], [1 + 30 * (length + 1)])
    times = linear_times(4096, 64, token=0.0)
    plain, free = (
        serve(offered, each, AMPLE, steps_logged=1000) for each in (times, drafted(times, length, 1.0, cost=0.0))
    )
    assert len(free.log) == 31
    gain = (plain.e2e_ms - plain.ttft_ms) / (free.e2e_ms - free.ttft_ms)
    assert gain == pytest.approx(length + 1, rel=1e-3)
    dear = serve(offered, drafted(times, length, 1.0), AMPLE)
    assert dear.e2e_ms > free.e2e_ms


@settings(deadline=None, max_examples=60)
@given(output=st.integers(1, 300), length=st.integers(1, 7), rates=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_higher_rate_and_a_longer_draft_never_take_more_steps(output, length, rates):
    offered = traffic([0.0], [50], [output])
    times = linear_times(4096, 64)

    def steps(rate, drafts):
        return serve(offered, drafted(times, drafts, rate), AMPLE).steps

    low, high = sorted(rates)
    assert steps(high, length) <= steps(low, length)
    assert steps(low, length + 1) <= steps(low, length)


@pytest.mark.parametrize(("rate", "length"), [(0.3, 2), (0.63, 3), (0.9, 6)])
def test_steps_yield_as_many_tokens_as_the_law_says(rate, length):
    counts = [
        accepted(np.full(length, rate), request, 1 + 9 * token, length) for request in range(50) for token in range(200)
    ]
    assert 1.0 + np.mean(counts) == pytest.approx(tokens_per_step(rate, length), rel=0.02)
    offered = traffic([0.0], [50], [20_001])
    wide = replace(AMPLE, kv_blocks=2000)
    served = serve(offered, drafted(linear_times(4096, 64), length, rate), wide)
    assert 20_000 / served.steps == pytest.approx(tokens_per_step(rate, length), rel=0.03)


@settings(deadline=None, max_examples=20)
@given(cut=st.integers(1, 39))
def test_pieces_are_served_as_the_whole_is(cut):
    random = np.random.default_rng(0)
    whole = traffic(np.cumsum(random.exponential(0.05, 40)), random.integers(1, 200, 40), random.integers(1, 80, 40))
    times = drafted(linear_times(4096, 64), 3, 0.6)
    at_once = serve(whole, times, AMPLE)
    first, last = (whole.only(np.arange(40) < cut), whole.only(np.arange(40) >= cut))
    parts = list(serve_pieces([first, last], times, AMPLE, duration_s=whole.duration_s))
    for name in ("ttft_ms", "e2e_ms"):
        np.testing.assert_allclose(np.concatenate([getattr(part, name) for part in parts]), getattr(at_once, name))


def test_rates_by_place_are_those_that_vllm_counts():
    rates = conditional_rates((0.7, 0.5, 0.35))
    assert rates == pytest.approx((0.7, 0.5 / 0.7, 0.7))
    assert tokens_of_rates(rates) == pytest.approx(2.55)


def test_preempted_requests_with_drafts_are_computed_again():
    offered = traffic(np.arange(6) * 1e-3, [60] * 6, [200] * 6)
    scheduler = replace(AMPLE, kv_blocks=40, max_num_seqs=6)
    served = serve(offered, drafted(linear_times(4096, 64), 4, 0.5), scheduler)
    assert served.preemptions.sum() > 0
    assert served.bins[:, 4].sum() == 1200
