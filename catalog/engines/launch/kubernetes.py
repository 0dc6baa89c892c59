"""A deployment as Kubernetes objects: a pod for every replica, or a group of pods where replicas span nodes.

Groups are LeaderWorkerSets (leaderworkerset.sigs.k8s.io), which give every pod LWS_LEADER_ADDRESS and LWS_WORKER_INDEX;
docs.vllm.ai, Deployment > Frameworks > LWS, starts nodes the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catalog.engines.launch import containers
from catalog.engines.launch.pods import config_maps, pod
from catalog.engines.launch.pools import router
from catalog.engines.launch.process import ROUTER_PORT
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catalog.engines.launch.pools import PoolGroup
    from catalog.engines.launch.replica_group import ReplicaGroup

ROUTER_IMAGE = "vllm/vllm-router:nightly-20260710-b93cbcb"
"""Of vLLM's router, which has images of its own (hub.docker.com/r/vllm/vllm-router)."""


def kubernetes(group: ReplicaGroup) -> list[dict[str, Any]]:
    """Return the objects, dependencies first; replicas that stand alone become pods of their own."""
    return _objects(group, grouped=group.nodes > 1)


def leader_worker_set(group: ReplicaGroup) -> list[dict[str, Any]]:
    """Return the same with a LeaderWorkerSet even where a replica is one pod."""
    return _objects(group, grouped=True)


def kubernetes_pools(prefill: PoolGroup, decode: PoolGroup) -> list[dict[str, Any]]:
    """Return both pools, each behind a Service of its own, and the router before them, which has the model's name.

    A server for prompts names its own pod where its answer says who has the KV cache, so it may stand behind a Service.
    """
    if prefill.group.engine.name != "vllm":
        raise InputError("pools on Kubernetes alone are written for vllm; export for dynamo, or use --engine vllm")
    name = containers.label(prefill.group.model)
    objects, urls = [], []
    for pool in (prefill, decode):
        objects += _objects(pool.group, grouped=pool.group.nodes > 1, pool=pool)
        urls.append([f"http://{name}-{pool.role}:{pool.group.server.port}"])
    argv = list(router("vllm", *urls))
    labels = {"app": name, "pool": "router"}
    container: dict[str, Any] = {"name": "router", "image": ROUTER_IMAGE, "command": argv[:1], "args": argv[1:]}
    container |= {"ports": [{"name": "http", "containerPort": ROUTER_PORT}]}
    container |= {"readinessProbe": {"tcpSocket": {"port": ROUTER_PORT}, "periodSeconds": 5}}
    pods = {"metadata": {"labels": labels}, "spec": {"enableServiceLinks": False, "containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pods}
    return [
        *objects,
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": f"{name}-router"}, "spec": spec},
        _service(name, labels, ROUTER_PORT),
    ]


def _objects(group: ReplicaGroup, *, grouped: bool, pool: PoolGroup | None = None) -> list[dict[str, Any]]:
    name = containers.label(group.model)
    labels = {"app": name}
    if pool is not None:
        name, labels = f"{name}-{pool.role}", labels | {"pool": pool.role}
    selector = labels | {"role": "leader"} if grouped else labels
    workload = _leader_worker_set(group, name, labels, selector) if grouped else _deployment(group, name, labels)
    if pool is not None:
        template = workload["spec"]["leaderWorkerTemplate" if grouped else "template"]
        for pods in template.values() if grouped else [template]:
            if isinstance(pods, dict):
                pods["spec"] |= {"nodeSelector": dict(pool.node_labels)} if pool.node_labels else {}
                pods["spec"]["containers"][0].setdefault("env", []).extend(pool.variables)
    return [*config_maps(group, name), workload, _service(name, selector, group.server.port)]


def _service(name: str, selector: Mapping[str, str], port: int | None) -> dict[str, Any]:
    spec = {"selector": dict(selector), "ports": [{"name": "http", "port": port, "targetPort": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _deployment(group: ReplicaGroup, name: str, labels: dict[str, str]) -> dict[str, Any]:
    spec = {
        "replicas": group.count,
        "selector": {"matchLabels": labels},
        "strategy": {"type": "Recreate"},  # a second set of GPUs to roll over to is seldom there
        "template": {"metadata": {"labels": labels}, "spec": pod(group, group.server, name)},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def _leader_worker_set(
    group: ReplicaGroup, name: str, labels: dict[str, str], leader_labels: dict[str, str]
) -> dict[str, Any]:
    if not group.ranked:
        raise InputError(
            f"replicas that share their experts over {group.nodes} nodes have no one Kubernetes object; "
            "use ep=tp, or export the engine's own commands for each node"
        )
    leader = {"metadata": {"labels": leader_labels}, "spec": pod(group, group.server, name)}
    worker = {"metadata": {"labels": labels | {"role": "worker"}}, "spec": pod(group, group.processes[-1], name)}
    template = {
        "size": group.nodes,
        "restartPolicy": "RecreateGroupOnPodRestart",
        # without a leader's template the worker's is everyone's
        **({"leaderTemplate": leader, "workerTemplate": worker} if group.nodes > 1 else {"workerTemplate": leader}),
    }
    kind = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet"}
    return kind | {"metadata": {"name": name}, "spec": {"replicas": group.count, "leaderWorkerTemplate": template}}
