"""A deployment as what starts it, or as what watches it: commands, files for platforms, alert rules, a dashboard."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from advisor.prediction.deployment_estimate import Estimate
from advisor.prediction.inputs import read_cluster, read_model
from advisor.recommendation.monitoring import MONITORING, alert_rules, dashboard
from advisor.recommendation.problem import startable
from advisor.recommendation.recommendation import Recommendation
from catalog.engines import FORMATS, ServingPool, export_format, render, render_pools
from catalog.errors import InputError
from catalog.schema import Slo

if TYPE_CHECKING:
    from catalog.schema import Cluster, Deployment, Model


EXPORT_FORMATS = (*FORMATS, *MONITORING)
"""What ``export`` writes."""


def export(
    deployment: Deployment | Estimate | Recommendation,
    format: str,  # noqa: A002  the word users know
    *,
    model: str | Model | None = None,
    gpus: str | Cluster | None = None,
    prefill: Deployment | Estimate | None = None,
    prefill_gpus: str | Cluster | None = None,
    kv_offload: str | None = None,
    slo: Slo | None = None,
) -> str:
    """Write ``deployment`` as ``format``: an engine's command line, a file for a platform, or what watches it.

    Args:
        deployment: an answer of ``estimate`` or ``recommend``, which know their model and GPUs, or a ``Deployment``.
        format: "vllm", "sglang", "tensorrt-llm": the engine's command line; "compose", "kubernetes", "leaderworkerset", "kserve",
            "kserve-llm", "llm-d", "dynamo", "ray-serve", "skypilot", "production-stack" (Helm values): a file for that platform;
            "prometheus", "grafana": alert rules and a dashboard that hold the predicted TTFT, TPOT and KV cache against the engine's
            own metrics.
        model: needed with a ``Deployment``: a name or a ``Model``.
        gpus: needed with a ``Deployment``: such as ``"4xA100"``, or a ``Cluster``.
        prefill: what computes the prompts in a pool of its own, an answer of ``estimate`` or a ``Deployment``; ``deployment`` then only
            decodes. For "vllm", "sglang", "kubernetes", "kserve-llm", "llm-d" and "dynamo".
        prefill_gpus: its GPUs, where these are of another kind and it is a ``Deployment``.
        slo: limits that "prometheus" and "grafana" hold an ``Estimate`` against; a ``Recommendation`` has its own.
        kv_offload: tiers below the GPUs' KV cache that it is started with, such as "cpu=200GB"; None: the deployment's own.

    Raises:
        InputError: what cannot start (too little memory, a format the GPU lacks, nothing feasible), what a platform cannot say, or an
            unknown format.

    """
    wanted, slo = export_format(format, MONITORING), slo or Slo()
    if isinstance(deployment, Recommendation):
        if deployment.best is None:
            raise InputError(f"nothing feasible to export; relax: {'; '.join(deployment.relaxations)}")
        slo = deployment.slo
        deployment = deployment.best
    if prefill is not None:
        pools = _placed(prefill, model, prefill_gpus or gpus), _placed(deployment, model, gpus)
        return _export_pools(*pools, wanted)
    if isinstance(deployment, Estimate) and wanted in MONITORING:
        _check_starts(deployment)
        return alert_rules(deployment, slo) if wanted == "prometheus" else dashboard(deployment, slo)
    if wanted in MONITORING:
        raise InputError(
            f"{wanted} tells what to expect, which a bare Deployment does not; export an answer of estimate or recommend"
        )
    launched, chosen, cluster = _placed(deployment, model, gpus, kv_offload=kv_offload)
    return render(launched, chosen, cluster, wanted)


Placed: TypeAlias = "tuple[Deployment, Model, Cluster]"


def _placed(
    deployment: Deployment | Estimate,
    model: str | Model | None,
    gpus: str | Cluster | None,
    *,
    kv_offload: str | None = None,
) -> Placed:
    """Return what is started, of which model and where; an estimate knows that, and how long a sequence its memory holds."""
    launched = deployment.deployment if isinstance(deployment, Estimate) else deployment
    launched = launched if kv_offload is None else replace(launched, kv_offload=kv_offload)
    if isinstance(deployment, Estimate):
        held, length = _check_starts(deployment)
        if (launched.max_model_len or 0) > held:
            launched = replace(launched, max_model_len=None)
        started = startable(launched, deployment.model, deployment.cluster, held, length)
        return started, deployment.model, deployment.cluster
    if model is None or gpus is None:
        raise InputError(
            "export of a bare Deployment also needs model and gpus, for example model='llama-13b', gpus='4xA100'"
        )
    return launched, read_model(model).value, read_cluster(gpus).value


def _check_starts(estimate: Estimate) -> tuple[int, int]:
    """Return the tokens that one replica's KV cache holds, and those of a request.

    Raises:
        InputError: it does not fit.

    """
    if not estimate.fits:
        why = next((note.text for note in reversed(estimate.notes) if "will not start" in note.text), "")
        fallback = (
            f"{estimate.model.name} does not fit in {estimate.cluster} with this layout; nothing that could start"
        )
        raise InputError(why or fallback)
    length, held = estimate.input_len + estimate.output_len, estimate.kv_capacity_tokens
    if held < length:
        raise InputError(
            f"{estimate.cluster} holds {held} tokens of KV cache in this layout; one request needs {length}"
        )
    return held, length


def _export_pools(prefill: Placed, decode: Placed, wanted: str) -> str:
    """Write a pool for prompts and another that decodes, with sequences as long as both hold."""
    if wanted in MONITORING:
        raise InputError(
            f"{wanted} tells what to expect of one deployment, not of pools; leave out the pool for prompts"
        )
    lengths = [placed[0].max_model_len for placed in (prefill, decode)]
    longest = min((length for length in lengths if length is not None), default=None)
    (first, _, where), (later, model, place) = prefill, decode
    return render_pools(
        ServingPool(role="prefill", deployment=replace(first, max_model_len=longest), cluster=where),
        ServingPool(role="decode", deployment=replace(later, max_model_len=longest), cluster=place),
        model,
        wanted,
    )
