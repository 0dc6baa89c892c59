"""Several classes of requests: read from a file, drawn together, and answered each by its own limits."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advisor
from advisor.simulator.arrivals import closed_loop, open_loop
from advisor.simulator.class_mix import read_classes
from catalog.errors import InputError
from catalog.schema import Slo, Workload

CHAT = {"name": "chat", "share": 3, "input_len": 500, "output_len": 60, "spread": 0.5, "ttft": 300, "tpot": "40ms"}
SUMMARIES = {"name": "summaries", "share": 1, "input_len": 3000, "output_len": 90, "priority": 5, "e2e": "20s"}
BOTH = {"classes": [CHAT, SUMMARIES]}
COMMON = {"model": "llama-3.1-8b", "gpus": "H100", "duration_s": 30.0, "draws": 0}


def mix_of(*classes, slo=None, spread=0.0):
    return read_classes({"classes": list(classes)}, Workload(), slo or Slo(), spread)


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("arrival_s", "input_len", "output_len")
    )


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.0, 0.7]),
    burstiness=st.sampled_from([0.0, 1.0, 4.0]),
    share=st.floats(0.1, 1e3),
)
def test_one_class_is_the_plain_traffic_bit_for_bit(seed, spread, burstiness, share):
    mix = mix_of({"name": "all", "share": share, "input_len": 300, "output_len": 40, "spread": spread})
    workload = Workload(input_len=300, output_len=40)
    common = {"duration_s": 20.0, "longest": 2000, "seed": seed}
    often, flight = Workload(rate=7.0), Workload(concurrency=5)
    plain = open_loop(Workload(input_len=300, output_len=40, rate=7.0), **common, spread=spread, burstiness=burstiness)
    assert same(mix.traffic(often, **common, burstiness=burstiness), plain)
    loop = closed_loop(Workload(input_len=300, output_len=40, concurrency=5), **common, spread=spread)
    assert same(mix.traffic(flight, **common), loop)
    assert mix.lengths == workload


def test_one_class_is_answered_as_plain_traffic_is():
    kind = {"name": "all", "input_len": 700, "output_len": 50, "spread": 0.4, "ttft": 200, "tpot": 30, "percentile": 90}
    plain = advisor.simulate(
        **COMMON, rate=6, input_len=700, output_len=50, spread=0.4, ttft=200, tpot=30, percentile=90
    )
    for policy in ("fcfs", "priority"):
        alone = advisor.simulate(**COMMON, rate=6, classes={"classes": [kind]}, scheduling_policy=policy)
        (outcome,) = alone.classes
        assert alone.metrics == {
            name: {k: v for k, v in row.items() if k in alone.metrics[name]} for name, row in plain.metrics.items()
        }
        assert (alone.good, alone.goodput_s, alone.meets) == (plain.good, plain.goodput_s, plain.meets)
        assert (outcome.good, outcome.goodput_s, outcome.meets) == (plain.good, plain.goodput_s, plain.meets)
        assert outcome.metrics == {name: plain.metrics[name] for name in outcome.metrics}
        assert alone.saturation_s == plain.saturation_s


@pytest.mark.parametrize("coming", [{"rate": 12}, {"concurrency": 24}])
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_goodput_by_class_sums_to_the_total_and_no_request_is_lost(coming, policy):
    answer = advisor.simulate(**COMMON, **coming, classes=BOTH, scheduling_policy=policy)
    chat, summaries = answer.classes
    counted = int(answer.served.counted.sum())
    assert chat.requests + summaries.requests == counted
    assert chat.goodput_s + summaries.goodput_s == pytest.approx(answer.goodput_s, rel=1e-12)
    assert chat.good * chat.requests + summaries.good * summaries.requests == pytest.approx(answer.good * counted)
    assert chat.requests / counted == pytest.approx(0.75, abs=0.1)
    assert answer.meets == (chat.meets and summaries.meets)
    written = json.loads(json.dumps(answer.to_dict()))["classes"]
    assert [kind["name"] for kind in written] == ["chat", "summaries"]


def test_a_priority_helps_those_who_have_it():
    """More than the GPU serves: with priorities chat keeps its limit, which it misses in a common queue."""
    crowded = COMMON | {"deployment": advisor.Deployment(max_num_seqs=16)}
    plain, ordered = (
        advisor.simulate(**crowded, rate=14, classes=BOTH, scheduling_policy=policy) for policy in ("fcfs", "priority")
    )
    assert not plain.classes[0].meets
    assert ordered.classes[0].meets
    assert ordered.classes[0].metrics["ttft_ms"]["p95"] < 0.5 * plain.classes[0].metrics["ttft_ms"]["p95"]
    assert ordered.classes[1].metrics["ttft_ms"]["mean"] > plain.classes[1].metrics["ttft_ms"]["mean"]


def test_intervals_hold_what_is_believed():
    answer = advisor.simulate(**COMMON | {"draws": 2}, rate=6, classes=BOTH)
    for kind in answer.classes:
        for metric, statistics in kind.metrics.items():
            for name, value in statistics.items():
                low, high = kind.intervals[metric][name]
                assert low <= value <= high
        low, high = kind.intervals["shares"]["good"]
        assert 0 <= low <= kind.good <= high <= 1


def test_classes_of_a_trace_are_those_of_its_column(tmp_path):
    trace = tmp_path / "t.csv"
    rows = [(0.1 * i, 200 + i, 20, "b" if i % 3 == 0 else "a") for i in range(60)]
    trace.write_text("time,input,output,class\n" + "\n".join(",".join(map(str, row)) for row in rows))
    kinds = {"classes": [{"name": "a", "ttft": 500}, {"name": "b", "e2e": "9s", "priority": 1}]}
    answer = advisor.simulate("llama-3.1-8b", "H100", trace=trace, classes=kinds, draws=0)
    assert [(kind.name, kind.requests) for kind in answer.classes] == [("a", 40), ("b", 20)]
    with pytest.raises(InputError, match="line 2: its class is 'b'; the classes are a"):
        advisor.simulate("llama-3.1-8b", "H100", trace=trace, classes={"classes": [{"name": "a"}]}, draws=0)
    with pytest.raises(InputError, match="class a states rate; the trace says that"):
        advisor.simulate("llama-3.1-8b", "H100", trace=trace, classes={"classes": [{"name": "a", "rate": 2}]}, draws=0)
    plain = tmp_path / "plain.csv"
    plain.write_text("time,input,output\n0,10,10\n")
    with pytest.raises(InputError, match="no column for the class"):
        advisor.simulate("llama-3.1-8b", "H100", trace=plain, classes=kinds, draws=0)


def test_a_class_takes_from_the_question_what_it_does_not_state():
    mix = mix_of({"name": "a", "rate": 3}, {"name": "b", "rate": "60/min", "use": "summarise"}, slo=Slo(tpot_ms=33.0))
    assert mix.rate == 4.0
    assert mix.shares == (0.75, 0.25)
    assert mix.classes[0].slo == Slo(tpot_ms=33.0)
    assert mix.classes[1].slo.limits
    assert mix.workloads[0].input_len == 1024
    assert mix.workloads[1].input_len > 1024


@pytest.mark.parametrize(
    ("classes", "wrong"),
    [
        ([], "classes"),
        ([{"name": "a", "speed": 3}], "speed"),
        ([{"name": "a"}, {"name": "a"}], "twice"),
        ([{"name": "a", "share": 1, "rate": 2}], "a share and a rate"),
        ([{"name": "a", "rate": 2}, {"name": "b", "share": 1}], "give all a rate, or all a share"),
        ([{"name": "a", "share": -1}], "share"),
        ([{"name": "a", "rate": "fast"}], "class a: rate"),
        ([{"name": "a", "ttft": -4}], "class a: ttft_ms"),
        ([{"name": "a", "percentile": 100}], "percentile"),
        ([{"name": "a", "priority": 1.5}], "priority"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(classes, wrong):
    with pytest.raises(InputError, match=wrong) as refusal:
        mix_of(*classes)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        ({"rate": 5, "turns": 3}, "classes are of requests that wait for no other"),
        ({"concurrency": 5, "client": "vllm"}, "requests that are all alike"),
        (
            {"rate": 5, "deployment": advisor.Deployment(engine="sglang"), "scheduling_policy": "priority"},
            "as vllm has them",
        ),
        ({"rate": 5, "scheduling_policy": "lifo"}, "fcfs, priority"),
        ({"rate": 5, "prefill": advisor.Deployment(), "gpus": "2xH100"}, "all alike"),
        ({"rate": 5, "poll_steps": 10, "scheduling_policy": "priority"}, "holds requests back"),
        ({}, "give exactly one of --rate"),
    ],
)
def test_what_classes_cannot_come_with_is_said(asked, wrong):
    with pytest.raises(InputError, match=wrong):
        advisor.simulate(**COMMON | {"classes": BOTH} | asked)


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none.yaml, which is to be a file of classes: No such file"):
        read_classes(tmp_path / "none.yaml", Workload(), Slo(), 0.0)
    text = tmp_path / "text.yaml"
    text.write_text("just words")
    with pytest.raises(InputError, match="it must have classes, a list"):
        read_classes(text, Workload(), Slo(), 0.0)


PLANNED = {"model": "llama-3.1-8b", "gpus": "8xH100", "rate": 15, "draws": 0, "duration_s": 15.0, "price": 2.0}


def test_a_plan_keeps_the_limits_of_every_class():
    loose = advisor.plan(**PLANNED, classes=BOTH)
    assert loose.best is not None
    assert [kind.name for kind in loose.best.classes] == ["chat", "summaries"]
    assert all(kind.excess <= 1.0 for kind in loose.best.classes)
    with pytest.raises(InputError, match="neither classes"):
        advisor.simulate_option(loose, loose.best)
    served = advisor.simulate_option(loose, loose.best, classes=BOTH, draws=0)
    for kind, met in zip(loose.best.classes, served.classes, strict=True):
        assert kind.name == met.name
        assert kind.good == pytest.approx(met.good)


@pytest.mark.slow
def test_a_stricter_class_takes_more_gpus_or_says_what_it_could_keep():
    loose = advisor.plan(**PLANNED, classes=BOTH)
    strict = advisor.plan(**PLANNED, classes={"classes": [CHAT, SUMMARIES | {"e2e": "900ms"}]})
    assert strict.best is not None
    assert loose.best is not None
    assert strict.best.gpus > loose.best.gpus
    never = advisor.plan(**PLANNED, classes={"classes": [CHAT, SUMMARIES | {"e2e": "100ms"}]})
    assert never.best is None
    assert "summaries E2E of" in never.relaxations[0]


@pytest.mark.slow
def test_a_plan_for_one_class_is_the_plain_plan():
    plain = advisor.plan(**PLANNED, input_len=700, output_len=50, ttft=200)
    kind = {"name": "a", "input_len": 700, "output_len": 50, "ttft": 200}
    alone = advisor.plan(**PLANNED, classes={"classes": [kind]})
    assert alone.best is not None
    assert plain.best is not None
    assert (alone.best.gpus, alone.best.latencies) == (plain.best.gpus, plain.best.latencies)
    assert (alone.carries_s, alone.next_carries_s) == (plain.carries_s, plain.next_carries_s)


def test_the_plan_that_follows_is_for_the_rate_that_was_asked():
    from advisor.render.answers.simulation import document

    served = advisor.simulate("llama-3.1-8b", "H100", rate=3.0, duration_s=20.0, draws=0, tpot=2.0)
    (command,) = (section.command for section in document([served]).sections if section.command)
    assert command.argv[command.argv.index("--rate") + 1] == "3"
    assert served.rate != 3.0
