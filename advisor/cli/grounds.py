"""What an answer stands on: the options ``--runs`` and ``--fit``, and what they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from advisor.cli import options as opt
from catalog.schema import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.calibration.surrogate import Surrogate
    from advisor.prediction.evidence import Runs

Fit = Annotated[
    str | None,
    typer.Option(
        "--fit",
        metavar="FILE",
        rich_help_panel=opt.EVIDENCE,
        help="Stand on this fit (of advisor fit -o FILE), not on the one that ships.",
    ),
]


def evidence(paths: Sequence[str] | None, fit: str | None) -> Runs:
    """All the files' runs, or the fit; None, for what ships, where neither is given.

    Raises:
        InputError: both are given, or a file cannot be read.

    """
    if fit is not None and paths:
        raise InputError("--runs and --fit each say what to stand on; leave out one, or fit those runs: advisor fit")
    if not paths:
        return read_fit(fit)
    from catalog.runs import read_runs  # only with --runs

    return [run for path in paths for run in read_runs(path)]


def read_fit(path: str | None) -> Surrogate | None:
    """The fit in a file; None where none is named.

    Raises:
        InputError: it is no fit.

    """
    if path is None:
        return None
    from advisor.calibration.surrogate import Surrogate  # brings numpy

    return Surrogate.read(path)
