"""A plan in one sentence, and its options served request by request."""

import pytest

import advisor
from advisor.capacity.option_traffic import simulate_option
from advisor.render.answers.capacity import sentence

MODEL = "meta-llama/Meta-Llama-3.1-8B"


def asked(gpus, **changes):
    question = {
        "rate": 2.0,
        "workload": advisor.Workload(input_len=256, output_len=32),
        "draws": 2,
        "slo": advisor.Slo(ttft_ms=300.0, tpot_ms=30.0, percentile=95.0),
    }
    return advisor.plan(MODEL, gpus, **question | changes)


@pytest.fixture(scope="module")
def spared():
    return asked("2xH200-SXM", headroom=0.5, spares=1)


@pytest.mark.slow
def test_an_option_is_served_as_it_was_judged(spared):
    best = spared.best
    served = simulate_option(spared, best, draws=0)
    assert served.deployment.dp == best.replicas
    assert served.meets
    for metric, value in best.latencies.items():
        assert served.metrics[metric]["p95"] == pytest.approx(value)


def test_an_ordinary_day_has_all_replicas_and_no_headroom_used(spared):
    served = simulate_option(spared, spared.best, strained=False, draws=0)
    assert served.deployment.dp == spared.best.replicas + 1
    assert served.rate == pytest.approx(2.0, rel=0.15)
    assert served.metrics["e2e_ms"]["p95"] <= spared.best.latencies["e2e_ms"]


def test_real_traffic_takes_the_place_of_the_plan_s(spared, tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("time,input,output\n" + "".join(f"{i},200,20\n" for i in range(50)))
    served = simulate_option(spared, spared.best, trace=advisor.read_trace(path), draws=0)
    assert len(served.served) == 50
    assert set(served.served.input_len) == {200}


def test_what_to_take_is_one_sentence(spared):
    told = sentence(spared)
    money = f"{spared.best.usd_per_month:,.0f}"
    assert told.startswith("2 x H200-SXM as 2 x TP1 PP1 (1 of them spare) serve 2 requests/s of 256 in / 32 out for $")
    assert f"${money} a month" in told
    assert "p95 TTFT" in told
    assert told.endswith("% load.")


def test_where_nothing_does_the_nearest_and_what_to_relax_are_told():
    told = sentence(asked("1xH200-SXM", slo=advisor.Slo(ttft_ms=1.0)))
    assert told.startswith("Nothing keeps mean TTFT 1 ms at 2 requests/s")
    assert "Nearest: 1 x H200-SXM as TP1 PP1, mean TTFT " in told
    assert "in place of 1." in told
    value = float(told.split("at least TTFT of ")[1].split()[0])
    assert asked("1xH200-SXM", slo=advisor.Slo(ttft_ms=value)).best


def test_progress_names_what_it_is_at_and_changes_no_answer():
    seen = []
    found = asked("2xH200-SXM", draws=0, progress=seen.append)
    assert found == asked("2xH200-SXM", draws=0)
    shares = [each.share for each in seen]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert 0.9 < shares[-1] < 1.0
    simulated = [each for each in seen if each.doing.startswith("simulating")]
    assert simulated
    assert all(f", {i} of at most {found.candidates}" in each.doing for i, each in enumerate(simulated, 1))
    assert not simulated[0].best
    assert seen[-1].best == f"1 x TP1 PP1 on H200-SXM, ${found.best.usd_per_month:,.0f} a month"


def test_what_progress_raises_ends_the_plan():
    def stop(now):
        if now.share > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked("2xH200-SXM", draws=0, progress=stop)
