"""A file as it lies on the disk, read once: JSON, JSON Lines, CSV or plain text."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

JSON = re.compile(r"\s*(\{\s*[\"}]|\[\s*[\[{\]])")
"""How objects and lists of them begin; a log may begin with a bracket too."""

MOST_BYTES = 512 * 2**20
"""A GuideLLM report with every request of a long sweep has some hundred megabytes."""


@dataclass(frozen=True)
class BenchmarkFile:
    """The text of one file, and what it is when taken for JSON, JSON Lines or CSV."""

    path: Path
    name: str
    """For messages."""
    text: str

    @cached_property
    def lines(self) -> tuple[tuple[str, Any], ...]:
        """Return where each JSON value stands, and the value: one for a JSON file, one a line for JSON Lines; none for
        others.

        Python's writers know ``NaN`` and ``Infinity``, and some programs' rates are infinite: they are read as such. A last
        line that was cut off is a ``Cut``.

        Raises:
            InputError: it begins like JSON and is not.

        """
        if not JSON.match(self.text):
            return ()
        try:
            return ((self.name, json.loads(self.text)),)
        except (ValueError, RecursionError) as error:
            whole = error
        numbered = [(number, line) for number, line in enumerate(self.text.splitlines(), 1) if line.strip()]
        values: list[tuple[str, Any]] = []
        for number, line in numbered:
            where = f"{self.name} line {number}"
            try:
                values.append((where, json.loads(line)))
            except (ValueError, RecursionError) as error:
                if values and number == numbered[-1][0]:
                    values.append((where, Cut()))
                    break
                cause = error if values else whole
                raise InputError(f"{self.name} is not JSON: {_short(cause)}; was it cut off?") from error
        return tuple(values)

    @cached_property
    def objects(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Return those of ``lines`` that are objects; of one list, its elements that are."""
        if len(self.lines) == 1 and isinstance(self.lines[0][1], list):
            where, values = self.lines[0]
            numbered = [(f"{where} entry {number}", value) for number, value in enumerate(values, 1)]
        else:
            numbered = list(self.lines)
        return tuple((where, value) for where, value in numbered if isinstance(value, dict))

    def holds(self, marks: frozenset[str]) -> bool:
        """Return whether some object has all these keys."""
        return any(value.keys() >= marks for _, value in self.objects)

    @cached_property
    def unfinished(self) -> str:
        """Say where a line was cut off; empty if none was."""
        return next((where for where, value in self.lines if isinstance(value, Cut)), "")

    @cached_property
    def table(self) -> tuple[list[str], ...]:
        """Return the rows of a CSV file, header first, empty ones too.

        Raises:
            InputError: a cell's quotes do not close.

        """
        try:
            return tuple(csv.reader(io.StringIO(self.text, newline=""), strict=True))
        except csv.Error as error:
            raise InputError(f"{self.name} is not CSV: {error}") from error

    @cached_property
    def header(self) -> tuple[str, ...]:
        """Return the cells of the first row, if it is CSV; none for what begins like JSON."""
        if JSON.match(self.text):
            return ()
        try:
            return tuple(next(csv.reader(io.StringIO(self.text[:MOST_HEADER], newline="")), ()))
        except csv.Error:
            return ()

    def cells(self) -> list[tuple[str, dict[str, str]]]:
        """Return where each row of a CSV file stands, and its cells that are not empty, by the names in the header."""
        names = self.header
        return [
            (f"{self.name} line {number}", {name: cell for name, cell in zip(names, row, strict=False) if cell != ""})
            for number, row in enumerate(self.table[1:], 2)
            if row
        ]


MOST_HEADER = 100_000
"""Letters that a header has at most."""


class Cut:
    """What stands for a line that was cut off."""


def read_document(path: Path, name: str = "") -> BenchmarkFile:
    """Read a file that may be a benchmark's, called ``name`` in messages.

    Raises:
        InputError: it cannot be read, is too large, or is no UTF-8 text.

    """
    name = name or path.name
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MOST_BYTES else b""
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # a name that no file can have
        raise InputError(f"cannot read {str(path)!r:.200}: {error}") from error
    if size > MOST_BYTES:
        raise InputError(
            f"{name} has {size / 2**20:.0f} MiB, more than the {MOST_BYTES >> 20} that are read; "
            "leave the single requests out of it"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text") from error
    if not text.strip():
        raise InputError(f"{name} is empty")
    return BenchmarkFile(path, name, text)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or "nested too deeply"
