"""Policies and the lives of replicas: what Kubernetes does, no request lost, and what is exported is what was simulated."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import advisor
from advisor.fleet.autoscaling import Autoscaling, ModelAutoscaling, PolicyOutcome
from advisor.fleet.question import pairs_of, read_fleet
from advisor.fleet.replica_lives import serve_lives
from advisor.fleet.replica_type import sizings
from advisor.fleet.scaling_export import _rate, scaling_files
from advisor.fleet.scaling_policy import DAY_TICKS, SYNC_S, ReplicaLife, ScaledTraffic, ScalingPolicy
from advisor.render.answers.autoscaling import document, sentence
from advisor.render.formats import as_json
from catalog.errors import InputError

SCHEMAS = Path(__file__).parents[3] / "docs" / "reference" / "schemas"

FLEET = {
    "models": [
        {
            "model": "qwen2.5-0.5b",
            "name": "tiny",
            "rate": 30,
            "input_len": 2000,
            "output_len": 4,
            "ttft": "500ms",
            "curve": [0.02, 0.1, 2, 1],
        }
    ],
    "pools": [{"gpu": "L4", "price": 0.8}],
    "confidence": 0.5,
}


def traffic(rates, **given):
    """Replicas that carry 10 requests a second and start in a minute; in flight: a tenth of what comes."""
    rates = np.resize(np.asarray(rates, dtype=float), DAY_TICKS)
    options = {
        "capacity_s": 10.0,
        "saturation_s": 12.0,
        "in_flight": lambda rate: rate / 10.0,
        "start_s": (60.0, 60.0),
        "node": 2,
    }
    return ScaledTraffic(offered_s=rates, expected_s=rates, **{**options, **given})


def steps(low, high, at):
    """A rate that jumps once."""
    return np.where(np.arange(DAY_TICKS) < at, low, high)


def standing(lives, at_s):
    return sum(life.ordered_s <= at_s < life.gone_s for life in lives)


@pytest.mark.parametrize("kind", ["fixed", "schedule", "rate", "running"])
def test_a_steady_rate_takes_a_steady_number(kind):
    lives = traffic([35.0]).lives(ScalingPolicy(kind=kind, target=0.9), 0)
    assert len(lives) == 4
    assert {life.gone_s for life in lives} == {np.inf}


def test_more_traffic_orders_replicas_and_they_take_their_time():
    lives = traffic(steps(10.0, 60.0, 1000)).lives(ScalingPolicy(kind="rate", target=1.0), 0)
    late = [life for life in lives if life.ordered_s]
    assert len(lives) == 6
    assert all(1000 * SYNC_S <= life.ordered_s <= 1004 * SYNC_S for life in late)
    assert all(life.ready_s == life.ordered_s + 60.0 for life in late)


def test_at_most_four_more_or_twice_as_many_at_once():
    lives = traffic(steps(10.0, 900.0, 1000)).lives(ScalingPolicy(kind="rate", target=1.0), 0)
    counts = [standing(lives, tick * SYNC_S) for tick in range(990, 1020)]
    assert all(after <= max(2 * before, before + 4) for before, after in itertools.pairwise(counts))
    assert counts[-1] == 90


def test_fewer_only_after_five_minutes():
    lives = traffic(steps(60.0, 10.0, 1000)).lives(ScalingPolicy(kind="rate", target=1.0), 0)
    gone = [life.gone_s for life in lives if life.gone_s < np.inf]
    assert len(gone) == 5
    assert min(gone) >= 1000 * SYNC_S + 270.0
    assert max(gone) <= 1000 * SYNC_S + 400.0


def test_a_schedule_is_there_before_the_traffic_and_the_same_throughout_an_hour():
    wave = 50.0 + 45.0 * np.sin(np.arange(DAY_TICKS) / DAY_TICKS * 2 * np.pi)
    day = traffic(wave)
    scheduled = day.scheduled(ScalingPolicy(kind="schedule", target=1.0))
    assert (scheduled * 10.0 >= wave - 1e-9).all()
    assert (scheduled.reshape(24, -1) == scheduled.reshape(24, -1)[:, :1]).all()


def test_a_node_that_is_lost_takes_its_replicas_and_others_are_ordered():
    lives = traffic([55.0]).lives(ScalingPolicy(kind="rate", target=1.0), 0, ((3000.0, "node lost"),))
    dead = [life for life in lives if life.dies]
    assert [life.gone_s for life in dead] == [3000.0] * 2
    assert standing(lives, 3001.0) == 6
    assert sum(life.ready_s <= 3030.0 < life.gone_s for life in lives) == 4


def test_a_rolling_upgrade_never_has_fewer_ready():
    lives = traffic([55.0]).lives(ScalingPolicy(kind="rate", target=1.0), 0, ((3000.0, "rolling upgrade"),))
    for at in np.arange(2990.0, 3500.0, 7.0):
        assert sum(life.ready_s <= at < life.gone_s for life in lives) >= 6
    assert sum(life.ordered_s == 0.0 and life.gone_s == np.inf for life in lives) == 0


@pytest.fixture(scope="module")
def sizing():
    question = read_fleet(FLEET)
    ((number, gpu, node),) = pairs_of(question)
    return sizings(question, number, gpu, None, node)[0]


def test_one_replica_that_stays_serves_as_a_server_does(sizing):
    requests = sizing.demand.at_rate(sizing.traffic, 5.0)
    served = serve_lives(sizing, sizing.times, requests, [ReplicaLife(ordered_s=0.0, ready_s=0.0)])
    plain = sizing.engine.served(requests, sizing.times)
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        assert np.allclose(getattr(served, name), getattr(plain, name), rtol=1e-6, equal_nan=True)


def test_what_a_lost_replica_had_is_served_elsewhere(sizing):
    requests = sizing.demand.at_rate(sizing.traffic, 30.0)
    lost_s = float(requests.arrival_s[700]) + 0.01  # every second request is its own, this one too
    lives = [
        ReplicaLife(ordered_s=0.0, ready_s=0.0, gone_s=lost_s, dies=True),
        ReplicaLife(ordered_s=0.0, ready_s=0.0),
        ReplicaLife(ordered_s=lost_s, ready_s=lost_s + 5.0),
    ]
    served = serve_lives(sizing, sizing.times, requests, lives)
    assert served.sent_again > 0
    assert np.isfinite(served.e2e_ms).all()
    whole = serve_lives(sizing, sizing.times, requests, lives[1:2] * 2)
    assert served.e2e_ms.sum() > whole.e2e_ms.sum()


def test_requests_wait_for_the_first_replica_and_those_without_any_never_end(sizing):
    requests = sizing.demand.at_rate(sizing.traffic, 5.0)
    late = serve_lives(sizing, sizing.times, requests, [ReplicaLife(ordered_s=0.0, ready_s=50.0)])
    early = requests.arrival_s < 50.0
    assert (late.ttft_ms[early] >= 1e3 * (50.0 - requests.arrival_s[early])).all()
    gone = serve_lives(sizing, sizing.times, requests, [ReplicaLife(ordered_s=0.0, ready_s=0.0, gone_s=20.0)])
    assert np.isinf(gone.ttft_ms[requests.arrival_s >= 20.0]).all()


@pytest.mark.slow
def test_the_cheapest_policy_keeps_the_limits_and_is_what_is_exported():
    answer = advisor.plan_autoscaling(FLEET, days=4)
    (model,) = answer.models
    assert answer.meets
    assert model.best.kept >= 0.9
    assert model.best.usd_per_month == min(o.usd_per_month for o in model.options if o.kept >= 0.9)
    (fixed,) = (outcome for outcome in model.options if outcome.policy.kind == "fixed")
    assert model.best.usd_per_month < fixed.usd_per_month
    (text,) = scaling_files(answer).values()
    body = yaml.safe_load(text)
    assert body["spec"]["scaleTargetRef"]["kind"] == "Deployment"
    assert body["kind"] in {"ScaledObject", "HorizontalPodAutoscaler"}
    assert answer.to_dict()["meets"] is True
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((SCHEMAS / "autoscaling-1.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(as_json(answer.to_dict())), schema)
    assert advisor.plan_autoscaling(FLEET, days=4) == answer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_s": (90.0, 10.0)}, "start is 90 to 10 s"),
        ({"probability": 0.2}, "probability is 0.2"),
        ({"days": 0}, "days is 0"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_a_line(options, message):
    with pytest.raises(InputError, match=message):
        advisor.plan_autoscaling(FLEET, **options)
    owned = {**FLEET, "pools": [{"gpu": "L4", "count": 4, "kind": "owned"}]}
    with pytest.raises(InputError, match="owned or reserved"):
        advisor.plan_autoscaling(owned)


def test_what_comes_is_counted_and_not_what_is_answered():
    """The trigger adds to the answers how fast requests in the engine grow: together those that come, however long the queue."""
    model = SimpleNamespace(
        best=SimpleNamespace(policy=ScalingPolicy(kind="rate", target=0.8)),
        deployment=advisor.Deployment(engine="vllm"),
        deployed="llama-3.1-8b",
        capacity_s=10.0,
    )
    metadata = _rate(model)["metadata"]
    for part in (
        "rate(vllm:request_success_total",
        "deriv(vllm:num_requests_running",
        "deriv(vllm:num_requests_waiting",
    ):
        assert part in metadata["query"]
    assert metadata["threshold"] == "8"
    model.deployment = advisor.Deployment(engine="tensorrt-llm")
    assert "deriv" not in _rate(model)["metadata"]["query"]


def outcome(**given):
    policy = ScalingPolicy(kind="rate", target=0.5)
    latencies = {"ttft_ms": 800.0, "tpot_ms": 5.0, "e2e_ms": 900.0}
    return PolicyOutcome(**{"policy": policy, "usd_per_month": 1.0, "replicas": (1, 2), "latencies": latencies} | given)


@pytest.mark.parametrize(
    ("slow_days", "said"), [(0.25, "on 25% of the days a request alone misses them"), (0.0, "TTFT 800 ms of 500 ms")]
)
def test_an_answer_without_a_policy_says_what_misses_the_limits(slow_days, said):
    model = ModelAutoscaling(
        model="tiny",
        deployed="qwen2.5-0.5b",
        gpu="L4",
        pool="L4",
        deployment=advisor.Deployment(),
        gpus_a_replica=1,
        capacity_s=10.0,
        limits={"ttft_ms": 500.0},
        slow_days=slow_days,
        in_flight=float("nan"),
        schedule=(),
        best=None,
        options=(outcome(days=4, kept=0.75),),
        events=(),
    )
    answer = Autoscaling(models=(model,), probability=0.9, start_s=(50.0, 210.0), days=4, notes=())
    assert said in sentence(answer)
    kept = next(column for column in document(answer).sections[0].table.columns if column.name == "kept")
    assert list(kept.cells) == ["3 of 4"]
