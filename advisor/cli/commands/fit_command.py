"""``advisor fit``: what measured runs say, on top of what ships."""

from __future__ import annotations

from typing import Annotated

import typer

from advisor.cli.options.evidence import FitEvidence
from advisor.cli.options.output import FitOutput
from advisor.cli.output import answer, progress

Files = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUNS", help="Files of measured runs, or folders.  [default: $ADVISOR_HOME/runs]", show_default=False
    ),
]


def fit(*, runs: Files = None, evidence: FitEvidence, output: FitOutput) -> None:
    """Fit your own measured runs.

    They refine the fit that ships, in seconds. Reads whatever advisor import reads. Shows how the parameters moved, errors and
    intervals before and after (also for configurations left out in turn), and which runs disagree with the others.

    \b
    advisor fit runs.jsonl -o fit.json
    advisor recommend --model llama-13b --gpus 4xA100 --fit fit.json
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.calibration.user_fit import fit  # brings numpy, scipy and joblib
    from advisor.prediction.presentation import header
    from advisor.render.answers.fit_report import accuracy_columns, accuracy_rows, document

    with progress("fitting"):
        result = fit(runs or None, alone=evidence.alone, kernels=evidence.kernels or ())
    if output.output is not None:
        result.write(output.output)
    answer(
        output,
        lambda: document(result, wide=output.wide, path=output.output),
        body=lambda: {**header("fit/1"), **result.to_dict()},
        rows=lambda: accuracy_rows(result),
        columns=lambda: accuracy_columns(result),
    )
