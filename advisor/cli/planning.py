"""``advisor plan``: how many GPUs of which kind traffic needs, and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advisor.cli import grounds, traffic
from advisor.cli import options as opt
from advisor.cli.output import answer, check_outputs, course, written
from advisor.cli.program import refuse
from catalog.schema import Deployment, InputError, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

Gpus = Annotated[
    str,
    typer.Option(
        "--gpus",
        metavar="GPUS",
        autocompletion=opt._gpus,  # noqa: SLF001  the same completion as the other commands'
        rich_help_panel=opt.QUESTION,
        help="Kinds of GPUs, as many as it takes (H100,H200,A100), or at most so many (8xH100).",
    ),
]
Objective = Annotated[
    str,
    typer.Option(
        "--objective", metavar="GOAL", show_default=True, rich_help_panel=opt.SEARCH, help="cost, gpus or energy."
    ),
]
Confidence = Annotated[
    float | None,
    typer.Option(
        "--confidence",
        metavar="P",
        rich_help_panel=opt.SLO,
        help="How sure the limits are to hold: 0.5 by the bare estimate, or 0.75 to 0.99.  [default: 0.9]",
    ),
]
Headroom = Annotated[
    float,
    typer.Option(
        "--headroom",
        metavar="SHARE",
        show_default=True,
        rich_help_panel=opt.SLO,
        help="The limits hold at a rate larger by this share: 0.2 for 20%.",
    ),
]
Spares = Annotated[
    int,
    typer.Option("--spares", metavar="N", show_default=True, rich_help_panel=opt.SLO, help="Replicas that may fail."),
]
Prices = Annotated[
    list[str] | None,
    typer.Option(
        "--price",
        metavar="USD",
        rich_help_panel=opt.EVIDENCE,
        help="Dollars per GPU-hour, or of one kind: H100=2.5. Can be repeated.  [default: the cheapest offer]",
    ),
]
Top = Annotated[
    int,
    typer.Option(
        "--top", metavar="N", show_default=True, rich_help_panel=opt.SEARCH, help="Layouts to show of each kind of GPU."
    ),
]
Disaggregate = Annotated[
    bool,
    typer.Option(
        "--disaggregate",
        rich_help_panel=opt.SEARCH,
        help="Also try fleets with replicas that only compute prompts: TP2 1+3 are one for prompts and three for outputs.",
    ),
]


def plan(
    *,
    model: opt.Model,
    gpus: Gpus,
    set_gpu: opt.SetGpu = None,
    rate: traffic.Rate = None,
    trace: traffic.Trace = None,
    input_len: opt.InputLen = 1024,
    output_len: opt.OutputLen = 256,
    spread: traffic.Spread = 0.0,
    burstiness: traffic.Burstiness = 1.0,
    duration: traffic.Duration = None,
    seed: traffic.Seed = 0,
    prefix_hit_rate: traffic.PrefixHitRate = 0.0,
    ttft: opt.Ttft = None,
    tpot: opt.Tpot = None,
    e2e: opt.E2e = None,
    percentile: traffic.Percentile = None,
    confidence: Confidence = None,
    headroom: Headroom = 0.0,
    spares: Spares = 0,
    objective: Objective = "cost",
    router: traffic.RouterName = "round_robin",
    engine: opt.Engine = "vllm",
    dtype: opt.Dtype = "auto",
    kv_cache_dtype: opt.KvDtype = "auto",
    max_num_seqs: opt.MaxNumSeqs = None,
    max_num_batched_tokens: opt.MaxNumBatchedTokens = None,
    max_model_len: opt.MaxModelLen = None,
    gpu_memory_utilization: opt.GpuMemoryUtilization = 0.9,
    top: Top = 2,
    disaggregate: Disaggregate = False,
    runs: opt.Runs = None,
    fit: grounds.Fit = None,
    price: Prices = None,
    illustrative_prices: opt.IllustrativePrices = False,
    draws: traffic.Draws = 8,
    report: traffic.Report = None,
    format_: opt.Format = "table",
    wide: opt.Wide = False,
    config: opt.Config = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Find the cheapest GPUs that keep limits at a rate.

    Every layout of a replica inside a node is a candidate on every kind of GPU, and whole fleets are simulated. Exits with 1
    where nothing keeps the limits, and says what comes nearest and what to relax.

    \b
    advisor plan --model llama-3.1-8b --gpus H100,H200,A100 --rate 20
      --ttft 500 --tpot 40
    advisor plan --model llama-70b --gpus 8xH100 --rate 4 --tpot 40
      --headroom 0.2 --spares 1 --confidence 0.9 --price 2.5
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.capacity.capacity_plan import plan  # brings numpy
    from advisor.capacity.fleet_options import row
    from advisor.render.capacities import capacity_view, option_columns  # brings Rich

    check_outputs(report)
    with course("simulating fleets") as watch:
        found = plan(
            model, gpus, rate=rate, workload=Workload(input_len=input_len, output_len=output_len),
            slo=traffic.limits(ttft, tpot, e2e, percentile), objective=objective,
            confidence=confidence, headroom=headroom, spares=spares,
            deployment=Deployment(
                engine=engine, dtype=dtype, kv_dtype=kv_cache_dtype, max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens, max_model_len=max_model_len,
                gpu_memory_utilization=gpu_memory_utilization,
            ),
            price=stated_prices(price), illustrative_prices=illustrative_prices, runs=grounds.evidence(runs, fit),
            duration_s=duration, seed=seed, spread=spread, burstiness=burstiness,
            router=router,  # type: ignore[arg-type]  # the option has checked it
            prefix_hit_rate=prefix_hit_rate, draws=draws, set_gpu=opt.overrides(set_gpu), top=top, disaggregate=disaggregate, trace=trace,
            progress=watch,
        )  # fmt: skip
    pages: list[Path] = []
    if report is not None:
        from advisor.render.reviews import review_plan  # brings Matplotlib

        pages = review_plan(found, Path(report))[:2]
    answer(
        format_,
        view=lambda width: [*capacity_view(found, width, wide=wide), *written(pages)],
        body=found.to_dict,
        rows=lambda: [row(option) for option in found.options],
        columns=lambda: option_columns(found),
    )
    if found.best is None:
        told = format_ not in {"csv", "markdown"}
        raise typer.Exit(1) if told else refuse(f"nothing keeps the limits; relax: {'; or '.join(found.relaxations)}")


def stated_prices(texts: Sequence[str] | None) -> dict[str, float] | None:
    """Dollars per GPU-hour by GPU of ``--price``; under "" those of every other.

    Raises:
        InputError: no number, or said twice.

    """
    found: dict[str, float] = {}
    for text in texts or []:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise InputError(
                f"--price is {text!r:.60}; it must be dollars per GPU-hour, such as 2.5 or H100=2.5"
            ) from None
        if name.strip() in found:
            raise InputError(f"--price is said twice{f' for {name.strip()}' if name else ''}; leave out one")
        found[name.strip()] = value
    return found or None
