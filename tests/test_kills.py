"""A slice of ``benchmarks.kills``: writers that are killed lose nothing that they acknowledged."""

import pytest

from benchmarks import kills
from catalog.runs import shipped_runs


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("most_bytes", [None, kills.FULL_BYTES])
def test_killed_writers_lose_and_double_nothing(most_bytes, tmp_path):
    acknowledged, lost, doubled = kills.trial(tmp_path, shipped_runs()[0], 30, 1, most_bytes)
    assert acknowledged > 0
    assert (lost, doubled) == (0, 0)
