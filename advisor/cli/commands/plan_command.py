"""``advisor plan``: how many GPUs of which kind traffic needs, and what they cost."""

from __future__ import annotations

from advisor.cli.options.electricity import Electricity, co2_body, co2_lines
from advisor.cli.options.evidence import PlannedEvidence
from advisor.cli.options.hardware import PlannedHardware
from advisor.cli.options.layout import Adapted, RoutedEngine, Speculative
from advisor.cli.options.output import ReportedOutput
from advisor.cli.options.search import PlannedSearch
from advisor.cli.options.slo import PlannedLimits
from advisor.cli.options.workload import Traffic
from advisor.cli.output import answer, check_outputs, course, document_of
from advisor.cli.program import nothing_feasible
from catalog.prices import read_prices
from catalog.schema import Deployment


def plan(
    *,
    hardware: PlannedHardware,
    traffic: Traffic,
    limits: PlannedLimits,
    search: PlannedSearch,
    engine: RoutedEngine,
    speculation: Speculative,
    adapters: Adapted,
    evidence: PlannedEvidence,
    electricity: Electricity,
    output: ReportedOutput,
) -> None:
    """Find the cheapest GPUs that keep limits at a rate.

    Tries every layout of a replica within a node on every kind of GPU, and simulates whole fleets. Exits with 1 if no fleet
    keeps the limits, and says which comes nearest and what to relax.

    \b
    advisor plan --model llama-3.1-8b --gpus H100,H200,A100 --rate 20
      --ttft 500 --tpot 40
    advisor plan --model llama-70b --gpus 8xH100 --rate 4 --tpot 40
      --headroom 0.2 --spares 1 --confidence 0.9 --price 2.5
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.capacity.capacity_plan import plan  # brings numpy
    from advisor.capacity.fleet_options import row

    check_outputs(output.report)
    grid = electricity.grid()
    with course("simulating fleets") as watch:
        result = plan(
            **hardware.keywords(),
            **traffic.keywords(),
            **limits.keywords(),
            **speculation.keywords(),
            confidence=limits.confidence,
            headroom=limits.headroom,
            spares=limits.spares,
            objective=search.objective,
            top=search.top,
            disaggregate=search.disaggregate,
            dcp=engine.decode_context_parallel_size,
            kv_link_gbps=engine.kv_link,
            search_budgets=search.search_budgets,
            worth=search.worth,
            deployment=adapters.adapted(Deployment(**engine.knobs())),
            router=engine.router,  # type: ignore[arg-type]  # the option has checked it
            scheduling_policy=engine.scheduling_policy,  # type: ignore[arg-type]  # likewise
            price=read_prices(evidence.price),
            illustrative_prices=evidence.illustrative_prices,
            runs=evidence.read(),
            draws=evidence.draws,
            progress=watch,
        )

    joules = None if result.best is None else result.best.energy_j_per_token
    answer(
        output,
        lambda: document_of(result).and_lines(co2_lines(grid, joules)),
        body=lambda: result.to_dict() | co2_body(grid, joules),
        rows=lambda: [row(option) for option in result.options],
    )
    if result.best is None:
        raise nothing_feasible(result.relaxations, output.format_, why="nothing keeps the limits")
