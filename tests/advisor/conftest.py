import pytest


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty $ADVISOR_HOME: the runs and tables a developer keeps in theirs must not change a test."""
    folder = tmp_path / "advisor-home"
    monkeypatch.setenv("ADVISOR_HOME", str(folder))
    return folder
