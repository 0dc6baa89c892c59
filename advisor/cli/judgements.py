"""``advisor validate``: predictions beside measured runs."""

from __future__ import annotations

from typing import Annotated

import typer

from advisor.cli import options as opt
from advisor.cli.output import answer, progress
from catalog.schema import require_positive

Published = Annotated[
    str | None,
    typer.Option(
        "--published",
        metavar="DIR",
        rich_help_panel=opt.EVIDENCE,
        help="Judge on the published benchmarks in this folder too (*_static.csv and *_saturated.csv, long form).",
    ),
]
JudgedRuns = Annotated[
    list[str] | None,
    typer.Option(
        "--runs",
        metavar="FILE",
        rich_help_panel=opt.EVIDENCE,
        help="Judge on these measured runs (CSV or JSON Lines) instead of those that ship. Can be repeated.",
    ),
]
Refit = Annotated[
    bool,
    typer.Option(
        "--refit/--no-refit",
        rich_help_panel=opt.SEARCH,
        help="Also fit again without each model, GPU and engine in turn (a minute with --published).",
    ),
]
Jobs = Annotated[
    int, typer.Option("--jobs", metavar="N", show_default=True, rich_help_panel=opt.SEARCH, help="Processes for that.")
]


def validate(
    *,
    runs: JudgedRuns = None,
    published: Published = None,
    refit: Refit = True,
    jobs: Jobs = 1,
    format_: opt.Format = "table",
    wide: opt.Wide = False,
    config: opt.Config = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Compare predictions with measured runs.

    Tells the errors by group, how often the 90% intervals hold, which runs lie outside, and whether the claims of the
    tables behind this project come out. Runs the fit has seen are kept apart from those it has not.

    \b
    advisor validate
    advisor validate --published benchmarks/ --format csv > checks.csv
    """  # noqa: D301  Click's mark for lines that stay as they are
    require_positive("--jobs", jobs, most=1024)
    from advisor.report.validations import summary_columns, validation_view  # noqa: PLC0415  brings Rich
    from advisor.validation import validate  # noqa: PLC0415  brings numpy, scipy and joblib
    from catalog.runs import read_runs  # noqa: PLC0415

    measured = [run for path in runs for run in read_runs(path)] if runs else None
    with progress("predicting and refitting"):
        found = validate(measured, published=published, refit=refit, jobs=jobs)
    answer(
        format_,
        view=lambda width: validation_view(found, width, wide=wide),
        body=found.to_dict,
        rows=lambda: found.to_dict()["checks"],
        columns=lambda: summary_columns(found.summary()),
    )
