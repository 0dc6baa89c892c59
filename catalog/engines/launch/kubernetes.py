"""A deployment as Kubernetes objects: a pod for every replica, or a group of pods where replicas span nodes.

Groups are LeaderWorkerSets (leaderworkerset.sigs.k8s.io), which give every pod LWS_LEADER_ADDRESS and LWS_WORKER_INDEX;
docs.vllm.ai, Deployment > Frameworks > LWS, starts nodes the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catalog.engines.launch import containers
from catalog.engines.launch.pods import config_maps, pod
from catalog.errors import InputError

if TYPE_CHECKING:
    from catalog.engines.launch.replica_group import ReplicaGroup


def kubernetes(group: ReplicaGroup) -> list[dict[str, Any]]:
    """Return the objects, dependencies first; replicas that stand alone become pods of their own."""
    return _objects(group, grouped=group.nodes > 1)


def leader_worker_set(group: ReplicaGroup) -> list[dict[str, Any]]:
    """Return the same with a LeaderWorkerSet even where a replica is one pod."""
    return _objects(group, grouped=True)


def _objects(group: ReplicaGroup, *, grouped: bool) -> list[dict[str, Any]]:
    name = containers.label(group.model)
    labels = {"app": name}
    selector = labels | {"role": "leader"} if grouped else labels
    workload = _leader_worker_set(group, name, labels, selector) if grouped else _deployment(group, name, labels)
    port = group.server.port
    service = {"selector": selector, "ports": [{"name": "http", "port": port, "targetPort": port}]}
    return [
        *config_maps(group, name),
        workload,
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service},
    ]


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
