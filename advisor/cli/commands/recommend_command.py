"""``advisor recommend``: the deployment that serves a workload best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from advisor.cli.options.evidence import Offers
from advisor.cli.options.hardware import Hardware
from advisor.cli.options.layout import SearchedEngine
from advisor.cli.options.output import ReportedOutput
from advisor.cli.options.search import Search
from advisor.cli.options.slo import MeanLimits
from advisor.cli.options.workload import InFlight
from advisor.cli.output import answer, check_outputs, progress, written
from advisor.cli.program import refuse

if TYPE_CHECKING:
    from advisor.recommendation.recommendation import Recommendation


def recommend(
    *, hardware: Hardware, requests: InFlight, limits: MeanLimits, search: Search, engine: SearchedEngine, evidence: Offers,
    output: ReportedOutput,
) -> None:  # fmt: skip
    """Find the deployment that serves a workload best.

    Up to all the GPUs are used. Every valid layout and batch is evaluated in the steady state: each replica keeps its batch in flight. Exits with 1
    where nothing is feasible, and says what comes nearest and what to relax.

    \b
    advisor recommend --model llama-13b --gpus 4xA100
    advisor recommend --model llama-70b --gpus 8xH100 --tpot 30 --dtype fp8
    advisor recommend --model qwen3-32b --gpus 4xL40S --objective cost --wide
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.recommendation.recommendation import recommend, row  # brings numpy and Optuna

    check_outputs(output.report)
    with progress("searching every valid deployment"):
        result = recommend(
            **hardware.keywords(),
            **search.keywords(),
            **engine.keywords(),
            workload=requests.workload(),
            slo=limits.slo(),
            runs=evidence.read(),
            price=evidence.price,
            illustrative_prices=evidence.illustrative_prices,
        )
    pages: list[Path] = []
    if output.report is not None:
        from advisor.render.reviews import review_recommendation  # brings Matplotlib

        pages = review_recommendation(result, Path(output.report))[:2]
    from advisor.render.recommendations import candidate_columns, recommendation_view  # brings Rich

    answer(
        output.format_,
        view=lambda width: [*recommendation_view(result, width, wide=output.wide), *written(pages)],
        body=result.to_dict,
        case=output.case,
        rows=lambda: [row(candidate) for candidate in result.candidates],
        columns=lambda: candidate_columns(result, result.candidates),
    )
    if result.best is None:
        raise nothing_feasible(result, shown=output.format_ not in {"csv", "markdown"})


def nothing_feasible(result: Recommendation, *, shown: bool) -> typer.Exit:
    """Return what to raise where nothing is feasible; ``shown``: standard output says so already."""
    if shown:
        return typer.Exit(1)
    return refuse(f"nothing feasible; relax: {'; or '.join(result.relaxations)}")
