"""Server time of the planning app: ``python -m benchmarks.app``.

Runs the pages as the server does, without a browser: a first visit of Recommend, and Explore redrawn after each move of a
slider, every time to a place it has not been. Exits with 1 where the median redraw takes more than 300 ms.

``--first-page N`` instead opens Recommend in Chromium (with Playwright) on N fresh servers, one after the other, and tells the
seconds from when the server is up until the answer, the table, the command and the charts are on the screen. Exits with 1
where the median of the table is above 3 s.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from app.frame import PAINTED

MOST_MS = 300.0
"""A redraw that takes longer is felt as waiting."""
MOST_S = 3.0
"""Until the first page is useful."""
WATCH = """
(() => {
  const seen = window.seen = {};
  const note = (name, there) => {
    if (there && !(name in seen)) requestAnimationFrame(() => { seen[name] ??= Date.now() / 1000; });
  };
  const look = () => {
    note("answer", [...document.querySelectorAll("h4")].some(each => each.textContent.startsWith("Run ")));
    note("table", document.querySelector("[data-testid=stDataFrame] canvas")?.width > 0);
    note("command", document.querySelector("[data-testid=stCode]"));
    note("charts", document.querySelectorAll("[data-testid=stVegaLiteChart] svg").length >= 3);
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})();
"""
"""Notes in the browser when each part of the page is first there to be painted."""
MOVES = (
    ("batch", (1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 64, 96, 128)),
    ("input_len", (128, 192, 256, 384, 512, 768, 1536, 2048, 3072)),
    ("output_len", (16, 32, 48, 64, 96, 128, 192, 384, 512)),
    ("tp", (2, 4, 8)),
    ("pp", (2, 4)),
    ("dp", (2, 4)),
    ("bandwidth", (50, 75, 150, 200, 300)),
)
"""Sliders of Explore and where each is moved."""


def explored(*, compare: bool, repeats: int) -> dict[str, list[float]]:
    """Measure milliseconds of each redraw, by slider; ``compare``: two deployments beside each other."""
    taken: dict[str, list[float]] = {}
    for repeat in range(repeats):
        test = AppTest.from_function(page, args=("exploration",), default_timeout=60)
        test.session_state[PAINTED] = True
        test.query_params["gpu"] = "H200-SXM"
        test.query_params["compare"] = str(compare).lower()
        test.query_params["gpu_b"] = ("H100-SXM", "A100-SXM-80GB", "B200-SXM")[repeat % 3]
        test.run()
        for name, places in MOVES:
            for place in places:
                slider = test.slider(name) if name == "bandwidth" else test.select_slider(name)
                taken.setdefault(name, []).append(timed(slider.set_value(place).run))
                assert not test.exception
    return taken


def page(name: str) -> None:
    from app.frame import framed  # the page's script is the source of this function

    framed(name)()


def timed(run: Any) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def first_visit() -> tuple[float, float]:
    """Measure milliseconds until the first page of a fresh server is done, imports included, and of the next visitor's."""
    main = str(Path(__file__).resolve().parents[1] / "app" / "main.py")
    first, second = (timed(AppTest.from_file(main, default_timeout=60).run) for _ in range(2))
    return first, second


def first_page(repeats: int) -> dict[str, list[float]]:
    """Measure seconds from a fresh server's being up until each part of its first page is painted."""
    from playwright.sync_api import sync_playwright  # only this needs a browser

    from benchmarks.screenshots import served

    taken: dict[str, list[float]] = {}
    own = shutil.which("chromium") or shutil.which("chromium-browser")
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.add_init_script(WATCH)
            process, address = served(Path(home))
            up = time.time()
            try:
                page.goto(address)
                page.wait_for_function("() => Object.keys(window.seen).length === 4", timeout=120_000)
                for name, at in page.evaluate("window.seen").items():
                    taken.setdefault(name, []).append(at - up)
            finally:
                browser.close()
                process.terminate()
                process.wait()
    return taken


def tell_first_page(repeats: int) -> bool:
    """Print what it took; whether it is too much."""
    taken = first_page(repeats)
    for name, times in taken.items():
        shown = ", ".join(f"{seconds:.1f}" for seconds in times)
        print(f"{name:8s} {statistics.median(times):5.1f} s after the server is up ({shown})")
    return statistics.median(taken["table"]) > MOST_S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--first-page", type=int, metavar="N", default=0)
    chosen = parser.parse_args()
    if chosen.first_page:
        sys.exit(1 if tell_first_page(chosen.first_page) else 0)
    logging.disable(logging.WARNING)  # Streamlit's about a thread that is none of a server's
    first, second = first_visit()
    print(f"Recommend, first visit of a fresh server {first:7.0f} ms, the next one's {second:5.0f} ms")
    slow = False
    for compare in (False, True):
        taken = explored(compare=compare, repeats=chosen.repeats)
        redraws = sorted(time for times in taken.values() for time in times)
        median, tail = statistics.median(redraws), redraws[int(0.95 * len(redraws))]
        slow |= median > MOST_MS
        by_slider = ", ".join(f"{name} {statistics.median(times):.0f}" for name, times in taken.items())
        what = "two deployments" if compare else "one deployment"
        print(
            f"Explore, {what}: median {median:.0f} ms, 95% under {tail:.0f} ms of {len(redraws)} redraws ({by_slider})"
        )
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
