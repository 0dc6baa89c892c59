"""Writing an answer: to stdout as text or in a machine's format; progress to stderr, and only on a terminal."""

from __future__ import annotations

import contextlib
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.cli.options.output import PredictionOutput, ReportedOutput, ValidationOutput
from advisor.cli.program import discard_output
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from advisor.cli.options.catalog import CatalogOutput
    from advisor.cli.options.output import Output
    from advisor.progress import Progress
    from advisor.render.document import Document
    from advisor.render.tables import Column

NARROWEST = 40


def write(text: str) -> None:
    """Write all of ``text`` to stdout, now, so that a full disk is noticed here.

    A reader that has seen enough (``| head``) is no failure: whether it closes the pipe before or after we write is chance,
    and the exit code does not depend on it.
    """
    out = sys.stdout
    if out is None:  # closed before we began
        return
    if hasattr(out, "reconfigure"):  # a name that the terminal's encoding lacks is no reason to fail
        out.reconfigure(errors="backslashreplace")
    try:
        out.write(text)
        out.flush()
    except BrokenPipeError:
        discard_output()


def show(document: Document, *, wide: bool = False) -> None:
    """Draw a document for the terminal's width; colour only on a terminal and without ``NO_COLOR``."""
    from rich.console import Console  # not for the machines' formats

    from advisor.render.console import console  # likewise

    terminal = Console(highlight=False, markup=False, emoji=False)
    width = max(terminal.width, NARROWEST)
    with terminal.capture() as captured:
        for part in console(document, width, wide=wide):
            # a table may be wider than the terminal (--wide): it is never cut, the terminal wraps it
            terminal.width = max(width, getattr(part, "min_width", None) or 0)
            terminal.print(part)
    lines = captured.get().split("\n")
    write("\n".join(line.rstrip(" ") for line in lines))


def answer(
    output: Output | CatalogOutput,
    document: Callable[[], Document],
    *,
    body: Callable[[], Any],
    rows: Callable[[], Sequence[dict[str, Any]]],
    columns: Callable[[], Sequence[Column]] | None = None,
) -> None:
    """Write one answer in the format chosen, and the report and the case where they are asked for.

    Args:
        output: the options of how it is written.
        document: makes what people read; not called for a machine's format.
        body: makes what JSON and YAML hold.
        rows: makes what CSV holds.
        columns: makes what Markdown holds, where that is not the document's first table.

    """
    if isinstance(output, PredictionOutput) and output.case is not None:
        from advisor.cli.case import write_case  # seldom needed

        write_case(output.case, body())
    made = cache(document)  # for a report and for what is shown
    pages = []
    if isinstance(output, (ReportedOutput, ValidationOutput)) and output.report is not None:
        from advisor.render.page import page_files, write_files  # brings what draws figures

        pages = write_files(Path(output.report), page_files(made()))[:2]
    if output.format_ == "table":
        lines = [("report", [str(page) for page in pages])] if pages else []
        show(made().and_lines(lines), wide=output.wide)
    elif output.format_ == "markdown":
        from advisor.render.tables import markdown  # each format brings its own

        write(markdown(columns() if columns else made().columns))
    else:
        from advisor.render.formats import as_csv, as_json, as_yaml  # likewise

        formats = {"csv": lambda: as_csv(rows()), "json": lambda: as_json(body()), "yaml": lambda: as_yaml(body())}
        write(formats[output.format_]())


def document_of(result: Any) -> Document:
    """Return the document of an answer of the Python API."""
    from advisor.render.notebook import document  # not for the machines' formats

    return document(result)


@contextlib.contextmanager
def progress(message: str) -> Iterator[None]:
    """Return a spinner with ``message`` on stderr while the body runs, if that is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # only on a terminal

    with Console(stderr=True).status(message):
        yield


@contextlib.contextmanager
def course(message: str) -> Iterator[Callable[[Progress], None] | None]:
    """Return something that shows on stderr how far work is and what it is at, if that is a terminal; else None."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # only on a terminal
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column as Room

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    rest = Room(ratio=1, no_wrap=True, overflow="ellipsis")  # what is too long for the line is cut, not the bar
    columns = (BarColumn(20), TaskProgressColumn(), TextColumn("{task.description}", markup=False, table_column=rest))
    with Bar(*columns, console=console, transient=True, expand=True) as bar:
        task = bar.add_task(message, total=1.0)

        def watch(now: Progress) -> None:
            best = f"; so far {now.best}" if now.best else ""
            bar.update(task, completed=now.share, description=f"{now.doing}{best}")

        yield watch


def check_outputs(report: str | None, plot: str | None = None) -> None:
    """Raise ``InputError`` where a report or a figure cannot be written, before the work is done."""
    if report is None and plot is None:
        return
    from advisor.render.page import check_writable  # only with those options

    if plot is not None and Path(plot).suffix.casefold() != ".png":
        raise InputError(f"--plot is {plot!r:.60}; it must be a PNG file, such as latencies.png")
    for path in (report, plot):
        if path is not None:
            check_writable(Path(path))
