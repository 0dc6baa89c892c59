"""Closed loops that benchmark clients published (``catalog.closed_loops``): one row a run. They say everything themselves."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from catalog.closed_loops import REQUIRED, read_loops
from catalog.importers.errors import SkippedFile
from catalog.importers.parsed_run import ParsedRun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalog.importers.benchmark_file import BenchmarkFile


def is_closed_loops(document: BenchmarkFile) -> bool:
    return set(document.header) >= REQUIRED


def read_closed_loops(document: BenchmarkFile) -> Iterator[ParsedRun | SkippedFile]:
    published = read_loops(document.cells())
    for run in published.runs:
        stated = {name: value for name, value in asdict(run).items() if name != "role"}
        yield ParsedRun(where=f"{document.name} {run.run_id}", tool=run.source, identity=(run.run_id,), stated=stated)
    for reason, count in published.left_out.items():
        yield SkippedFile(f"{document.name}, {count} row{'s' if count > 1 else ''}", reason)
