"""Append-only files of JSON Lines: one object a line, safe under several writers and a kill at any moment.

Writers take a lock and add whole lines with one write, so that several of them, a kill at any moment and a full disk
leave every earlier line as it was; readers pass over a line that a killed writer left unfinished.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


def line_of(values: Mapping[str, Any]) -> str:
    """Return an object as one line, without what is None or empty."""
    filled = {name: value for name, value in values.items() if value not in (None, "")}
    # ASCII only: a line that is cut off can then never end within a character
    return json.dumps(filled, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"


def append_lines(path: Path, lines: str) -> None:
    """Add whole lines (ASCII), all or none; the file and its folder are made if they do not exist. POSIX only (``flock``).

    Raises:
        OSError: it cannot be written; then nothing was added.

    """
    append_made(path, lambda: lines)


def append_made(path: Path, make: Callable[[], str]) -> None:
    """Add the lines that ``make`` returns once nobody else can add any, so that it can look at what is there.

    Raises:
        OSError: as ``append_lines``.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _append(path, lambda: make().encode("ascii"))


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any] | InputError]]:
    """Yield where each object stands, for messages, and the object, or why it is none.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read, or is no text.

    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            text = line.strip()
            where = f"{path} line {number}"
            if not text:
                continue
            try:
                row = json.loads(text, parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                if _unfinished(text, error):
                    _warn(f"{where} is unfinished, as a stopped writer leaves it; passed over")
                    continue
                yield where, InputError(f"{where} is not JSON: {error}")
                continue
            yield where, row if isinstance(row, dict) else InputError(f"{where} is not a JSON object")


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each object stands, for messages, and the object.

    Raises:
        InputError: a line that is no JSON object, and not the beginning of one either.
        OSError, UnicodeDecodeError: the file cannot be read, or is no text.

    """
    for where, row in json_lines(path):
        if isinstance(row, InputError):
            raise row
        yield where, row


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _unfinished(text: str, error: Exception) -> bool:
    """Return whether a line is the beginning of one of ours: they all start with a brace and end with the matching one."""
    return text.startswith("{") and (not text.endswith("}") or "Unterminated string" in str(error))


def _warn(message: str) -> None:
    import logging  # slow to import, rarely needed

    logging.getLogger(__name__).warning(message)


def _append(path: Path, make: Callable[[], bytes]) -> None:
    import fcntl  # POSIX only, and readers don't need it

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        data = make()
        if not data:
            return
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            data = b"\n" + data  # a killed writer's unfinished line stays on its own
        try:
            _write(descriptor, data)
        except OSError:
            with suppress(OSError):  # takes back only what this call wrote: the lock is still held
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) < len(data):  # a regular file takes only a part when its disk is full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)
