"""``advisor autoscale``: policies that change how many replicas run through a day."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advisor.cli.commands.fleet_command import File, Workers
from advisor.cli.options.evidence import EvidenceOptions
from advisor.cli.options.output import ReportedOutput
from advisor.cli.output import answer, check_outputs, course, document_of
from advisor.cli.program import nothing_feasible

PANEL = "Policies"
Start = Annotated[
    str,
    typer.Option(
        "--start",
        metavar="S|S-S",
        help="Seconds that a replica takes to start, or the range of them.",
        rich_help_panel=PANEL,
    ),
]
Probability = Annotated[
    str,
    typer.Option(
        "--probability",
        metavar="SHARE",
        help="With which limits are kept through the hardest stretches.",
        rich_help_panel=PANEL,
    ),
]
Days = Annotated[
    int, typer.Option("--days", metavar="N", help="Days that are simulated of each policy.", rich_help_panel=PANEL)
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out", metavar="DIR", help="Write a KEDA ScaledObject or an HPA for every model there.", rich_help_panel=PANEL
    ),
]


def autoscale(
    *,
    file: File,
    start: Start = "50-210",
    probability: Probability = "90%",
    days: Days = 10,
    out: Out = None,
    workers: Workers = "1",
    evidence: EvidenceOptions,
    output: ReportedOutput,
) -> None:
    """Find the cheapest autoscaling that keeps limits all day.

    Simulates every model of a fleet's file through its curve of a day on the cheapest GPUs to rent, under a fixed number of replicas, a
    schedule (KEDA cron), the request rate (KEDA prometheus) and the requests in flight (HPA), with replicas that take minutes to start;
    then a lost replica, a lost node, reclaimed spot GPUs and a rolling upgrade. Exits with 1 if a model has no policy that does.

    \b
    advisor autoscale fleet.yaml
    advisor autoscale fleet.yaml --start 90-300 --probability 95% --out policies/
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.fleet.autoscaling import plan_autoscaling  # brings scipy
    from catalog.quantities import SHARE

    check_outputs(output.report)
    with course("simulating policies") as watch:
        result = plan_autoscaling(
            file,
            runs=evidence.read(),
            probability=SHARE.read(probability, "--probability"),
            start_s=_start(start),
            days=days,
            workers=workers,
            progress=watch,
        )
    if out is not None:
        from advisor.fleet.scaling_export import scaling_files
        from advisor.render.page import write_files

        write_files(Path(out), {name: text.encode() for name, text in scaling_files(result).items()})

    def rows() -> list[dict[str, object]]:
        from advisor.render.answers.autoscaling import policy_row

        return [policy_row(model, outcome) for model in result.models for outcome in model.options]

    answer(output, lambda: document_of(result), body=result.to_dict, rows=rows)
    if not result.meets:
        raise nothing_feasible([], output.format_, why="a model has no policy that keeps its limits")


def _start(text: str) -> tuple[float, float]:
    from catalog.errors import InputError
    from catalog.quantities import SECONDS

    low, _, high = text.partition("-")
    try:
        ends = SECONDS.read(low, "--start"), SECONDS.read(high or low, "--start")
    except InputError as error:
        raise InputError(f"{error}; a range is written 50-210") from None
    return ends
