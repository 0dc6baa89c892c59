"""Ports for the processes of a load to meet at, below those that the system hands out to connections by chance."""

from __future__ import annotations

import random
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass

from catalog.errors import InputError

FREE = range(12_000, 20_000)
"""For who needs one port, and only for a moment before it is bound."""

BLOCKS = range(20_000, 32_600, 200)
"""First ports of the blocks for loads, which engines count up from; Linux hands out 32768 and later by chance."""


def free_port() -> int:
    """Return a port that nobody listens at, taken by chance, so that two who ask at once hardly get the same."""
    while True:
        port = secrets.choice(FREE)
        if _is_free(port):
            return port


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """A block of ``BLOCKS.step`` ports from ``first`` on, which no other load of this machine is given."""

    first: int
    lease: socket.socket
    """Bound to the last port of the block: the system keeps it for this process, and takes it back however that ends."""

    def release(self) -> None:
        """Let another load have them."""
        self.lease.close()


def take_ports() -> Ports:
    """Take a block that no load holds, and at whose first port nobody listens.

    Raises:
        InputError: there is none.

    """
    for first in random.sample(BLOCKS, len(BLOCKS)):
        lease = socket.socket()
        with suppress(OSError):
            lease.bind(("127.0.0.1", first + BLOCKS.step - 1))
            if _is_free(first):
                return Ports(first=first, lease=lease)
        lease.close()
    raise InputError(f"none of the ports from {BLOCKS.start} to {BLOCKS.stop - 1} is free")


def _is_free(port: int) -> bool:
    with socket.socket() as tried, suppress(OSError):
        tried.bind(("", port))
        return True
    return False
