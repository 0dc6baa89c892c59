"""Published benchmarks in the long form of ``catalog.published``: one row a quantity. They say everything themselves."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from catalog.errors import InputError
from catalog.importers.errors import SkippedFile
from catalog.importers.parsed_run import ParsedRun
from catalog.published import REQUIRED, read_rows
from catalog.runs import check_run
from catalog.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalog.importers.benchmark_file import BenchmarkFile


def is_long_form(document: BenchmarkFile) -> bool:
    return set(document.header) >= REQUIRED


def read_long_form(document: BenchmarkFile) -> Iterator[ParsedRun | SkippedFile]:
    published = read_rows(document.cells())
    for run in published.runs:
        try:
            check_run(run, run.run_id)
        except InputError as error:
            yield SkippedFile(f"{document.name} {run.run_id}", str(error).removeprefix(f"{run.run_id}: "))
            continue
        stated = {name: value for name, value in asdict(run).items() if name != "role"}
        yield ParsedRun(where=f"{document.name} {run.run_id}", tool=run.source, identity=(run.run_id,), stated=stated)
    for reason, count in published.left_out.items():
        yield SkippedFile(f"{document.name}, {counted(count, 'row')}", reason)
