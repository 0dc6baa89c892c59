"""The options of the commands, each said once; vLLM's spelling where it has one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from advisor.cli.settings import use_config
from catalog.schema import InputError

QUESTION = "Model and hardware"
WORKLOAD = "Workload"
SLO = "Limits (mean of a request)"
LAYOUT = "Layout and engine"
SEARCH = "Search"
EVIDENCE = "Evidence and prices"
OUTPUT = "Output"

ANSWER_FORMATS = ("table", "json", "csv", "yaml", "markdown")


def _names(kind: str) -> Any:
    """A completion: catalog names of one kind that begin with what was typed."""

    def complete(incomplete: str) -> list[str]:
        from catalog.tables import table  # only while completing

        return [name for name in table(kind).entries if name.casefold().startswith(incomplete.casefold())]

    return complete


def _gpus(incomplete: str) -> list[str]:
    count, times, name = incomplete.rpartition("x")
    known: list[str] = _names("gpus")(name)
    return [f"{count}{times}{each}" for each in known]


def _engines(incomplete: str) -> list[str]:
    from catalog.engines import all_engines  # only while completing

    return [engine.name for engine in all_engines() if engine.name.startswith(incomplete)]


def _formats(incomplete: str) -> list[str]:
    return [each for each in ANSWER_FORMATS if each.startswith(incomplete)]


def one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    """``value`` if it is one of ``choices``, in any case."""
    wanted = value.strip().casefold()
    if wanted in choices:
        return wanted
    from difflib import get_close_matches  # only for this message

    near = get_close_matches(wanted, choices, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"{name} is {value!r:.60}; {hint}it must be one of {', '.join(choices)}")


def _checked_format(value: str) -> str:
    return one_of("--format", value, ANSWER_FORMATS)


def overrides(pairs: list[str] | None) -> dict[str, float | str] | None:
    """The what-if values of ``--set-gpu FIELD=VALUE``."""
    found: dict[str, float | str] = {}
    for pair in pairs or []:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (name and equals and value):
            raise InputError(f"--set-gpu {pair!r:.60} must be FIELD=VALUE, such as memory_bandwidth_gbps=6000")
        if name in found:
            raise InputError(f"--set-gpu gives {name!r:.60} twice")
        found[name] = value
    return found or None


Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        autocompletion=_names("models"),
        rich_help_panel=QUESTION,
        help="Catalog name (llama-13b), Hugging Face id, or path to a config.json.",
    ),
]
Gpus = Annotated[
    str,
    typer.Option(
        "--gpus",
        metavar="GPUS",
        autocompletion=_gpus,
        rich_help_panel=QUESTION,
        help="4xA100, A100:4, 8xH100-80GB, or nodes x GPUs: 2x8xH100.",
    ),
]
SetGpu = Annotated[
    list[str] | None,
    typer.Option(
        "--set-gpu",
        metavar="FIELD=VALUE",
        rich_help_panel=QUESTION,
        help="What if the GPU were different: memory_bandwidth_gbps=6000. Can be repeated.",
    ),
]

Batch = Annotated[
    int,
    typer.Option(
        "--batch", metavar="N", rich_help_panel=WORKLOAD, help="Sequences at once per replica; all arrive together."
    ),
]
InputLen = Annotated[
    int,
    typer.Option(
        "--input-len", "--isl", metavar="N", show_default=True, rich_help_panel=WORKLOAD, help="Tokens of a prompt."
    ),
]
OutputLen = Annotated[
    int,
    typer.Option(
        "--output-len",
        "--osl",
        metavar="N",
        show_default=True,
        rich_help_panel=WORKLOAD,
        help="Tokens generated for each request.",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--rate",
        metavar="PER_S",
        rich_help_panel=WORKLOAD,
        help="Requests a second. Refused: it needs the serving simulator (advisor simulate).",
    ),
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        metavar="N",
        rich_help_panel=WORKLOAD,
        help="Requests kept in flight over all replicas; by default as many as serve the objective best.",
    ),
]

Ttft = Annotated[
    float | None,
    typer.Option("--ttft", metavar="MS", rich_help_panel=SLO, help="Most time to the first token."),
]
Tpot = Annotated[
    float | None,
    typer.Option("--tpot", metavar="MS", rich_help_panel=SLO, help="Most time per output token after the first."),
]
E2e = Annotated[
    float | None,
    typer.Option("--e2e", metavar="MS", rich_help_panel=SLO, help="Most time of a whole request."),
]
Percentile = Annotated[
    float | None,
    typer.Option(
        "--percentile",
        metavar="P",
        rich_help_panel=SLO,
        help="Limits hold for this percentile. Refused: it needs the serving simulator (advisor simulate); limits are on means.",
    ),
]

Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="NAME",
        show_default=True,
        autocompletion=_engines,
        rich_help_panel=LAYOUT,
        help="vllm, sglang, tensorrt-llm, torch (plain PyTorch) or lmdeploy.",
    ),
]
Tp = Annotated[
    int,
    typer.Option(
        "--tensor-parallel-size",
        "--tp",
        metavar="N",
        show_default=True,
        rich_help_panel=LAYOUT,
        help="GPUs that split each layer.",
    ),
]
Pp = Annotated[
    int,
    typer.Option(
        "--pipeline-parallel-size",
        "--pp",
        metavar="N",
        show_default=True,
        rich_help_panel=LAYOUT,
        help="Stages of layers.",
    ),
]
Dp = Annotated[
    int,
    typer.Option(
        "--data-parallel-size", "--dp", metavar="N", show_default=True, rich_help_panel=LAYOUT, help="Replicas."
    ),
]
Ep = Annotated[
    int,
    typer.Option(
        "--expert-parallel-size",
        "--ep",
        metavar="N",
        show_default=True,
        rich_help_panel=LAYOUT,
        help="GPUs that the routed experts are spread over.",
    ),
]
ChosenTp = Annotated[
    int | None,
    typer.Option(
        "--tensor-parallel-size", "--tp", metavar="N", rich_help_panel=LAYOUT, help="GPUs that split each layer."
    ),
]
ChosenPp = Annotated[
    int | None,
    typer.Option("--pipeline-parallel-size", "--pp", metavar="N", rich_help_panel=LAYOUT, help="Stages of layers."),
]
ChosenDp = Annotated[
    int | None, typer.Option("--data-parallel-size", "--dp", metavar="N", rich_help_panel=LAYOUT, help="Replicas.")
]
ChosenEp = Annotated[
    int | None,
    typer.Option(
        "--expert-parallel-size",
        "--ep",
        metavar="N",
        rich_help_panel=LAYOUT,
        help="GPUs that the routed experts are spread over.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="FORMAT",
        show_default=True,
        rich_help_panel=LAYOUT,
        help="Weight format: auto (the checkpoint's), bfloat16, float16, fp8, int8, int4, ...",
    ),
]
KvDtype = Annotated[
    str,
    typer.Option(
        "--kv-cache-dtype",
        "--kv-dtype",
        metavar="FORMAT",
        show_default=True,
        rich_help_panel=LAYOUT,
        help="KV cache format: auto (the model's), fp8, ...",
    ),
]
Dtypes = Annotated[
    list[str] | None,
    typer.Option(
        "--dtype",
        metavar="FORMAT",
        rich_help_panel=LAYOUT,
        help="Weight format allowed: auto (the checkpoint's), fp8, int4, ... Can be repeated; the best is chosen.",
    ),
]
KvDtypes = Annotated[
    list[str] | None,
    typer.Option(
        "--kv-cache-dtype",
        "--kv-dtype",
        metavar="FORMAT",
        rich_help_panel=LAYOUT,
        help="KV cache format allowed: auto (the model's), fp8, ... Can be repeated.",
    ),
]
MaxNumSeqs = Annotated[
    int | None,
    typer.Option(
        "--max-num-seqs",
        metavar="N",
        rich_help_panel=LAYOUT,
        help="Most sequences that run at once per replica.  [default: the engine's]",
    ),
]
MaxBatch = Annotated[
    int | None,
    typer.Option(
        "--max-num-seqs",
        metavar="N",
        rich_help_panel=LAYOUT,
        help="Largest batch per replica to consider.  [default: 1024]",
    ),
]
MaxNumBatchedTokens = Annotated[
    int | None,
    typer.Option(
        "--max-num-batched-tokens",
        metavar="N",
        rich_help_panel=LAYOUT,
        help="Token budget of one step.  [default: the engine's for that GPU]",
    ),
]
TokenBudgets = Annotated[
    list[int] | None,
    typer.Option(
        "--max-num-batched-tokens",
        metavar="N",
        rich_help_panel=LAYOUT,
        help="Token budget of a step allowed. Can be repeated.  [default: the engine's for that GPU]",
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        "--max-model-len",
        metavar="N",
        rich_help_panel=LAYOUT,
        help="Longest sequence to serve.  [default: the model's, or what memory holds]",
    ),
]
GpuMemoryUtilization = Annotated[
    float,
    typer.Option(
        "--gpu-memory-utilization",
        metavar="SHARE",
        show_default=True,
        rich_help_panel=LAYOUT,
        help="Share of each GPU's memory that the engine may use.",
    ),
]
Offload = Annotated[
    float,
    typer.Option(
        "--offload",
        metavar="SHARE",
        show_default=True,
        rich_help_panel=LAYOUT,
        help="Share of the layers' weights kept in CPU memory and streamed, 0 to 1.",
    ),
]

Objective = Annotated[
    str,
    typer.Option(
        "--objective",
        metavar="GOAL",
        show_default=True,
        rich_help_panel=SEARCH,
        help="throughput_per_gpu, throughput, latency (of a whole request), ttft, tpot or cost.",
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        "--trials",
        metavar="N",
        rich_help_panel=SEARCH,
        help="Sample about this many deployments instead of evaluating all.",
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        rich_help_panel=SEARCH,
        help="Keep the Optuna study: sqlite:///FILE, postgresql://..., or a FILE.journal.",
    ),
]
StudyName = Annotated[
    str | None,
    typer.Option("--study-name", metavar="NAME", rich_help_panel=SEARCH, help="Its name in the storage."),
]
Top = Annotated[
    int,
    typer.Option("--top", metavar="N", show_default=True, rich_help_panel=SEARCH, help="Layouts to show."),
]

Runs = Annotated[
    list[str] | None,
    typer.Option(
        "--runs",
        metavar="FILE",
        rich_help_panel=EVIDENCE,
        help="Stand on exactly these measured runs (CSV or JSON Lines), not on those that ship. Can be repeated.",
    ),
]
PriceOption = Annotated[
    float | None,
    typer.Option(
        "--price", metavar="USD", rich_help_panel=EVIDENCE, help="Dollars per GPU-hour.  [default: the cheapest offer]"
    ),
]
IllustrativePrices = Annotated[
    bool,
    typer.Option(
        "--illustrative-prices", rich_help_panel=EVIDENCE, help="Also allow round figures that are no offers."
    ),
]

Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        show_default=True,
        autocompletion=_formats,
        callback=_checked_format,
        rich_help_panel=OUTPUT,
        help="table, json, csv, yaml or markdown.",
    ),
]
Wide = Annotated[
    bool,
    typer.Option("--wide", rich_help_panel=OUTPUT, help="All columns, however wide the terminal is, and more detail."),
]
Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=use_config,
        rich_help_panel=OUTPUT,
        help="Options from a YAML file, by their names (model: llama-13b). What is typed wins.",
    ),
]
