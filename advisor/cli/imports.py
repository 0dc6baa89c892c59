"""``advisor import``: benchmarks that were measured with other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from advisor.cli import options as opt  # noqa: TC001  Typer reads the annotations
from advisor.cli.output import progress, show, write
from catalog.schema import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from advisor.calibration.importing import Import

FACTS = "What the files do not say"
KEPT = "Where it is kept"
SHOWN = 20
"""Rows left out that are listed; more are counted."""

Files = Annotated[
    list[str] | None, typer.Argument(metavar="FILE", help="Files, or folders of them.", show_default=False)
]
FromFormat = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        show_default=True,
        help="auto (by what is in a file), vllm-serve, vllm-offline, sglang, guidellm, aiperf, trtllm-bench, runs, published.",
    ),
]
Gpu = Annotated[str | None, typer.Option("--gpu", metavar="NAME", rich_help_panel=FACTS, help="GPU, such as H100-SXM.")]
Gpus = Annotated[int | None, typer.Option("--gpus", metavar="N", rich_help_panel=FACTS, help="Number of GPUs.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        rich_help_panel=FACTS,
        help="Catalog name (llama-13b), Hugging Face id, or path to a config.json.",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine", metavar="NAME", rich_help_panel=FACTS, help="vllm, sglang, tensorrt-llm, torch or lmdeploy."
    ),
]
EngineVersion = Annotated[
    str | None, typer.Option("--engine-version", metavar="X.Y.Z", rich_help_panel=FACTS, help="The engine's version.")
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="FORMAT",
        rich_help_panel=FACTS,
        help="Weight format, such as fp8.  [default: the checkpoint's]",
    ),
]
KvDtype = Annotated[
    str | None,
    typer.Option("--kv-cache-dtype", "--kv-dtype", metavar="FORMAT", rich_help_panel=FACTS, help="KV cache format."),
]
Share = Annotated[
    float | None,
    typer.Option(
        "--gpu-memory-utilization", metavar="SHARE", rich_help_panel=FACTS, help="Memory the engine could use, 0 to 1."
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch", metavar="N", rich_help_panel=FACTS, help="Sequences at once per replica (vllm bench latency)."
    ),
]
Concurrency = Annotated[
    int | None,
    typer.Option("--concurrency", metavar="N", rich_help_panel=FACTS, help="Requests kept in flight (AIPerf's CSV)."),
]
Rate = Annotated[
    float | None,
    typer.Option("--rate", metavar="PER_S", rich_help_panel=FACTS, help="Poisson arrivals a second (AIPerf's CSV)."),
]
InputLen = Annotated[
    int | None, typer.Option("--input-len", "--isl", metavar="N", rich_help_panel=FACTS, help="Tokens of a prompt.")
]
OutputLen = Annotated[
    int | None, typer.Option("--output-len", "--osl", metavar="N", rich_help_panel=FACTS, help="Tokens generated.")
]
Role = Annotated[
    str | None,
    typer.Option(
        "--role",
        metavar="ROLE",
        rich_help_panel=KEPT,
        help="fit, or validate: kept out of the fit, to judge it.  [default: fit]",
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--runs",
        metavar="FILE",
        rich_help_panel=KEPT,
        help="Store to add the runs to.  [default: in $ADVISOR_HOME/runs, where every answer looks]",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", rich_help_panel=KEPT, help="Only show what would be added.")]


def import_(
    *,
    files: Files = None,
    format_: FromFormat = "auto",
    gpu: Gpu = None,
    gpus: Gpus = None,
    tensor_parallel_size: opt.ChosenTp = None,
    pipeline_parallel_size: opt.ChosenPp = None,
    data_parallel_size: opt.ChosenDp = None,
    expert_parallel_size: opt.ChosenEp = None,
    model: Model = None,
    engine: Engine = None,
    engine_version: EngineVersion = None,
    dtype: Dtype = None,
    kv_cache_dtype: KvDtype = None,
    max_num_seqs: opt.MaxNumSeqs = None,
    max_num_batched_tokens: opt.MaxNumBatchedTokens = None,
    max_model_len: opt.MaxModelLen = None,
    gpu_memory_utilization: Share = None,
    batch: Batch = None,
    concurrency: Concurrency = None,
    rate: Rate = None,
    input_len: InputLen = None,
    output_len: OutputLen = None,
    role: Role = None,
    runs: Store = None,
    dry_run: DryRun = False,
    wide: opt.Wide = False,
    config: opt.Config = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Take over benchmarks of other programs.

    Reads results of vLLM's benchmarks (latency, throughput, serve, sweep), sglang.bench_serving, GuideLLM, AIPerf,
    GenAI-Perf, trtllm-bench, and runs of this program. What a file does not say is given by options; rows that cannot be
    used are named and the rest is kept, each run once. Later answers stand on it.

    \b
    advisor import results.json --gpu H100-SXM --tp 4 --engine vllm
    advisor import sweep/ --gpu H200 --dry-run
    """  # noqa: D301  Click's mark for lines that stay as they are
    if not files:
        raise InputError("no file named; for example: advisor import results.json --gpu H100-SXM --tp 4 --engine vllm")
    from advisor.calibration.importing import nothing, read_import

    given = {
        "gpu": gpu, "gpus": gpus, "tp": tensor_parallel_size, "pp": pipeline_parallel_size, "dp": data_parallel_size,
        "ep": expert_parallel_size, "model": model, "engine": engine, "engine_version": engine_version, "dtype": dtype,
        "kv_dtype": kv_cache_dtype, "max_num_seqs": max_num_seqs, "max_num_batched_tokens": max_num_batched_tokens,
        "max_model_len": max_model_len, "gpu_memory_utilization": gpu_memory_utilization, "batch": batch,
        "concurrency": concurrency, "rate": rate, "input_len": input_len, "output_len": output_len, "role": role,
    }  # fmt: skip
    with progress("reading"):
        found = read_import(files, format_, given=given, store=runs)
    if not found.runs:
        raise InputError(nothing(found))
    if not dry_run:
        found.keep()
    _tell(found, dry_run=dry_run, wide=wide)


def _tell(found: Import, *, dry_run: bool, wide: bool) -> None:
    from advisor.render.lines import labelled  # brings Rich
    from advisor.render.measured import measured_view

    def view(width: int) -> list[RenderableType]:
        table = [*measured_view(found.new, width, wide=wide), ""] if found.new else []
        named = [str(each) for each in found.left_out[:SHOWN]]
        rest = len(found.left_out) - len(named)
        lines: list[tuple[str, Sequence[str]]] = []
        if named:
            lines.append(("skipped", [*named, *([f"and {rest} more"] if rest else [])]))
        return [*table, *([labelled(lines)] if lines else [])]

    show(view)
    requests = sum(len(found.requests.get(run.run_id, ())) for run in found.new)
    verb, store = ("would be added to", found.store) if dry_run else ("added to", found.store)
    parts = [f"{_counted(len(found.new), 'run')} {verb} {store}"]
    parts += [f"{_counted(requests, 'request')} to {found.requests_store}"] if requests else []
    parts += [f"{_counted(len(found.known), 'run')} kept already"] if found.known else []
    parts += [f"{len(found.left_out)} left out"] if found.left_out else []
    write("; ".join(parts) + "\n")


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + "s" * (number != 1)
