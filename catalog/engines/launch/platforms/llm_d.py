"""llm-d: values of its model service chart (llm-d-incubation/llm-d-modelservice, values.yaml and values.schema.json)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from catalog.engines.launch import containers
from catalog.engines.launch.pods import SECRET, arguments, gpu_limits, probes, token, volumes
from catalog.engines.launch.process import model_argument
from catalog.engines.launch.replica_group import (
    require_engine,
    require_gpus,
    require_hub,
    require_one_node,
    require_repository,
)

if TYPE_CHECKING:
    from catalog.engines.launch.pools import PoolGroup
    from catalog.engines.launch.replica_group import ReplicaGroup

DECODE_PORT = 8200
"""Where the chart's proxy expects the decoder behind it (values.yaml ``routing.proxy.targetPort``)."""
_SPARE = 1.2
"""Of the volume for the model: tokenizer, configuration, and the file that is being written."""


def model_service(group: ReplicaGroup) -> list[dict[str, Any]]:
    """Return the values: one pool of decoders, which also read prompts, and no prefill of its own."""
    _check(group)
    pools = {"decode": _pods(group), "prefill": {"create": False}}
    return [_values(group, {"enabled": False}) | pools]


def pool_services(prefill: PoolGroup, decode: PoolGroup) -> list[dict[str, Any]]:
    """Return the values with both pools; before each decoder the chart sets a proxy that has prompts computed first."""
    pools = {}
    for pool in (prefill, decode):
        _check(pool.group)
        pods = _pods(pool.group)
        pods["containers"][0]["env"].extend(pool.variables)
        pools[pool.role] = pods | ({"nodeSelector": dict(pool.node_labels)} if pool.node_labels else {})
    proxy = {"enabled": True, "targetPort": decode.group.server.port, "connector": "nixlv2", "secure": False}
    return [_values(prefill.group, proxy) | pools]


def _check(group: ReplicaGroup) -> None:
    platform = "llm-d's model service"
    require_engine(group, platform, "vllm")
    require_gpus(group, platform)
    require_hub(group, platform)
    require_repository(group, platform)
    require_one_node(group, platform, "kserve-llm or kubernetes")


def _values(group: ReplicaGroup, proxy: dict[str, Any]) -> dict[str, Any]:
    """Return what all pools share; the server of ``group`` answers where the chart expects requests."""
    model = group.model
    name, label = model_argument(model), containers.label(model)
    artifacts = {
        "name": name,
        "uri": f"hf://{name}",
        "size": f"{math.ceil(group.checkpoint_gib * _SPARE)}Gi",
        "labels": {"llm-d.ai/inferenceServing": "true", "llm-d.ai/model": label},
        **({"authSecretName": SECRET} if model.gated else {}),
    }
    return {
        "fullnameOverride": label,
        "modelArtifacts": artifacts,
        "multinode": False,
        "accelerator": {"type": group.cluster.gpu.vendor},
        "routing": {"servicePort": group.server.port, "proxy": proxy},
    }


def _pods(group: ReplicaGroup) -> dict[str, Any]:
    """Return the pods of one pool."""
    deployment, model, process, gpu = group.deployment, group.model, group.server, group.cluster.gpu
    assert process.port is not None
    argv = arguments(process.argv)
    held, mounts = volumes(process, model, containers.label(model))
    together = deployment.ranks
    container: dict[str, Any] = {
        "name": "vllm",
        "image": containers.image(group.engine, gpu),
        "modelCommand": "custom",
        "command": argv[:1],
        "args": argv[1:],
        "env": [{"name": key, "value": value} for key, value in containers.environment(model).items()] + token(model),
        "ports": [{"name": "metrics", "containerPort": process.port, "protocol": "TCP"}],
        "resources": gpu_limits(process, gpu),
        "mountModelVolume": False,
        "volumeMounts": mounts,
        **probes(process.port, group.engine.health),
    }
    return {
        "create": True,
        "replicas": group.count,
        "parallelism": {"tensor": deployment.tp, "data": together, "dataLocal": together, "workers": 1},
        "containers": [container],
        "volumes": held,
        "monitoring": {"podmonitor": {"enabled": True, "portName": "metrics", "path": "/metrics"}},
    }
