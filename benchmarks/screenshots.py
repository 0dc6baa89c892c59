"""Pictures of the planning app's pages for the documentation: ``python -m benchmarks.screenshots`` (needs Playwright and Chromium).

Starts the app on a free port, opens every page at 1280 pixels in light and one at 390 in dark colours, and writes
``benchmarks/figures/app-*.png``. ``--all`` takes every page at both widths in both colours, to be looked at.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

FIGURES = Path(__file__).parent / "figures"
PAGES = {
    "recommend": "/?gpu=H200-SXM&model=meta-llama%2FMeta-Llama-3.1-70B",
    "explore": "/explore?gpu=H200-SXM&compare=true&gpu_b=H100-SXM&batch=32",
    "capacity": "/plan?model=meta-llama%2FMeta-Llama-3.1-8B&ttft=500&tpot=40&rate=60&planned=1",
    "evidence": "/runs?view=Predicted+and+measured",
}
"""Pages whose pictures are in the documentation; each has charts."""
FURTHER = {
    "compare": "/which",
    "fleet": "/fleet",
    "training": "/train?model=meta-llama%2FMeta-Llama-3-8B&gpu=H100-SXM&count=8",
    "technology": "/technology?sweep=generations+of+memory",
    "prices": "/catalog?of_gpu=H100-SXM",
}
"""Other pages, which ``--all`` takes, too."""
MOST_S = 300
WIDE, NARROW = 1280, 390
TALLEST = 2600
"""Pixels of a picture: what one scrolls to further down is left out."""


def views(every: bool) -> Iterator[tuple[str, str, int, str]]:
    """Name of the picture, address, width and colours."""
    for name, address in (PAGES | FURTHER if every else PAGES).items():
        yield f"app-{name}", address, WIDE, "light"
        if every:
            yield f"app-{name}-dark", address, WIDE, "dark"
            yield f"app-{name}-narrow", address, NARROW, "light"
        if every or name == "explore":
            yield f"app-{name}-narrow-dark", address, NARROW, "dark"


def served(home: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as any_port:
        any_port.bind(("localhost", 0))
        port = any_port.getsockname()[1]
    command = [sys.executable, "-m", "advisor", "app", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"ADVISOR_HOME": str(home)})
    address = f"http://localhost:{port}"
    deadline = time.monotonic() + MOST_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return process, address
    raise SystemExit("the app did not start")


def settled(page: Page) -> None:
    """Wait until the server has answered and everything is drawn."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=MOST_S * 1000)
    page.wait_for_function("() => !document.querySelector('[data-testid=stSkeleton]')", timeout=MOST_S * 1000)
    page.wait_for_timeout(1500)


def take(browser: Browser, address: str, path: Path, width: int, colours: str) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if colours == "dark" else "light"
    )
    page = context.new_page()
    page.goto(address)
    if address.rpartition("/")[2] in {where.removeprefix("/") for where in PAGES.values()}:
        page.wait_for_selector(
            "[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg", timeout=MOST_S * 1000
        )  # a new browser is given its charts last
    for _ in range(2):  # a plan is worked out first, then the requests of its best fleet are served
        settled(page)
        page.wait_for_function("() => !document.querySelector('[data-testid=stProgress]')", timeout=MOST_S * 1000)
    height = page.evaluate("document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(int(height), TALLEST)})
    settled(page)
    page.screenshot(path=path)
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every page, width and colour scheme")
    parser.add_argument("--out", type=Path, default=FIGURES)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        process, address = served(Path(home))
        own = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
        try:
            for name, where, width, colours in views(chosen.all):
                take(browser, address + where, chosen.out / f"{name}.png", width, colours)
                print(chosen.out / f"{name}.png")
        finally:
            browser.close()
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
