"""Pages run without a browser, a server for those that need one, and the browser."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("streamlit", reason="the app needs Streamlit: pip install 'advisor[app]'")

ROOT = Path(__file__).resolve().parents[2]
MOST_S = 180
"""Of one run of a page or one wait for the browser, on a busy machine."""


def run_page(name):
    """A script for AppTest, which takes its source: one page as ``app/main.py`` frames it."""
    from app.frame import framed

    framed(name)()


@pytest.fixture(autouse=True)
def _main_module(monkeypatch):
    """Leave ``__main__`` as it was: AppTest puts the page there, and processes started later would run it."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def patient(monkeypatch):
    """A page waits for its job however busy the machine is."""
    monkeypatch.setattr("app.jobs.POLL_S", MOST_S)


@pytest.fixture
def page():
    """``page("exploration", tp="2")``: that page of the app, run once with those parameters in its address; its browser is no
    longer new, so that there are charts."""
    from streamlit.testing.v1 import AppTest

    from app.frame import PAINTED

    def opened(name, **parameters):
        test = AppTest.from_function(run_page, args=(name,), default_timeout=MOST_S)
        test.session_state[PAINTED] = True
        for key, value in parameters.items():
            test.query_params[key] = value
        return test.run()

    return opened


def free_port():
    with socket.socket() as any_port:
        any_port.bind(("localhost", 0))
        return any_port.getsockname()[1]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Address of the app as ``advisor app`` serves it; its $ADVISOR_HOME is ``server.home``."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "advisor", "app", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(folder),
                "ADVISOR_HOME": str(folder / "home"),
                "PYTHONPATH": str(ROOT),
            },
        )
        address = f"http://localhost:{port}"
        try:
            wait_for(address, process, folder / "log.txt")
            yield address
        finally:
            process.terminate()
            process.wait(timeout=20)


def wait_for(address, process, log):
    deadline = time.monotonic() + MOST_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"the app did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def browser():
    """Chromium: the machine's own, or else Playwright's. No longer than a module, for Playwright keeps an event loop running in
    this thread and the tests after it may want one of their own."""
    api = pytest.importorskip("playwright.sync_api", reason="journeys need Playwright")
    own = shutil.which("chromium") or shutil.which("chromium-browser")
    with api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no Chromium here: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def tab(browser):
    """A page of the browser at 1280 pixels, in a session of its own; nothing outside this machine may be asked for."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(MOST_S * 1000)
    outside = []
    opened = context.new_page()
    opened.on("request", lambda request: outside.append(request.url) if away(request.url) else None)
    yield opened
    context.close()
    assert outside == []


def away(url):
    return not url.startswith(("http://localhost:", "ws://localhost:", "data:", "blob:"))
