"""A deployment as what starts it, or as what watches it: commands, files for platforms, alert rules, a dashboard."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from advisor.prediction.deployment_estimate import Estimate
from advisor.prediction.inputs import read_cluster, read_model
from advisor.recommendation.monitoring import MONITORING, alert_rules, dashboard
from advisor.recommendation.problem import startable
from advisor.recommendation.recommendation import Recommendation
from catalog.engines import FORMATS, export_format, render
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
    if isinstance(deployment, Estimate):
        launched, chosen, cluster = deployment.deployment, deployment.model, deployment.cluster
        launched = launched if kv_offload is None else replace(launched, kv_offload=kv_offload)
        if not deployment.fits:
            why = next((note.text for note in reversed(deployment.notes) if "will not start" in note.text), "")
            why = why or f"{chosen.name} does not fit in {cluster} with this layout; nothing that could start"
            raise InputError(why)
        length, held = deployment.input_len + deployment.output_len, deployment.kv_capacity_tokens
        if held < length:
            raise InputError(f"{cluster} holds {held} tokens of KV cache in this layout; one request needs {length}")
        if wanted in MONITORING:
            return alert_rules(deployment, slo) if wanted == "prometheus" else dashboard(deployment, slo)
        if (launched.max_model_len or 0) > held:
            launched = replace(launched, max_model_len=None)
        started = startable(launched, chosen, cluster, held, length)
        return render(started, chosen, cluster, wanted)
    if wanted in MONITORING:
        raise InputError(
            f"{wanted} tells what to expect, which a bare Deployment does not; export an answer of estimate or recommend"
        )
    if model is None or gpus is None:
        raise InputError(
            "export of a bare Deployment also needs model and gpus, for example model='llama-13b', gpus='4xA100'"
        )
    deployment = deployment if kv_offload is None else replace(deployment, kv_offload=kv_offload)
    return render(deployment, read_model(model).value, read_cluster(gpus).value, wanted)
