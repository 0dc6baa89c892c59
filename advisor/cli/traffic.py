"""The options of traffic and of what is told of it, alike for ``advisor simulate`` and ``advisor plan``."""

from __future__ import annotations

from typing import Annotated

import typer

from advisor.cli import options as opt
from catalog.schema import Slo

ROUTERS = ("round_robin", "least_loaded")
PERCENTILE = 95.0

Rate = Annotated[
    float | None,
    typer.Option(
        "--rate",
        metavar="PER_S",
        rich_help_panel=opt.WORKLOAD,
        help="Requests a second that come; a trace is stretched to it.",
    ),
]
Trace = Annotated[
    str | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        rich_help_panel=opt.WORKLOAD,
        help="Requests of a CSV or JSON Lines file: time, input, output, or the columns of Azure's, BurstGPT's or "
        "Mooncake's traces.",
    ),
]
Duration = Annotated[
    float | None,
    typer.Option(
        "--duration",
        metavar="S",
        rich_help_panel=opt.WORKLOAD,
        help="Seconds in which requests come, or that are taken of a trace.  [default: all of a trace, else 300; for a plan "
        "about 200]",
    ),
]
Spread = Annotated[
    float,
    typer.Option(
        "--spread",
        metavar="CV",
        show_default=True,
        rich_help_panel=opt.WORKLOAD,
        help="Coefficient of variation of both lengths, log-normal.",
    ),
]
Burstiness = Annotated[
    float,
    typer.Option(
        "--burstiness",
        metavar="CV2",
        show_default=True,
        rich_help_panel=opt.WORKLOAD,
        help="Squared coefficient of variation of the gaps between arrivals; 1 is Poisson, 0 evenly spaced.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", show_default=True, rich_help_panel=opt.WORKLOAD, help="Of arrivals and lengths."
    ),
]
PrefixHitRate = Annotated[
    float,
    typer.Option(
        "--prefix-hit-rate",
        metavar="SHARE",
        show_default=True,
        rich_help_panel=opt.WORKLOAD,
        help="Share of each prompt found in the prefix cache.",
    ),
]
Percentile = Annotated[
    float | None,
    typer.Option(
        "--percentile",
        metavar="P",
        rich_help_panel=opt.SLO,
        help="Limits hold for this percentile of the requests; 0 for their mean.  [default: 95]",
    ),
]


def _checked_router(value: str) -> str:
    return opt.one_of("--router", value, ROUTERS)


RouterName = Annotated[
    str,
    typer.Option(
        "--router",
        metavar="NAME",
        show_default=True,
        callback=_checked_router,
        rich_help_panel=opt.LAYOUT,
        help="round_robin or least_loaded, between replicas.",
    ),
]
Draws = Annotated[
    int,
    typer.Option(
        "--draws",
        metavar="N",
        show_default=True,
        rich_help_panel=opt.EVIDENCE,
        help="Simulations again with other parameters, for intervals; 0 for none.",
    ),
]
Report = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="DIR",
        rich_help_panel=opt.OUTPUT,
        help="Also write a report with figures into this folder: one HTML file, and Markdown.",
    ),
]


def limits(ttft: float | None, tpot: float | None, e2e: float | None, percentile: float | None) -> Slo:
    """Those of the options."""
    chosen = PERCENTILE if percentile is None else percentile or None
    return Slo(ttft_ms=ttft, tpot_ms=tpot, e2e_ms=e2e, percentile=chosen)
