"""``advisor export``: a deployment as what starts it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from advisor.cli.options.evidence import EvidenceOptions
from advisor.cli.options.hardware import Hardware
from advisor.cli.options.layout import Adapted, ChosenLayout, Speculative
from advisor.cli.options.output import ExportOutput
from advisor.cli.options.search import Goal
from advisor.cli.options.slo import MeanLimits, SureLimits
from advisor.cli.options.workload import InFlight
from advisor.cli.output import progress, write
from advisor.cli.pools import LAYOUT, Serving
from advisor.cli.program import nothing_feasible, refuse
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor.prediction.deployment_estimate import Estimate
    from advisor.recommendation.recommendation import Recommendation


def export(
    *,
    hardware: Hardware,
    requests: InFlight,
    limits: SureLimits,
    search: Goal,
    layout: ChosenLayout,
    speculation: Speculative,
    adapters: Adapted,
    evidence: EvidenceOptions,
    output: ExportOutput,
) -> None:
    """Write what starts a deployment, and what watches it.

    Formats are engines' command lines, files for platforms (Compose, Kubernetes, KServe, llm-d, Dynamo, Ray Serve, SkyPilot, Helm),
    and alert rules or a dashboard with what was predicted.
    With a layout (--tp, --pp, --dp or --ep), exports that deployment if it fits; without one, the deployment that is
    recommended for the workload; with --prefill-replicas beside a layout, both pools and the router before them. Exits with 1 if
    nothing fits.

    \b
    advisor export --model llama-13b --gpus 4xA100 --format compose > compose.yaml
    advisor export --model llama-70b --gpus 8xH100 --tp 4 --dp 2 --engine sglang
    advisor export --model llama-70b --gpus 8xH100 --tp 4 --prefill-replicas 2
      --prefill-tp 2 --format llm-d
    advisor export --model llama-13b --gpus 4xA100 --tpot 50 --format prometheus
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.prediction.demand import read_demand
    from advisor.prediction.estimation import estimate  # brings numpy
    from advisor.recommendation.launch_command import export
    from advisor.recommendation.recommendation import recommend

    degrees = layout.degrees()
    common: dict[str, Any] = {
        **hardware.keywords(),
        **layout.knobs(),
        "offload": layout.offload,
        "adapters": adapters.stated,
        "runs": evidence.read(),
    }
    result: Estimate | Recommendation
    prefill: Estimate | None = None
    target = output.target or layout.engine
    if degrees:
        batch = _load(target, requests, limits, speculation, degrees)
        lengths = read_demand(None, None, requests.question()).workload
        asked = partial(
            estimate,
            **speculation.keywords(),
            batch=batch or 1,
            input_len=lengths.input_len,
            output_len=lengths.output_len,
            images=requests.images,
            image_size=requests.image_size,
        )
        result = _started(asked(**common, **degrees))
        pool = _pool(layout).prefill(result.deployment)
        if pool is not None:
            where = {"gpus": layout.prefill_gpus} if layout.prefill_gpus else {}
            stated = {name: getattr(pool, name) for name in LAYOUT}
            prefill = _started(asked(**{**common, **where}, **stated))
    else:
        if _pool(layout) != Serving():
            raise InputError("a pool for prompts stands beside a stated layout; say it with --tp, --dp")
        allowed = {
            "dtypes": [common.pop("dtype")],
            "kv_dtypes": [common.pop("kv_dtype")],
            "max_batch": common.pop("max_num_seqs"),
        }
        with progress("searching every valid deployment"):
            result = recommend(
                **common,
                **allowed,
                **requests.keywords(),
                **limits.keywords(),
                **speculation.keywords(),
                confidence=limits.confidence,
                objective=search.objective,
            )
        if result.best is None:
            raise nothing_feasible(result.relaxations)
        if speculation.speculate and result.best.deployment.drafting is None:
            typer.echo(
                f"advisor: without --speculate {speculation.speculate}: no drafts are best at this load", err=True
            )
    text = export(result, target, prefill=prefill, slo=limits.slo() if degrees else None, **layout.below())
    write(text if text.endswith("\n") else f"{text}\n")


def _pool(layout: ChosenLayout) -> Serving:
    """Return the pool for prompts that is stated."""
    return Serving(
        prefill_replicas=layout.prefill_replicas, prefill_tp=layout.prefill_tp, prefill_gpus=layout.prefill_gpus
    )


def _started(estimate: Estimate) -> Estimate:
    """Return a deployment that fits, with the drafts that were asked for."""
    if not estimate.fits:
        raise refuse("; ".join(note.text for note in estimate.notes if note.kind == "warning"))
    if estimate.speculation is None:
        return estimate
    return replace(estimate, deployment=replace(estimate.deployment, drafting=estimate.speculation.drafting))


def _load(
    target: str, requests: InFlight, limits: MeanLimits, speculation: Speculative, degrees: Mapping[str, int]
) -> int | None:
    """Return the batch that a stated layout is watched at, or that its drafts are chosen for; None where it is only started.

    Raises:
        InputError: none is stated, or something that chooses a layout is.

    """
    batch, drafted = _stated_batch(target, requests, degrees.get("dp", 1)), speculation.speculate is not None
    if batch is None and drafted and requests.concurrency is not None:
        batch = _share(requests.concurrency, degrees.get("dp", 1))
    _check_unused(requests, limits, next(iter(degrees)), loaded=batch is not None, drafted=drafted)
    if drafted and speculation.draft_len is None and batch is None:
        typer.echo("advisor: draft length for one request at a time; state the load with --concurrency", err=True)
    return batch


def _stated_batch(target: str, requests: InFlight, dp: int) -> int | None:
    """Return the batch that a stated layout is watched at; None where it is only started.

    Raises:
        InputError: none is stated.

    """
    from advisor.recommendation.monitoring import MONITORING

    if target.casefold() not in MONITORING:
        return None
    if requests.concurrency is None:
        raise InputError(f"--format {target} predicts times under a load; add --concurrency N, or leave the layout out")
    return _share(requests.concurrency, dp)


def _share(concurrency: int, dp: int) -> int:
    """Return the requests in flight of one replica."""
    return max(1, -(-concurrency // dp))


def _check_unused(requests: InFlight, limits: MeanLimits, degree: str, *, loaded: bool, drafted: bool) -> None:
    """Refuse options that choose a layout where one is stated; ``loaded``: the concurrency is its load, which drafts are chosen for
    (``drafted``), or with which limits are watched.
    """
    chooses: dict[str, float | None] = {"--users": requests.users}
    if not loaded:
        chooses["--concurrency"] = requests.concurrency
    if not loaded or drafted:
        chooses |= {"--ttft": limits.ttft, "--tpot": limits.tpot, "--e2e": limits.e2e}
    for name, value in chooses.items():
        if value is not None:
            raise InputError(f"{name} chooses a layout, but --{degree} states one; leave out one of the two")
