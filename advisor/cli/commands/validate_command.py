"""``advisor validate``: predictions beside measured runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from advisor.cli.options.evidence import ValidationEvidence, read_fit
from advisor.cli.options.output import ValidationOutput
from advisor.cli.options.search import Validated
from advisor.cli.output import answer, check_outputs, progress
from catalog.schema import require_positive

if TYPE_CHECKING:
    from catalog.schema import Measurement

Files = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUNS",
        help="Judge on these files of measured runs, or folders.  [default: those that ship]",
        show_default=False,
    ),
]


def validate(*, files: Files = None, evidence: ValidationEvidence, search: Validated, output: ValidationOutput) -> None:
    """Compare predictions with measured runs.

    Shows errors by group, how often the 90% intervals hold, what choosing by prediction costs, how other methods do, which runs
    lie outside their intervals, and whether the claims of earlier works hold. Runs that the fit has seen are listed apart from
    those it has not.

    \b
    advisor validate
    advisor validate runs.jsonl --by model,batch,metric --report report/
    advisor validate --published benchmarks/ --format csv > checks.csv
    """  # noqa: D301  Click's mark for lines that stay as they are
    require_positive("--jobs", search.jobs, most=1024)
    from advisor.render.answers.validation import document, summary_columns
    from advisor.validation.prediction_errors import USUAL, checked_keys  # brings numpy and scipy
    from advisor.validation.validation import validate  # brings joblib

    keys = checked_keys(output.by.split(",")) if output.by else USUAL
    if output.report is not None:
        check_outputs(output.report)
    with progress("predicting and refitting"):
        result = validate(
            _judged(files, evidence.runs),
            published=evidence.published,
            surrogate=read_fit(evidence.fit),
            refit=search.refit,
            compare=search.baselines,
            ablation=search.ablation,
            jobs=search.jobs,
        )
    answer(
        output,
        lambda: document(result, wide=output.wide, by=keys),
        body=lambda: result.to_dict(keys),
        rows=lambda: [check.to_dict() for check in (*result.checks, *result.client)],
        columns=lambda: summary_columns(result.summary(keys)),
    )


def _judged(files: list[str] | None, runs: list[str] | None) -> list[Measurement] | None:
    """Read all the files' runs; None, for those that ship, where none is named."""
    if not files and not runs:
        return None
    from advisor.calibration.importing import import_runs  # only with files
    from catalog.runs import read_runs

    named = import_runs(files) if files else []
    return [*named, *(read_runs(*runs) if runs else ())]
