"""``plan``: the same as trying everything, monotone in what is asked, prices, spares, and limits that cannot be kept."""

import csv
import io
import json
import math
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from advisor.capacity.candidates import Layouts, kinds_of
from advisor.capacity.capacity_plan import plan
from advisor.capacity.fleet_options import between, carried, within
from advisor.capacity.option_traffic import simulate_option
from advisor.cli import app
from advisor.cli.program import BAD_INPUT
from advisor.prediction.inputs import chosen_price
from advisor.render.answers.speculation import plan_speculation_lines
from advisor.render.next_command import pool_words, whole_servers
from advisor.render.vocabulary import fleet_name, replica_name
from advisor.simulator.pool_pairs import PoolTerms
from advisor.simulator.replica_sizing import TrafficSpec
from advisor.simulator.simulation import simulate
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.models.find import find_model
from catalog.prices import read_prices as stated_prices
from catalog.schema import Deployment, Slo, Workload

MODEL = "llama-3.1-8b"
KNOBS = Deployment(max_num_seqs=16, max_model_len=4096)
WORKLOAD = Workload(input_len=512, output_len=64)
SLO = Slo(ttft_ms=150.0, tpot_ms=10.0, percentile=90.0)
COMMON = {"workload": WORKLOAD, "deployment": KNOBS, "duration_s": 20.0, "runs": None, "draws": 0}


def planned(gpus="8xH200", rate=40.0, slo=SLO, **options):
    return plan(MODEL, gpus, rate=rate, slo=slo, **{**COMMON, "price": 2.0, **options})


def tried(count, rate, slo):
    """Every layout and number of replicas on so many H200, simulated: those that keep the limits."""
    found = []
    for tp, pp in ((1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (1, 4)):
        for dp in range(1, count // (tp * pp) + 1):
            served = simulate(
                MODEL,
                f"{count}xH200",
                deployment=replace(KNOBS, tp=tp, pp=pp, dp=dp),
                slo=slo,
                duration_s=20.0,
                draws=0,
                workload=replace(WORKLOAD, rate=rate),
            )
            if served.meets and served.saturation_s >= rate:
                found.append((dp * tp * pp, tp, pp, dp, served))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "slo"),
    [
        (40.0, SLO),
        (25.0, Slo(tpot_ms=6.0)),
        (30.0, Slo(tpot_ms=5.5)),
        (40.0, Slo(e2e_ms=450.0, percentile=95.0)),
        (40.0, Slo(ttft_ms=60.0)),
    ],
)
def test_it_is_what_trying_everything_finds(rate, slo):
    every = tried(4, rate, slo)
    assert every
    assert len(every) < 11  # else the limits decide nothing
    found = planned("4xH200", rate, slo, top=10)
    assert found.best.gpus == min(gpus for gpus, *_ in every)
    least = {}
    for gpus, tp, pp, _, _ in every:
        least[tp, pp] = min(gpus, least.get((tp, pp), gpus))
    assert {(each.deployment.tp, each.deployment.pp): each.gpus for each in found.options} == least
    best = found.best
    (served,) = (
        served
        for gpus, tp, pp, dp, served in every
        if (gpus, tp, pp, dp) == (best.gpus, best.deployment.tp, best.deployment.pp, best.deployment.dp)
    )
    statistic = "mean" if slo.percentile is None else f"p{slo.percentile:g}"
    for name, value in best.latencies.items():
        assert value == pytest.approx(served.metrics[name][statistic])
    # A fleet saturates where all its replicas do.
    assert best.utilisation == pytest.approx(rate / served.saturation_s, rel=0.03)


@pytest.mark.slow
def test_more_traffic_and_tighter_limits_take_no_fewer_gpus():
    rates = [planned("H200", rate, top=1).best.gpus for rate in (5.0, 40.0, 80.0, 160.0)]
    assert rates == sorted(rates)
    assert rates[-1] > rates[0]
    limits = [planned("H200", slo=replace(SLO, tpot_ms=tpot), top=1).best.gpus for tpot in (20.0, 8.0, 6.5)]
    assert limits == sorted(limits)


def test_headroom_is_more_traffic_and_spares_come_on_top():
    plain, wide = planned("H200", 60.0), planned("H200", 60.0, headroom=0.5)
    assert [each.replicas for each in wide.options] == [each.replicas for each in planned("H200", 90.0).options]
    assert wide.best.gpus > plain.best.gpus
    assert wide.carries_s >= 60.0
    spared = planned("H200", 60.0, spares=1, top=10)
    for option in spared.options:
        assert option.gpus == (option.replicas + 1) * option.deployment.tp * option.deployment.pp
        assert option.deployment.dp == option.replicas + 1
    assert spared.best.usd_per_hour > plain.best.usd_per_hour


@pytest.mark.slow
def test_confidence_takes_no_fewer_gpus_and_keeps_the_upper_end():
    slo = replace(SLO, tpot_ms=5.2)
    even, sure = (planned("H100", slo=slo, confidence=each, draws=2, top=1).best for each in (0.5, 0.95))
    assert sure.gpus > even.gpus
    low, high = sure.intervals["tpot_ms"]  # of 90%: its upper end holds with 95%
    assert low < sure.latencies["tpot_ms"] < high
    assert high <= 5.2 * 1.02
    assert even.intervals["tpot_ms"][1] > 5.2


@pytest.mark.slow
def test_prices_decide_between_kinds_of_gpus():
    kinds = ["H100", "H200"]
    one, other = (
        planned(kinds, 5.0, slo=Slo(ttft_ms=500.0), price={"H100": first, "H200": second}, top=1)
        for first, second in ((1.0, 3.0), (3.0, 1.0))
    )
    assert (one.best.gpu, other.best.gpu) == ("H100-SXM", "H200-SXM")
    best = one.best
    assert best.usd_per_hour == best.gpus * 1.0
    assert best.usd_per_month == pytest.approx(730.0 * best.usd_per_hour)
    assert best.usd_per_mtok == pytest.approx(best.usd_per_hour / (5.0 * 64 * 3600) * 1e6)
    with pytest.raises(InputError, match="no price for A40"):
        planned("A40", price=None)
    left = planned("A40,H200", 5.0, price={"H200": 1.0}, top=1)
    assert {each.gpu for each in left.options} == {"H200-SXM"}
    assert any("A40 left out" in note.text for note in left.notes)
    fewest = planned("A40", 5.0, slo=Slo(ttft_ms=500.0), price=None, objective="gpus")
    assert fewest.best.gpus == min(each.gpus for each in fewest.options)
    assert fewest.best.usd_per_hour is None


def test_how_far_it_carries_is_where_the_limits_break():
    found = planned("H200", top=1)
    best = found.best
    assert found.carries_s >= 40.0
    assert found.next_carries_s > found.carries_s
    assert planned("H200", found.carries_s * 0.99, top=1).best.gpus <= best.gpus
    above = simulate(
        MODEL,
        "8xH200",
        deployment=best.deployment,
        slo=SLO,
        duration_s=20.0,
        draws=0,
        workload=replace(WORKLOAD, rate=found.carries_s * 1.3),
    )
    assert not above.meets or above.saturation_s < found.carries_s * 1.3
    half, slower, faster, double = (change.gpus for change in found.sensitivity if change.what == "rate")
    assert half <= slower <= best.gpus <= faster <= double


def test_limits_that_cannot_be_kept():
    found = planned("H200", slo=Slo(ttft_ms=1.0, tpot_ms=50.0, percentile=95.0))
    assert found.best is None
    assert found.options == ()
    assert not found.nearest.meets
    (relax,) = found.relaxations
    assert "TTFT of" in relax
    assert "TPOT" not in relax  # which could be kept
    value = float(relax.split("TTFT of ")[1].split(" ms")[0])
    assert planned("H200", slo=Slo(ttft_ms=value, tpot_ms=50.0, percentile=95.0), top=1).best


def test_too_few_gpus():
    found = planned("1xH200", 200.0)
    assert found.best is None
    rate, *formats, gpus = found.relaxations
    within = float(rate.split("at most ")[1].split()[0])
    assert 0 < within < 200
    assert planned("1xH200", within).best
    assert not planned("1xH200", within * 1.1).best
    count = int(gpus.split(" x ")[0])
    assert count in (2, 4, 8, 16)
    assert planned(f"{count}xH200", 200.0, top=1).best.gpus <= count
    assert not formats


def test_other_formats_are_tried_before_more_gpus():
    most = float(planned("1xH200", 200.0).relaxations[0].split("at most ")[1].split()[0])
    found = planned("1xH200", most * 1.1)
    assert found.best is None
    rate, formats, gpus = found.relaxations
    assert (rate.split(" of ")[0], gpus.split()[1:3]) == ("a rate", ["x", "H200-SXM"])
    knobs = {"fp8 KV cache": {"kv_dtype": "fp8"}, "fp8 weights": {"dtype": "fp8"}}[formats]
    assert planned("1xH200", most * 1.1, deployment=replace(KNOBS, **knobs)).best


@pytest.mark.slow
def test_only_what_is_shown_is_warned_of():
    options = {"duration_s": 5.0, "runs": None, "deployment": replace(KNOBS, engine="lmdeploy")}
    far = planned("8xA100", slo=Slo(tpot_ms=0.5), **options)  # the most GPUs for one request come nearest
    near = planned("8xA100", 2000.0, **options)  # the most replicas
    wide = "tensor parallel over more than 4 GPUs"  # lmdeploy's runs had no more
    assert (far.best, near.best) == (None, None)
    assert far.nearest.deployment.tp == 8
    assert near.nearest.deployment.tp <= 4
    assert any(wide in note.text for note in far.notes)
    assert not any(wide in note.text for note in near.notes)


@pytest.mark.slow
def test_it_is_the_same_every_time():
    assert planned("H200", spread=0.5, draws=2).to_dict() == planned("H200", spread=0.5, draws=2).to_dict()


def test_kinds_with_and_without_a_number():
    read = {str(cluster): most for cluster, most, _ in kinds_of("H100, 4xH200, 2x8xA100", None)}
    assert read == {"8xH100-SXM": None, "4xH200-SXM": 4, "8xA100-SXM-80GB": 16}
    with pytest.raises(InputError, match="twice"):
        kinds_of(["H100", "2xH100"], None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slo": Slo(percentile=95.0)}, "no limit"),
        ({"rate": 0.0}, "rate"),
        ({"rate": math.nan}, "rate"),
        ({"objective": "speed"}, "objective"),
        ({"confidence": 0.6}, "confidence"),
        ({"confidence": 0.9}, "draws"),
        ({"headroom": -0.1}, "headroom"),
        ({"spares": -1}, "spares"),
        ({"deployment": Deployment(tp=2)}, "leave them at 1"),
        ({"workload": Workload(concurrency=3)}, "concurrency"),
        ({"rate": None}, "give exactly one of --rate"),
        ({"price": -1.0}, "price"),
        ({"gpus": []}, "no GPUs"),
        ({"gpus": "H999"}, "H999"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(InputError, match=said) as caught:
        planned(**options)
    assert "\n" not in str(caught.value)


# -- the command -----------------------------------------------------------------------------------------------------

PLAN = [
    "plan",
    "--model",
    MODEL,
    "--gpus",
    "8xH200",
    "--rate",
    "40",
    "--input-len",
    "512",
    "--output-len",
    "64",
    "--duration",
    "20",
    "--max-num-seqs",
    "16",
    "--max-model-len",
    "4096",
    "--draws",
    "2",
    "--tpot",
    "10",
    "--percentile",
    "90",
    "--price",
    "2",
]


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80"})
    assert result.exit_code == code, result.output
    return result


def test_the_command_tells_the_plan():
    text = run(*PLAN, "--spares", "1").stdout
    assert max(map(len, text.splitlines())) <= 80
    for word in ("p90", "H200-SXM", "a month", "+ 1", "capacity", "GPU", "rate x 2", "advisor export"):
        assert word in text
    whole = " ".join(run(*PLAN, "--spares", "1", "--wide").stdout.split())
    for word in ("search", "rate x 1.25", "as stated"):
        assert word in whole


@pytest.mark.slow
def test_machines_get_the_same_numbers():
    body = json.loads(run(*PLAN, "--format", "json").stdout)
    rows = list(csv.DictReader(io.StringIO(run(*PLAN, "--format", "csv").stdout)))
    assert len(rows) == len(body["options"])
    for row, option in zip(rows, body["options"], strict=True):
        assert int(row["gpus"]) == option["gpus"]
        assert float(row["tpot_ms"]) == pytest.approx(option["latencies"]["tpot_ms"])
        assert float(row["tpot_ms_high"]) == pytest.approx(option["intervals"]["tpot_ms"][1])
        assert float(row["usd_per_month"]) == pytest.approx(option["usd_per_month"])
    lines = run(*PLAN, "--format", "markdown").stdout.splitlines()
    assert lines[0].startswith("| GPUs")
    assert len(lines) == 2 + len(rows)


@pytest.mark.slow
def test_nothing_to_buy_ends_with_1():
    text = run(*PLAN, "--ttft", "1", code=1).stdout
    assert "relax" in text
    result = run(*PLAN, "--ttft", "1", "--format", "csv", code=1)
    assert "relax" in result.stderr


def test_prices_of_the_command():
    assert stated_prices(None) is None
    assert stated_prices(["2.5", "H100=3"]) == {"": 2.5, "H100": 3.0}
    for wrong in (["x"], ["H100="], ["1", "2"]):
        with pytest.raises(InputError, match="--price"):
            stated_prices(wrong)
    (line,) = run(*PLAN[:-1], "much", code=BAD_INPUT).stderr.splitlines()
    assert "--price" in line


def test_attention_data_parallel_competes_and_is_sized_in_whole_groups():
    """Ranks that share their experts come and go together: the fleet has groups of four, which export as such."""
    asked = {"rate": 60.0, "slo": Slo(tpot_ms=60.0, percentile=95.0), "draws": 0, "duration_s": 5.0, "price": 2.0}
    found = plan("mixtral-8x7b", "8xH200", deployment=KNOBS, workload=WORKLOAD, top=20, **asked)
    (option,) = (each for each in found.options if (each.deployment.tp, each.deployment.ep) == (1, 4))
    assert option.deployment.ranks == 4
    assert option.deployment.dp == 4 * option.replicas
    assert option.gpus == option.deployment.num_gpus
    served = simulate(
        "mixtral-8x7b",
        f"{option.gpus}xH200",
        deployment=option.deployment,
        duration_s=5.0,
        draws=0,
        slo=asked["slo"],
        workload=replace(WORKLOAD, rate=60.0),
    )
    assert option.latencies["tpot_ms"] == pytest.approx(served.metrics["tpot_ms"]["p95"], rel=1e-6)
    assert fleet_name(replace(option, replicas=1, gpus=4)).endswith("4 x TP1 PP1 EP4")
    several = replace(option, replicas=2, gpus=8)
    assert fleet_name(several).endswith("2 x (4 x TP1 PP1 EP4)")


@pytest.mark.slow
def test_fleets_with_a_pool_for_prompts_are_tried_on_demand():
    asked = {"rate": 60.0, "slo": Slo(tpot_ms=6.0, percentile=95.0), "top": 1}
    plain, found = planned("H200", **asked), planned("H200", disaggregate=True, **asked)
    (option,) = (each for each in found.options if each.prefill)
    assert [each for each in found.options if not each.prefill] == list(plain.options)
    assert found.candidates > plain.candidates
    assert option.provenance == "analytic"
    assert option.gpus == option.prefill.num_gpus + option.deployment.num_gpus
    assert option.latencies["tpot_ms"] <= 6.0
    served = simulate_option(found, option, draws=0)
    assert option.latencies["tpot_ms"] == pytest.approx(served.metrics["tpot_ms"]["p95"], rel=0.05)
    text = run(*PLAN, "--disaggregate", "--tpot", "8").stdout
    assert f"TP{option.deployment.tp} " in text
    assert replica_name(option) in text


def test_pools_may_have_gpus_of_two_kinds():
    """Where GPUs that compute as fast are cheaper and those with the bandwidth dear, prompts and answers part."""
    asked = {
        "workload": Workload(input_len=2048, output_len=256),
        "rate": 12.0,
        "slo": Slo(ttft_ms=1500.0, tpot_ms=12.0, percentile=90.0),
        "price": {"H100": 1.0, "H200": 2.0},
        "deployment": Deployment(max_num_seqs=64, max_model_len=4096),
        "duration_s": 20.0,
    }
    found = planned("H100,H200", disaggregate=True, **asked)
    pools = [each for each in found.options if each.prefill]
    assert pools
    for option in pools:
        assert sum(option.gpu_counts.values()) == option.gpus
        hourly = sum({"H100-SXM": 1.0, "H200-SXM": 2.0}[name] * gpus for name, gpus in option.gpu_counts.items())
        assert option.usd_per_hour == pytest.approx(hourly)
    pairs = {(fleet.prefill_gpu, fleet.cluster.gpu.name) for fleet in pairs_of(asked)}
    assert pairs == {(None, "H100-SXM"), (None, "H200-SXM"), ("H100-SXM", "H200-SXM"), ("H200-SXM", "H100-SXM")}
    mixed = next(option for option in pools if option.prefill_gpu)
    assert fleet_name(mixed).startswith(f"{mixed.prefill.num_gpus} x {mixed.prefill_gpu} + ")
    served = simulate_option(found, mixed, draws=0)
    assert str(served.prefill_cluster).endswith(mixed.prefill_gpu)
    assert mixed.latencies["ttft_ms"] == pytest.approx(served.metrics["ttft_ms"]["p90"], rel=0.05)
    with pytest.raises(InputError, match="add disaggregate"):
        planned("H100,H200", **asked, kv_link_gbps=10.0)


def pairs_of(asked):
    """The fleets with two pools that are worth simulating."""
    model, base = find_model(MODEL).value, asked["deployment"]
    demand = TrafficSpec(
        workload=replace(asked["workload"], rate=asked["rate"]),
        slo=asked["slo"],
        confidence=0.5,
        duration_s=asked["duration_s"],
        seed=0,
        spread=0.0,
        burstiness=1.0,
        draws=0,
        longest=4096,
    )
    prices = {f"{name}-SXM": chosen_price(f"{name}-SXM", usd) for name, usd in asked["price"].items()}
    layouts = Layouts.of(
        model,
        kinds_of("H100,H200", None),
        base,
        None,
        demand,
        left_out=[],
        pools=PoolTerms(prices=prices),
        spares=0,
        serving={},
        longest_request=2304,
    )
    return layouts.by_kind[-1]


@pytest.mark.slow
def test_another_token_budget_where_a_limit_decides():
    """Chunks that fill what decode steps leave idle save a replica where TPOT, and not saturation, decides how many there are."""
    asked = {"workload": Workload(input_len=1024, output_len=256), "rate": 20.0, "draws": 4, "top": 1, "price": 2.0}
    limits = Slo(tpot_ms=9.7, percentile=95.0)
    chosen, usual = (
        plan("llama-3.1-8b", "H100", slo=limits, duration_s=20.0, search_budgets=search, **asked)
        for search in (True, False)
    )
    assert usual.best.deployment.max_num_batched_tokens == 8192
    assert chosen.best.deployment.max_num_batched_tokens < 8192
    assert chosen.best.replicas < usual.best.replicas
    assert any("in place of 8192: a limit, and not saturation" in note.text for note in chosen.notes)


def test_a_trace_says_what_comes(tmp_path):
    path = tmp_path / "trace.csv"
    lines = "".join(f"{i * 0.05:.2f},{200 + 300 * (i % 3)},{32 + 32 * (i % 2)}\n" for i in range(800))
    path.write_text("time,input,output\n" + lines, encoding="utf-8")
    found = planned("8xH200", trace=path, duration_s=None, top=1)
    assert found.requests == 800
    assert found.duration_s == pytest.approx(20.0)  # 800 at 40 a second
    assert (found.workload.input_len, found.workload.output_len) == (500, 48)
    served = simulate(
        MODEL, "8xH200", deployment=found.best.deployment, trace=path, workload=Workload(rate=40.0), slo=SLO, draws=0
    )
    assert found.best.latencies["tpot_ms"] == pytest.approx(served.metrics["tpot_ms"]["p90"], rel=0.01)
    longer = next(change for change in found.sensitivity if (change.what, change.factor) == ("output_len", 1.25))
    assert longer.gpus >= found.best.gpus
    assert planned("8xH200", trace=path, duration_s=10.0, top=1).requests == 200
    assert planned("8xH200", trace=path, duration_s=None, top=1, rate=None).workload.rate == pytest.approx(20.0)


@pytest.mark.slow
def test_what_other_traffic_needs_is_monotone_and_agrees_with_what_is_carried():
    """At an edge, where one request more or less in the sample decides."""
    for rate in (14.5, 15.5, 31.0):
        limits = Slo(tpot_ms=30.0, ttft_ms=500.0, percentile=95.0)
        found = plan("llama-3.1-8b", "H100", rate=rate, slo=limits, duration_s=20.0, draws=2)
        best = found.best
        for what in ("rate", "input_len", "output_len"):
            needs = sorted(
                (change.factor, change.replicas or math.inf) for change in found.sensitivity if change.what == what
            )
            replicas = [most for _, most in needs]
            assert replicas == sorted(replicas), (rate, what, needs)
            assert all((factor < 1) <= (most <= best.replicas) for factor, most in needs)
        for change in found.sensitivity:
            if change.what == "rate":
                asked = rate * change.factor
                assert (asked <= found.carries_s) == (change.replicas <= best.replicas), (rate, change)
        assert found.bare_carries_s >= found.carries_s
        assert found.next_carries_s >= found.carries_s


@pytest.mark.parametrize(
    ("what", "factor", "expected"),
    [("rate", 0.5, (1, 4)), ("rate", 1.25, (4, 9)), ("rate", 4.0, (9, None)), ("input_len", 2.0, (1, None))],
)
def test_less_traffic_never_needs_more(what, factor, expected):
    known = {("rate", 1.0): 4, ("rate", 2.0): 9, ("rate", 3.0): None}
    assert between(known, what, factor) == expected


def test_bounds_hold_what_a_simulation_says():
    assert within(7, (1, 4)) == 4
    assert within(None, (1, 4)) == 4
    assert within(2, (3, None)) == 3
    assert within(None, (3, None)) is None
    assert carried((1, None), 10.0, 0.5, 3, 11.0, 15.0) == (1, 3)
    assert carried((1, None), 10.0, 1.25, 3, 11.0, 15.0) == (4, 4)
    assert carried((1, None), 10.0, 2.0, 3, 11.0, 15.0) == (5, None)
    assert carried((1, None), 10.0, 2.0, 3, 11.0, None) == (4, None)


def test_a_plan_and_a_simulation_of_its_fleet_say_the_same():
    limits = Slo(tpot_ms=30.0, percentile=95.0)
    found = plan("llama-3.1-8b", "H100", rate=8.0, slo=limits, duration_s=100.0)
    lengths = found.workload
    for rate, sure in ((0.9 * found.carries_s, True), (1.1 * found.carries_s, False)):
        answer = simulate("llama-3.1-8b", "1xH100", workload=replace(lengths, rate=rate), slo=limits, duration_s=100.0)
        assert (answer.meets and not answer.surely_missed(0.9) and answer.surely_stable(0.9)) == sure


@pytest.mark.slow
def test_a_plan_of_pools_is_as_sure_as_the_simulation_of_it():
    """The same requests served at the same ends of the steps' times: equal intervals, on one kind of GPU and on two."""
    limits = Slo(ttft_ms=2000.0, tpot_ms=25.0, percentile=95.0)
    lengths = Workload(input_len=4000, output_len=400, rate=5.0)
    fp8 = Deployment(dtype="fp8")
    found = plan("llama-3.1-70b", "H200,H100", workload=lengths, slo=limits, deployment=fp8, disaggregate=True, top=3)
    pools = [option for option in found.options if option.prefill is not None]
    assert pools
    for option in pools:
        apart, serving = option.prefill_gpu is not None, option.deployment
        beside = 0 if apart else option.prefill.num_gpus
        answer = simulate(
            "llama-3.1-70b",
            whole_servers(serving.num_gpus + beside, find_gpu(option.gpu).value, option.gpu),
            workload=lengths,
            slo=limits,
            deployment=serving,
            prefill=option.prefill,
            prefill_gpus=pool_words(option.prefill, option.prefill_gpu)[1] if apart else None,
            duration_s=found.duration_s,
        )
        for metric, ends in option.intervals.items():
            assert answer.metrics[metric]["p95"] == pytest.approx(option.latencies[metric], rel=1e-6)
            assert answer.interval(metric, "p95") == pytest.approx(ends, rel=1e-6)
        assert answer.meets
        assert answer.surely_stable(0.9)
        assert not answer.surely_missed(0.9)


def test_a_layout_that_is_not_recommended_warns_of_nothing():
    """Two stages, which no run on an H100 had, stand in the table below one GPU that serves alone."""
    answer = plan(
        "llama-3.1-8b", "2xH100", workload=Workload(rate=2), slo=Slo(tpot_ms=40), draws=0, duration_s=10, top=9
    )
    assert answer.best.deployment.pp == 1
    assert any(option.deployment.pp == 2 for option in answer.options)
    stages = [note for note in answer.notes if "pipeline stages" in note.text]
    assert [note.kind for note in stages] == ["note"]
    assert "vllm on this GPU" in stages[0].text
    assert "serves 2 requests/s" in str(answer), "a rate may be a whole number"


@pytest.mark.slow
def test_drafts_compete_with_none_and_both_are_shown():
    answer = plan(
        "llama-3.1-8b", "2xH100", rate=8.0, tpot=12, ttft=1000, draws=0, duration_s=4.0, speculate="eagle", draft_len=3
    )
    drafts = {option.deployment.drafting for option in answer.options}
    assert None in drafts
    assert len(drafts) == 2
    lines = plan_speculation_lines(answer)
    assert "eagle, 3 drafted" in lines[0]
    assert "; without " in lines[0]
