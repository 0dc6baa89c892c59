"""Workloads as people say them: uses, users, dicts and text with units."""

import math

import numpy as np
import pytest

import advisor
from advisor.prediction.demand import read_demand
from catalog.uses import all_uses, find_use


@pytest.mark.parametrize("use", all_uses(), ids=lambda use: use.name)
def test_a_use_fills_what_is_not_stated_and_says_so(use):
    demand = read_demand(flags={"use": use.name, "input_len": "2k"})
    assert (demand.workload.input_len, demand.workload.output_len) == (2000, use.output_len)
    assert (demand.slo.ttft_ms, demand.slo.tpot_ms) == (use.ttft_ms, use.tpot_ms)
    assert any(use.name in note.text and use.source in note.text for note in demand.notes)
    assert demand.spread(None) == use.spread
    assert demand.spread(0.3) == 0.3


def test_limits_that_are_stated_leave_none_of_the_use():
    demand = read_demand(flags={"use": "chat", "tpot": "30ms"})
    assert demand.slo.limits == {"tpot_ms": 30.0}


def test_users_come_at_most_once_a_think_time():
    demand = read_demand(flags={"users": 1000, "think_time": "50s"})
    assert demand.workload.rate == pytest.approx(20.0)
    assert any("1000 users" in note.text for note in demand.notes)


def test_users_in_the_steady_state_follow_littles_law():
    demand = read_demand(flags={"users": 600, "think_time": 50, "e2e": "10s"}, steady=True)
    assert demand.workload.concurrency == 100
    chat = find_use("chat")
    demand = read_demand(flags={"users": 1000, "use": "chat"}, steady=True)
    answer_s = (chat.ttft_ms + chat.tpot_ms * (chat.output_len - 1)) / 1e3
    assert demand.workload.concurrency == math.ceil(1000 * answer_s / (answer_s + chat.think_time_s))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"users": 10}, "think time"),
        ({"users": 10, "think_time": 5, "concurrency": 3}, "users already"),
        ({"think_time": 5}, "users"),
        ({"use": "chatt"}, "chat"),
        ({"tpott": 5}, "tpot"),
        ({"ttft": "fast"}, "200ms"),
        ({"users": 0, "think_time": 5}, "above 0"),
        ({"users": 1, "think_time": 5, "tpot": "-inf"}, "tpot_ms is -inf; it must be a number above 0"),
    ],
)
def test_what_contradicts_itself_is_refused(flags, message):
    with pytest.raises(advisor.InputError, match=message):
        read_demand(flags=flags)


def test_users_without_limits_need_one_in_the_steady_state():
    with pytest.raises(advisor.InputError, match="--tpot"):
        read_demand(flags={"users": 10, "think_time": 5}, steady=True)


def test_dicts_and_objects_are_one():
    asked = read_demand({"isl": "2k", "output_len": 64}, {"tpot": "50ms", "ttft_ms": 300, "percentile": 95})
    assert asked.workload == advisor.Workload(input_len=2000, output_len=64)
    assert asked.slo == advisor.Slo(tpot_ms=50.0, ttft_ms=300.0, percentile=95)
    with pytest.raises(advisor.InputError, match="output_len"):
        read_demand({"output_length": 64})
    with pytest.raises(advisor.InputError, match="must be an Slo"):
        read_demand(None, 50)


def test_requests_of_a_trace_count_by_their_means(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("prompt_tokens,completion_tokens\n100,10\n300,30\n")
    from advisor.simulator.trace_files import TraceFile

    requests = advisor.read_trace(TraceFile(path=path, timed=False))
    assert np.array_equal(requests.input_len, [100, 300])
    demand = read_demand(requests)
    assert (demand.workload.input_len, demand.workload.output_len) == (200, 20)
    assert any("330 together" in note.text for note in demand.notes)


def test_recommend_takes_flags_dicts_and_text():
    flags = advisor.recommend("llama-3.1-8b", "1xH100", input_len=512, output_len=128, tpot="30ms", runs=[])
    objects = advisor.recommend(
        "llama-3.1-8b",
        "1xH100",
        workload={"input_len": 512, "output_len": 128},
        slo={"tpot": 30},
        runs=[],
        dtypes="auto",
    )
    assert flags.best == objects.best
    assert flags.slo.tpot_ms == 30.0
