"""Fleets: some replicas in place of all, and the reserve that a confidence keeps."""

import numpy as np
import pytest

from advisor.capacity.candidates import fleets_of, kinds_of
from advisor.perf_model.parameters import IDEAL
from advisor.prediction.evidence import Evidence
from advisor.prediction.inputs import read_model
from advisor.simulator.replica_sizing import TrafficSpec
from advisor.simulator.subsample import sample
from catalog.schema import Deployment, Slo, Workload

KNOBS = Deployment(max_num_seqs=32, max_model_len=4096)
LIMITS = Slo(ttft_ms=150.0, tpot_ms=10.0, percentile=90.0)


def fleet(rate=600.0, *, draws=0, confidence=0.5, router="round_robin", spread=0.5, duration_s=30.0, slo=LIMITS):
    """TP1 on H200, as many replicas as it takes."""
    model = read_model("llama-3.1-8b").value
    ((cluster, most, _),) = kinds_of("H200", None)
    demand = TrafficSpec(
        workload=Workload(input_len=512, output_len=64, rate=rate),
        slo=slo,
        confidence=confidence,
        duration_s=duration_s,
        seed=0,
        spread=spread,
        burstiness=1.0,
        draws=draws,
        longest=4096,
    )
    every = fleets_of(
        model,
        cluster,
        KNOBS,
        Evidence.of(None, engine="vllm", gpu=cluster.gpu),
        demand,
        most_gpus=most,
        spares=0,
        serving={"router": router},
        longest_request=4096,
    )
    return next(each for each in every if each.gpus == 1)


def test_the_replicas_kept_meet_what_they_meet_in_the_whole_fleet():
    one = fleet()
    traffic, replicas = one.traffic, 30
    part, kept = sample(traffic, replicas, "round_robin", least=(8, 2000))
    assert 8 <= kept < replicas
    assert len(part) >= 2000
    whole = one.engine.served(traffic, one.times, replicas)
    some = one.engine.served(part, one.times, kept)
    theirs = whole.replica < kept
    np.testing.assert_array_equal(whole.replica[theirs], some.replica)
    np.testing.assert_array_equal(whole.ttft_ms[theirs], some.ttft_ms)
    np.testing.assert_array_equal(whole.e2e_ms[theirs], some.e2e_ms)


def test_behind_a_router_that_balances_the_part_is_a_smaller_fleet_of_the_same_load():
    one = fleet(router="least_loaded")
    traffic, replicas = one.traffic, 30
    part, kept = sample(traffic, replicas, "least_loaded", least=(8, 2000))
    assert kept < replicas
    assert len(part) / part.arrival_s[-1] == pytest.approx(
        len(traffic) / traffic.duration_s * kept / replicas, rel=0.05
    )
    whole = one.engine.served(traffic, one.times, replicas)
    some = one.engine.served(part, one.times, kept)
    for metric, most in (("tpot_ms", 0.05), ("e2e_ms", 0.06), ("ttft_ms", 0.15)):
        for percentile in (50.0, 95.0):
            ratio = some.percentile(metric, percentile) / whole.percentile(metric, percentile)
            assert 1.0 - most < ratio < 1.0 + most, (metric, percentile)


@pytest.mark.parametrize("replicas", [1, 3, 8])
def test_small_fleets_are_simulated_whole(replicas):
    traffic = fleet(20.0).traffic
    assert sample(traffic, replicas, "round_robin", least=(8, 2000)) == (traffic, replicas)


def test_the_verdict_on_some_replicas_is_that_on_all_within_what_chance_does():
    one = fleet(slo=Slo(tpot_ms=50.0, percentile=95.0))
    replicas = one.surely + 2
    found = one.slo_check(replicas).latencies
    whole = one.engine.served(one.traffic, one.times, replicas)
    each = [
        [np.percentile(getattr(whole, name)[whole.replica % 4 == part], 95.0) for part in range(4)]
        for name in ("ttft_ms", "tpot_ms", "e2e_ms")
    ]
    for (name, value), parts in zip(found.items(), each, strict=True):
        error = np.std(parts, ddof=1)  # of quarters of the fleet, and those simulated are about as many
        assert abs(value - whole.percentile(name, 95.0)) <= 4.0 * error + 0.01 * value


def test_what_is_needed_is_where_the_verdicts_change():
    one = fleet()
    needed = one.needed()
    assert needed == one.needed(at_most=needed)
    assert one.slo_check(needed).meets
    assert needed == one.surely or not one.slo_check(needed - 1).meets
    assert one.needed(at_most=needed - 1) is None


def test_with_confidence_the_fleet_is_stable_under_slower_steps_too():
    even, sure = fleet(60.0), fleet(60.0, draws=4, confidence=0.9)
    assert sure.saturation_s == even.saturation_s == even.stable_s
    ends = [sure.engine.saturation(sure.traffic, sure.ended(side * sure.scale.quantile(0.8))) for side in (-1, 1)]
    assert ends[1] < sure.saturation_s < ends[0]
    assert sure.stable_s == ends[1]
    assert sure.surely >= even.surely


def test_the_slow_end_of_steps_is_that_of_their_interval():
    """Whole steps are as much slower as draws of the parameters lie apart, however these divide a step."""
    sure = fleet(60.0, draws=8, confidence=0.9)
    tables = [sure.engine.times(belief) for belief in sure.engine.beliefs(8)]
    many = np.arange(1, 33)

    def steps(table):
        return (
            table.by_tokens[many]
            + table.by_sequences[many]
            + many * table.by_context[many, 40]
            + table.constants.host_ms
        )

    logs = np.log(np.stack([steps(table) for table in tables[1:]]) / steps(tables[0]))
    sigma = np.sqrt(np.mean(logs**2, axis=0))
    slower = np.log(steps(sure.ended(1.0)) / steps(tables[0]))
    assert np.all(slower < 1.6 * sigma)
    assert np.all(slower > 0.8 * sigma)
    fast = sure.ended(-50.0)
    ideal = steps(sure.engine.times((IDEAL, 1.0)))
    assert np.all(steps(fast) > 0.7 * ideal)
    assert np.all(steps(fast) < steps(tables[0]))
