"""``advisor which``: models, GPUs and formats side by side."""

from __future__ import annotations

import typer

from advisor.cli.options.evidence import ComparedEvidence
from advisor.cli.options.hardware import ComparedHardware
from advisor.cli.options.layout import ComparedEngine
from advisor.cli.options.output import PredictionOutput
from advisor.cli.options.search import ComparedSearch
from advisor.cli.options.slo import SureLimits
from advisor.cli.options.workload import InFlight
from advisor.cli.output import answer, document_of, progress
from advisor.cli.program import refuse
from catalog.prices import read_prices


def which(
    *,
    hardware: ComparedHardware,
    requests: InFlight,
    limits: SureLimits,
    search: ComparedSearch,
    engine: ComparedEngine,
    evidence: ComparedEvidence,
    output: PredictionOutput,
) -> None:
    """Put models, GPUs and weight formats side by side, one row each.

    What is not named is open: all models of the catalog, all kinds of GPUs, 16, 8 and 4 bits. A kind of GPU without a number
    means as many as are needed, up to one server. Exits with 1 if nothing keeps the limits.

    \b
    advisor which --model llama-3.3-70b --budget 10/h --tpot 50
    advisor which --gpus 2xRTX4090
    advisor which --model llama-3.1-8b,qwen3-32b --gpus 8xH100,8xH200
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.recommendation.comparison import compare  # brings numpy

    with progress("comparing"):
        result = compare(
            hardware.model,
            hardware.gpus,
            budget=hardware.budget,
            **requests.keywords(),
            **limits.keywords(),
            **search.keywords(),
            **engine.keywords(),
            confidence=limits.confidence,
            runs=evidence.read(),
            price=read_prices(evidence.price),
            illustrative_prices=evidence.illustrative_prices,
        )

    answer(output, lambda: document_of(result), body=result.to_dict, rows=lambda: [row.row() for row in result.rows])
    if result.best is None:
        if output.format_ in {"csv", "markdown"}:
            raise refuse("nothing keeps the limits; name more GPUs or wider limits")
        raise typer.Exit(1)
