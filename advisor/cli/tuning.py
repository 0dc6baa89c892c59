"""``advisor tune``: measure until it is certain which deployment is best."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from advisor.cli import measuring
from advisor.cli import options as opt
from advisor.cli.output import answer
from advisor.cli.program import refuse
from catalog.schema import Slo, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from advisor.benchmarking.session import ProbeSession
    from probes.sweep import Sweep

Budget = Annotated[
    str,
    typer.Option(
        "--budget",
        metavar="TIME",
        show_default=True,
        rich_help_panel=opt.QUESTION,
        help="90s, 5m or 1h, start-up included; kept.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="NAME",
        show_default=True,
        rich_help_panel=opt.LAYOUT,
        help="torch (plain PyTorch, nothing else is needed) or vllm (if it is installed beside advisor).",
    ),
]
Static = Annotated[
    bool,
    typer.Option(
        "--static",
        rich_help_panel=opt.WORKLOAD,
        help="Whole batches that arrive at once, in place of a batch kept in flight.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", rich_help_panel=measuring.KEPT, help="Only say what would be measured first.")
]


def tune(
    *,
    model: opt.Model,
    gpus: measuring.LocalGpus = "local",
    budget: Budget = "5m",
    device: measuring.Device = "cuda",
    input_len: opt.InputLen = 1024,
    output_len: opt.OutputLen = 256,
    concurrency: opt.Concurrency = None,
    static: Static = False,
    ttft: opt.Ttft = None,
    tpot: opt.Tpot = None,
    e2e: opt.E2e = None,
    objective: opt.Objective = "throughput_per_gpu",
    engine: Engine = "torch",
    dtype: opt.Dtype = "auto",
    max_num_seqs: opt.MaxBatch = None,
    price: opt.PriceOption = None,
    storage: opt.Storage = None,
    study_name: opt.StudyName = None,
    out: measuring.Out = None,
    runs: measuring.Store = None,
    dry_run: DryRun = False,
    format_: opt.Format = "table",
    wide: opt.Wide = False,
    config: opt.Config = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Measure until it is certain which deployment is best.

    Each round measures what would change the choice most for a second of time, and everything is estimated again after
    it. Ends when the choice is certain and confirmed, or the budget is spent; the same command goes on where it ended.

    \b
    advisor tune --model llama-13b --gpus local --budget 5m
    advisor tune --model llama-13b --gpus 4xH200 --dry-run
    """  # noqa: D301  Click's mark for lines that stay as they are
    began = time.monotonic()
    from advisor.render.tunings import tuning_columns, tuning_rows, tuning_view  # brings Rich
    from advisor.tuning.decision import NothingFits  # brings numpy
    from advisor.tuning.tuning_run import tune  # brings Optuna

    with measuring.ended_by_sigterm(), ExitStack() as shown:
        tell: Callable[[str], None] | None = None

        def watch(ready: ProbeSession) -> Callable[[Sweep], None] | None:
            """Show this round in place of the one before."""
            nonlocal tell
            shown.close()
            seen, tell = shown.enter_context(measuring.watched(ready))
            return seen

        def say(text: str) -> None:
            if tell:
                tell(text)

        try:
            found = tune(
                model, gpus, workload=Workload(input_len=input_len, output_len=output_len, concurrency=concurrency),
                slo=Slo(ttft_ms=ttft, tpot_ms=tpot, e2e_ms=e2e), objective=objective,
                regime="static" if static else "steady", engine=engine, dtype=dtype, budget_s=measuring.seconds(budget),
                device=device, max_batch=max_num_seqs, price=price, storage=storage, study_name=study_name, out=out,
                store=runs, dry_run=dry_run, began=began, watch=watch, say=say,
            )  # fmt: skip
        except NothingFits as error:
            raise refuse(str(error)) from error
    if not (dry_run or found.runs):
        why = f"{', '.join(found.failed)} failed, see {found.logs}" if found.failed else found.ended
        raise refuse(f"nothing was measured: {why}")
    answer(
        format_,
        view=lambda width: tuning_view(found, width, wide=wide),
        body=found.to_dict,
        rows=lambda: tuning_rows(found),
        columns=lambda: tuning_columns(found),
    )
    if found.best is None:
        told = f"nothing feasible; relax: {'; or '.join(found.relaxations)}"
        raise typer.Exit(1) if format_ in {"table", "json", "yaml"} else refuse(told)
