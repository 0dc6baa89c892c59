"""Every page in Chromium, on a screen and on a phone: it answers, fits, can be read by assistive technology, and goes back."""

import json
import re

import pytest

import advisor
from advisor.render.answers.comparison import document
from advisor.render.page import page_files
from app.links import packed
from app.pages import PAGES
from tests.app.questions import CONFIG, SMALL_FLEET
from tests.app.uploads import upload

pytestmark = [pytest.mark.browser, pytest.mark.slow]

api = pytest.importorskip("playwright.sync_api", reason="journeys need Playwright")
expect = api.expect
MOST_MS = 180_000
BAD = ("serious", "critical")
A4_PX = 688
"""Width of a page of A4 inside of its margins of 14 mm, at 96 pixels an inch."""
SMALL = "model=meta-llama%2FMeta-Llama-3.1-8B&kinds=1xH200-SXM&rate=2&input_len=256&output_len=32&ttft=300&tpot=30"


@pytest.fixture(scope="module", autouse=True)
def _patient():
    expect.set_options(timeout=MOST_MS)
    yield
    expect.set_options(timeout=5_000)


def settled(tab):
    expect(tab.locator("[data-testid=stApp][data-test-script-state=notRunning]")).to_be_visible()
    expect(tab.get_by_role("button", name="Cancel")).to_have_count(0)


def fill(tab, label, value):
    field = tab.get_by_role("spinbutton", name=label).first
    field.fill(value)
    field.press("Tab")


def count_changed(tab):
    fill(tab, "How many", "2")
    expect(tab.get_by_role("heading", name=re.compile("of 2 A100"))).to_be_visible()


def compared(tab):
    expect(tab.get_by_role("heading", name="Side by side")).to_be_visible()
    fill(tab, "$ an hour, at most", "3")
    expect(tab).to_have_url(re.compile("budget=3"))
    expect(tab.get_by_text("too dear")).to_be_visible()


def explored(tab):
    tab.get_by_role("slider", name="TP").focus()
    tab.keyboard.press("ArrowRight")
    expect(tab.get_by_role("heading", name=re.compile("1 x TP2 PP1"))).to_be_visible()


def planned(tab):
    expect(tab.get_by_role("button", name="Plan")).to_be_enabled()
    tab.goto(f"{tab.url.partition('?')[0]}?{SMALL}")
    tab.get_by_role("button", name="Plan").click()
    expect(tab.get_by_role("heading", name=re.compile("serves 2 requests"))).to_be_visible()


def fleet_planned(tab):
    expect(tab.get_by_role("button", name="Plan")).to_be_enabled()
    tab.goto(f"{tab.url.partition('?')[0]}?fleet={packed(SMALL_FLEET)}")
    tab.get_by_role("button", name="Plan").click()
    expect(tab.get_by_role("heading", name=re.compile("1 model on at most"))).to_be_visible()
    expect(tab.get_by_role("heading", name="What runs where")).to_be_visible()


def trained(tab):
    fill(tab, "LoRA rank", "16")
    expect(tab.get_by_text("LoRA of rank 16")).to_be_attached()


def swept(tab):
    tab.get_by_role("combobox", name="What is varied").click()
    tab.get_by_role("option", name="generations of memory").click()
    expect(tab.get_by_role("heading", name="Dram swept")).to_be_visible()
    expect(tab.get_by_test_id("stVegaLiteChart")).to_be_visible()


def priced(tab):
    tab.get_by_role("radio", name="A GPU of your own").click()
    expect(tab.get_by_text("[[owned]]")).to_be_visible()
    tab.get_by_role("button", name="Use this price").click()
    expect(tab.get_by_text("Other pages of this session use")).to_be_visible()


def judged(tab):
    tab.get_by_role("radio", name="Predicted and measured").click()
    expect(tab.get_by_role("heading", name="Errors")).to_be_visible()


JOURNEYS = {
    "recommendation": count_changed,
    "comparison": compared,
    "exploration": explored,
    "capacity": planned,
    "fleet": fleet_planned,
    "training_layouts": trained,
    "technology": swept,
    "gpu_prices": priced,
    "evidence": judged,
}


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.module)
def test_a_page_says_what_it_does_and_answers(server, tab, page, width):
    tab.set_viewport_size({"width": width, "height": 900})
    tab.goto(f"{server}/{page.path}")
    expect(tab.get_by_role("heading", name=page.title, exact=True, level=1)).to_be_visible()
    expect(tab.get_by_text(page.does)).to_be_visible()
    JOURNEYS[page.module](tab)
    settled(tab)
    expect(tab.get_by_text("A fault in advisor")).to_have_count(0)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.get_by_role("button", name="Terms and units").click()
    expect(tab.get_by_text(page.terms[0], exact=True).last).to_be_visible()


@pytest.mark.parametrize(("width", "colours"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.module)
def test_nothing_of_a_page_is_hard_to_perceive_or_to_use(server, browser, page, width, colours):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-core comes with axe-playwright-python"
    )
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=colours)
    context.set_default_timeout(MOST_MS)
    tab = context.new_page()
    tab.goto(f"{server}/{page.path}")
    expect(tab.get_by_role("heading", name=page.title, exact=True, level=1)).to_be_visible()
    settled(tab)
    tab.wait_for_timeout(2000)  # charts come once the words are painted
    settled(tab)
    violations = axe.Axe().run(tab).response["violations"]
    context.close()
    told = [(each["id"], node["html"][:200]) for each in violations if each["impact"] in BAD for node in each["nodes"]]
    assert told == []


def test_each_action_is_one_step_of_the_history(server, tab):
    tab.goto(f"{server}/?gpu=H200-SXM&count=2")
    answer = tab.get_by_role("heading", name=re.compile("^(Run|Nothing) "))
    expect(answer).to_contain_text("of 2 H200-SXM")
    settled(tab)
    begun = tab.evaluate("history.length")
    fill(tab, "How many", "4")
    expect(answer).to_contain_text("of 4 H200-SXM")
    tab.get_by_role("button", name="Too tight a limit").click()  # seven widgets at once
    expect(answer).to_contain_text("Nothing is feasible")
    tab.get_by_role("button", name=re.compile("^TPOT limit of")).click()
    expect(answer).to_contain_text("of 4 H100-SXM")
    tab.get_by_role("link", name="Explore").click()
    title = tab.get_by_role("heading", name="H100-SXM: 1 x TP1 PP1")
    expect(tab.get_by_text("Out of memory")).to_be_visible()
    settled(tab)
    assert tab.evaluate("history.length") == begun + 4
    for text in ("of 4 H100-SXM", "Nothing is feasible", "of 4 H200-SXM", "of 2 H200-SXM"):
        tab.go_back()
        expect(answer).to_contain_text(text)
        settled(tab)
    assert tab.url == f"{server}/?gpu=H200-SXM&count=2"
    for text in ("of 4 H200-SXM", "Nothing is feasible", "of 4 H100-SXM"):
        tab.go_forward()
        expect(answer).to_contain_text(text)
        settled(tab)
    tab.go_forward()
    expect(title).to_be_visible()


def test_back_shows_the_plan_of_before_without_planning_again(server, tab):
    tab.goto(f"{server}/plan?{SMALL}&planned=1")
    expect(tab.get_by_role("heading", name=re.compile("serves 2 requests"))).to_be_visible()
    settled(tab)
    fill(tab, "Requests/s", "3")
    expect(tab.get_by_text("This answers the previous question")).to_be_visible()
    tab.get_by_role("button", name="Plan").click()
    expect(tab.get_by_role("heading", name=re.compile("serves 3 requests"))).to_be_visible()
    settled(tab)
    tab.go_back()
    tab.go_back()
    expect(tab.get_by_role("heading", name=re.compile("serves 2 requests"))).to_be_visible()
    expect(tab.get_by_text("This answers the previous question")).to_have_count(0)


def test_a_cancelled_plan_keeps_what_it_has(server, tab):
    tab.goto(f"{server}/plan")
    expect(tab.get_by_role("button", name="Plan")).to_be_enabled()
    settled(tab)
    tab.get_by_role("button", name="Assistant, 70B, with spares").click()
    expect(tab.get_by_text(re.compile(r"^\d+% "))).to_be_visible()
    expect(tab.get_by_text("Best so far")).to_be_visible()
    expect(tab.get_by_test_id("stDataFrame")).to_be_visible()  # the fleets so far
    tab.get_by_role("button", name="Cancel").click()
    expect(tab.get_by_text("The best of what was tried:")).to_be_visible()
    expect(tab.get_by_test_id("stDataFrame")).to_be_visible()
    expect(tab.get_by_role("button", name="Start again")).to_be_visible()


def test_a_link_brings_an_uploaded_model_to_another_session(server, tab, browser):
    tab.goto(f"{server}/?gpu=H200-SXM&count=1")
    code = tab.get_by_test_id("stCode").first
    expect(code).to_be_visible()
    settled(tab)
    tab.get_by_role("button", name="Upload").click()
    file = {"name": "config.json", "mimeType": "application/json", "buffer": json.dumps(CONFIG).encode()}
    upload(
        tab.locator("input[type=file]"),
        file,
        lambda timeout: expect(code).to_contain_text("/path/to/model", timeout=timeout),
    )
    settled(tab)
    context = browser.new_context(viewport={"width": 390, "height": 844})
    other = context.new_page()
    other.goto(tab.url)
    expect(other.get_by_test_id("stCode").first).to_contain_text("/path/to/model")
    expect(other.get_by_test_id("stAlert")).to_have_count(0)
    context.close()


@pytest.mark.parametrize("wide", [False, True])
def test_a_report_prints_on_a4(tab, wide):
    kinds = ["8xH100-SXM", "8xH200-SXM"] if wide else ["2xH200-SXM"]
    compared = advisor.compare(["meta-llama/Meta-Llama-3.1-8B", "Qwen/Qwen3-32B"], kinds, formats="any")
    answer = compared if wide else advisor.recommend("llama-13b", "2xH200-SXM", tpot="30ms")
    if wide:
        files = page_files(document(answer))
    else:
        from advisor.render.answers.recommendation import document as recommended

        files = page_files(recommended(answer))
    tab.set_viewport_size({"width": A4_PX, "height": 1000})
    tab.set_content(files["report.html"].decode())
    tab.emulate_media(media="print")
    assert tab.evaluate("document.documentElement.scrollWidth") <= A4_PX
    widest = (
        "Math.max(...[...document.querySelectorAll('table, pre, img')].map(each => each.getBoundingClientRect().right))"
    )
    assert tab.evaluate(widest) <= A4_PX
    assert tab.pdf(prefer_css_page_size=True).startswith(b"%PDF")
