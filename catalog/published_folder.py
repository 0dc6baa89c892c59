"""A folder of published measurements: rows of static and saturated batches, and of closed loops."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from catalog.closed_loops import read_loops
from catalog.errors import InputError
from catalog.published import REQUIRED, Published, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def read_published(folder: Path) -> Published:
    """Return all rows of ``*_static.csv``, ``*_saturated.csv`` and ``*_loops.csv`` in ``folder``.

    Raises:
        InputError: the folder or a file cannot be read, or lacks a column.

    """
    files = sorted([*folder.glob("*_static.csv"), *folder.glob("*_saturated.csv")])
    loops = sorted(folder.glob("*_loops.csv"))
    if not files and not loops:
        raise InputError(
            f"no *_static.csv, *_saturated.csv or *_loops.csv in {str(folder)!r}; name a folder that holds published runs"
        )
    static = read_rows(
        (f"{path.name} line {number}", row) for path in files for number, row in enumerate(_rows(path, REQUIRED), 2)
    )
    flowing = read_loops((f"{name} line {number}", row) for name, number, row in read_folder(folder, "*_loops.csv"))
    return Published((*static.runs, *flowing.runs), static.left_out | flowing.left_out)


def read_folder(folder: Path, pattern: str) -> Iterator[tuple[str, int, dict[str, str]]]:
    """Yield the rows of the CSV files of that pattern, each with its file's name and its line.

    Raises:
        InputError: a file cannot be read.

    """
    for path in sorted(folder.glob(pattern)):
        for number, row in enumerate(_rows(path, frozenset()), 2):
            yield path.name, number, row


def _rows(path: Path, required: frozenset[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = required - set(reader.fieldnames or ())
            if missing:
                raise InputError(f"{path.name} has no column {', '.join(sorted(missing))}; it must be the long form")
            return list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} cannot be read: {error}") from error
