"""``advisor import``: benchmarks that were measured with other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from advisor.cli.options.imports import ImportFacts, ImportKept, ImportOutput
from advisor.cli.output import progress, show, write
from catalog.errors import InputError
from catalog.wording import counted

if TYPE_CHECKING:
    from advisor.calibration.importing import Import

SHOWN = 20
"""Rows left out that are listed; more are counted."""

Files = Annotated[
    list[str] | None, typer.Argument(metavar="FILE", help="Files, or folders of them.", show_default=False)
]


def import_(*, files: Files = None, facts: ImportFacts, kept: ImportKept, output: ImportOutput) -> None:
    """Import benchmark results of other programs.

    Reads results of vLLM's benchmarks (latency, throughput, serve, sweep), sglang.bench_serving, GuideLLM, AIPerf,
    GenAI-Perf, inference-perf, LLMPerf, trtllm-bench, and runs of this program. Options
    state what a file does not say; rows that cannot be used are listed, and the others are kept, each run once. Later answers
    use them.

    \b
    advisor import results.json --gpu H100-SXM --tp 4 --engine vllm
    advisor import sweep/ --gpu H200 --dry-run
    """  # noqa: D301  Click's mark for lines that stay as they are
    if not files:
        raise InputError("no file named; for example: advisor import results.json --gpu H100-SXM --tp 4 --engine vllm")
    from advisor.calibration.importing import read_import

    with progress("reading"):
        imported = read_import(files, output.format_, given=facts.stated(kept.role), store=kept.runs)
    if not imported.runs:
        raise InputError(imported.why_empty)
    if not kept.dry_run:
        imported.keep()
    _show(imported, dry_run=kept.dry_run, wide=output.wide)


def _show(imported: Import, *, dry_run: bool, wide: bool) -> None:
    from advisor.render.answers.measured import document
    from advisor.render.document import Document

    named = [str(file) for file in imported.left_out[:SHOWN]]
    rest = len(imported.left_out) - len(named)
    skipped = [("skipped", [*named, *([f"and {rest} more"] if rest else [])])] if named else []
    made = document(imported.new) if imported.new else Document(title="Imported")
    show(made.and_lines(skipped), wide=wide)
    requests = sum(len(imported.requests.get(run.run_id, ())) for run in imported.new)
    verb, store = ("would be added to", imported.store) if dry_run else ("added to", imported.store)
    parts = [f"{counted(len(imported.new), 'run')} {verb} {store}"]
    parts += [f"{counted(requests, 'request')} to {imported.requests_store}"] if requests else []
    parts += [f"{counted(len(imported.known), 'run')} kept already"] if imported.known else []
    parts += [f"{len(imported.left_out)} left out"] if imported.left_out else []
    write("; ".join(parts) + "\n")
