"""``advisor validate``: predictions beside measured runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from advisor.cli import grounds
from advisor.cli import options as opt
from advisor.cli.output import answer, progress, write
from catalog.schema import require_positive

if TYPE_CHECKING:
    from catalog.schema import Measurement

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
Files = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUNS", help="Judge on these files of measured runs, or folders.  [default: those that ship]",
        show_default=False,
    ),
]  # fmt: skip
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="KEYS",
        rich_help_panel=opt.OUTPUT,
        help="Group errors by these, with commas: split, engine, gpu, model, regime, parallel, layout, batch, lengths, metric.",
    ),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--baselines/--no-baselines",
        rich_help_panel=opt.SEARCH,
        help="Also judge the roofline, the nearest run and trees, fitted to the same runs.",
    ),
]
Ablation = Annotated[
    bool,
    typer.Option("--ablation", rich_help_panel=opt.SEARCH, help="Also fit again without one part after another."),
]
ReportFolder = Annotated[
    str | None,
    typer.Option(
        "--report", metavar="DIR", rich_help_panel=opt.OUTPUT, help="Write figures (PNG) and one HTML page there."
    ),
]
Jobs = Annotated[
    int, typer.Option("--jobs", metavar="N", show_default=True, rich_help_panel=opt.SEARCH, help="Processes for that.")
]


def validate(
    *,
    files: Files = None,
    runs: JudgedRuns = None,
    published: Published = None,
    fit: grounds.Fit = None,
    refit: Refit = True,
    baselines: Compare = True,
    ablation: Ablation = False,
    jobs: Jobs = 1,
    by: By = None,
    report: ReportFolder = None,
    format_: opt.Format = "table",
    wide: opt.Wide = False,
    config: opt.Config = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Compare predictions with measured runs.

    Tells the errors by group, how often the 90% intervals hold, what choosing by prediction costs, how other methods do,
    which runs lie outside, and whether the claims of the tables behind this project come out. Runs the fit has seen are
    kept apart from those it has not.

    \b
    advisor validate
    advisor validate runs.jsonl --by model,batch,metric --report report/
    advisor validate --published benchmarks/ --format csv > checks.csv
    """  # noqa: D301  Click's mark for lines that stay as they are
    require_positive("--jobs", jobs, most=1024)
    from advisor.render.validations import summary_columns, validation_view  # brings Rich
    from advisor.validation.prediction_errors import USUAL, checked_keys  # brings numpy and scipy
    from advisor.validation.validation import validate  # brings joblib

    keys = checked_keys(by.split(",")) if by else USUAL
    if report is not None:
        from advisor.render.plots import check_plots  # before the work, not after it

        check_plots()
    with progress("predicting and refitting"):
        found = validate(
            _judged(files, runs), published=published, surrogate=grounds.read_fit(fit), refit=refit, compare=baselines,
            ablation=ablation, jobs=jobs,
        )  # fmt: skip
    answer(
        format_,
        view=lambda width: validation_view(found, width, wide=wide, by=keys),
        body=lambda: found.to_dict(keys),
        rows=lambda: [check.to_dict() for check in found.checks],
        columns=lambda: summary_columns(found.summary(keys)),
    )
    if report is not None:
        from pathlib import Path

        from advisor.render.judgement import judgement  # brings Matplotlib

        written = judgement(found, Path(report), by=keys)
        if format_ == "table":
            write(f"\nreport  {written[0]} and {len(written) - 1} figures\n")


def _judged(files: list[str] | None, runs: list[str] | None) -> list[Measurement] | None:
    """All the files' runs; None, for those that ship, where none is named."""
    if not files and not runs:
        return None
    from advisor.calibration.importing import import_runs  # only with files
    from catalog.runs import read_runs

    named = import_runs(files) if files else []
    return [*named, *(run for path in runs or [] for run in read_runs(path))]
