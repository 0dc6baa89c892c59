"""The vLLM production stack: values of its Helm chart (vllm-project/production-stack, helm/values.schema.json)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catalog.engines.launch import containers
from catalog.engines.launch.options import keywords, without
from catalog.engines.launch.pods import SECRET, SECRET_KEY, gpu_limits
from catalog.engines.launch.process import model_argument
from catalog.engines.launch.replica_group import require_engine, require_gpus, require_hub, require_one_node

if TYPE_CHECKING:
    from catalog.engines.launch.replica_group import ReplicaGroup

_NAMED = {
    "tensor_parallel_size": "tensorParallelSize",
    "max_num_seqs": "maxNumSeqs",
    "max_model_len": "maxModelLen",
    "gpu_memory_utilization": "gpuMemoryUtilization",
    "dtype": "dtype",
}
"""Options of vLLM that the chart has fields for; others are ``extraArgs``."""


def helm_values(group: ReplicaGroup) -> list[dict[str, Any]]:
    """Return the values: one model, its replicas behind the chart's router."""
    platform = "the vLLM production stack"
    require_engine(group, platform, "vllm")
    require_gpus(group, platform)
    require_hub(group, platform)
    require_one_node(group, platform, "kubernetes")
    model, process, gpu = group.model, group.server, group.cluster.gpu
    repository, _, tag = containers.image(group.engine, gpu).rpartition(":")
    stated = keywords(process.argv, {"--port"})
    named = {f"--{name.replace('_', '-')}" for name in _NAMED}
    config = {
        **{_NAMED[name]: value for name, value in stated.items() if name in _NAMED},
        "enablePrefixCaching": True,  # the engine's own default, which the chart turns off
        "extraArgs": without(process.argv, named | {"--port"}),
    }
    spec: dict[str, Any] = {
        "name": containers.label(model),
        "repository": repository,
        "tag": tag,
        "modelURL": model_argument(model),
        "replicaCount": group.count,
        "resources": gpu_limits(process, gpu),
        "vllmConfig": config,
    }
    if model.gated:
        spec["hf_token"] = {"secretName": SECRET, "secretKey": SECRET_KEY}
    probe = {"httpGet": {"path": group.engine.health, "port": process.port}, "periodSeconds": 10}
    engine = {
        "enableEngine": True,
        "containerPort": process.port,
        "startupProbe": probe | {"initialDelaySeconds": 15, "failureThreshold": 360},  # an hour to download and load
        "modelSpec": [spec],
    }
    return [{"servingEngineSpec": engine}]
