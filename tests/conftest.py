"""What every test has: an empty home of its own, and no deadline on a busy machine."""

import signal

import pytest
from hypothesis import settings

settings.register_profile("advisor", deadline=None)
settings.load_profile("advisor")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # so a shell starts what runs in its background, and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty $ADVISOR_HOME: the runs and tables a developer keeps in theirs must not change a test."""
    folder = tmp_path / "advisor-home"
    monkeypatch.setenv("ADVISOR_HOME", str(folder))
    return folder
