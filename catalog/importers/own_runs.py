"""Our own runs: a store of ``catalog.runs`` (JSON Lines) or the same columns as CSV. They say everything themselves."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from typing import TYPE_CHECKING, Any

from catalog.borders import checked
from catalog.errors import InputError
from catalog.importers.errors import SkippedFile
from catalog.importers.parsed_run import ParsedRun
from catalog.runs import check_run, from_cells
from catalog.schema import Measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalog.importers.benchmark_file import BenchmarkFile

NEEDED = frozenset(field.name for field in fields(Measurement) if field.default is MISSING)


def is_own(document: BenchmarkFile) -> bool:
    return set(document.header) >= NEEDED or any(
        {"run_id", "role", "batch"} <= value.keys() for _, value in document.objects
    )


def read_own(document: BenchmarkFile) -> Iterator[ParsedRun | SkippedFile]:
    rows: list[tuple[str, Any]] = list(document.objects)
    of_cells = not rows
    for where, row in document.cells() if of_cells else rows:
        try:
            run = from_cells(row, where) if of_cells else check_run(checked(Measurement, row, where), where)
        except InputError as error:
            yield SkippedFile(where, str(error).removeprefix(f"{where}: "))
            continue
        yield ParsedRun(where=where, tool=run.source, identity=(run.run_id,), stated=asdict(run))
