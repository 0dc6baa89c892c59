"""LoRA adapters in the scheduler's loop: slots, cold loads, and the plain case."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor import Deployment, InputError, simulate
from advisor.cli.pools import changed
from advisor.simulator.adapter_terms import AdapterTerms, popularity
from advisor.simulator.scheduler import Scheduler, saturation_rate, serve
from catalog.features import Adapters
from catalog.schema import Workload
from tests.advisor.simulator.test_scheduler_loop import cases, linear_times, times_of, traffic

AMPLE = Scheduler(replicas=1, max_num_seqs=64, max_num_batched_tokens=4096, kv_blocks=4000, front_end_ms=0.0)


def terms(number=8, slots=2, cpu_slots=4, cpu_s=0.01, disk_s=0.05, **given_):
    costs = {"pass_s": 0.0, "token_s": 0.0, "adapter_s": 0.0} | given_
    return AdapterTerms(
        popularity=popularity(number, 1.0),
        slots=slots,
        cpu_slots=cpu_slots,
        cpu_s=cpu_s,
        disk_s=disk_s,
        gib=0.0,
        **costs,
    )


@settings(deadline=None, max_examples=100)
@given(case=cases(), number=st.integers(1, 6), slots=st.integers(1, 4))
def test_no_request_is_lost(case, number, slots):
    offered, scheduler = case
    scheduler = replace(scheduler, mixes_prompts=True, adapters=terms(number, min(slots, number), slots + 1))
    found = serve(offered, times_of(scheduler), scheduler)
    assert len(found) == len(offered) if offered.concurrency is None else len(found) >= offered.concurrency
    assert np.isfinite(found.ttft_ms).all()
    assert found.bins[:, 4].sum() == offered.output_len[: len(found)].sum()
    # those that were preempted come back, but where their last token was on its way
    assert len(found) <= sum(found.adapter_loads) <= len(found) + found.preemptions.sum()


@settings(deadline=None, max_examples=50)
@given(case=cases())
def test_one_adapter_that_costs_nothing_is_the_plain_case(case):
    offered, scheduler = case
    scheduler = replace(scheduler, mixes_prompts=True)
    times = times_of(scheduler)
    plain = serve(offered, times, scheduler)
    free = serve(offered, times, replace(scheduler, adapters=terms(1, 1, 1, cpu_s=0.0, disk_s=0.0)))
    for name in ("ttft_ms", "e2e_ms", "gaps", "bins"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(free, name))
    assert plain.adapter_loads == ()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), number=st.integers(2, 6))
def test_more_slots_never_wait_more(seed, number):
    random = np.random.default_rng(seed)
    offered = traffic(np.cumsum(random.exponential(0.02, 40)), random.integers(10, 60, 40), random.integers(2, 30, 40))
    times = linear_times(4096, 64, token=0.0)
    waits = [
        serve(
            offered, times, replace(AMPLE, adapters=terms(number, slots, number, cpu_s=0.0, disk_s=0.0))
        ).ttft_ms.mean()
        for slots in range(1, number + 1)
    ]
    plain = serve(offered, times, AMPLE).ttft_ms.mean()
    assert all(after <= before * (1.0 + 1e-9) + 1.0 for before, after in itertools.pairwise(waits))
    assert waits[-1] == pytest.approx(plain)


def test_requests_of_other_adapters_wait_and_later_ones_of_those_that_run_pass_them():
    offered = traffic(np.arange(12) * 1e-3, [20] * 12, [40] * 12)
    alone = serve(offered, linear_times(4096, 64), replace(AMPLE, adapters=terms(4, 1, 4, cpu_s=0.0, disk_s=0.0)))
    free = serve(offered, linear_times(4096, 64), AMPLE)
    assert alone.ttft_ms.max() > 3 * free.ttft_ms.max()
    assert (np.diff(alone.ttft_ms + 1e3 * offered.arrival_s) < 0).any()


def test_cold_loads_delay_their_step_and_are_counted():
    offered = traffic(np.arange(30) * 2.0, [20] * 30, [5] * 30)
    times = linear_times(4096, 64)
    served = serve(offered, times, replace(AMPLE, adapters=terms(6, 1, 2)))
    plain = serve(offered, times, AMPLE)
    resident, from_cpu, from_disk = served.adapter_loads
    assert resident + from_cpu + from_disk == 30
    assert min(served.adapter_loads) > 0
    later = served.ttft_ms - plain.ttft_ms
    expected = 1e3 * (0.01 * (from_cpu + from_disk) + 0.05 * from_disk)
    assert later.sum() == pytest.approx(expected)


def test_kernels_cost_by_tokens_and_adapters():
    offered = traffic([0.0], [100], [20])
    times = linear_times(4096, 64)
    plain = serve(offered, times, AMPLE)
    costs = {"pass_s": 1e-3, "token_s": 1e-5, "adapter_s": 2e-3}
    dear = serve(offered, times, replace(AMPLE, adapters=terms(3, 2, 2, cpu_s=0.0, disk_s=0.0, **costs)))
    assert dear.e2e_ms - plain.e2e_ms == pytest.approx(1e3 * (20 * 3e-3 + 1e-5 * (100 + 19)))


def test_popularity_is_zipf_s():
    assert popularity(4, 0.0) == pytest.approx([0.25, 0.5, 0.75, 1.0])
    shares = np.diff(popularity(10, 1.0), prepend=0.0)
    assert shares[0] / shares[4] == pytest.approx(5.0)


def test_slots_are_in_the_rate_that_saturates():
    come, times = traffic([0.0], [100], [40]), linear_times(4096, 64)

    def rate(slots):
        free = {"cpu_s": 0.0, "disk_s": 0.0}
        return saturation_rate(come, times, replace(AMPLE, adapters=terms(20, slots, 20, **free)))

    rates = [rate(slots) for slots in (1, 4, 20)]
    plain = saturation_rate(come, times, AMPLE)
    assert rates[0] < 0.9 * rates[1] < 0.9 * rates[2]
    assert rates[2] == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize(("slots", "short"), [(1, True), (4, False)])
def test_what_limits_is_named(slots, short):
    served = simulate(
        "llama-3.1-8b",
        "H100",
        deployment=Deployment(adapters=Adapters(number=4, max_loras=slots)),
        workload=Workload(concurrency=16),
        duration_s=10.0,
        draws=0,
    )
    assert any("--max-loras" in note.text and note.kind == "warning" for note in served.notes) == short


def test_slots_can_be_compared():
    base = Deployment(adapters=Adapters(number=50, max_loras=8, max_cpu_loras=12))
    adapters = changed(base, "max_loras=16")[0].adapters
    assert adapters is not None
    assert (adapters.number, adapters.max_loras, adapters.max_cpu_loras) == (50, 16, 16)
    with pytest.raises(InputError, match="--lora-adapters"):
        changed(Deployment(), "max_loras=16")
