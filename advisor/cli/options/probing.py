"""Options of ``advisor probe`` and ``advisor tune``: what is measured, and where it is kept."""

from __future__ import annotations

from typing import Annotated, Any

from advisor.cli.groups import flag, group
from advisor.cli.options.layout import DTYPE, PP, TP
from advisor.cli.options.values import numbers

KEPT = "Where it is kept"


@group("What to measure")
class Measured:
    """What is measured, and how."""

    tensor_parallel_size: Annotated[list[str] | None, TP] = None
    """GPUs that split each layer. Several: 1,2,4, or repeated."""
    pipeline_parallel_size: Annotated[list[str] | None, PP] = None
    """Stages of layers. Several: 1,2,4, or repeated."""
    batch: Annotated[list[str] | None, flag("--batch", metavar="N")] = None
    """Sequences at once. Several: 1,2,4, or repeated."""
    input_len: Annotated[list[str] | None, flag("--input-len", "--isl", metavar="N")] = None
    """Tokens of a prompt. Several: 1,2,4, or repeated."""
    output_len: Annotated[list[str] | None, flag("--output-len", "--osl", metavar="N")] = None
    """Tokens generated. Several: 1,2,4, or repeated."""
    engine: Annotated[str | None, flag("--engine", metavar="NAME")] = None
    """torch (plain PyTorch) or vllm (if it is installed beside advisor); with --endpoint the server's engine, if it does not
    say.  [default: torch; vllm with --serving]"""
    dtype: Annotated[str, DTYPE] = "auto"
    """Weight format: auto (the checkpoint's), bfloat16, float16, fp8, int8, int4, ..."""
    max_model_len: Annotated[int | None, flag("--max-model-len", metavar="N")] = None
    """Longest sequence that the engine makes room for.  [default: the longest measured]"""
    serving: Annotated[bool, flag("--serving")] = False
    """Measure vllm under traffic: requests kept in flight (--batch of them), then Poisson arrivals."""
    trace: Annotated[str | None, flag("--trace", metavar="FILE")] = None
    """With --serving: requests from CSV or JSON Lines with arrival_s, input_len, output_len, instead of Poisson arrivals."""
    tokenizer: Annotated[str | None, flag("--tokenizer", metavar="NAME")] = None
    """With --endpoint: Hugging Face id or folder of the tokenizer that prompts are made with.  [default: the model's]"""
    role: Annotated[str, flag("--role", metavar="ROLE")] = "fit"
    """fit; or validate, to judge the fit without joining it."""
    plan: Annotated[str | None, flag("--plan", metavar="FILE")] = None
    """Run exactly the loads of this file, as written by --dry-run --format json."""
    dry_run: Annotated[bool, flag("--dry-run")] = False
    """Only list what would run, and how long it would take."""

    def shapes(self) -> dict[str, Any]:
        """Return the degrees, batches and lengths that are stated, by the names of ``advisor.probe``."""
        stated = {
            "tp": self.tensor_parallel_size,
            "pp": self.pipeline_parallel_size,
            "batch": self.batch,
            "input_len": self.input_len,
            "output_len": self.output_len,
        }
        return {name: numbers(f"--{name.replace('_', '-')}", values) for name, values in stated.items()}


@group(KEPT)
class MeasuredKept:
    """Where runs are kept."""

    out: Annotated[str | None, flag("--out", metavar="DIR")] = None
    """Folder for runs, logs and progress; several commands with the same folder share one list of loads.
    [default: in $ADVISOR_HOME]"""
    runs: Annotated[str | None, flag("--runs", metavar="FILE")] = None
    """File for the runs.  [default: runs.jsonl of --out, or in $ADVISOR_HOME/runs, which every answer reads]"""


@group(KEPT)
class ProbeKept(MeasuredKept):
    """Where runs are kept, and whether a report is."""

    report: Annotated[bool, flag("--report")] = False
    """Also write a summary with figures (PNG); without a model or a plan, of the runs measured before."""


@group(KEPT)
class TuningKept(MeasuredKept):
    """Where runs are kept, and whether anything is run."""

    dry_run: Annotated[bool, flag("--dry-run")] = False
    """Only show what would be measured first."""
