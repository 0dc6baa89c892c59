"""Recommendations for prompts that have something in common: what caches hit comes out of the simulator, and in of nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest

from advisor.perf_model.cost_model import CostModel
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.parameters import Parameters
from advisor.perf_model.steady_state import steady_state_times
from advisor.recommendation.prefix_cache import repeated_share
from advisor.recommendation.recommendation import recommend
from advisor.render.answers.recommendation import document
from advisor.simulator.conversations import Conversations
from advisor.simulator.simulation import simulate
from advisor.simulator.trace_files import TraceFile, read_trace
from catalog.engines import resolve
from catalog.errors import InputError
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.schema import Deployment, Workload

TALK = {"turns": 5, "think_time": 20, "shared_prefix": 1500, "input_len": 200, "output_len": 250}


@pytest.fixture(scope="module")
def sticky():
    return recommend("llama-3.1-8b", "2xH200", tpot=25, router="session_sticky", **TALK)


@pytest.mark.slow
def test_what_is_hit_is_what_a_simulation_of_the_answer_hits(sticky):
    best = sticky.best
    flight = best.batch * best.deployment.dp
    again = simulate(
        "llama-3.1-8b",
        "2xH200",
        deployment=best.deployment,
        concurrency=flight,
        draws=0,
        router="session_sticky",
        **TALK,
    )
    assert best.hit_rate == pytest.approx(again.hit_rate, abs=0.01)
    assert best.output_tok_s == pytest.approx(again.output_tok_s, rel=0.1)


@pytest.mark.slow
def test_every_candidate_was_simulated_and_says_so(sticky):
    assert all(0.0 < candidate.hit_rate < 1.0 for candidate in sticky.candidates)
    assert json.loads(json.dumps(sticky.to_dict()))["best"]["hit_rate"] == sticky.best.hit_rate
    assert sticky.best.client_ttft_ms is None
    assert sticky.best.energy_j_per_token is None


@pytest.mark.slow
def test_caches_gain_and_a_router_that_scatters_sessions_loses(sticky):
    alone = recommend("llama-3.1-8b", "2xH200", tpot=25, input_len=sticky.workload.input_len, output_len=250).best
    assert sticky.best.output_tok_s_per_gpu > 1.5 * alone.output_tok_s_per_gpu
    scattered = recommend("llama-3.1-8b", "2xH200", tpot=25, concurrency=150, **TALK)
    kept = recommend("llama-3.1-8b", "2xH200", tpot=25, concurrency=150, router="session_sticky", **TALK)
    two = [next(c for c in answer.candidates if c.deployment.dp == 2) for answer in (scattered, kept)]
    assert two[0].hit_rate < two[1].hit_rate


@pytest.mark.slow
def test_two_traces_that_differ_in_their_hashes_have_different_answers(tmp_path):
    rows = [{"timestamp": 100 * i, "input_length": 2048, "output_length": 100} for i in range(300)]
    answers = []
    for name, first in (("alike", lambda _: 0), ("apart", lambda i: 10 * i)):
        path = tmp_path / f"{name}.jsonl"
        hashes = ({"hash_ids": [first(i), 10_000 + i, 20_000 + i, 30_000 + i]} for i in range(300))
        path.write_text("\n".join(json.dumps(row | one) for row, one in zip(rows, hashes, strict=True)))
        answers.append(
            recommend("llama-3.1-8b", "H200", workload=read_trace(TraceFile(path=str(path), timed=False)), tpot=30)
        )
    alike, apart = (answer.best for answer in answers)
    assert alike.hit_rate == pytest.approx(0.25, abs=0.01)
    assert not apart.hit_rate
    assert alike.output_tok_s_per_gpu > apart.output_tok_s_per_gpu


def test_a_cache_without_end_has_what_came_before():
    requests = Conversations(shared_prefix=1600).traffic(
        Workload(rate=10, input_len=160, output_len=20),
        duration_s=20.0,
        longest=8192,
        seed=0,
        spread=0.0,
        burstiness=1.0,
    )
    count = len(requests)
    assert repeated_share(requests) == pytest.approx(1600 / 1760 * (count - 1) / count)


def test_steps_are_shorter_the_more_is_hit_and_alike_without():
    model, cluster = find_model("llama-3.1-8b").value, parse_cluster("H200").value
    chosen = resolve(Deployment(max_num_seqs=64), model, cluster).value
    layout = DeploymentArrays.of([chosen] * 5, model, cluster.gpu)
    cost_model = CostModel.of(model, cluster, layout, Parameters.typical())
    lengths = (np.full(5, 64.0), np.full(5, 4096.0), np.full(5, 256.0))
    plain = steady_state_times(cost_model, *lengths)
    times = steady_state_times(replace(cost_model, prefix_hit_rate=np.array([0.0, 0.25, 0.5, 0.9, 0.999])), *lengths)
    assert times.tpot_ms[0] == plain.tpot_ms[0]
    assert times.ttft_ms[0] == plain.ttft_ms[0]
    assert (np.diff(times.tpot_ms) < 0).all()
    assert (np.diff(times.ttft_ms) < 0).all()
    assert (np.diff(times.output_tok_s) > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"turns": 0}, "turns is 0"),
        ({"shared_prefix": 10, "router": "random"}, "router is 'random'"),
        ({"num_prefixes": 3}, "num_prefixes is of system prompts"),
        ({"shared_prefix": 10, "sessions": "none.jsonl"}, "leave out shared_prefix"),
        ({"shared_prefix": 200_000}, "longer than"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        recommend("llama-3.1-8b", "H200", **options)


def test_an_answer_says_that_caches_were_counted_where_nothing_is_feasible_too():
    none = recommend("llama-3.1-8b", "H200", turns=4, think_time=5, tpot=0.5)
    assert none.best is None
    assert any("prefix caches were counted" in note.text for note in none.assumptions)


@pytest.mark.slow
def test_blocks_that_live_on_below_the_gpus_raise_what_is_hit():
    talk = {"turns": 6, "think_time": 60, "input_len": 1500, "output_len": 250, "tpot": 30}
    without, cpu = (recommend("llama-3.1-8b", "H200", kv_offload=tier, **talk).best for tier in (None, "cpu=200GB"))
    assert cpu.hit_rate > without.hit_rate + 0.1
    assert 0.1 < cpu.tier_hit_rates["cpu"] < cpu.hit_rate
    assert without.tier_hit_rates is None
    assert cpu.output_tok_s > 1.05 * without.output_tok_s
    assert "--kv-offloading-size" in recommend("llama-3.1-8b", "H200", kv_offload="cpu=200GB", **talk).command
    unused = recommend("llama-3.1-8b", "H200", kv_offload="cpu=200GB", input_len=1500, output_len=250)
    assert any("kv_offload changes nothing" in note.text for note in unused.assumptions)


@pytest.mark.slow
@pytest.mark.parametrize("in_flight", [8, 64])
def test_a_loop_of_sessions_meets_what_was_recommended(in_flight):
    """The command that follows keeps as many requests in flight, and both say the same of them."""
    answer = recommend(
        "llama-3.1-8b", "H200", turns=4, think_time=5, input_len=500, output_len=200, concurrency=in_flight
    )
    command = next(
        section.command
        for section in document(answer).sections
        if section.command and "simulate" in section.command.argv
    )
    words = command.argv
    asked = {words[i]: words[i + 1] for i in range(2, len(words), 2)}
    assert (asked["--turns"], asked["--think-time"], asked["--concurrency"]) == ("4", "5", str(in_flight))
    assert (asked["--input-len"], asked["--output-len"]) == ("500", "200")
    best = answer.best
    again = simulate(
        "llama-3.1-8b",
        "H200",
        deployment=best.deployment,
        concurrency=in_flight,
        turns=4,
        think_time=5,
        draws=0,
        input_len=500,
        output_len=200,
    )
    assert again.hit_rate == pytest.approx(best.hit_rate, abs=0.01)
    assert again.output_tok_s == pytest.approx(best.output_tok_s, rel=0.06)
    assert again.metrics["ttft_ms"]["mean"] == pytest.approx(best.ttft_ms, rel=0.1)
    assert again.metrics["tpot_ms"]["mean"] == pytest.approx(best.tpot_ms, rel=0.06)
    assert again.served.mean_lengths[0] == pytest.approx(answer.workload.input_len, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["cpu=200GB", "cpu=2TB"])
def test_tiers_hit_what_the_command_that_follows_hits(tier):
    talk = {"turns": 6, "think_time": 60, "input_len": 1500, "output_len": 250, "concurrency": 64}
    best = recommend("llama-3.1-8b", "H200", kv_offload=tier, **talk).best
    again = simulate("llama-3.1-8b", "H200", deployment=Deployment(kv_offload=tier), draws=0, **talk)
    assert again.hit_rate == pytest.approx(best.hit_rate, abs=0.01)
    assert again.tier_hit_rates["cpu"] == pytest.approx(best.tier_hit_rates["cpu"], abs=0.02)
    low, high = best.interval("output_tok_s")
    assert low < again.output_tok_s < high
    # what is hit decides how much is computed, and so what saturates
    assert again.saturation_s == pytest.approx(best.output_tok_s / best.output_len, rel=0.1)
