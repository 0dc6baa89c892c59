"""The compiled scheduler: conservation, order, agreement with a plain one step by step, and queues with known answers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.simulator import compilation
from advisor.simulator.arrivals import Arrivals
from advisor.simulator.scheduler import TURNS, Scheduler, saturation_rate, serve
from advisor.simulator.step_duration import NODES_PER_OCTAVE
from advisor.simulator.step_table import OCTAVES, StepConstants, StepTimes
from tests.advisor import serving_reference as reference

TOKEN_MS, FIXED_MS, HEAD_MS, READ_MS, DECODE_MS, PAIR_MS = 0.03, 4.0, 0.02, 2e-4, 0.01, 1e-5


def linear_times(budget, cap, *, shares=(1.0,), token=TOKEN_MS, fixed=FIXED_MS, turn_ms=0.0):
    """Step times that are linear in everything, so that the tables are exact."""
    contexts = 2.0 ** (np.arange(OCTAVES * NODES_PER_OCTAVE + 1) / NODES_PER_OCTAVE)
    return StepTimes(
        by_tokens=fixed + token * np.arange(budget + 1.0),
        by_sequences=HEAD_MS * np.arange(cap + 1.0),
        by_context=np.tile(DECODE_MS + READ_MS * contexts, (cap + 1, 1)),
        constants=StepConstants(pair_ms=PAIR_MS, captured_tokens=512.0, turn_ms=turn_ms),
        shares=np.array(shares),
    )


def linear_seconds(*, tokens, sequences, decodes, context, pairs):
    return 1e-3 * (
        FIXED_MS + TOKEN_MS * tokens + HEAD_MS * sequences + DECODE_MS * decodes + READ_MS * context + PAIR_MS * pairs
    )


def traffic(arrival, inputs, outputs, **given_):
    arrival = np.asarray(arrival, dtype=float)
    return Arrivals(
        arrival_s=arrival,
        input_len=np.asarray(inputs, dtype=np.int64),
        output_len=np.asarray(outputs, dtype=np.int64),
        **{"duration_s": float(arrival.max()) + 1.0, **given_},
    )


@st.composite
def cases(draw):
    """Small cases in which everything is scarce: budget, places and blocks; half of them grow out of their blocks."""
    n = draw(st.integers(1, 25))
    grows = draw(st.booleans())
    inputs = draw(st.lists(st.integers(1, 40 if grows else 200), min_size=n, max_size=n))
    outputs = draw(st.lists(st.integers(1, 150 if grows else 60), min_size=n, max_size=n))
    gaps = draw(st.lists(st.floats(0.0, 0.02 if grows else 0.3), min_size=n, max_size=n))
    # Irregular times, so that no arrival coincides with the end of a step in one of the two and not in the other.
    arrival = np.cumsum(np.asarray(gaps) + 1e-5 * np.sqrt(np.arange(1, n + 1)))
    least = max(math.ceil((i + o) / 16) for i, o in zip(inputs, outputs, strict=True))
    stages = draw(st.sampled_from([1, 1, 2, 3]))
    scheduler = Scheduler(
        replicas=draw(st.sampled_from([1, 1, 1, 2, 3])),
        max_num_seqs=draw(st.integers(1, 8)) + 8 * grows,
        max_num_batched_tokens=draw(st.integers(8, 300)),
        kv_blocks=least + draw(st.integers(0, 6 if grows else 12)),
        stages=stages,
        asynchronous=draw(st.booleans()),
        router=draw(st.sampled_from(["round_robin", "least_loaded"])),
        prefix_hit_rate=draw(st.sampled_from([0.0, 0.0, 0.5])),
        front_end_ms=0.0,
        mixes_prompts=draw(st.sampled_from([True, True, False])),
        reserves_outputs=draw(st.sampled_from([False, False, True])),
    )
    concurrency = draw(st.sampled_from([None, None, 1, 4]))
    if concurrency is not None:
        concurrency = min(concurrency, n)
    offered = traffic(
        arrival,
        inputs,
        outputs,
        concurrency=concurrency,
        duration_s=draw(st.sampled_from([0.5, 1e8])) if concurrency else 9.0,
    )
    return offered, scheduler


def turn_of(scheduler):
    """The host's turn of the cases with three stages, longer than a stage takes and shorter than a pass."""
    return 3.0 if scheduler.stages == 3 else 0.0


def times_of(scheduler):
    shares = np.arange(1.0, scheduler.stages + 1)
    turn_ms = turn_of(scheduler)
    return linear_times(
        scheduler.max_num_batched_tokens, scheduler.max_num_seqs, shares=shares / shares.sum(), turn_ms=turn_ms
    )


def plain_engines(scheduler, kind, **given_):
    """One engine of the plain scheduler for each replica."""
    ahead = scheduler.asynchronous and scheduler.stages == 1
    return [
        kind(
            budget=scheduler.max_num_batched_tokens,
            cap=scheduler.max_num_seqs,
            pool=scheduler.kv_blocks,
            depth=2 if ahead else scheduler.stages,
            ahead=ahead,
            stages=times_of(scheduler).shares.tolist(),
            time=linear_seconds,
            turn_ms=turn_of(scheduler),
            **given_,
        )
        for _ in range(scheduler.replicas)
    ]


@settings(deadline=None, max_examples=150)
@given(case=cases())
def test_nothing_is_lost_and_nothing_overflows(case):
    offered, scheduler = case
    found = serve(offered, times_of(scheduler), scheduler, steps_logged=20_000)
    come = len(found)
    outputs = offered.output_len[:come]
    assert come == len(offered) if offered.concurrency is None else come >= offered.concurrency
    assert np.isfinite(found.ttft_ms).all()
    assert found.gaps.sum() == (outputs - 1).sum()  # every token after the first has one gap before it
    assert found.bins[:, 4].sum() == outputs.sum()
    assert found.bins[:, 5].sum() == found.preemptions.sum()
    assert found.log[:, 6].sum() == outputs.sum()
    assert found.most_blocks <= scheduler.kv_blocks
    _, _, begin, end, prefill, decodes, _, running, waiting, blocks = found.log.T
    assert (blocks <= scheduler.kv_blocks).all()
    assert (blocks >= 0).all()
    assert (waiting >= 0).all()
    assert (running <= scheduler.max_num_seqs).all()
    assert (prefill + decodes <= scheduler.max_num_batched_tokens).all()
    assert (end > begin).all()
    if not found.preemptions.any():
        cached = np.minimum((scheduler.prefix_hit_rate * offered.input_len // 16) * 16, offered.input_len - 1)[:come]
        assert prefill.sum() == (offered.input_len[:come] - cached).sum()
        assert decodes.sum() == (outputs - 1).sum()


@settings(deadline=None, max_examples=100)
@given(case=cases())
def test_first_come_first_served(case):
    offered, scheduler = case
    found = serve(offered, times_of(scheduler), scheduler)
    first = found.arrival_s + found.ttft_ms * 1e-3
    for replica in range(scheduler.replicas):
        assert (np.diff(first[found.replica == replica]) >= -1e-9).all()


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(case=cases())
def test_step_by_step_like_the_plain_scheduler(case):
    offered, scheduler = case
    found = serve(offered, times_of(scheduler), scheduler, steps_logged=20_000)
    cached = (scheduler.prefix_hit_rate * offered.input_len // 16).astype(int) * 16
    jobs = [
        reference.Job(number=i, prompt=int(prompt), wanted=int(wanted), cached=min(int(hit), int(prompt) - 1))
        for i, (prompt, wanted, hit) in enumerate(zip(offered.input_len, offered.output_len, cached, strict=True))
    ]
    engines = plain_engines(
        scheduler, reference.Engine, mixes=scheduler.mixes_prompts, reserves=scheduler.reserves_outputs
    )
    known = offered.concurrency or len(offered)
    horizon = offered.duration_s if offered.concurrency else math.inf
    arrivals, places = reference.simulate(
        jobs, offered.arrival_s[:known].tolist(), engines, router=scheduler.router, horizon=horizon
    )
    assert len(found) == len(arrivals)
    assert found.replica.tolist() == places
    assert found.arrival_s == pytest.approx(arrivals, rel=1e-9)
    for i, job in enumerate(jobs[: len(arrivals)]):
        assert found.ttft_ms[i] == pytest.approx(1e3 * (job.tokens[0] - arrivals[i]), rel=1e-6, abs=1e-6)
        assert found.e2e_ms[i] == pytest.approx(1e3 * (job.tokens[-1] - arrivals[i]), rel=1e-6, abs=1e-6)
        assert found.preemptions[i] == sum(engine.preempted.count(i) for engine in engines)
    for replica, engine in enumerate(engines):
        own = found.log[found.log[:, 0] == replica]
        expected = np.array(engine.steps).reshape(-1, 8)
        assert own[:, [1, 3]] == pytest.approx(expected[:, :2], rel=1e-9)
        assert own[:, 4:].tolist() == expected[:, 2:].tolist()


def test_preemption_happens_and_costs_time():
    """Eight sequences that grow to more than the cache holds: some are computed again, and all come out whole."""
    offered = traffic(np.arange(8) * 1e-4, [100] * 8, [300] * 8)
    scarce = Scheduler(replicas=1, max_num_seqs=8, max_num_batched_tokens=1024, kv_blocks=100, front_end_ms=0.0)
    ample = Scheduler(replicas=1, max_num_seqs=8, max_num_batched_tokens=1024, kv_blocks=1000, front_end_ms=0.0)
    times = linear_times(1024, 8)
    short, long = serve(offered, times, ample), serve(offered, times, scarce)
    assert short.preemptions.sum() == 0
    assert long.preemptions.sum() > 0
    assert long.end_s > short.end_s
    assert long.gaps.sum() == short.gaps.sum() == 8 * 299


def test_one_request_takes_its_passes():
    scheduler = Scheduler(replicas=1, max_num_seqs=4, max_num_batched_tokens=64, kv_blocks=100, front_end_ms=2.0)
    found = serve(traffic([0.5], [100], [4]), linear_times(64, 4), scheduler)
    chunks = [
        linear_seconds(tokens=64, sequences=0, decodes=0, context=0, pairs=64 * 65 / 2),
        linear_seconds(tokens=36, sequences=1, decodes=0, context=0, pairs=64 * 36 + 36 * 37 / 2),
    ]
    decodes = [linear_seconds(tokens=1, sequences=1, decodes=1, context=c, pairs=0) for c in (101, 102, 103)]
    assert found.ttft_ms[0] == pytest.approx(2.0 + 1e3 * sum(chunks))
    assert found.e2e_ms[0] == pytest.approx(2.0 + 1e3 * (sum(chunks) + sum(decodes)))
    assert found.tpot_ms[0] == pytest.approx(1e3 * np.mean(decodes))
    assert found.longest_itl_ms[0] == pytest.approx(1e3 * max(decodes))
    assert found.percentile("itl_ms", 50) == pytest.approx(1e3 * decodes[1], rel=0.006)


def test_a_pipeline_overlaps_its_batches():
    """Two stages with enough sequences do nearly twice the steps of one pass after another."""
    n = 64
    offered = traffic(np.zeros(n), [16] * n, [200] * n)
    scheduler = Scheduler(replicas=1, max_num_seqs=n, max_num_batched_tokens=16 * n // 2, kv_blocks=4000, stages=2)
    half = linear_times(16 * n // 2, n, shares=(0.5, 0.5))
    whole = linear_times(16 * n // 2, n, shares=(1.0, 0.0))
    assert serve(offered, whole, scheduler).end_s / serve(offered, half, scheduler).end_s == pytest.approx(
        2.0, rel=0.05
    )


def test_a_round_lasts_as_many_turns_of_the_host_as_there_are_micro_batches():
    """Where the GPUs are faster, the time of a token is that of the turns."""
    n, turn_ms = 64, 10.0
    offered = traffic(np.zeros(n), [16] * n, [200] * n)
    scheduler = Scheduler(replicas=1, max_num_seqs=n, max_num_batched_tokens=16 * n // 2, kv_blocks=4000, stages=2)
    slow = serve(offered, linear_times(16 * n // 2, n, shares=(0.5, 0.5), turn_ms=turn_ms), scheduler)
    assert np.median((slow.e2e_ms - slow.ttft_ms) / 199) == pytest.approx(2 * turn_ms, rel=0.01)
    turn_ms = 0.1  # which the GPUs outlast
    quick = serve(offered, linear_times(16 * n // 2, n, shares=(0.5, 0.5), turn_ms=turn_ms), scheduler)
    without = serve(offered, linear_times(16 * n // 2, n, shares=(0.5, 0.5)), scheduler)
    assert quick.end_s == pytest.approx(without.end_s, rel=1e-9)


def test_asynchronous_scheduling_costs_a_step_of_waiting():
    """A request that comes while a step runs waits for the one already scheduled too."""
    outputs = [400, 1]
    for asynchronous in (False, True):
        scheduler = Scheduler(
            replicas=1,
            max_num_seqs=4,
            max_num_batched_tokens=512,
            kv_blocks=400,
            asynchronous=asynchronous,
            front_end_ms=0.0,
        )
        found = serve(traffic([0.0, 1.0], [16, 16], outputs), linear_times(512, 4), scheduler, steps_logged=1000)
        begun = found.log[found.log[:, 4] == 16][1, 2] - 1.0
        step = np.median(np.diff(found.log[:, 3]))
        assert (begun > step) == asynchronous


def one_at_a_time(lengths, rate, seed, service_ms):
    """A queue in front of one server: one sequence at a time, one token each, so a request is one step."""
    random = np.random.default_rng(seed)
    arrival = np.cumsum(random.exponential(1 / rate, len(lengths)))
    budget = int(lengths.max())
    scheduler = Scheduler(
        replicas=1, max_num_seqs=1, max_num_batched_tokens=budget, kv_blocks=budget // 16 + 2, front_end_ms=0.0
    )
    times = StepTimes(
        by_tokens=service_ms * np.arange(budget + 1.0) / lengths.mean(),
        by_sequences=np.zeros(2),
        by_context=np.zeros((2, 90)),
        constants=StepConstants(captured_tokens=512.0),
        shares=np.ones(1),
    )
    return serve(traffic(arrival, lengths, np.ones(len(lengths))), times, scheduler)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_equal_requests_queue_as_m_d_1(load):
    """Mean wait rho S / (2 (1 - rho)) (Pollaczek and Khinchine)."""
    service = 10.0
    found = one_at_a_time(np.full(400_000, 64), load / service * 1e3, 1, service)
    assert found.ttft_ms.mean() - service == pytest.approx(load * service / (2 * (1 - load)), rel=0.02)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_exponential_requests_queue_as_m_m_1(load):
    """Mean wait rho S / (1 - rho), and times in the system are exponential."""
    service = 10.0
    lengths = np.maximum(np.rint(np.random.default_rng(5).exponential(1000.0, 400_000)), 1).astype(int)
    found = one_at_a_time(lengths, load / service * 1e3, 1, service)
    assert found.ttft_ms.mean() == pytest.approx(service / (1 - load), rel=0.03)
    assert np.percentile(found.ttft_ms, 95) == pytest.approx(math.log(20) * service / (1 - load), rel=0.04)


def test_saturation_is_the_server_s_pace():
    """One sequence at a time of one step each: as many a second as steps."""
    scheduler = Scheduler(replicas=2, max_num_seqs=1, max_num_batched_tokens=64, kv_blocks=10)
    step = linear_seconds(tokens=64, sequences=1, decodes=0, context=0, pairs=64 * 65 / 2)
    found = saturation_rate(traffic([0.0], [64], [1]), linear_times(64, 1), scheduler)
    assert found == pytest.approx(2 / step, rel=0.15)  # few are counted: 12 a place


@pytest.mark.parametrize(("stages", "replicas", "blocks"), [(1, 1, 40), (3, 1, 500), (1, 2, 30)])
def test_saturation_is_that_of_the_whole_queue_served(stages, replicas, blocks):
    scheduler = Scheduler(replicas=replicas, max_num_seqs=8, max_num_batched_tokens=64, kv_blocks=blocks, stages=stages)
    lengths = np.random.default_rng(3).integers(1, 90, (2, 50))
    times = linear_times(64, 8, shares=(1.0 / stages,) * stages)
    count = TURNS * scheduler.max_num_seqs * replicas
    whole = traffic([0.0] * count, *(np.resize(tokens, count) for tokens in lengths))
    ends = np.sort(serve(whole, times, scheduler).e2e_ms)
    first, last = count // 4, 3 * count // 4
    found = saturation_rate(traffic([0.0] * 50, *lengths), times, scheduler)
    assert found == pytest.approx((last - first) / (ends[last] - ends[first]) * 1e3, rel=1e-12)


def test_without_a_folder_for_it_nothing_is_kept_and_all_works(monkeypatch):
    """numba refuses ``cache=True`` where neither the package's folder nor the user's can be written."""
    real = compilation.numba.njit

    def njit(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'half': no locator available for file")
        return real(**options)

    monkeypatch.setattr(compilation.numba, "njit", njit)
    assert compilation.compiled(lambda x: x / 2)(3.0) == 1.5


def test_the_random_cases_preempt_and_chunk():
    """The agreement above would say little if nothing ever ran short."""
    seen = {"preempted": 0, "chunked": 0, "queued": 0}

    @settings(max_examples=60, database=None, derandomize=True)
    @given(case=cases())
    def look(case):
        offered, scheduler = case
        found = serve(offered, times_of(scheduler), scheduler, steps_logged=20_000)
        seen["preempted"] += bool(found.preemptions.any())
        seen["chunked"] += bool((offered.input_len > scheduler.max_num_batched_tokens).any())
        seen["queued"] += bool((found.log[:, 8] > 0).any())

    look()
    assert min(seen.values()) >= 5, seen
