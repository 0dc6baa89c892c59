"""Options of how an answer is written."""

from __future__ import annotations

from typing import Annotated

from advisor.cli.groups import flag, group
from advisor.cli.options.values import checked_format, export_names, format_names
from advisor.cli.settings import use_config

PANEL = "Output"


@group(PANEL)
class Configured:
    """Options that come from a file."""

    config: Annotated[str | None, flag("--config", metavar="FILE", callback=use_config, eager=True)] = None
    """Read options from a YAML file, by their names (model: llama-13b). Options on the command line win."""


@group(PANEL)
class Wide(Configured):
    """How much of a table is shown."""

    wide: Annotated[bool, flag("--wide")] = False
    """Show all columns and all details, however narrow the terminal; in JSON and YAML every candidate in full."""


@group(PANEL)
class Output(Wide):
    """The format of an answer."""

    format_: Annotated[str, flag("--format", metavar="FORMAT", completion=format_names, callback=checked_format)] = (
        "table"
    )
    """table, json, csv, yaml or markdown."""


@group(PANEL)
class PredictionOutput(Output):
    """The format of a prediction, and what reports that it was wrong."""

    case: Annotated[str | None, flag("--case", metavar="FILE")] = None
    """Also write question, answer, your runs and versions to this JSON file, to report a wrong prediction."""


@group(PANEL)
class EstimateOutput(PredictionOutput):
    """The format of an estimate."""

    products: Annotated[bool, flag("--products")] = False
    """Also report each matrix product and what bounds it."""


@group(PANEL)
class ReportedOutput(PredictionOutput):
    """The format of an answer, and a report of it."""

    report: Annotated[str | None, flag("--report", metavar="DIR")] = None
    """Also write a report with figures into this folder: one HTML file, and Markdown."""


@group(PANEL)
class SimulationOutput(ReportedOutput):
    """The format of a simulation, its requests and figures."""

    requests: Annotated[str | None, flag("--requests", metavar="FILE")] = None
    """Also write every request to this CSV file."""
    plot: Annotated[str | None, flag("--plot", metavar="FILE")] = None
    """Also draw the distributions of the latencies (PNG)."""


@group(PANEL)
class ValidationOutput(Output):
    """The format of a validation, how errors are grouped, and a report of it."""

    by: Annotated[str | None, flag("--by", metavar="KEYS")] = None
    """Group errors by these keys, separated by commas: split, engine, version, gpu, model, experts, format, regime, parallel,
    layout, batch, lengths, metric."""
    report: Annotated[str | None, flag("--report", metavar="DIR")] = None
    """Also write figures (PNG) and one HTML page into this folder."""


@group(PANEL)
class FitOutput(Output):
    """The format of a fit's report, and the file of the fit."""

    output: Annotated[str | None, flag("--output", "-o", metavar="FILE")] = None
    """Write the fit to this file, for --fit of other commands."""


@group(PANEL)
class ExportOutput(Configured):
    """What a deployment is written as."""

    target: Annotated[str | None, flag("--format", metavar="FORMAT", completion=export_names)] = None
    """vllm, sglang, tensorrt-llm: its command line; compose, kubernetes, leaderworkerset, kserve, kserve-llm, llm-d, dynamo,
    ray-serve, skypilot, production-stack (Helm values): a file for that platform; prometheus, grafana: alerts and a dashboard with
    what was predicted.  [default: the engine's command line]"""
