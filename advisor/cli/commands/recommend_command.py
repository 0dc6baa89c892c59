"""``advisor recommend``: the deployment that serves a workload best."""

from __future__ import annotations

from advisor.cli.options.evidence import Offers
from advisor.cli.options.hardware import Hardware
from advisor.cli.options.layout import Adapted, SearchedEngine, Speculative
from advisor.cli.options.output import ReportedOutput
from advisor.cli.options.search import Search
from advisor.cli.options.slo import SureLimits
from advisor.cli.options.workload import SharedInFlight
from advisor.cli.output import answer, check_outputs, document_of, progress
from advisor.cli.program import nothing_feasible


def recommend(
    *,
    hardware: Hardware,
    requests: SharedInFlight,
    limits: SureLimits,
    search: Search,
    engine: SearchedEngine,
    speculation: Speculative,
    adapters: Adapted,
    evidence: Offers,
    output: ReportedOutput,
) -> None:
    """Find the deployment that serves a workload best.

    It may use fewer than all GPUs. Evaluates every valid layout and batch in the steady state: each replica keeps its batch in
    flight. Exits with 1 if nothing is feasible, and says what comes nearest and what to relax.

    \b
    advisor recommend --model llama-13b --gpus 4xA100
    advisor recommend --model llama-70b --gpus 8xH100 --tpot 30 --dtype fp8
    advisor recommend --model qwen3-32b --gpus 4xL40S --objective cost --wide
    advisor recommend --model llama-3.1-8b --gpus 4xH200 --turns 5
      --think-time 20 --shared-prefix 1500 --router session_sticky
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.recommendation.recommendation import candidate_row, recommend  # brings numpy and Optuna

    check_outputs(output.report)
    with progress("searching every valid deployment"):
        result = recommend(
            **hardware.keywords(),
            **search.keywords(),
            **engine.keywords(),
            **requests.keywords(),
            **limits.keywords(),
            **speculation.keywords(),
            adapters=adapters.stated,
            confidence=limits.confidence,
            runs=evidence.read(),
            price=evidence.price,
            illustrative_prices=evidence.illustrative_prices,
        )

    answer(
        output,
        lambda: document_of(result),
        body=lambda: result.to_dict(candidates=output.wide),
        rows=lambda: [candidate_row(candidate, result.slo) for candidate in result.candidates],
    )
    if result.best is None:
        raise nothing_feasible(result.relaxations, output.format_)
