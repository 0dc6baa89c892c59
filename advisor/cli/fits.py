"""``advisor fit``: what measured runs say, on top of what ships."""

from __future__ import annotations

from typing import Annotated

import typer

from advisor.cli import options as opt
from advisor.cli.output import answer, progress

Files = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUNS", help="Files of measured runs, or folders.  [default: $ADVISOR_HOME/runs]", show_default=False
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE", rich_help_panel=opt.OUTPUT, help="Write the fit here, for --fit elsewhere."
    ),
]
KernelFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--kernels", metavar="FILE", rich_help_panel=opt.EVIDENCE,
        help="Kernels and collectives timed alone (of probes.microbench.kernel_times). Can be repeated.",
    ),
]  # fmt: skip
Alone = Annotated[
    bool,
    typer.Option("--alone", rich_help_panel=opt.EVIDENCE, help="Start from the priors, without the fit that ships."),
]


def fit(
    *,
    runs: Files = None,
    output: Out = None,
    kernels: KernelFiles = None,
    alone: Alone = False,
    format_: opt.Format = "table",
    wide: opt.Wide = False,
    config: opt.Config = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Fit your own measured runs.

    Together with what ships, in seconds. Reads whatever advisor import reads. Tells how the parameters moved, what errors and
    intervals were and are (also of configurations left out in turn), and which runs disagree with the others.

    \b
    advisor fit runs.jsonl -o fit.json
    advisor recommend --model llama-13b --gpus 4xA100 --fit fit.json
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.calibration.user_fit import fit  # brings numpy, scipy and joblib
    from advisor.render.fits import accuracy_columns, accuracy_rows, fit_view  # brings Rich

    with progress("fitting"):
        found = fit(runs or None, alone=alone, kernels=kernels or ())
    if output is not None:
        found.write(output)
    answer(
        format_,
        view=lambda width: fit_view(found, width, wide=wide, written=output),
        body=found.to_dict,
        rows=lambda: accuracy_rows(found),
        columns=lambda: accuracy_columns(found),
    )
