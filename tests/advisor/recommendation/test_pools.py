"""Pools inside ``recommend``: every split is of the GPUs that there are, the answer is what a simulation of it says, and it can be no."""

import itertools

import pytest

from advisor.recommendation.recommendation import recommend
from advisor.render.answers.pools import verdict
from advisor.render.answers.recommendation import document
from advisor.simulator.pool_splits import PoolComparison, SplitSearch
from advisor.simulator.simulation import simulate
from catalog.errors import InputError
from catalog.features import Adapters

ASKED = {"dtypes": "fp8", "input_len": 4000, "output_len": 400, "ttft": "2s", "tpot": "25ms"}
MODEL = "llama-3.1-8b"


@pytest.mark.slow
@pytest.mark.parametrize("gpus", ["8xH200", "4xH200,4xH100"])
def test_pools_of_a_recommendation_are_what_a_simulation_of_them_says(gpus):
    found = recommend("llama-3.1-70b", gpus, disaggregate=True, **ASKED)
    plain = recommend("llama-3.1-70b", gpus, **ASKED)
    assert found.best == plain.best
    assert plain.pools is None
    assert "pools" not in plain.to_dict()
    compared = found.pools
    for fleet in (compared.pools, compared.together):
        assert fleet.latencies["ttft_ms"] <= 2000.0
        assert fleet.latencies["tpot_ms"] <= 25.0
        assert fleet.rate_interval[0] <= fleet.rate <= fleet.rate_interval[1]
        assert fleet.output_tok_s_per_gpu == pytest.approx(fleet.rate * 400 / fleet.gpus)
        for metric, (low, high) in fleet.intervals.items():
            assert low <= fleet.latencies[metric] <= high
    pools = compared.pools
    used = pools.deployment.num_gpus + pools.prefill.num_gpus
    assert pools.gpus == used <= 8
    assert compared.gain == pytest.approx(pools.output_tok_s_per_gpu / compared.together.output_tok_s_per_gpu)
    served = simulate(
        "llama-3.1-70b",
        f"8x{pools.gpu}",
        workload={"input_len": 4000, "output_len": 400, "rate": pools.rate},
        deployment=pools.deployment,
        prefill=pools.prefill,
        prefill_gpus=None if pools.prefill_gpu is None else f"{pools.prefill.num_gpus}x{pools.prefill_gpu}",
        duration_s=600 / pools.rate,
        draws=0,
    )
    for metric, value in pools.latencies.items():
        assert served.metrics[metric]["mean"] == pytest.approx(value, rel=1e-6)
    text = str(found.to_dict()["pools"])
    assert "kv_transfer_ms" in text
    sections = document(found).sections
    (told,) = (section for section in sections if section.title == "Pools for prompts and outputs")
    assert dict(told.lines)["pools"] == [verdict(compared, found)]


@pytest.mark.slow
def test_with_requests_in_flight_both_have_as_many():
    found = recommend(MODEL, "2xH200", concurrency=16, input_len=1000, output_len=64, disaggregate=True)
    for fleet in (found.pools.pools, found.pools.together):
        assert fleet.rate * 1e-3 * fleet.latencies["e2e_ms"] == pytest.approx(16.0, rel=0.05)
    assert "in flight" in str(dict(next(s for s in document(found).sections if "Pools" in s.title).lines)["search"])


class Fixed:
    """GPUs of one name."""

    def __init__(self, name, gpus, most):
        self.cluster, self.replica, self.most = self, self, most
        self.gpu, self.gpus, self.name = name, gpus, name


@pytest.mark.parametrize(("one", "other"), list(itertools.product((1, 2, 4), repeat=2)))
@pytest.mark.parametrize("most", [2, 5, 8])
def test_splits_are_all_that_there_are_gpus_for(one, other, most):
    search = SplitSearch(kinds=(), demand=None, concurrency=None, goal="throughput", usd_per_gpu_hour={})
    counts = list(search._counts(Fixed("H200", one, most), Fixed("H200", other, most)))
    expected = {(a, b) for a in range(1, 9) for b in range(1, 9) if a * one + b * other <= most}
    assert len(counts) == len(set(counts))
    assert set(counts) == expected
    apart = set(search._counts(Fixed("H100", one, 4), Fixed("H200", other, most)))
    assert apart == {(a, b) for a in range(1, 9) for b in range(1, 9) if a * one <= 4 and b * other <= most}


def test_a_verdict_says_no_where_nothing_is_gained():
    nothing = PoolComparison(pools=None, together=None, splits=0)
    for gpus, why in (
        ("2xH200", "no split keeps the limits with 90% confidence"),
        ("1xH200", "one GPU cannot be split"),
    ):
        assert verdict(nothing, recommend(MODEL, gpus, tpot=50)) == f"do not pay: {why}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "state a limit, such as tpot 50, or a concurrency"),
        ({"tpot": 50, "objective": "latency"}, "not by latency"),
        ({"tpot": 50, "speculate": "ngram"}, "not searched with speculate"),
        ({"tpot": 50, "turns": 3}, "not searched with turns"),
        ({"tpot": 50, "adapters": Adapters(number=9)}, "not searched with adapters"),
        ({"tpot": 50, "kv_link_gbps": 0.0}, "kv_link_gbps"),
        ({"tpot": 50, "kv_link_gbps": 10.0, "disaggregate": False}, "add disaggregate"),
    ],
)
def test_what_pools_do_not_know_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        recommend(MODEL, "2xH200", **{"disaggregate": True, **options})
