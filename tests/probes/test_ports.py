"""Ports that no two loads of a machine are given at once."""

import random
import socket
import subprocess
import sys

import pytest

from catalog.errors import InputError
from probes import ports
from probes.ports import BLOCKS, take_ports

pytestmark = pytest.mark.process

HOLD = "from probes.ports import take_ports; held = take_ports(); print(held.first, flush=True); input()"


@pytest.fixture
def blocks(monkeypatch):
    """Four small blocks of this test's own, so that tests beside it are not in its way."""
    few = next(block for block in candidates() if is_free(block))
    monkeypatch.setattr(ports, "BLOCKS", few)
    return few


def candidates():
    """Blocks of forty ports below those that systems hand out by chance, in an order of each process's own."""
    starts = list(range(2_000, 9_000, 40))
    random.shuffle(starts)
    return (range(start, start + 40, 10) for start in starts)


def is_free(block):
    """Whether nobody listens at the first or the last port of any part of a block."""
    for port in (port for first in block for port in (first, first + block.step - 1)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


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
