"""``advisor.plan_fleet``: what it chooses, refuses and says; the same with any workers."""

import json
import subprocess
import sys

import pytest

import advisor
from advisor.fleet.question import read_fleet
from catalog.errors import InputError

SMALL = {
    "models": [
        {"model": "llama-3.1-8b", "rate": 6, "input_len": 512, "output_len": 64, "tpot": 60, "curve": [1, 3]},
        {"model": "qwen2.5-0.5b", "rate": "120/min", "input_len": 256, "output_len": 32, "ttft": "2s"},
    ],
    "pools": [{"gpu": "L40S", "price": 1.0}, {"name": "own", "gpu": "H100", "count": 1, "kind": "owned", "price": 1.5}],
    "confidence": 0.5,
}


@pytest.fixture(scope="module")
def plan():
    return advisor.plan_fleet(SMALL)


def test_every_model_is_served_within_its_limits_at_every_hour(plan):
    assert plan.meets
    assert {place.model for place in plan.placements} == {"llama-3.1-8b", "qwen2.5-0.5b"}
    for model, rates in (("llama-3.1-8b", (3.0, 9.0)), ("qwen2.5-0.5b", (2.0, 2.0))):
        for hour, rate in enumerate(rates):
            own = [place for place in plan.placements if place.model == model]
            assert sum(place.capacity_s * place.replicas[hour] for place in own) >= rate
    for place in plan.placements:
        assert place.meets
        low, high = place.intervals["e2e_ms"]
        assert low < place.latencies["e2e_ms"] < high
        if place.model == "llama-3.1-8b":
            assert place.latencies["tpot_ms"] <= 60


def test_gpus_that_are_owned_are_used_before_others_are_rented_and_cost_the_same_in_any_case(plan):
    assert max(plan.used("own")) == 1
    assert plan.fixed_usd_per_month == pytest.approx(1.5 * 730)
    assert plan.usd_per_month == pytest.approx(plan.fixed_usd_per_month + plan.used_usd_per_month)
    assert plan.gap <= 0.01
    assert all(usd is None or usd >= plan.used_usd_per_month - 1e-6 for usd in plan.single_type.values())
    assert plan.one_type_a_model is None or plan.one_type_a_model >= plan.used_usd_per_month - 1e-6


def test_the_answer_is_plain_json(plan):
    body = json.loads(json.dumps(plan.to_dict()))
    assert body["meets"] is True
    assert len(body["placements"]) == len(plan.placements)


@pytest.mark.slow
def test_processes_give_the_same_answer(plan):
    assert advisor.plan_fleet(SMALL, workers="2").to_dict() == plan.to_dict()


@pytest.mark.slow
@pytest.mark.process
def test_a_dask_cluster_gives_the_same_answer(plan):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        place = cluster.scheduler_address.removeprefix("tcp://")
        assert advisor.plan_fleet(SMALL, workers=f"dask://{place}").to_dict() == plan.to_dict()


@pytest.mark.slow
@pytest.mark.process
def test_a_ray_cluster_gives_the_same_answer(plan):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert advisor.plan_fleet(SMALL, workers="ray://auto").to_dict() == plan.to_dict()
    finally:
        ray.shutdown()


@pytest.mark.parametrize("workers", ["dask://127.0.0.1:9", "dask://", "spark://x", 0, "nine"])
def test_workers_that_are_none_are_refused_in_a_line(workers):
    with pytest.raises(InputError, match=r"workers is|no Dask scheduler"):
        advisor.plan_fleet(SMALL, workers=workers)


def test_what_cannot_be_kept_is_said_in_numbers():
    pools = [{"gpu": "H100", "count": 1, "kind": "owned"}]
    model = {**SMALL["models"][0], "rate": 400, "curve": []}
    answer = advisor.plan_fleet({"models": [model], "pools": pools, "confidence": 0.5})
    assert not answer.meets
    assert answer.missing["H100"] > 1
    assert f"{answer.missing['H100']} more GPUs" in answer.relaxations[0]
    enough = [{**pools[0], "count": 1 + answer.missing["H100"]}]
    assert advisor.plan_fleet({"models": [model], "pools": enough, "confidence": 0.5}).meets


def test_a_limit_that_nothing_keeps_names_what_a_request_alone_takes():
    model = {**SMALL["models"][0], "tpot": 0.5}
    answer = advisor.plan_fleet({"models": [model], "pools": SMALL["pools"], "confidence": 0.5})
    assert answer.unserved == ("llama-3.1-8b",)
    assert "a request alone takes TPOT" in answer.relaxations[0]


def test_a_budget_that_does_not_suffice_is_told_with_the_one_that_would(plan):
    answer = advisor.plan_fleet({**SMALL, "budget": "$10/month"})
    assert answer.relaxations[0] == f"a budget of ${plan.usd_per_month:,.0f} a month in place of $10"


def test_what_was_judged_before_ctrl_c_is_an_answer_that_says_what_it_lacks(plan):
    shares = []

    def interrupted(now):
        shares.append(now.share)
        if sum(share > 0.25 for share in shares) == 1:
            raise KeyboardInterrupt

    answer = advisor.plan_fleet(SMALL, progress=interrupted)
    assert 0 < len(answer.lacking) < 4
    assert "interrupted" in answer.notes[0].text
    assert answer.types < plan.types
    assert not answer.meets or answer.usd_per_month >= plan.usd_per_month - 1e-6


def test_ctrl_c_before_anything_was_judged_leaves_no_answer():
    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advisor.plan_fleet({**SMALL, "models": [{**SMALL["models"][1], "ttft": "1us"}]}, progress=interrupted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "models"),
        ({"pools": [{"gpu": "H100", "kind": "owned"}]}, "how many GPUs are owned"),
        ({"models": [SMALL["models"][0]] * 2}, "there twice"),
        ({"models": [{"model": "llama-3.1-8b", "tpot": 60}]}, "nothing says how much comes"),
        ({"models": [{"model": "llama-3.1-8b", "rate": 1}]}, "there is no limit"),
        ({"models": [{"model": "llama-3.1-8b", "rate": -1, "tpot": 60}]}, "rate"),
        ({"models": [{"model": "llama-3.1-8b", "rate": 1, "tpot": 60, "rats": 2}]}, "rats"),
        ({"models": [{"model": "lama-33", "rate": 1, "tpot": 60}]}, "lama-33"),
        ({"pools": [{"gpu": "H1000"}]}, "H1000"),
        ({"pools": [{"gpu": "H100", "price": "cheap"}]}, "price is 'cheap'"),
        ({"headroom": -1}, "headroom"),
        ({"modles": []}, "modles"),
    ],
)
def test_what_no_fleet_can_be_is_refused_in_a_line(change, message):
    with pytest.raises(InputError, match=message) as refused:
        advisor.plan_fleet(SMALL | change)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "- 1", "models: [", "a: &a [*a]", "\x00", "models: {}\npools: {}"])
def test_a_file_that_is_no_fleet_is_refused_in_a_line(tmp_path, text):
    path = tmp_path / "fleet.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"fleet.yaml") as refused:
        read_fleet(path)
    assert "\n" not in str(refused.value)


def test_the_command_answers_and_exits_with_one_where_nothing_suffices(tmp_path):
    path = tmp_path / "fleet.yaml"
    model = "{model: qwen2.5-0.5b, rate: 2, input_len: 256, output_len: 32, ttft: 2s}"
    path.write_text(f"models: [{model}]\npools: [{{gpu: L40S, price: 1}}]\nconfidence: 0.5\n", encoding="utf-8")
    argv = [sys.executable, "-m", "advisor", "fleet", str(path)]
    answered = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert answered.returncode == 0, answered.stderr
    assert "qwen2.5-0.5b" in answered.stdout
    assert "a month" in answered.stdout
    path.write_text(path.read_text(encoding="utf-8") + "budget: $1/month\n", encoding="utf-8")
    refused = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "budget" in refused.stdout
