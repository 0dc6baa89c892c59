"""Recommend and Explore in Chromium, as somebody uses them: choose, copy, share the link, and get it wrong."""

import json
import re
import time

import pytest

from tests.app.questions import CONFIG
from tests.app.uploads import upload

pytestmark = pytest.mark.browser

api = pytest.importorskip("playwright.sync_api", reason="journeys need Playwright")
expect = api.expect
MOST_MS = 180_000

QUESTION = "?model=meta-llama%2FLlama-2-13b-hf&gpu=A100-SXM-80GB&count=2"


@pytest.fixture(scope="module", autouse=True)
def _patient():
    expect.set_options(timeout=MOST_MS)
    yield
    expect.set_options(timeout=5_000)


def heading(tab):
    return tab.get_by_role("heading", name=re.compile("^(Run|Nothing) "))


def settled(tab):
    expect(tab.locator("[data-testid=stApp][data-test-script-state=notRunning]")).to_be_visible()


def test_recommend_click_select_copy_and_reload(server, tab):
    tab.goto(f"{server}/{QUESTION}")
    expect(heading(tab)).to_contain_text("2 of 2 A100-SXM-80GB")
    expect(tab.get_by_test_id("stDataFrame").first).to_be_visible()
    code = tab.get_by_test_id("stCode").first
    best = code.inner_text()
    tab.set_viewport_size({"width": 1280, "height": 1600})
    points = tab.get_by_test_id("stVegaLiteChart").first.locator(".mark-symbol path")
    expect(points.first).to_be_visible()
    settled(tab)
    spot = max((point.bounding_box() for point in points.all()), key=lambda box: box["x"])
    tab.mouse.click(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2)
    expect(code).to_contain_text("--max-num-seqs 1 ")
    expect(tab).to_have_url(re.compile("pick="))
    clicked = code.inner_text()

    layouts = tab.get_by_role("combobox", name="In detail")
    deadline = time.monotonic() + MOST_MS / 1000
    while code.inner_text() == clicked and time.monotonic() < deadline:
        settled(tab)  # a redraw closes an open list, as scrolling does, and a click on it is lost
        layouts.focus()
        layouts.press("ArrowDown")
        tab.get_by_role("option").nth(1).click()
        tab.wait_for_timeout(3000)
    expect(code).not_to_have_text(clicked)
    picked = code.inner_text()
    assert picked != best
    tab.get_by_role("radio", name="compose").click()
    expect(code).to_contain_text("services:")
    tab.get_by_role("radio", name="vllm").click()
    expect(code).to_contain_text("vllm serve")

    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    code.hover()
    code.get_by_role("button", name="Copy to clipboard").click()
    copied = tab.evaluate("navigator.clipboard.readText()")
    assert copied.split() == picked.split()

    other = tab.context.new_page()
    other.goto(tab.url)
    expect(other.get_by_test_id("stCode").first).to_contain_text("vllm serve")
    assert other.get_by_test_id("stCode").first.inner_text().split() == picked.split()


def test_explore_with_the_keyboard_and_reload_from_the_link(server, tab):
    tab.goto(f"{server}/explore?gpu=H200-SXM")
    title = tab.get_by_role("heading", name="H200-SXM: 1 x TP1 PP1")
    expect(title).to_be_visible()
    tab.get_by_role("slider", name="TP").focus()
    tab.keyboard.press("ArrowRight")
    expect(tab.get_by_role("heading", name="H200-SXM: 1 x TP2 PP1")).to_be_visible()
    expect(tab).to_have_url(re.compile("tp=2"))
    tab.get_by_text("Compare with another").click()
    expect(tab.get_by_role("heading", name="A100-SXM-80GB: 1 x TP1 PP1")).to_be_visible()
    tab.reload()
    expect(tab.get_by_role("heading", name="H200-SXM: 1 x TP2 PP1")).to_be_visible()
    expect(tab.get_by_role("heading", name="A100-SXM-80GB: 1 x TP1 PP1")).to_be_visible()


def test_a_bad_upload_is_told_a_good_one_answered_and_another_session_on_a_phone_knows_of_neither(server, tab):
    tab.goto(f"{server}/{QUESTION}")
    expect(heading(tab)).to_be_visible()
    tab.get_by_role("button", name="Upload").click()
    field = tab.locator("input[type=file]")
    alert, code = tab.get_by_test_id("stAlert"), tab.get_by_test_id("stCode").first
    broken = {"name": "config.json", "mimeType": "application/json", "buffer": b"{not json"}
    upload(field, broken, lambda timeout: expect(alert).to_contain_text("config.json is not JSON", timeout=timeout))
    buffer = json.dumps(CONFIG).encode()
    whole = {"name": "config.json", "mimeType": "application/json", "buffer": buffer}
    upload(field, whole, lambda timeout: expect(code).to_contain_text("/path/to/model", timeout=timeout))
    expect(tab.get_by_test_id("stAlert")).to_have_count(0)

    other = tab.context.new_page()
    other.set_viewport_size({"width": 390, "height": 844})
    other.goto(f"{server}/?gpu=H200-SXM&count=1")
    expect(heading(other)).to_contain_text("H200-SXM")
    expect(other.get_by_test_id("stCode").first).to_contain_text("Llama-2-13b")
    settled(other)
    assert other.evaluate("document.documentElement.scrollWidth") <= 390
    tab.get_by_role("radio", name="prefill").click()
    settled(tab)
    expect(heading(tab)).to_contain_text("A100-SXM-80GB")

    other.set_viewport_size({"width": 1280, "height": 900})
    other.get_by_role("link", name="Explore").click()
    expect(other.get_by_role("heading", name="H200-SXM: 1 x TP1 PP1")).to_be_visible()  # pages keep the question
    expect(other).to_have_url(re.compile(r"/explore\?.*gpu=H200-SXM"))
