"""``advisor observe``: a running deployment beside its prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from advisor.cli.options.evidence import EvidenceOptions
from advisor.cli.options.hardware import Hardware
from advisor.cli.options.layout import FixedLayout
from advisor.cli.options.output import ReportedOutput
from advisor.cli.options.slo import TrafficLimits
from advisor.cli.output import answer, check_outputs, document_of, progress
from advisor.prediction.demand import PERCENTILE
from catalog.paths import home
from catalog.schema import Slo

PANEL = "Metrics"
Prometheus = Annotated[
    list[str],
    typer.Option(
        "--prometheus",
        metavar="URL|FILE",
        help="An engine's metrics (http://host:8000/metrics), a Prometheus server, or a file of such a page. Repeat it for every replica.",
        rich_help_panel=PANEL,
    ),
]
Before = Annotated[
    list[str] | None,
    typer.Option("--before", metavar="FILE", help="The same pages as they were earlier.", rich_help_panel=PANEL),
]
Seconds = Annotated[
    str,
    typer.Option(
        "--over", metavar="TIME", help="How long is looked at where a page is read twice.", rich_help_panel=PANEL
    ),
]
Served = Annotated[
    str,
    typer.Option(
        "--served",
        metavar="NAME",
        help="Name the model is served under, where there are several.",
        rich_help_panel=PANEL,
    ),
]
InputLen = Annotated[
    int | None,
    typer.Option("--input-len", metavar="N", help="Mean prompt tokens, if not counted.", rich_help_panel=PANEL),
]
OutputLen = Annotated[
    int | None,
    typer.Option("--output-len", metavar="N", help="Mean output tokens, if not counted.", rich_help_panel=PANEL),
]
Save = Annotated[
    bool,
    typer.Option("--save", help="Add what was measured to your runs, which correct answers.", rich_help_panel=PANEL),
]


def observe(
    *,
    prometheus: Prometheus,
    before: Before = None,
    over: Seconds = "60s",
    served: Served = "",
    input_len: InputLen = None,
    output_len: OutputLen = None,
    save: Save = False,
    hardware: Hardware,
    limits: TrafficLimits,
    layout: FixedLayout,
    evidence: EvidenceOptions,
    output: ReportedOutput,
) -> None:
    """Compare what a running engine measures with its prediction.

    Reads the Prometheus metrics of vLLM, SGLang or TensorRT-LLM: the rate and lengths that came, and times to the first token, per
    token and of whole requests. Simulates that traffic, and says what has drifted, what misses a limit and what to do. Exits with 1
    if a limit is missed.

    \b
    advisor observe --prometheus http://localhost:8000/metrics
      --model llama-3.1-8b --gpus H100
    advisor observe --prometheus now.txt --before earlier.txt
      --model llama-70b --gpus 4xH100 --tp 4 --tpot 50
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.fleet.observation import observe  # brings numpy
    from catalog.quantities import SECONDS

    check_outputs(output.report)
    with progress("reading metrics"):
        result = observe(
            prometheus,
            hardware.model,
            hardware.gpus,
            set_gpu=hardware.keywords()["set_gpu"],
            deployment=layout.deployment(),
            before=before or (),
            seconds=SECONDS.read(over, "--over"),
            slo=_slo(limits),
            served=served,
            input_len=input_len,
            output_len=output_len,
            runs=evidence.read(),
        )
    if save:
        from catalog.runs import append_runs

        append_runs(home() / "runs" / "observed.jsonl", [result.run])

    def rows() -> list[dict[str, object]]:
        from advisor.render.answers.observation import comparison_row

        return [comparison_row(comparison) for comparison in result.comparisons]

    answer(output, lambda: document_of(result), body=result.to_dict, rows=rows)
    if result.missed:
        raise typer.Exit(1)


def _slo(limits: TrafficLimits) -> Slo:
    """Return the limits, of the 95th percentile where none is named."""
    percentile = PERCENTILE if limits.percentile is None else limits.percentile or None
    return replace(limits.slo(), percentile=percentile)
