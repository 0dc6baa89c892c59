"""The loops of benchmark clients: how many requests, how long, what is measured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.simulator.benchmark_client import CLIENT_NAMES, BenchmarkClient, client_loop, find_client
from advisor.simulator.simulation import simulate
from catalog.errors import InputError
from catalog.schema import Deployment, Workload

SMALL = Deployment(max_num_seqs=64, max_num_batched_tokens=2048, max_model_len=8192)


def served(client, concurrency=16, **options):
    workload = Workload(concurrency=concurrency, input_len=512, output_len=64)
    chosen = {"deployment": SMALL, "workload": workload, "draws": 0, "client": client}
    return simulate("llama-3.1-8b", "H200", **chosen | options)


def test_every_request_of_the_client_is_measured_and_no_other():
    answer = served(BenchmarkClient(name="own", prompts=200))
    assert len(answer.served) == 200
    assert answer.served.counted.all()
    ends = [row["arrival_s"] + row["e2e_ms"] / 1e3 for row in answer.requests()]
    assert answer.duration_s == pytest.approx(max(ends), abs=0.01)
    assert answer.completed_s == pytest.approx(200 / answer.duration_s)
    assert answer.output_tok_s == pytest.approx(200 * 64 / answer.duration_s)
    assert answer.metrics["ttft_ms"]["mean"] == pytest.approx(
        np.mean([row["ttft_ms"] for row in answer.requests()]), abs=0.01
    )


def test_requests_in_flight_are_as_many_as_stated_and_the_first_come_at_once():
    rows = list(served(BenchmarkClient(name="own", prompts=150, length_ratio=0.5)).requests())
    come = np.array([row["arrival_s"] for row in rows])
    gone = come + np.array([row["e2e_ms"] for row in rows]) / 1e3
    assert (come[:16] == 0).all()
    assert (come[16:] > 0).all()
    for moment in come[16:]:
        assert np.sum((come <= moment) & (gone > moment + 1e-5)) <= 16


def test_the_burst_makes_the_first_token_later_than_a_settled_loop_has_it():
    recipe = find_client("inferencex")
    burst = served(recipe, 64).metrics["ttft_ms"]["mean"]
    settled = served(None, 64, spread=0.1, duration_s=30.0).metrics["ttft_ms"]["mean"]
    assert burst > 1.3 * settled


def test_a_run_of_as_many_prompts_as_are_in_flight_is_one_batch():
    answer = served(BenchmarkClient(name="own", prompts=16))
    assert {row["arrival_s"] for row in answer.requests()} == {0.0}
    assert answer.metrics["ttft_ms"]["p99"] > 2 * min(row["ttft_ms"] for row in answer.requests())


def test_a_client_that_time_ends_measures_what_is_answered_by_then():
    answer = served("guidellm", duration_s=10.0)
    ends = np.array([row["arrival_s"] + row["e2e_ms"] / 1e3 for row in answer.requests()])
    assert answer.completed_s == pytest.approx(np.sum(ends <= 10.0) / 10.0)
    assert answer.served.counted.sum() == np.sum(ends <= 10.0) < len(ends)


def test_intervals_hold_what_is_told_and_slower_draws_are_served_to_the_end():
    answer = served(BenchmarkClient(name="own", prompts=100), draws=4)
    for statistic in ("mean", "p50", "p95"):
        low, high = answer.interval("ttft_ms", statistic)
        assert low < answer.metrics["ttft_ms"][statistic] < high
    low, high = answer.interval("completed_s")
    assert low < answer.completed_s < high


@settings(max_examples=40, deadline=None)
@given(
    ratio=st.floats(0, 1),
    prompts=st.integers(1, 300),
    concurrency=st.integers(1, 100),
    lengths=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
)
def test_lengths_lie_between_the_stated_share_and_all(ratio, prompts, concurrency, lengths):
    workload = Workload(input_len=lengths[0], output_len=lengths[1], concurrency=concurrency)
    loop = client_loop(
        workload, BenchmarkClient(name="own", prompts=prompts, length_ratio=ratio), duration_s=1.0, longest=6000
    )
    assert len(loop) == prompts
    for drawn, most in ((loop.input_len, lengths[0]), (loop.output_len, lengths[1])):
        assert drawn.max() <= most
        assert drawn.min() >= max(1, ratio * most - 1e-6)


@pytest.mark.parametrize("name", CLIENT_NAMES)
def test_a_client_that_is_shipped_says_where_its_rule_is_from(name):
    client = find_client(name)
    assert name.split("x")[0] in client.source.casefold()
    assert client.count(8) is None or client.count(8) >= 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"client": "vlm"}, "must be one of vllm, sglang"),
        ({"client": "vllm", "workload": Workload(rate=3.0)}, "how many with a concurrency"),
        ({"client": "vllm", "spread": 0.3}, "length_ratio in place of a spread"),
    ],
)
def test_what_no_client_does_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        served(**{"client": None} | options)


def test_numbers_of_a_client_are_checked():
    with pytest.raises(InputError, match="from 0 to 1"):
        find_client("vllm", length_ratio=1.5)
    with pytest.raises(InputError, match="prompts"):
        find_client("vllm", prompts=0)
