"""``advisor train``: memory, step time, days and cost of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from advisor.cli.options.hardware import Hardware
from advisor.cli.options.output import ReportedOutput
from advisor.cli.options.training import TrainingDegrees, TrainingQuestion
from advisor.cli.output import answer, check_outputs, document_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.training.training_estimate import TrainingEstimate, TrainingRecommendation


def train(*, hardware: Hardware, training: TrainingQuestion, layout: TrainingDegrees, output: ReportedOutput) -> None:
    """Estimate memory and time of training, or find the best layout.

    With --tp, --pp or --cp, estimates that layout; without (or as recommend --train), evaluates every layout. Exits with 1 if nothing fits.

    \b
    advisor train --model gpt-3-175b --gpus 64xA100 --tp 8 --pp 8 --batch 64
    advisor train --model llama-3-8b --gpus 8xH100 --batch 128 --tokens 15B
    advisor train --model llama-3-8b --gpus 2x4090 --batch 8 --lora-rank 16
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.training.estimation import estimate_training, recommend_training  # brings numpy

    check_outputs(output.report)
    question = {**hardware.keywords(), **training.keywords(), **layout.keywords()}
    result: TrainingEstimate | TrainingRecommendation
    candidates: Sequence[TrainingEstimate]
    if layout.stated:
        one = estimate_training(**question)
        result, candidates, fits = one, [one], one.fits
    else:
        best = recommend_training(**question)
        result, candidates, fits = best, best.candidates, best.best is not None
    answer(
        output,
        lambda: document_of(result),
        body=result.to_dict,
        rows=lambda: [candidate.row() for candidate in candidates],
    )
    if not fits:
        raise typer.Exit(1)
