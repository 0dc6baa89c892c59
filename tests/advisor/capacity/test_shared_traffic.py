"""Plans for requests that have something in common: fewer GPUs for what caches hit, fewer still where the router knows."""

import json

import pytest

from advisor.capacity.capacity_plan import plan
from advisor.simulator.conversations import Conversations
from advisor.simulator.replica_sizing import TrafficSpec
from catalog.errors import InputError
from catalog.schema import Deployment, Slo, Workload

SLO = Slo(ttft_ms=400.0, tpot_ms=40.0, percentile=95.0)
CHAT = {"shared_prefix": 1024, "turns": 4, "think_time": 4.0}


def planned(**given):
    wanted = {
        "rate": 50.0,
        "workload": Workload(input_len=256, output_len=64),
        "slo": SLO,
        "deployment": Deployment(max_num_seqs=128, max_model_len=8192),
        "price": 3.0,
        "draws": 0,
        "duration_s": 40.0,
        "top": 1,
    }
    return plan("llama-3.1-8b", "2xH200", **wanted | given)


def test_caches_save_gpus_and_their_hits_are_told():
    cached = planned(**CHAT)
    plain = planned(**CHAT, enable_prefix_caching=False)
    assert cached.best is not None
    assert plain.best is None or plain.best.gpus > cached.best.gpus
    assert any("prefix caches hit" in note.text for note in cached.notes)


def test_sessions_of_a_file_are_planned_for(tmp_path):
    path = tmp_path / "sessions.jsonl"
    turn = {"input_len": 200, "output_len": 40, "wait_s": 1.0}
    path.write_text("\n".join(json.dumps({"start_s": i / 4, "turns": [turn] * 3}) for i in range(80)))
    found = planned(rate=None, workload=None, sessions=path)
    assert found.requests == 240
    assert found.best is not None


def test_another_rate_of_turns_draws_other_sessions():
    spec = TrafficSpec(
        workload=Workload(rate=10.0, input_len=64, output_len=16),
        slo=SLO,
        confidence=0.5,
        duration_s=100.0,
        seed=0,
        spread=0.0,
        burstiness=1.0,
        draws=0,
        longest=8192,
        conversations=Conversations(turns=4, think_s=5.0),
    )
    traffic = spec.traffic()
    faster = spec.at_rate(traffic, 40.0)
    assert faster.rate == pytest.approx(40.0, rel=0.15)
    assert len(faster) == pytest.approx(len(traffic), rel=0.2)
    waits = faster.sharing.wait_s[faster.sharing.after >= 0]
    assert waits.mean() > 3.0  # long ones end after the last request


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**CHAT, "disaggregate": True}, "leave out disaggregate"),
        ({**CHAT, "prefix_hit_rate": 0.3}, "leave out prefix_hit_rate"),
        ({"sessions": "x.jsonl", "trace": "x.csv"}, "leave out the trace"),
        ({"sessions": "x.jsonl", "turns": 2}, "a file of sessions says"),
    ],
)
def test_what_cannot_be_planned_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        planned(**given)
