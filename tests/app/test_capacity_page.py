"""The page Capacity without a browser: what it plans, what it refuses, traces, and the fleet it serves."""

import time
from dataclasses import replace

import pytest
import streamlit as st

import advisor
from advisor.capacity.fleet_options import Change
from advisor.render.answers.capacity import option_columns, sentence
from advisor.render.figures.capacity import closeness, tornado
from app.capacity_inputs import EXAMPLES, read_trace
from app.classes_table import TABLES
from app.planning import AT_ONCE

SMALL = {
    "model": "meta-llama/Meta-Llama-3.1-8B",
    "kinds": "1xH200-SXM",
    "rate": "2.0",
    "input_len": "256",
    "output_len": "32",
    "ttft": "300.0",
    "tpot": "30.0",
    "planned": "1",
}


def text(test):
    elements = [*test.markdown, *test.info, *test.warning, *test.caption]
    return " ".join(element.value for element in elements).replace("\\", "")


def finished(test, seconds=180):
    """The page once its work is done: AppTest does not run fragments by itself."""
    deadline = time.monotonic() + seconds
    while any(button.label == "Cancel" for button in test.button) and time.monotonic() < deadline:
        time.sleep(0.2)
        test.run()
    assert not test.exception
    return test


@pytest.fixture(scope="module")
def expected():
    return advisor.plan(
        SMALL["model"],
        "1xH200-SXM",
        rate=2.0,
        workload=advisor.Workload(input_len=256, output_len=32),
        slo=advisor.Slo(ttft_ms=300.0, tpot_ms=30.0, percentile=95.0),
        confidence=0.9,
    )


def test_nothing_is_planned_before_it_is_asked(page):
    test = page("capacity")
    assert not test.exception
    assert not test.button("plan").disabled  # it begins with limits
    assert "can be cancelled" in test.info[0].value
    assert not test.dataframe
    for limit in ("ttft", "tpot"):
        test.number_input(limit).set_value(None).run()
    assert "State a limit" in test.info[0].value
    assert test.button("plan").disabled


@pytest.mark.slow
def test_a_link_to_an_answer_shows_what_advisor_plans_and_serves_it(page, expected):
    test = finished(page("capacity", **SMALL))
    best = expected.best
    assert not test.error
    assert "1 x H200-SXM as TP1 PP1 serves 2 requests/s of 256 in / 32 out" in text(test)
    values = {metric.label: metric.value.replace("\\", "") for metric in test.metric}
    assert values["A month"] == f"${best.usd_per_month:,.0f}"
    fleets, percentiles = (element.value for element in test.dataframe)
    assert fleets["usd_per_month"][0] == round(best.usd_per_month)  # a table has the document's cells
    assert fleets["ttft_ms"][0] == pytest.approx(best.latencies["ttft_ms"], rel=0.01)
    assert fleets["provenance"][0] == best.provenance
    # the fleet is served with the very requests that it was judged by
    assert percentiles["p95"][0] == fleets["ttft_ms"][0]
    assert f"{expected.requests} requests" in text(test)


def test_words_beside_a_bar_stand_right_of_it_and_of_what_is_planned(expected):
    base, hourly = expected.best.usd_per_month, expected.best.usd_per_hour
    changes = tuple(
        Change(what="rate", factor=factor, replicas=1, gpus=1, usd_per_hour=factor * hourly)
        for factor in (0.1, 0.5, 1.0, 1.5)
    )
    found = replace(expected, sensitivity=changes)
    bars, words, _ = tornado(found)["layer"]
    rows = bars["data"]["values"]
    assert min(row["value"] for row in rows) < base < max(row["value"] for row in rows)  # some need less, some more
    assert all(row["right"] == max(base, row["value"]) for row in words["data"]["values"])
    low, high = words["encoding"]["x"]["scale"]["domain"]
    assert 0 <= low < min(row["value"] for row in rows)
    assert high > max(row["right"] for row in rows) + 0.5 * (max(row["right"] for row in rows) - base)


def test_long_times_are_told_in_seconds(expected):
    slow = replace(expected.best, latencies={**expected.best.latencies, "e2e_ms": 47_300.0}, intervals={})
    found = replace(expected, slo=replace(expected.slo, e2e_ms=60_000.0), best=slow, options=(slow,))
    assert "E2E 47.3 s" in sentence(found)
    rows = closeness(found, [slow])["layer"][-1]["data"]["values"]
    assert [row["metric"] for row in rows] == ["TTFT, limit 300 ms", "TPOT, limit 30 ms", "E2E, limit 60 s"]
    assert rows[-1]["text"] == "47.3 s"
    cells = {f"{column.name} {column.unit}": column.cells for column in option_columns(found)}
    assert cells["E2E p95 s"] == ["47.3"]
    assert "TTFT p95 ms" in cells
    assert found.to_dict()["options"][0]["latencies"]["e2e_ms"] == 47_300.0


@pytest.mark.slow
def test_other_inputs_keep_the_answer_until_it_is_asked_again(page):
    test = finished(page("capacity", **SMALL))
    test.number_input("rate").set_value(3.0)
    test.text_input("prices").set_value("H200-SXM=10").run()
    assert "Press Plan" in text(test)
    assert "serves 2 requests/s" in text(test)
    finished(test.button("plan").click().run())
    assert "Press Plan" not in text(test)
    assert "serves 3 requests/s of 256 in / 32 out for $7,300 a month" in text(test)


@pytest.mark.slow
def test_another_fleet_is_served_when_chosen_and_the_link_names_it(page):
    two = SMALL | {"kinds": "2xH200-SXM"}
    test = finished(page("capacity", **two))
    first, second = test.selectbox("fleet").options[:2]
    assert f"{first}, 1 replica serving" in text(test)
    finished(test.selectbox("fleet").select(second).run())
    assert test.query_params["fleet"] in (second, [second])
    assert f"{second}, 1 replica serving" in text(test)
    again = finished(page("capacity", **two, fleet=second))
    assert f"{second}, 1 replica serving" in text(again)
    # an answer without that fleet is about one that it has
    test.multiselect("kinds").set_value(["1xH200-SXM"]).run()
    finished(test.button("plan").click().run())
    assert not test.error
    assert f"{first}, 1 replica serving" in text(test)


def test_long_work_is_cancelled_and_the_page_lives(page, monkeypatch):
    def forever(*_, **__):
        while True:
            time.sleep(0.01)

    monkeypatch.setattr("advisor.plan", forever)
    test = page("capacity", **SMALL)
    test.button("plan cancel").click().run()
    deadline = time.monotonic() + 180
    while not any(info.value == "Cancelled." for info in test.info) and time.monotonic() < deadline:
        test.run()
    assert any(info.value == "Cancelled." for info in test.info)
    assert not test.button("plan").disabled


def test_where_nothing_keeps_the_limits_the_nearest_is_told_in_numbers(page):
    test = finished(page("capacity", **SMALL | {"ttft": "1.0"}))
    assert "Nothing keeps p95 TTFT 1 ms" in text(test)
    assert "Nearest: 1 x H200-SXM" in text(test)
    assert "at least TTFT of" in text(test)
    assert not test.metric
    assert len(test.dataframe[0].value) == 1
    assert "$/Mtok" not in test.dataframe[0].value  # a fleet that cannot serve the rate has no price for its tokens


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kinds": "1xH201"}, 'unknown GPU "H201"'),
        ({"prices": "cheap"}, "it must be dollars per GPU-hour"),
        (
            {"prices": "A100-SXM-80GB=2", "kinds": "1xA100-SXM-80GB", "model": "meta-llama/Llama-2-70b-hf"},
            "fits none of",
        ),
        ({"input_len": "1000000"}, "above the positions"),
    ],
)
def test_what_cannot_be_is_one_line(page, parameters, message):
    test = finished(page("capacity", **SMALL | parameters))
    assert len(test.error) == 1
    assert message in test.error[0].value.replace("\\", "")
    assert "\n" not in test.error[0].value


def uploaded(page, content, name="day.csv"):
    test = page("capacity", **{key: value for key, value in SMALL.items() if key != "planned"}, traffic="A trace")
    return test.file_uploader("trace").upload(name, content, "text/csv").run()


def trace(gaps):
    rows, time_s = ["time,input,output"], 0.0
    for gap in gaps:
        time_s += gap
        rows.append(f"{time_s:.3f},200,20")
    return "\n".join(rows).encode()


def test_a_trace_is_planned_for_its_busiest_minute_and_served_whole(page):
    test = uploaded(page, trace([2.0] * 60 + [0.25] * 240 + [2.0] * 60))
    assert "planned for the busiest 60.0 s: 4.00 requests/s, 200 in / 20 out" in text(test)
    finished(test.button("plan").click().run())
    assert "serves 4 requests/s of 200 in / 20 out" in text(test)
    assert "serving the trace day.csv (360 requests" in text(test)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the trace day.csv is empty"),
        (b"when,what\n1,2\n", "day.csv has no column for the input"),
        (b"input,what\n1,2\n", "day.csv has no column for the output"),
        (b"when,input,output\n1,2,3\n", "day.csv has no column for the time"),
        (b"time,input,output\n2,5,5\n1,5,5\n", "day.csv line 3: it arrives before"),
        (b"time,input,output\n1,5,many\n", "day.csv line 2: output is 'many'"),
        (b"\x00\xff\xfe" * 9, "day.csv"),
        (b"time,input,output\n0,5,5\n0,-5,5\n", "its input is -5; it must be a whole number"),
    ],
)
def test_a_bad_trace_is_one_line_and_the_limits_stay(page, content, message):
    test = uploaded(page, content)
    assert not test.exception
    assert message in test.error[0].value.replace("\\", "")
    assert "/tmp" not in test.error[0].value
    assert test.number_input("ttft").value == 300.0
    assert test.button("plan").disabled


def test_traces_of_the_same_bytes_are_the_same_question():
    content = trace([1.0] * 30)
    first, second = (read_trace("a.csv", "1", content), read_trace("a.csv", "2", content))
    assert first.peak == second.peak
    assert first.peak.workload.rate == pytest.approx(1.0, rel=0.05)


def test_examples_are_questions_that_are_planned(page, monkeypatch):
    asked = []

    def waiting(_, question, *__, **___):
        asked.append(question)
        st.stop()

    monkeypatch.setattr("app.capacity.answered", waiting)
    test = page("capacity")
    for label, values in EXAMPLES.items():
        next(button for button in test.button if button.label == label).click().run()
        assert not test.exception
        assert not test.error
        assert not test.button("plan").disabled
        widgets = {name: value for name, value in values.items() if name not in (AT_ONCE, TABLES.anew)}
        assert {name: test.session_state[name] for name in widgets} == widgets
        assert asked[-1].model.name == values["model"]
