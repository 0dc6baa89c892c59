"""An autoscaling policy as Kubernetes objects: KEDA's ScaledObject, or a HorizontalPodAutoscaler.

They scale the Deployment that ``advisor export --format kubernetes`` writes, by the engine's own metrics.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from advisor.fleet.scaling_policy import RATE_S, STABLE_S, SYNC_S
from advisor.prediction.inputs import read_model
from catalog.engines import find_engine
from catalog.engines.launch.containers import label
from catalog.engines.launch.formats import as_yaml
from catalog.engines.launch.process import model_argument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advisor.fleet.autoscaling import Autoscaling, ModelAutoscaling

SERVER = "http://prometheus.monitoring.svc:9090"
"""Where Prometheus answers in many clusters; yours may be elsewhere."""


def scaling_files(answer: Autoscaling) -> dict[str, str]:
    """Return YAML by the name of its file, one for every model that has a policy."""
    return {f"{_name(model.model)}.yaml": _file(model) for model in answer.models if model.best}


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:50] or "model"


def _file(model: ModelAutoscaling) -> str:
    assert model.best
    policy, (least, most) = model.best.policy, model.best.replicas
    comments = [
        (
            f"{model.model} on {model.gpu}, {model.deployment.parallelism}: a replica carries {model.capacity_s:.3g} requests/s and is given "
            f"{policy.target:.0%} of that; {least} to {most} replicas in the simulated days"
        )
    ]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": label(read_model(model.deployed).value)}
    most += policy.spares + 1  # room above what the simulated days took
    if policy.kind == "fixed":
        comments.append(
            f"no autoscaler: a fixed number is cheapest; replicas: {most - policy.spares - 1} in the Deployment"
        )
        return as_yaml([], comments)
    if policy.kind == "running":
        body = _hpa(model, target, least, most)
        comments.append(
            "the metric of pods takes an adapter, such as prometheus-adapter, that serves the engine's metric to Kubernetes"
        )
    else:
        body = _scaled_object(model, target, least, most)
        comments.append(
            "serverAddress is where your Prometheus answers"
            if policy.kind == "rate"
            else "hours are of the time zone stated"
        )
    return as_yaml([body], comments)


def _hpa(model: ModelAutoscaling, target: dict[str, str], least: int, most: int) -> dict[str, Any]:
    metric = re.sub(r"[^a-z0-9_]", "_", find_engine(model.deployment.engine).metrics.running)
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": _name(model.model)},
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": least,
            "maxReplicas": most,
            "behavior": _behavior(),
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": metric},
                        "target": {"type": "AverageValue", "averageValue": f"{max(round(model.in_flight), 1)}"},
                    },
                }
            ],
        },
    }


def _scaled_object(model: ModelAutoscaling, target: dict[str, str], least: int, most: int) -> dict[str, Any]:
    assert model.best
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": _name(model.model)},
        "spec": {
            "scaleTargetRef": target,
            "minReplicaCount": least,
            "maxReplicaCount": most,
            "pollingInterval": round(SYNC_S),
            "cooldownPeriod": round(STABLE_S),
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior()}},
            "triggers": [_rate(model)] if model.best.policy.kind == "rate" else list(_hours(model)),
        },
    }


def _behavior() -> dict[str, Any]:
    return {"scaleDown": {"stabilizationWindowSeconds": round(STABLE_S)}}


def _rate(model: ModelAutoscaling) -> dict[str, Any]:
    assert model.best
    metrics = find_engine(model.deployment.engine).metrics
    served = model_argument(read_model(model.deployed).value)
    of_model, minutes = f'{{{metrics.label}="{served}"}}', f"[{round(RATE_S / 60.0)}m]"
    # What comes is what is answered and what is there more than before: answers alone never exceed what the replicas can do.
    parts = [f"rate({metrics.finished}{of_model}{minutes})"]
    parts += [f"deriv({gauge}{of_model}{minutes})" for gauge in (metrics.running, metrics.waiting) if gauge]
    query = " + ".join(f"sum({part})" for part in parts)
    threshold = f"{model.best.policy.target * model.capacity_s:.3g}"
    return {"type": "prometheus", "metadata": {"serverAddress": SERVER, "query": query, "threshold": threshold}}


def _hours(model: ModelAutoscaling) -> Iterator[dict[str, Any]]:
    """Yield a cron trigger for every stretch of hours with one number of replicas above the least."""
    least, hours = min(model.schedule), [*model.schedule, -1]
    begin = 0
    for hour in range(1, 25):
        if hours[hour] != hours[begin]:
            if hours[begin] > least:
                end = "0 0 * * *" if hour == 24 else f"0 {hour} * * *"
                times = {"timezone": "Etc/UTC", "start": f"0 {begin} * * *", "end": end}
                yield {"type": "cron", "metadata": {**times, "desiredReplicas": str(hours[begin])}}
            begin = hour
