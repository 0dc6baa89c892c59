"""A slice of ``benchmarks.kills``: writers that are killed lose nothing that they acknowledged."""

import importlib
import sys
from pathlib import Path

import pytest

from catalog.runs import shipped_runs

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/ is no part of what is installed
kills = importlib.import_module("benchmarks.kills")


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("most_bytes", [None, kills.FULL_BYTES])
def test_killed_writers_lose_and_double_nothing(most_bytes, tmp_path):
    acknowledged, lost, doubled = kills.trial(tmp_path, shipped_runs()[0], 30, 1, most_bytes)
    assert acknowledged > 0
    assert (lost, doubled) == (0, 0)
