"""A deployment as Kubernetes objects: a pod for every replica, or a group of pods where replicas span nodes.

Groups are LeaderWorkerSets (leaderworkerset.sigs.k8s.io), which give every pod LWS_LEADER_ADDRESS and LWS_WORKER_INDEX;
docs.vllm.ai, Deployment > Frameworks > LWS, starts nodes the same way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from catalog.engines.launch import containers
from catalog.engines.launch.commands import processes
from catalog.errors import InputError

if TYPE_CHECKING:
    from catalog.engines.launch.process import Process
    from catalog.engines.registry import Engine
    from catalog.schema import Cluster, Deployment, Gpu, Model

_LEADER = "leader.invalid"
_SECRET = "hf-token"  # noqa: S105  the name of a secret, not one


def kubernetes(deployment: Deployment, model: Model, cluster: Cluster, engine: Engine) -> list[dict[str, Any]]:
    """Return the objects, dependencies first. ``deployment`` is resolved; replicas that stand alone become pods of their own."""
    shares_experts = bool(model.moe_layers) and deployment.experts_span_replicas
    one, count = (deployment, 1) if shares_experts else (replace(deployment, dp=1), deployment.dp)
    group = processes(one, model, cluster, address=_LEADER)
    name = containers.label(model)
    objects: list[dict[str, Any]] = []
    for file, content in group[0].files.items():
        objects.append(_config_map(name, file, content))
    leader = _pod(group[0], name, model, cluster.gpu, engine)
    labels = {"app": name}
    if len(group) == 1:
        spec = {
            "replicas": count,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "Recreate"},  # a second set of GPUs to roll over to is seldom there
            "template": {"metadata": {"labels": labels}, "spec": leader},
        }
        objects.append({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})
        selector = labels
    else:
        if "--node-rank" not in group[1].argv:
            raise InputError(
                f"replicas that share their experts over {len(group)} nodes have no one Kubernetes object; "
                "use ep=tp, or export the engine's own commands for each node"
            )
        selector = labels | {"role": "leader"}
        template = {
            "size": len(group),
            "restartPolicy": "RecreateGroupOnPodRestart",
            "leaderTemplate": {"metadata": {"labels": selector}, "spec": leader},
            "workerTemplate": {
                "metadata": {"labels": labels | {"role": "worker"}},
                "spec": _pod(group[1], name, model, cluster.gpu, engine),
            },
        }
        spec = {"replicas": count, "leaderWorkerTemplate": template}
        kind = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet"}
        objects.append(kind | {"metadata": {"name": name}, "spec": spec})
    port = group[0].port
    service = {"selector": selector, "ports": [{"name": "http", "port": port, "targetPort": port}]}
    objects.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service})
    return objects


def _pod(process: Process, name: str, model: Model, gpu: Gpu, engine: Engine) -> dict[str, Any]:
    argv = [_argument(process.argv[i - 1] if i else "", word) for i, word in enumerate(containers.argv(process))]
    resource = "amd.com/gpu" if gpu.vendor == "amd" else "nvidia.com/gpu"
    folder = containers.model_folder(model)
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts: list[dict[str, Any]] = [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108  shared memory of the pod
    if folder:
        volumes.append({"name": "model", "hostPath": {"path": folder, "type": "Directory"}})
        mounts.append({"name": "model", "mountPath": folder, "readOnly": True})
    else:
        volumes.append({"name": "hub", "emptyDir": {}})
        mounts.append({"name": "hub", "mountPath": containers.HUB_CACHE})
    if process.files:
        volumes.append({"name": "files", "configMap": {"name": name}})
        mounts.append({"name": "files", "mountPath": containers.FILES, "readOnly": True})
    container: dict[str, Any] = {
        "name": "engine",
        "image": containers.image(engine, gpu),
        "command": argv[:1],
        "args": argv[1:],
        "resources": {} if gpu.vendor == "cpu" else {"limits": {resource: len(process.gpus)}},
        "volumeMounts": mounts,
    }
    variables: list[dict[str, Any]] = [
        {"name": key, "value": value} for key, value in containers.environment(model).items()
    ]
    if gpu.vendor == "cpu":
        variables += [{"name": key, "value": value} for key, value in process.environment.items()]
    if model.gated:
        variables.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": _SECRET, "key": "token"}}})
    if variables:
        container["env"] = variables
    if process.port is not None:
        probe = {"httpGet": {"path": engine.health, "port": process.port}}
        container |= {
            "ports": [{"name": "http", "containerPort": process.port}],
            "startupProbe": probe | {"periodSeconds": 10, "failureThreshold": 360},  # an hour to download and load
            "readinessProbe": probe | {"periodSeconds": 5, "failureThreshold": 3},
            "livenessProbe": probe | {"periodSeconds": 30, "timeoutSeconds": 10, "failureThreshold": 5},
        }
    # a Service called like an engine would set variables (VLLM_PORT) that the engine reads as its own
    return {"enableServiceLinks": False, "containers": [container], "volumes": volumes}


def _argument(before: str, word: str) -> str:
    """Return one argument, free of what Kubernetes would expand, but with the group's own variables."""
    if before == "--node-rank":
        return "$(LWS_WORKER_INDEX)"
    if before in {"--master-addr", "--dist-init-addr", "--data-parallel-address"}:
        return word.replace(_LEADER, "$(LWS_LEADER_ADDRESS)")
    return word.replace("$(", "$$(")


def _config_map(name: str, file: str, content: Any) -> dict[str, Any]:
    import yaml  # slow to import and seldom needed

    data = {file: yaml.safe_dump(dict(content), sort_keys=False)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
