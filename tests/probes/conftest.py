"""A model and a GPU that any machine has, for commands that probe."""

import json
from pathlib import Path

import pytest

CPU = """
[CPU]
memory_gib = 4
memory_bandwidth_gbps = 10
fp16_tflops = 0.1
source = "round figures"
"""


@pytest.fixture
def model(tmp_path, home, monkeypatch):
    """Folder of a tiny model, and a home in which this CPU is a GPU; processes run on one thread and find the packages."""
    from tests.probes.torch_engine.torch_world import TINY

    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(TINY))
    home.mkdir()
    (home / "gpus.toml").write_text(CPU)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return str(tmp_path / "tiny")
