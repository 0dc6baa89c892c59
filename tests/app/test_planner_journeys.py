"""Capacity and Evidence in Chromium, as somebody uses them: plan for a trace, import runs, and get it wrong."""

import json
import re
from pathlib import Path

import pytest

from tests.app.uploads import upload

pytestmark = pytest.mark.browser

api = pytest.importorskip("playwright.sync_api", reason="journeys need Playwright")
expect = api.expect
MOST_MS = 180_000

BENCHMARKS = Path(__file__).resolve().parents[1] / "catalog" / "benchmarks"
QUESTION = "?model=meta-llama%2FMeta-Llama-3.1-8B&kinds=1xH200-SXM&ttft=300&tpot=30&confidence=by+the+estimate"


@pytest.fixture(scope="module", autouse=True)
def _patient():
    expect.set_options(timeout=MOST_MS)
    yield
    expect.set_options(timeout=5_000)


def file(name, content):
    return {"name": name, "mimeType": "text/csv", "buffer": content}


def choose(tab, label, option):
    """Choose from a list: a redraw closes an open one, so it is opened again until the option could be clicked."""
    for _ in range(20):
        expect(tab.locator("[data-testid=stApp][data-test-script-state=notRunning]")).to_be_visible()
        tab.get_by_role("combobox", name=label).click()
        try:
            tab.get_by_role("option", name=option).click(timeout=5_000)
        except api.TimeoutError:
            tab.keyboard.press("Escape")
        else:
            return
    pytest.fail(f"{option} could not be chosen for {label}")


def test_capacity_from_a_trace_a_bad_one_first(server, tab):
    tab.goto(f"{server}/plan{QUESTION}&traffic=A+trace")
    plan = tab.get_by_role("button", name="Plan")
    expect(plan).to_be_disabled()
    field = tab.locator("input[type=file]").last
    told = tab.get_by_text("bad.csv line 3: it arrives before the one above it")
    bad = file("bad.csv", b"time,input,output\n2,9,9\n1,9,9\n")
    upload(field, bad, lambda timeout: expect(told).to_be_visible(timeout=timeout))
    expect(tab.get_by_role("spinbutton", name="TTFT, ms")).to_have_value("300")  # what else was entered stays
    expect(plan).to_be_disabled()

    tab.get_by_test_id("stFileUploader").get_by_role("button", name=re.compile("Remove|Delete")).first.click()
    expect(tab.get_by_text("it arrives before the one above it")).to_have_count(
        0
    )  # else the next upload meets its redraw
    rows = "".join(f"{second / 4:g},256,32\n" for second in range(400))
    day, read = file("day.csv", f"time,input,output\n{rows}".encode()), tab.get_by_text("400 requests in 100 s")
    upload(field, day, lambda timeout: expect(read).to_be_visible(timeout=timeout))
    plan.click()
    expect(tab.get_by_role("heading", name=re.compile("1 x H200-SXM as TP1 PP1 serves 4 requests"))).to_be_visible()
    expect(tab.get_by_text("serving the trace day.csv (400 requests")).to_be_visible()
    expect(tab.get_by_test_id("stVegaLiteChart")).to_have_count(6)
    with tab.expect_download() as started:
        tab.get_by_role("button", name="JSON", exact=True).first.click()
    found = json.loads(Path(started.value.path()).read_text())
    assert found["best"]["gpus"] == 1
    assert found["best"]["meets"]
    with tab.expect_download() as started:
        tab.get_by_role("button", name="Report, HTML").first.click()
    assert "serves 4 requests/s of" in Path(started.value.path()).read_text()


def test_a_link_to_a_plan_is_planned_and_fits_a_phone(server, tab):
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.goto(f"{server}/plan{QUESTION}&rate=2&input_len=256&output_len=32&planned=1")
    expect(tab.get_by_role("heading", name=re.compile("serves 2 requests"))).to_be_visible()
    expect(tab.get_by_test_id("stVegaLiteChart")).to_have_count(6)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_classes_are_planned_by_priority_and_the_command_is_there_to_copy(server, tab):
    tab.goto(f"{server}/plan?model=meta-llama%2FMeta-Llama-3.1-8B&kinds=1xH200-SXM&rate=2&confidence=by+the+estimate")
    tab.get_by_role("radio", name="Classes").click()
    expect(tab.get_by_role("button", name="Upload a classes.yaml")).to_be_visible()
    tab.get_by_text("Drafts, cache tiers, adapters and queue").click()
    choose(tab, "Queue", "by priority")
    expect(tab).to_have_url(re.compile("queue=by"))
    tab.get_by_role("button", name="Plan", exact=True).click()
    expect(tab.get_by_role("heading", name=re.compile("1 x H200-SXM as TP1 PP1 serves 2 requests"))).to_be_visible()
    expect(tab.get_by_role("heading", name="Classes", exact=True)).to_have_count(2)  # planned, and over time
    tab.get_by_text("This question on the command line").click()
    code = tab.get_by_test_id("stCode").last
    expect(code).to_be_visible()
    assert "name: summaries" in code.inner_text()
    assert "--scheduling-policy priority" in " ".join(code.inner_text().split())
    tab.set_viewport_size({"width": 390, "height": 844})
    expect(code).to_be_visible()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_runs_are_imported_for_this_session_and_judged(server, tab):
    tab.goto(f"{server}/runs")
    tab.get_by_role("radio", name="Import").click()
    field = tab.locator("input[type=file]")
    alert = tab.get_by_test_id("stAlert")
    notes = [file("notes.txt", b"nothing measured")]
    upload(field, notes, lambda timeout: expect(alert).to_contain_text("notes.txt is no benchmark", timeout=timeout))
    tab.get_by_test_id("stFileUploader").get_by_role("button", name=re.compile("Remove|Delete")).first.click()
    expect(tab.get_by_test_id("stAlert")).to_contain_text("Upload benchmark results")
    results = [str(BENCHMARKS / "vllm-serve-closed.json")]
    upload(field, results, lambda timeout: expect(alert).to_contain_text("does not say the GPU", timeout=timeout))
    for label, option in (("GPU (--gpu)", "H200-SXM"), ("Engine (--engine)", "vllm")):
        tab.get_by_role("combobox", name=label).click()
        tab.keyboard.type(option)
        tab.get_by_role("option", name=option, exact=True).click()
    tab.get_by_role("spinbutton", name="Tensor parallel (--tp)").fill("1")
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("heading", name="1 new run")).to_be_visible()
    tab.get_by_role("button", name="Use in this session").click()
    expect(tab.get_by_text("also use 1 imported run")).to_be_visible()
    tab.get_by_role("radio", name="Runs", exact=True).click()
    tab.get_by_role("combobox", name="Kept").click()
    tab.get_by_role("option", name="this session").click()
    tab.keyboard.press(
        "Escape"
    )  # the open list hides the rest of the page from assistive technology, and from this test
    expect(tab.get_by_text("1 run of 1 model")).to_be_visible()
    tab.get_by_role("radio", name="Predicted and measured").click()
    expect(tab.get_by_test_id("stVegaLiteChart")).to_be_visible()

    other = tab.context.new_page()
    other.goto(f"{server}/runs?view=Import")
    expect(other.get_by_text("Upload benchmark results")).to_be_visible()
    expect(other.get_by_text("imported run")).to_have_count(0)
