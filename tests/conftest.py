"""What every test has: an empty home of its own, and no deadline on a busy machine."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/ is no part of what is installed
# The same draws on every run: a change is judged by itself, and what the nightly search finds becomes an example here.
settings.register_profile("advisor", deadline=None, derandomize=True)
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=25)  # where a test states no number
settings.register_profile("search", deadline=None, print_blob=True)  # new draws every time, nightly
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "advisor"))

# A shell starts what runs in its background so, and children inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item):
    """Skip a test marked ``gpu`` where torch sees fewer CUDA GPUs than its ``count``, one by default."""
    if marker := item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch")
        if torch.cuda.device_count() < (count := marker.kwargs.get("count", 1)):
            pytest.skip(f"needs {count} CUDA GPUs")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty $ADVISOR_HOME: the runs and tables a developer keeps in theirs must not change a test."""
    folder = tmp_path / "advisor-home"
    monkeypatch.setenv("ADVISOR_HOME", str(folder))
    return folder
