"""What was timed, one JSON object a line, each on disk as soon as it is known: the store that a later run goes on from."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError
from catalog.jsonl_store import append_lines, json_rows, line_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Store:
    """A file of rows, each known by the values it has in ``key``; a row with "error" says what came instead of a time."""

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        """Raise ``InputError`` if there is such a file but it cannot be read."""
        self.path, self._key = path, tuple(key)
        try:
            rows = [row for _, row in json_rows(path)] if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {path}: {error}") from error
        self._there = {self._known_by(row) for row in rows}
        self.measured = self.failed = 0

    def has(self, row: Mapping[str, Any]) -> bool:
        return self._known_by(row) in self._there

    def add(self, row: Mapping[str, Any]) -> None:
        """Raise ``InputError`` if it cannot be written; then nothing was."""
        try:
            append_lines(self.path, line_of(row))
        except OSError as error:
            raise InputError(f"cannot add to {self.path}: {error.strerror}") from error
        self._there.add(self._known_by(row))
        if "error" in row:
            self.failed += 1
        else:
            self.measured += 1

    def _known_by(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in self._key)


def make_folders(out: Path) -> None:
    """Make the folder of a store, and one in it for logs; raise ``InputError`` if they cannot be made."""
    try:
        (out / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {out / 'logs'}: {error.strerror}") from error


class MicrobenchProgress:
    """How far it is, on stderr if that is a terminal."""

    def __init__(self, total: int, what: str, seconds: float) -> None:
        self._total, self._what, self._done = total, what, 0
        self._ends = time.monotonic() + seconds
        self._shown = sys.stderr.isatty()

    def step(self) -> None:
        self._done += 1
        if self._shown:
            left = max(0.0, self._ends - time.monotonic())
            text = f"{self._done} of {self._total} {self._what}, at most {left:.0f} s left"
            print(f"\r{text:<70}", end="\n" if self._done == self._total else "", file=sys.stderr, flush=True)
