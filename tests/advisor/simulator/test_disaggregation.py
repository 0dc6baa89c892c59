"""Prompts in a pool of their own: nothing is lost, and in the limits it is prefill alone and decode alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.prediction.evidence import Evidence
from advisor.simulator.arrivals import Arrivals
from advisor.simulator.disaggregated_server import DisaggregatedServer
from advisor.simulator.disaggregation import KvTransfer, ServerPool, saturation_apart, serve_apart
from advisor.simulator.scheduler import Scheduler, serve
from advisor.simulator.server import AggregatedServer
from advisor.simulator.simulation import simulate
from advisor.simulator.step_table import StepConstants, StepTimes
from catalog.errors import InputError
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.schema import Deployment, Workload

NO_LINK = KvTransfer(ms_per_token=0.0, latency_ms=0.0)


def times(per_token=0.05, per_sequence=0.02, fixed=5.0, budget=512, cap=64):
    tokens = fixed + per_token * np.arange(budget + 1.0)
    return StepTimes(
        by_tokens=tokens,
        by_sequences=per_sequence * np.maximum(np.arange(cap + 1.0) - 1.0, 0.0),
        by_context=np.full((cap + 1, 60), 0.01),
        constants=StepConstants(pair_ms=1e-6, captured_tokens=512.0),
        shares=np.ones(1),
    )


def pool(replicas=1, *, decodes=False, front_end_ms=0.0, blocks=4000):
    scheduler = Scheduler(
        replicas=replicas,
        max_num_seqs=64,
        max_num_batched_tokens=512,
        kv_blocks=blocks,
        front_end_ms=front_end_ms,
        cached_prompts=decodes,
    )
    return ServerPool(times=times(), scheduler=scheduler)


def traffic(n, rate, seed=0, most_in=900, most_out=40):
    random = np.random.default_rng(seed)
    arrival = np.cumsum(random.exponential(1.0 / rate, n))
    return Arrivals(
        arrival_s=arrival,
        input_len=random.integers(1, most_in + 1, n),
        output_len=random.integers(1, most_out + 1, n),
        duration_s=float(arrival[-1]) + 1.0,
    )


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 60),
    rate=st.floats(0.5, 100.0),
    seed=st.integers(0, 99),
    first=st.integers(1, 3),
    second=st.integers(1, 3),
    ms_per_token=st.floats(0.0, 0.5),
    blocks=st.integers(70, 400),
)
def test_nothing_is_lost_and_everything_takes_its_time(n, rate, seed, first, second, ms_per_token, blocks):
    asked, link = traffic(n, rate, seed), KvTransfer(ms_per_token=ms_per_token, latency_ms=1.0)
    found = serve_apart(asked, pool(first), pool(second, decodes=True, blocks=blocks), link)
    assert len(found) == n
    assert not np.isnan(found.ttft_ms).any()
    assert found.gaps.sum() == (asked.output_len - 1).sum()
    assert found.bins[:, 4].sum() == pytest.approx(asked.output_len.sum())
    sent = ms_per_token * asked.input_len + 1.0
    several = asked.output_len > 1
    # A step computes the prompt, the cache travels, and each token takes a step.
    assert (found.ttft_ms >= 5.0 + sent + 5.0 - 1e-6).all()
    assert (found.e2e_ms >= found.ttft_ms + 5.0 * (asked.output_len - 1) - 1e-6).all()
    assert (found.longest_itl_ms[several] >= 5.0 - 1e-6).all()
    assert (found.longest_itl_ms[~several] == 0).all()
    assert found.most_blocks <= blocks


def test_without_load_and_link_it_is_prefill_alone_and_decode_alone():
    n = 5
    asked = replace(traffic(n, 1.0), arrival_s=np.arange(n) * 1e3, duration_s=n * 1e3, output_len=np.full(n, 20))
    together = serve(asked, times(), pool().scheduler)
    apart = serve_apart(asked, pool(), pool(decodes=True), NO_LINK)
    # The first token takes a step more, which computes the prompt's last token once more.
    np.testing.assert_allclose(apart.ttft_ms, together.ttft_ms + apart.tpot_ms, rtol=1e-3)
    # Decode alone: that step reads a cached prompt like any later one's.
    np.testing.assert_allclose(apart.tpot_ms, together.tpot_ms, rtol=1e-3)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 40), rate=st.floats(0.5, 30.0), seed=st.integers(0, 99), replicas=st.integers(1, 3))
def test_idle_prompts_and_a_link_without_end_cost_decode_nothing(n, rate, seed, replicas):
    """With prompts computed at once the pools are the pool that decodes, served the same requests."""
    asked = traffic(n, rate, seed)
    instant = ServerPool(
        times=replace(times(fixed=0.0, per_token=0.0), constants=StepConstants(captured_tokens=512.0)),
        scheduler=replace(pool(n).scheduler, max_num_batched_tokens=512),
    )
    decode = pool(replicas, decodes=True)
    found = serve_apart(asked, instant, decode, NO_LINK)
    first = serve(replace(asked, output_len=np.ones(n, dtype=np.int64)), instant.times, instant.scheduler)
    assert (first.ttft_ms < 0.5).all()
    ready = asked.arrival_s + 1e-3 * first.ttft_ms
    order = np.argsort(ready, kind="stable")
    came = replace(asked, arrival_s=ready[order], input_len=asked.input_len[order], output_len=asked.output_len[order])
    alone = serve(came, decode.times, decode.scheduler)
    for name in ("ttft_ms", "e2e_ms"):
        theirs = getattr(alone, name) + first.ttft_ms[order]
        np.testing.assert_allclose(getattr(found, name)[order], theirs, rtol=1e-9)
    np.testing.assert_allclose(found.tpot_ms[order], alone.tpot_ms, rtol=1e-6)


def test_the_first_token_comes_after_prompt_and_link_from_the_pool_that_decodes():
    asked = traffic(300, 20.0)
    alone = serve(replace(asked, output_len=np.ones(300, dtype=np.int64)), times(), pool(2).scheduler)
    for link in (NO_LINK, KvTransfer(ms_per_token=0.2, latency_ms=3.0)):
        found = serve_apart(asked, pool(2), pool(2, decodes=True), link)
        sent = link.ms_per_token * asked.input_len + link.latency_ms
        assert (found.ttft_ms >= alone.ttft_ms + sent + 5.0 - 1e-6).all()


def test_outputs_no_longer_wait_for_prompts():
    asked = traffic(400, 8.0, most_out=120)
    together = serve(asked, times(), replace(pool(2).scheduler))
    apart = serve_apart(asked, pool(1), pool(1, decodes=True), NO_LINK)
    assert apart.percentile("itl_ms", 99.0) < 0.5 * together.percentile("itl_ms", 99.0)


def test_a_link_sends_one_cache_after_the_other():
    link = KvTransfer(ms_per_token=1.0, latency_ms=10.0)
    done = np.array([1.0, 1.0, 1.5, 9.0, 1.0])
    arrived = link.sent_s(
        done, np.array([1000.0, 500.0, 100.0, 1000.0, 200.0]), np.array([0, 0, 0, 0, 1], dtype=np.int16)
    )
    np.testing.assert_allclose(arrived, np.array([2.0, 2.5, 2.6, 10.0, 1.2]) + 0.01)


def test_the_slowest_part_saturates_first():
    asked = traffic(400, 20.0)
    base = saturation_apart(asked, pool(1), pool(4, decodes=True), NO_LINK)
    assert saturation_apart(asked, pool(2), pool(4, decodes=True), NO_LINK) == pytest.approx(2 * base, rel=0.03)
    assert saturation_apart(asked, pool(1), pool(8, decodes=True), NO_LINK) == pytest.approx(base)
    slow = saturation_apart(asked, pool(1), pool(4, decodes=True), KvTransfer(ms_per_token=10.0, latency_ms=0.0))
    assert slow == pytest.approx(1e3 / (10.0 * asked.input_len.mean()))
    flooded = serve_apart(replace(asked, arrival_s=np.zeros(400)), pool(1), pool(4, decodes=True), NO_LINK)
    assert 400 / flooded.end_s == pytest.approx(base, rel=0.1)


COMMON = {"workload": Workload(input_len=1024, output_len=64, rate=10.0), "duration_s": 20.0}


def test_simulate_with_a_pool_for_prompts():
    knobs = Deployment(dp=2, max_model_len=4096)
    found = simulate("llama-3.1-8b", "4xH200", deployment=knobs, prefill=replace(knobs, dp=1, tp=2), draws=2, **COMMON)
    plain = simulate("llama-3.1-8b", "4xH200", deployment=replace(knobs, dp=4), draws=2, **COMMON)
    assert (found.gpus_used, found.prefill.tp, found.provenance) == (4, 2, "analytic")
    assert plain.provenance == "calibrated"
    widths = [np.log(np.divide(*each.interval("tpot_ms", "p95")[::-1])) for each in (found, plain)]
    assert widths[0] > 1.5 * widths[1]
    (told,) = (note.text for note in found.notes if note.text.startswith("a KV cache of 1000 tokens"))
    # 32 layers, 8 KV heads of 128, keys and values of two bytes: 128 KiB a token, over NVLink at its fitted efficiency.
    sent = float(told.split("takes ")[1].split(" ms")[0])
    assert 1000 * 131072 / 450e6 < sent < 2.0 * 1000 * 131072 / 450e6
    body = found.to_dict()
    assert body["gpus_used"] == 4
    assert body["prefill"]["tp"] == 2


def test_between_nodes_the_network_carries_it():
    knobs = Deployment(max_model_len=4096)
    notes = {
        gpus: simulate("llama-3.1-8b", gpus, deployment=knobs, prefill=knobs, draws=0, **COMMON).notes
        for gpus in ("2xH200", "2x1xH200")
    }
    assert any("50 GB/s between nodes" in note.text for note in notes["2x1xH200"])
    assert not any("between nodes" in note.text for note in notes["2xH200"])


def test_several_of_both_pools_cross_the_network_once_they_fill_more_than_a_node():
    """Three times two GPUs for prompts and two for outputs are two nodes, whether they are asked for as one or as three of a kind."""
    model, node = find_model("llama-3.1-8b").value, parse_cluster("8xH100").value
    knowledge = Evidence.of(None, engine="vllm", gpu=node.gpu)

    def pools(times, nodes):
        cluster = replace(node, nodes=nodes)
        deployments = (Deployment(tp=2, dp=times, max_model_len=8192) for _ in range(2))
        return DisaggregatedServer.of(
            *(AggregatedServer.of(model, cluster, each, knowledge, {}) for each in deployments)
        )

    asked = replace(traffic(60, 20.0), input_len=np.full(60, 4000))
    one, three = pools(1, 1), pools(3, 2)
    assert one.within_node
    assert not three.within_node
    found, whole = (each.served(asked, each.believed_times(), multiple) for each, multiple in ((one, 3), (three, 1)))
    np.testing.assert_allclose(found.ttft_ms, whole.ttft_ms, rtol=1e-9)
    np.testing.assert_allclose(found.e2e_ms, whole.e2e_ms, rtol=1e-9)


def test_prompts_on_gpus_of_another_kind():
    """A slower kind computes the prompts: first tokens come later, answers as fast, over the network or the link that is stated."""
    knobs = Deployment(max_model_len=4096, max_num_seqs=64)
    asked = {"deployment": replace(knobs, dp=2), "draws": 0, **COMMON}
    same = simulate("llama-3.1-8b", "4xH200", prefill=replace(knobs, dp=2), **asked)
    other = simulate("llama-3.1-8b", "2xH200", prefill=replace(knobs, dp=2), prefill_gpus="2xL40S", **asked)
    assert other.metrics["ttft_ms"]["p50"] > 2.0 * same.metrics["ttft_ms"]["p50"]
    assert other.metrics["itl_ms"]["p50"] == pytest.approx(same.metrics["itl_ms"]["p50"], rel=0.05)
    assert (str(other.prefill_cluster), other.gpus_used, other.energy_j_per_token) == ("2xL40S", 4, None)
    assert other.to_dict()["prefill_gpus"] == "2xL40S"
    assert any("between nodes" in note.text for note in other.notes)
    slow = simulate(
        "llama-3.1-8b", "2xH200", prefill=replace(knobs, dp=2), prefill_gpus="2xL40S", kv_link_gbps=2.0, **asked
    )
    assert any("a link of 2 GB/s a GPU, as stated" in note.text for note in slow.notes)
    # the first token waits for the cache: 1024 tokens of 128 KiB at 2 GB/s are 67 ms
    assert slow.metrics["tpot_ms"]["p50"] == pytest.approx(other.metrics["tpot_ms"]["p50"], rel=0.02)
    longer = slow.metrics["ttft_ms"]["p50"] - other.metrics["ttft_ms"]["p50"]
    assert 1024 * 131072 / 2e6 < longer < 2.5 * 1024 * 131072 / 2e6
    unsure = simulate(
        "llama-3.1-8b", "2xH200", prefill=knobs, prefill_gpus="1xL40S", **{**asked, "deployment": knobs, "draws": 2}
    )
    low, high = unsure.interval("ttft_ms", "p50")
    assert high > 1.3 * low


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"deployment": Deployment(dp=4)}, "more than the 4"),
        ({"prefill": Deployment(dtype="fp8")}, "one engine, dtype"),
        ({"workload": Workload(concurrency=4)}, "not a concurrency"),
        ({"prefill_gpus": "4xH200"}, "GPUs of another kind"),
        ({"prefill_gpus": "1xL40S", "prefill": Deployment(dp=2)}, "2 GPUs"),
        ({"kv_link_gbps": 0.0}, "kv_link_gbps"),
        ({"kv_link_gbps": 5.0, "prefill": None}, "are of a pool for prompts"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        simulate("llama-3.1-8b", "4xH200", **{"prefill": Deployment(), **COMMON, **options})
