"""Ports that no two loads of a machine are given at once."""

import socket
import subprocess
import sys

import pytest

from catalog.schema import InputError
from probes import ports
from probes.ports import BLOCKS, free_port, take_ports

HOLD = "from probes.ports import take_ports; held = take_ports(); print(held.first, flush=True); input()"


@pytest.fixture
def blocks(monkeypatch):
    """Four small blocks of this test's own, so that tests beside it are not in its way."""
    start = free_port()
    few = range(start, start + 40, 10)
    monkeypatch.setattr(ports, "BLOCKS", few)
    return few


def test_blocks_lie_apart_and_are_given_once(blocks):
    held = [take_ports() for _ in blocks]
    assert sorted(each.first for each in held) == list(blocks)
    with pytest.raises(InputError, match=f"none of the ports from {blocks.start} to {blocks.start + 39} is free"):
        take_ports()
    held[2].release()
    again = take_ports()
    assert again.first == held[2].first
    for each in (*held, again):
        each.release()


def test_a_process_that_is_killed_holds_none(monkeypatch):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        first = int(other.stdout.readline())
        monkeypatch.setattr(ports, "BLOCKS", range(first, first + BLOCKS.step, BLOCKS.step))
        with pytest.raises(InputError, match="none of the ports"):
            take_ports()
        other.kill()
        other.wait(timeout=20)
    take_ports().release()


def test_what_somebody_listens_at_is_passed_over(blocks):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", blocks[0]))
        held = [take_ports() for _ in blocks[1:]]
    assert sorted(each.first for each in held) == list(blocks[1:])
    for each in held:
        each.release()
