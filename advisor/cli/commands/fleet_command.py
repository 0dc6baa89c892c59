"""``advisor fleet``: several models on several kinds of GPUs."""

from __future__ import annotations

from typing import Annotated

import typer

from advisor.cli.options.evidence import EvidenceOptions
from advisor.cli.options.output import ReportedOutput
from advisor.cli.output import answer, check_outputs, course, document_of
from advisor.cli.program import nothing_feasible

File = Annotated[
    str, typer.Argument(metavar="FLEET", help="YAML file of models, pools of GPUs and limits.", show_default=False)
]
Workers = Annotated[
    str,
    typer.Option(
        "--workers",
        metavar="N|ADDRESS",
        help="Processes, or a running cluster of Dask (dask://HOST:8786) or Ray (ray://HOST:10001). The answer is the same.",
        rich_help_panel="Work",
    ),
]
Worth = Annotated[
    bool,
    typer.Option(
        "--worth",
        help="Also say what measuring one type of replica is worth in dollars a month.",
        rich_help_panel="Work",
    ),
]


def fleet(
    *, file: File, worth: Worth = False, workers: Workers = "1", evidence: EvidenceOptions, output: ReportedOutput
) -> None:
    """Place models on several kinds of GPUs for the least money.

    Shows which model runs on which GPUs, in which layout and on how many replicas, hour by hour; one model may run on several
    kinds of GPUs if that is cheaper. Exits with 1 if the limits cannot all be kept, and says what to relax. Ctrl-C ends the
    work with the best of what was judged until then.

    \b
    advisor fleet fleet.yaml
    advisor fleet fleet.yaml --workers 2 --report report/
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.fleet.fleet_plan import plan_fleet  # brings scipy

    check_outputs(output.report)
    with course("judging replicas") as watch:
        result = plan_fleet(file, runs=evidence.read(), worth=worth, workers=workers, progress=watch)

    def rows() -> list[dict[str, object]]:
        from advisor.render.answers.fleet import row

        return [row(place) for place in result.placements]

    answer(output, lambda: document_of(result), body=result.to_dict, rows=rows)
    if result.lacking:
        raise KeyboardInterrupt  # the exit code says so
    if not result.meets:
        raise nothing_feasible(result.relaxations, output.format_, why="no fleet keeps all limits")
