"""Claims: of several processes that share a list of work, each piece goes to one.

A claim is a lock that the kernel keeps for a process and takes back when the process ends, however it ends. It holds
between the processes of one machine, and between machines on a shared disk whose ``flock`` does (NFS since Linux 2.6.12,
Lustre mounted with ``flock``, GPFS).
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from catalog.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


class FileLock:
    """A claim that is held until it is released or the process ends. POSIX only."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others have it. The file stays: removing it would let two claim the same thing."""
        os.close(self._descriptor)


def take_lock(path: Path) -> FileLock | None:
    """Take the lock that the file ``path`` stands for, which is made if need be; None if somebody holds it.

    Raises:
        InputError: the file cannot be made or locked.

    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # children must not inherit it: they would hold it on when this process is gone
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"cannot make {path}, by which work is shared out: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise InputError(f"cannot lock {path}, by which work is shared out: {error.strerror}") from error
    return FileLock(descriptor)
