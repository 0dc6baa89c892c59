"""``advisor probe``: measure on this machine's GPUs."""

from __future__ import annotations

import re
import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advisor.cli import options as opt
from advisor.cli.output import answer
from advisor.cli.program import refuse
from catalog.schema import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from advisor.benchmarking.session import ProbeSession
    from catalog.schema import Measurement
    from probes.sweep import Sweep

MEASURED = "What to measure"
KEPT = "Where it is kept"
DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII)
DEFAULT_BUDGET = "3m"


def _numbers(name: str, metavar: str, text: str, *aliases: str) -> Any:
    return typer.Option(
        name, *aliases, metavar=metavar, rich_help_panel=MEASURED, help=f"{text} Several: 1,2,4, or repeated."
    )


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        rich_help_panel=opt.QUESTION,
        help="Catalog name (llama-13b), Hugging Face id, or path to a config.json; with safetensors beside it, those weights.",
    ),
]
LocalGpus = Annotated[
    str,
    typer.Option(
        "--gpus",
        metavar="GPUS",
        show_default=True,
        rich_help_panel=opt.QUESTION,
        help="local, 2 (two of this machine's) or 0,3 (these); with --dry-run also 4xH200; with --endpoint what it runs "
        "on: 4xH100.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        show_default=True,
        rich_help_panel=opt.QUESTION,
        help="cuda, or cpu: tries things out with tiny models, a process in place of each GPU.",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="TIME",
        rich_help_panel=opt.QUESTION,
        help="90s, 3m or 1h, start-up included; kept.  [default: 3m; none with --plan]",
    ),
]
Tp = Annotated[list[str] | None, _numbers("--tensor-parallel-size", "N", "GPUs that split each layer.", "--tp")]
Pp = Annotated[list[str] | None, _numbers("--pipeline-parallel-size", "N", "Stages of layers.", "--pp")]
Batches = Annotated[list[str] | None, _numbers("--batch", "N", "Sequences at once.")]
InputLens = Annotated[list[str] | None, _numbers("--input-len", "N", "Tokens of a prompt.", "--isl")]
OutputLens = Annotated[list[str] | None, _numbers("--output-len", "N", "Tokens generated.", "--osl")]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        rich_help_panel=MEASURED,
        help="torch (plain PyTorch, nothing else is needed) or vllm (if it is installed beside advisor); with --endpoint "
        "what it is, where it does not say itself.  [default: torch; vllm with --serving]",
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        rich_help_panel=opt.QUESTION,
        help="Measure this running server (OpenAI's interface) with GuideLLM, under rising load; its key is read from "
        "$OPENAI_API_KEY.",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="NAME",
        rich_help_panel=MEASURED,
        help="With --endpoint: Hugging Face id or folder of the tokenizer that prompts are made with.  [default: the "
        "model's]",
    ),
]
Serving = Annotated[
    bool,
    typer.Option(
        "--serving",
        rich_help_panel=MEASURED,
        help="Under traffic (vllm): so many requests in flight, then Poisson arrivals; --batch is requests in flight.",
    ),
]
Trace = Annotated[
    str | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        rich_help_panel=MEASURED,
        help="With --serving: CSV or JSON Lines with arrival_s, input_len, output_len, in place of Poisson arrivals.",
    ),
]
Longest = Annotated[
    int | None,
    typer.Option(
        "--max-model-len",
        metavar="N",
        rich_help_panel=MEASURED,
        help="Longest sequence the engine makes room for.  [default: the longest that is measured]",
    ),
]
Role = Annotated[
    str,
    typer.Option(
        "--role",
        metavar="ROLE",
        show_default=True,
        rich_help_panel=MEASURED,
        help="fit, or validate: kept out of the fit, to judge it.",
    ),
]
Plan = Annotated[
    str | None,
    typer.Option(
        "--plan",
        metavar="FILE",
        rich_help_panel=MEASURED,
        help="Run exactly the loads of this file, which --dry-run --format json writes.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", rich_help_panel=MEASURED, help="Only list what would run, and how long it would take."),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="DIR",
        rich_help_panel=KEPT,
        help="Folder for runs, logs and what has been done; several commands finish one list together there.  "
        "[default: in $ADVISOR_HOME]",
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--runs",
        metavar="FILE",
        rich_help_panel=KEPT,
        help="Store for the runs.  [default: runs.jsonl of --out, or in $ADVISOR_HOME/runs, where every answer looks]",
    ),
]
Report = Annotated[
    bool,
    typer.Option(
        "--report",
        rich_help_panel=KEPT,
        help="Also write a summary with figures (PNG); without a model or a plan, of what has been measured before.",
    ),
]


def probe(
    *,
    model: Model = None,
    gpus: LocalGpus = "local",
    budget: Budget = None,
    device: Device = "cuda",
    tensor_parallel_size: Tp = None,
    pipeline_parallel_size: Pp = None,
    batch: Batches = None,
    input_len: InputLens = None,
    output_len: OutputLens = None,
    engine: Engine = None,
    dtype: opt.Dtype = "auto",
    max_model_len: Longest = None,
    serving: Serving = False,
    trace: Trace = None,
    endpoint: Endpoint = None,
    tokenizer: Tokenizer = None,
    role: Role = "fit",
    plan: Plan = None,
    dry_run: DryRun = False,
    out: Out = None,
    runs: Store = None,
    report: Report = False,
    format_: opt.Format = "table",
    wide: opt.Wide = False,
    config: opt.Config = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Measure a model on your own GPUs.

    Runs the layouts and batches that tell most, the most telling first, within the budget; every run is kept at once, and
    what was measured before is not measured again. Later answers stand on it.

    \b
    advisor probe --model llama-13b --gpus local --budget 3m
    advisor probe --model llama-13b --gpus 4xH200 --dry-run
    advisor probe --model llama-13b --engine vllm --serving --budget 10m
    advisor probe --endpoint http://host:8000 --model llama-13b --gpus 1xH100
    advisor probe --report
    """  # noqa: D301  Click's mark for lines that stay as they are
    began = time.monotonic()
    if report and not dry_run:
        from advisor.render.plots import check_plots  # only with --report

        check_plots()  # before anything is measured
    if model is None and plan is None:
        if not report:
            raise InputError("missing --model; for example: --model llama-13b")
        _tell_report(out, runs, format_, wide=wide)
        return
    if model is not None and plan is not None:
        raise InputError("--model and --plan are both given; a plan says which models, leave out one of the two")
    from advisor.benchmarking.benchmark_plan import ProbeQuestion  # likewise
    from advisor.benchmarking.probe_api import prepare  # likewise
    from advisor.benchmarking.traffic_plan import read_requests  # brings numpy

    limit = seconds(budget or DEFAULT_BUDGET) if budget or not plan else None
    if endpoint is not None:
        from advisor.cli.measuring_endpoint import probe_endpoint  # seldom needed

        if serving or trace is not None:
            raise InputError("--serving and --trace are for --engine vllm; a server is measured under traffic anyway")
        if plan is not None:
            raise InputError("--endpoint and --plan are both given; a plan is for this machine's GPUs, leave out one")
        given = {"tp": tensor_parallel_size, "pp": pipeline_parallel_size, "batch": batch, "input-len": input_len,
                 "output-len": output_len}  # fmt: skip
        with ended_by_sigterm():
            probe_endpoint(
                {
                    **{name.replace("-", "_"): numbers(f"--{name}", values) for name, values in given.items()},
                    "endpoint": endpoint, "model": model, "gpus": gpus, "dtype": dtype, "max_model_len": max_model_len,
                    "engine": engine, "tokenizer": tokenizer, "budget_s": limit, "role": role, "out": out, "store": runs,
                    "began": began,
                },
                format_, wide=wide, dry_run=dry_run, report=report,
            )  # fmt: skip
        return
    if tokenizer is not None:
        raise InputError("--tokenizer is for --endpoint; the engines measured here are given tokens")
    question = ProbeQuestion(
        engine=engine or ("vllm" if serving else "torch"), serving=serving, dtype=dtype, max_model_len=max_model_len,
        trace=read_requests(trace, serving=serving), tp=numbers("--tp", tensor_parallel_size),
        pp=numbers("--pp", pipeline_parallel_size), batch=numbers("--batch", batch),
        input_len=numbers("--input-len", input_len), output_len=numbers("--output-len", output_len),
    )  # fmt: skip
    ready = prepare(
        model, gpus, budget_s=limit, question=question, device=device, role=role, out=out, store=runs, plan=plan,
        began=began,
    )  # fmt: skip
    if not ready.all_loads:
        raise refuse(f"nothing can be measured: {'; '.join(ready.left_out)}")
    if dry_run:
        _tell_plan(ready, format_, wide=wide)
        return
    before = len(ready.runs())
    try:
        with ended_by_sigterm(), watched(ready) as (watch, say):
            measured = ready.run(watch=watch, say=say)
    except KeyboardInterrupt:
        if kept := list(ready.runs()):
            _tell_outcome(ready, kept, before, format_, wide=wide, report=False)
        raise
    _tell_outcome(ready, measured, before, format_, wide=wide, report=report)


def seconds(text: str) -> float:
    """A budget: 90s, 3m, 1h30m, or seconds.

    Raises:
        InputError: it is none, or nothing.

    """
    found = DURATION.fullmatch(text.strip().casefold())
    total = (
        sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    )
    if not 0 < total < 10**8:
        raise InputError(f"--budget is {text!r:.40}; it must be a time such as 90s, 3m or 1h30m")
    return total


def numbers(name: str, values: Sequence[str] | None) -> tuple[int, ...]:
    """Whole numbers from options such as ``--tp 1,2 --tp 4``, each once, in their order."""
    found: dict[int, None] = {}
    for part in (part.strip() for value in values or () for part in value.split(",")):
        if not part.isdecimal() or not part.isascii() or int(part[:12]) == 0:
            raise InputError(f"{name} has {part!r:.40}; it must be whole numbers above 0, such as 1,2,4")
        found[int(part[:12])] = None
    return tuple(found)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the body as an exception does, so that what it started is cleared up."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def watched(ready: ProbeSession) -> Iterator[tuple[Callable[[Sweep], None] | None, Callable[[str], None]]]:
    """Something that shows how a sweep goes on and something that tells what happens: on stderr, if it is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None, lambda _: None
        return
    from rich.console import Console  # only on a terminal
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None, left="")

        def watch(sweep: Sweep) -> None:
            passed = time.monotonic() - ready.began
            left = min(ready.left_s(sweep, passed), sweep.seconds_left)
            under_way = ", ".join(f"TP{each.load.deployment.tp} PP{each.load.deployment.pp}" for each in sweep.running)
            over = len(sweep.loads) - len(sweep.waiting) - len(sweep.running)
            told = f"{over} of {len(sweep.loads)} loads over; {under_way or 'waiting for another process'}"
            progress.update(
                task, description=told, completed=passed, total=passed + left, left=f"about {left:.0f} s left"
            )

        yield watch, console.print


def _tell_plan(ready: ProbeSession, chosen: str, *, wide: bool) -> None:
    from advisor.render.probings import plan_columns, plan_rows, plan_view  # brings Rich

    answer(
        chosen,
        view=lambda width: plan_view(ready, width, wide=wide),
        body=ready.to_dict,
        rows=lambda: plan_rows(ready),
        columns=lambda: plan_columns(ready),
    )


def _tell_outcome(
    ready: ProbeSession, measured: Sequence[Measurement], before: int, chosen: str, *, wide: bool, report: bool
) -> None:
    from advisor.render.lines import labelled  # brings Rich
    from advisor.render.measured import measured_columns, measured_rows, measured_view
    from advisor.render.probings import failures, outcome_lines

    if not measured:
        why = "; ".join(failures(ready)) or "the time was over before the first batch was"
        raise refuse(f"nothing was measured: {why}")
    pages = _pages(measured, ready.out) if report else []
    lines = outcome_lines(ready, len(measured), before)
    lines += [("report", [str(page) for page in pages])] if pages else []
    answer(
        chosen,
        view=lambda width: [*measured_view(measured, width, wide=wide), "", labelled(lines)],
        body=lambda: {
            "runs": measured_rows(measured), "measured_now": len(measured) - before, "store": str(ready.store),
            "left_out": list(ready.left_out), "failed": list(ready.failed()), "report": [str(page) for page in pages],
        },
        rows=lambda: measured_rows(measured),
        columns=lambda: measured_columns(measured),
    )  # fmt: skip


def _tell_report(out: str | None, runs: str | None, chosen: str, *, wide: bool) -> None:
    """A report of what has been measured before."""
    from advisor.benchmarking.session import output_paths  # brings numpy
    from advisor.render.lines import labelled  # brings Rich
    from advisor.render.measured import measured_columns, measured_rows, measured_view
    from catalog.runs import read_runs

    folder, store = output_paths(out, runs)
    measured = list(read_runs(store))
    pages = _pages(measured, folder)
    answer(
        chosen,
        view=lambda width: [
            *measured_view(measured, width, wide=wide), "", labelled([("report", [str(page) for page in pages])])
        ],
        body=lambda: {"runs": measured_rows(measured), "report": [str(page) for page in pages]},
        rows=lambda: measured_rows(measured),
        columns=lambda: measured_columns(measured),
    )  # fmt: skip


def _pages(measured: Sequence[Measurement], folder: Path) -> list[Path]:
    from advisor.render.measured import report  # brings Matplotlib

    return report(measured, folder / "report")
