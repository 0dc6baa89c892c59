"""A replica's processes as Kubernetes pods, as every platform on Kubernetes takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catalog.engines.launch import containers
from catalog.engines.launch.replica_group import ADDRESS_OPTIONS, LEADER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.engines.launch.process import Process
    from catalog.engines.launch.replica_group import ReplicaGroup
    from catalog.schema import Gpu, Model

SECRET = "hf-token"  # noqa: S105  the name of a secret, not one
SECRET_KEY = "token"  # noqa: S105  likewise


def resource(gpu: Gpu) -> str:
    """Return what GPUs of this vendor are called in a pod's resources."""
    return "amd.com/gpu" if gpu.vendor == "amd" else "nvidia.com/gpu"


def gpu_limits(process: Process, gpu: Gpu) -> dict[str, Any]:
    """Return the resources that a process needs; empty for a CPU."""
    return {} if gpu.vendor == "cpu" else {"limits": {resource(gpu): len(process.gpus)}}


def token(model: Model) -> list[dict[str, Any]]:
    """Return the variable that a gated model is downloaded with; none for others."""
    if not model.gated:
        return []
    return [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": SECRET, "key": SECRET_KEY}}}]


def volumes(process: Process, model: Model, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a pod's volumes and its container's mounts: shared memory, the model, and files in the ConfigMap ``name``."""
    folder = containers.model_folder(model)
    held: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts: list[dict[str, Any]] = [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108  shared memory of the pod
    if folder:
        held.append({"name": "model", "hostPath": {"path": folder, "type": "Directory"}})
        mounts.append({"name": "model", "mountPath": folder, "readOnly": True})
    else:
        held.append({"name": "hub", "emptyDir": {}})
        mounts.append({"name": "hub", "mountPath": containers.HUB_CACHE})
    if process.files:
        held.append({"name": "files", "configMap": {"name": name}})
        mounts.append({"name": "files", "mountPath": containers.FILES, "readOnly": True})
    return held, mounts


def probes(port: int, path: str) -> dict[str, Any]:
    """Return how a server's pod is judged; it has an hour to download and load its model."""
    probe = {"httpGet": {"path": path, "port": port}}
    return {
        "startupProbe": probe | {"periodSeconds": 10, "failureThreshold": 360},
        "readinessProbe": probe | {"periodSeconds": 5, "failureThreshold": 3},
        "livenessProbe": probe | {"periodSeconds": 30, "timeoutSeconds": 10, "failureThreshold": 5},
    }


def variables(process: Process, model: Model, gpu: Gpu) -> list[dict[str, Any]]:
    """Return a container's environment."""
    named: list[dict[str, Any]] = [
        {"name": key, "value": value} for key, value in containers.environment(model).items()
    ]
    if gpu.vendor == "cpu":
        named += [{"name": key, "value": value} for key, value in process.environment.items()]
    return named + token(model)


def pod(group: ReplicaGroup, process: Process, name: str, *, container_name: str = "engine") -> dict[str, Any]:
    """Return the pod of one process; ``name`` is that of the ConfigMap with its files."""
    model, gpu = group.model, group.cluster.gpu
    argv = arguments(containers.argv(process))
    held, mounts = volumes(process, model, name)
    container: dict[str, Any] = {
        "name": container_name,
        "image": containers.image(group.engine, gpu),
        "command": argv[:1],
        "args": argv[1:],
        "resources": gpu_limits(process, gpu),
        "volumeMounts": mounts,
    }
    if environment := variables(process, model, gpu):
        container["env"] = environment
    if process.port is not None:
        container["ports"] = [{"name": "http", "containerPort": process.port}]
        container |= probes(process.port, group.engine.health)
    # a Service called like an engine would set variables (VLLM_PORT) that the engine reads as its own
    return {"enableServiceLinks": False, "containers": [container], "volumes": held}


def arguments(argv: Sequence[str]) -> list[str]:
    """Return arguments free of what Kubernetes would expand, but with a LeaderWorkerSet's own variables."""
    return [_argument(argv[i - 1] if i else "", word) for i, word in enumerate(argv)]


def _argument(before: str, word: str) -> str:
    if before == "--node-rank":
        return "$(LWS_WORKER_INDEX)"
    if before in ADDRESS_OPTIONS:
        return word.replace(LEADER, "$(LWS_LEADER_ADDRESS)")
    return word.replace("$(", "$$(")


def config_maps(group: ReplicaGroup, name: str) -> list[dict[str, Any]]:
    """Return the ConfigMap with the files that the replica's server reads; none for most engines."""
    import yaml  # slow to import and seldom needed

    files = {file: yaml.safe_dump(dict(content), sort_keys=False) for file, content in group.server.files.items()}
    if not files:
        return []
    return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": files}]
