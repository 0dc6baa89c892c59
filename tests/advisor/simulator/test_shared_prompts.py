"""``advisor.simulate`` of requests that have something in common: hit rates come out, and what cannot be asked is refused."""

import json

import numpy as np
import pytest

from advisor.cli.options.workload import SimulatedTraffic
from advisor.render.answers.simulation import comparison_columns, document, simulation_row
from advisor.simulator.simulation import simulate
from benchmarks import prefix_caches
from catalog.errors import InputError
from catalog.schema import Deployment, Workload

SMALL = Deployment(max_num_seqs=64, max_num_batched_tokens=2048, max_model_len=8192)
CHAT = {"shared_prefix": 800, "turns": 4, "think_time": 3.0}


def served(**given):
    wanted = {
        "deployment": SMALL,
        "workload": Workload(rate=8.0, input_len=128, output_len=64),
        "duration_s": 60.0,
        "draws": 0,
    }
    return simulate("llama-3.1-8b", given.pop("gpus", "4xH200"), **wanted | given)


def test_hits_come_out_and_requests_are_faster_for_them():
    cached, plain = served(**CHAT), served(**CHAT, enable_prefix_caching=False)
    assert 0.75 < cached.hit_rate < 0.95
    assert plain.hit_rate == 0.0
    assert cached.metrics["ttft_ms"]["p50"] < 0.6 * plain.metrics["ttft_ms"]["p50"]
    assert cached.saturation_s > 2 * plain.saturation_s
    assert served().hit_rate is None


def test_the_hit_rate_has_an_interval_and_is_told():
    answer = served(**CHAT, draws=2)
    low, high = answer.interval("hit_rate")
    assert 0 < low <= answer.hit_rate <= high < 1
    told = answer.to_dict()
    assert told["intervals"]["hit_rate"] == [low, high]
    assert told["hit_rate"] == simulation_row(answer)["hit_rate"] == answer.hit_rate
    assert f"{answer.hit_rate:.1%}" in str(document([answer]).sections[0].lines)


def test_a_router_that_knows_the_caches_hits_more():
    replicas = Deployment(**{name: getattr(SMALL, name) for name in ("max_num_seqs", "max_model_len")}, dp=4)
    rates = {
        router: served(deployment=replicas, router=router, **CHAT).hit_rate
        for router in ("round_robin", "prefix_aware", "session_sticky")
    }
    assert min(rates["prefix_aware"], rates["session_sticky"]) > rates["round_robin"] + 0.1


def test_a_shared_prefix_is_before_every_request():
    for workload in (
        Workload(rate=8.0, input_len=128, output_len=64),
        Workload(concurrency=16, input_len=128, output_len=64),
    ):
        answer = served(workload=workload, shared_prefix=512, duration_s=20.0)
        assert (answer.served.input_len == 640).all()
        assert answer.hit_rate == pytest.approx(0.8, abs=0.03)


def test_a_pool_for_prompts_has_a_cache_too():
    other = Deployment(max_num_seqs=64, max_num_batched_tokens=2048, max_model_len=8192)
    answer = served(shared_prefix=1024, prefill=other)
    assert answer.hit_rate == pytest.approx(1024 / 1152, abs=0.02)
    with pytest.raises(InputError, match="wait for no other"):
        served(**CHAT, prefill=other)


def test_sessions_of_a_file_are_served(tmp_path):
    path = tmp_path / "sessions.jsonl"
    turn = {"input_len": 100, "output_len": 20, "wait_s": 1.0}
    path.write_text("\n".join(json.dumps({"start_s": float(i), "turns": [turn] * 3}) for i in range(20)))
    answer = served(sessions=path, workload=None)
    assert len(answer.served) == 60
    assert answer.hit_rate == pytest.approx((112 + 224) / (100 + 220 + 340), abs=0.01)
    assert served(sessions=path, workload=Workload(rate=30.0)).rate > 10 * answer.rate / 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"turns": 3, "prefix_hit_rate": 0.5}, "leave out prefix_hit_rate"),
        ({"turns": 3, "curve": [1.0, 2.0]}, "a curve of the rate"),
        ({"shared_prefix": 8100}, "longer than the 8192 tokens"),
        ({"sessions": "none.jsonl", "turns": 2}, "a file of sessions says what prompts have in common"),
        ({"sessions": "none.jsonl", "workload": None}, "cannot read the sessions none.jsonl"),
        ({"sessions": "none.jsonl", "trace": "trace.csv"}, "leave out the trace"),
        ({"turns": 3, "client": "vllm", "workload": Workload(concurrency=4)}, "leave out turns and sessions"),
        ({"router": "sticky"}, "power_of_two"),
    ],
)
def test_what_cannot_be_asked_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        served(**given)


def test_the_options_are_the_keywords():
    keywords = SimulatedTraffic(
        turns=3, think_time=2.0, shared_prefix=5, num_prefixes=2, enable_prefix_caching=False
    ).keywords()
    assert keywords["think_time"] == 2.0
    assert keywords["enable_prefix_caching"] is False
    assert (keywords["turns"], keywords["shared_prefix"], keywords["num_prefixes"]) == (3, 5, 2)


def test_hit_tokens_are_those_that_vllm_counts():
    """Measured conversations: system prompts, turns, and more prompts than the cache holds."""
    runs = list(prefix_caches.measured())
    assert sum(len(run.rows) for run in runs) == 931
    for run in runs:
        ours = prefix_caches.served(run)
        assert int(ours.cached.sum()) == pytest.approx(run.hits, rel=prefix_caches.MOST_OFF), run.name
        alike = np.sort(ours.cached) == np.sort(run.column("cached_tokens"))
        assert alike.mean() > 0.95, run.name


def test_routers_and_caches_stand_side_by_side():
    replicas = Deployment(max_num_seqs=64, max_model_len=8192, dp=4)
    answers = [
        served(deployment=replicas, **CHAT, **other)
        for other in ({}, {"router": "prefix_aware"}, {"enable_prefix_caching": False})
    ]
    names = {column.name: list(column.cells) for column in comparison_columns(answers)}
    assert names["router"] == ["round_robin", "prefix_aware", "round_robin"]
    assert names["prefix cache"] == ["on", "on", "off"]
    assert answers[1].saturation_s > 1.1 * answers[0].saturation_s > 1.1 * answers[2].saturation_s


def test_a_cache_of_windows_or_states_is_warned_about():
    def warned(model):
        workload = Workload(rate=4.0, input_len=64, output_len=16)
        answer = simulate(model, "H200", workload=workload, shared_prefix=256, duration_s=5.0, draws=0)
        return any("as if all were full attention" in note.text for note in answer.notes)

    assert warned("gemma-3-4b")
    assert not warned("llama-3.1-8b")


def test_a_loop_of_sessions_keeps_requests_in_flight_and_each_waits_for_its_user():
    answer = served(workload=Workload(concurrency=16, input_len=128, output_len=64), **CHAT)
    assert answer.rate is None
    busy = answer.timeline["running"][40:]
    assert np.median(busy) == pytest.approx(16, abs=1.0)
    assert 0.6 < answer.hit_rate < 0.95
    lengths = answer.served.input_len[answer.served.counted]
    assert set(np.unique(lengths)) == {928, 1120, 1312, 1504}
    shares = np.bincount((lengths - 928) // 192) / len(lengths)
    assert shares == pytest.approx(0.25, abs=0.04)
