"""Ranks that share experts go in step: laws of the step, and what was measured of two of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor import simulate
from advisor.simulator import step_table
from advisor.simulator.scheduler import Scheduler, saturation_rate, serve
from advisor.simulator.server import AggregatedServer
from catalog.requests import read_requests
from catalog.runs import read_runs
from catalog.schema import Deployment, Workload
from tests.advisor.simulator.test_scheduler_loop import linear_times, traffic

MEASURED = Path(__file__).parents[3] / "benchmarks" / "measured"
BUDGET, CAP = 256, 6


def shared_times(group_ms):
    """Step times of which ``group_ms`` for each token are those of shared experts."""
    times = linear_times(BUDGET, CAP)
    return replace(times, by_group=group_ms * np.arange(BUDGET + 1.0))


@st.composite
def offered(draw, most=15):
    n = draw(st.integers(1, most))
    gaps = draw(st.lists(st.floats(0.0, 0.1), min_size=n, max_size=n))
    lengths = st.lists(st.integers(1, 200), min_size=n, max_size=n)
    return traffic(np.cumsum(np.asarray(gaps) + 1e-5 * np.sqrt(np.arange(1, n + 1))), draw(lengths), draw(lengths))


def scheduler_of(replicas, ranks, **given_):
    return Scheduler(
        replicas=replicas,
        ranks=ranks,
        max_num_seqs=CAP,
        max_num_batched_tokens=BUDGET,
        kv_blocks=30,
        front_end_ms=0.0,
        **given_,
    )


@settings(deadline=None, max_examples=60)
@given(come=offered(), ranks=st.integers(2, 4), asynchronous=st.booleans())
def test_ranks_that_do_the_same_take_as_long_as_one_alone(come, ranks, asynchronous):
    plain = serve(come, linear_times(BUDGET, CAP), scheduler_of(1, 1, asynchronous=asynchronous))
    copies = [np.repeat(each, ranks) for each in (come.arrival_s, come.input_len, come.output_len)]
    together = serve(
        traffic(*copies, duration_s=come.duration_s),
        shared_times(0.0),
        scheduler_of(ranks, ranks, asynchronous=asynchronous),
    )
    for rank in range(ranks):
        np.testing.assert_allclose(together.ttft_ms[rank::ranks], plain.ttft_ms, rtol=1e-9)
        np.testing.assert_allclose(together.e2e_ms[rank::ranks], plain.e2e_ms, rtol=1e-9)


@settings(deadline=None, max_examples=60)
@given(come=offered(), groups=st.integers(1, 2), ranks=st.integers(2, 3), asynchronous=st.booleans())
def test_no_two_steps_of_a_group_overlap_and_nothing_is_lost(come, groups, ranks, asynchronous):
    scheduler = scheduler_of(groups * ranks, ranks, asynchronous=asynchronous)
    served = serve(come, shared_times(0.01), scheduler, steps_logged=20_000)
    assert len(served) == len(come)
    assert served.log[:, 6].sum() == come.output_len.sum()
    for group in range(groups):
        rows = served.log[served.log[:, 0] // ranks == group]
        steps = np.unique(rows[:, 2:4], axis=0)
        assert (steps[1:, 0] >= steps[:-1, 1]).all()
        assert (steps[:, 1] > steps[:, 0]).all()
        for rank in range(ranks):  # each takes part in a step once
            own = rows[rows[:, 0] == group * ranks + rank]
            assert len(np.unique(own[:, 2])) == len(own)


def test_experts_take_the_tokens_of_all_ranks():
    """A rank that decodes beside another's prompt waits for it, and the experts see the mean of both."""
    times = shared_times(0.5)
    come = traffic([0.0, 0.0], [200, 200], [1, 1], duration_s=1.0)
    one = serve(traffic([0.0], [200], [1], duration_s=1.0), times, scheduler_of(2, 2))
    both = serve(come, times, scheduler_of(2, 2))
    captured = replace(times, constants=times.constants._replace(captured_tokens=0.0))
    assert one.ttft_ms[0] == pytest.approx(both.ttft_ms[0])  # padded to the rank with most
    less = serve(traffic([0.0], [200], [1], duration_s=1.0), captured, scheduler_of(2, 2))
    assert both.ttft_ms[0] - less.ttft_ms[0] == pytest.approx(0.5 * 100)


def test_the_tables_part_what_is_shared_and_sum_to_the_whole(monkeypatch):
    def server(**layout):
        return simulated_server("qwen3-30b-a3b", "2xH200", **layout)

    together = server(dp=2, ep=2)
    parted = together.times(together.beliefs(0)[0])
    with monkeypatch.context() as patch:
        patch.setattr(step_table, "go_in_step", lambda _: False)
        whole = together.times(together.beliefs(0)[0])
    np.testing.assert_allclose(parted.by_tokens + parted.by_group, whole.by_tokens, rtol=1e-9)
    assert (parted.by_group > 0).all()
    for layout in ({}, {"dp": 2}, {"tp": 2, "ep": 2}):  # attention data parallel of one rank is the plain case
        plain = server(**layout)
        assert plain.scheduler.ranks == 1
        assert not len(plain.times(plain.beliefs(0)[0]).by_group)


def simulated_server(model, gpus, **layout):
    from advisor.prediction.evidence import Evidence
    from catalog.gpus import parse_cluster
    from catalog.models.find import find_model

    cluster = parse_cluster(gpus).value
    evidence = Evidence.of(None, engine="vllm", gpu=cluster.gpu)
    return AggregatedServer.of(find_model(model).value, cluster, Deployment(max_num_seqs=64, **layout), evidence, {})


def test_tensorrt_llm_aligns_prompts():
    served = simulate(
        "qwen3-30b-a3b",
        "2xH200",
        deployment=Deployment(engine="tensorrt-llm", dp=2, ep=2),
        workload=Workload(rate=2.0),
        duration_s=10.0,
        draws=0,
    )
    assert any("each went on alone" in note.text for note in served.notes)


def test_saturation_counts_steps_that_are_taken_together():
    come = traffic([0.0], [100], [20], duration_s=1.0)
    alone = saturation_rate(come, linear_times(BUDGET, CAP), scheduler_of(3, 1))
    together = saturation_rate(come, shared_times(0.0), scheduler_of(3, 3))
    assert 0.5 * alone < together <= alone * 1.001


@pytest.mark.parametrize("name", ["olmoe-1b-7b", "qwen3-30b-a3b"])
def test_gaps_are_those_of_ranks_that_wait_for_each_other(name):
    """With 8 in flight on each of two ranks, 15 of 255 steps hold another request's prompt, 7 of them on the own rank: one step in
    20 is much longer only where ranks wait for each other's prompts, as was measured.
    """
    run_id = f"h200-vllm0.33-serving-{name}-dp2-c16-i1024-o256"
    (run,) = (each for each in read_runs(MEASURED / "vllm_0.33_h200_layouts_runs.csv") if each.run_id == run_id)
    requests = [
        each for each in read_requests(MEASURED / "vllm_0.33_h200_layouts_requests.csv") if each.run_id == run_id
    ]
    assert np.mean([each.itl_p95_ms / each.itl_p50_ms for each in requests]) > 3.0
    gaps = {}
    for ep in (1, 2):
        gaps[ep] = simulate(
            run.model,
            "2xH200",
            deployment=replace(run.deployment, ep=ep, max_model_len=4096, gpu_memory_utilization=0.9),
            workload=Workload(input_len=1024, output_len=256, concurrency=16),
            duration_s=30.0,
            draws=0,
        ).metrics["itl_ms"]
    assert gaps[2]["p95"] > 2.0 * gaps[2]["p50"]
    assert gaps[1]["p95"] < 1.5 * gaps[1]["p50"]
