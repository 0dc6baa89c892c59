"""KServe: an InferenceService with the engine's own container, or an LLMInferenceService whose presets start vLLM.

kserve/kserve 0.21, pkg/apis/serving/v1beta1 and v1alpha2; presets: config/llmisvcconfig, which run
``vllm serve /mnt/models ... ${VLLM_ADDITIONAL_ARGS}`` and, over several nodes, one node a pipeline stage.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from catalog.engines.launch import containers
from catalog.engines.launch.options import without
from catalog.engines.launch.pods import config_maps, gpu_limits, pod, token
from catalog.engines.launch.process import model_argument
from catalog.engines.launch.replica_group import (
    NODE_OPTIONS,
    require_engine,
    require_gpus,
    require_hub,
    require_one_node,
    require_repository,
)
from catalog.errors import InputError

if TYPE_CHECKING:
    from catalog.engines.launch.pools import PoolGroup
    from catalog.engines.launch.replica_group import ReplicaGroup

_ROUTER: dict[str, Any] = {"route": {}, "gateway": {}, "scheduler": {}}
_PRESET = NODE_OPTIONS | {"--port", "--tensor-parallel-size", "--pipeline-parallel-size"}
"""What the presets say of a replica over several nodes."""


def inference_service(group: ReplicaGroup) -> list[dict[str, Any]]:
    """Return an InferenceService whose predictor is the engine's container, in standard mode (no Knative)."""
    require_one_node(group, "an InferenceService with its own container", "kserve-llm or kubernetes")
    name = containers.label(group.model)
    predictor = {
        "minReplicas": group.count,
        "maxReplicas": group.count,
        # a second set of GPUs to roll over to is seldom there
        "deploymentStrategy": {"type": "Recreate"},
        **pod(group, group.server, name, container_name="kserve-container"),
    }
    metadata = {"name": name, "annotations": {"serving.kserve.io/deploymentMode": "Standard"}}
    service = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    return [*config_maps(group, name), service | {"metadata": metadata, "spec": {"predictor": predictor}}]


def llm_inference_service(group: ReplicaGroup) -> list[dict[str, Any]]:
    """Return an LLMInferenceService: vLLM by the platform's presets, with the options of this deployment."""
    return _service(group, {**_workload(group), "router": _ROUTER})


def llm_inference_pools(prefill: PoolGroup, decode: PoolGroup) -> list[dict[str, Any]]:
    """Return the same with a workload for prompts beside that which decodes; the platform's scheduler sends requests through both."""
    workloads = []
    for pool in (prefill, decode):
        workload = _workload(pool.group)
        workload["template"]["containers"][0]["env"].extend(pool.variables)
        if pool.node_labels:
            workload["template"]["nodeSelector"] = dict(pool.node_labels)
        workloads.append(workload)
    return _service(decode.group, {**workloads[1], "router": _ROUTER, "prefill": workloads[0]})


def _service(group: ReplicaGroup, spec: dict[str, Any]) -> list[dict[str, Any]]:
    name = model_argument(group.model)
    metadata = {"name": containers.label(group.model)}
    kind = {"apiVersion": "serving.kserve.io/v1alpha2", "kind": "LLMInferenceService", "metadata": metadata}
    return [{**kind, "spec": {"model": {"uri": f"hf://{name}", "name": name}, **spec}}]


def _workload(group: ReplicaGroup) -> dict[str, Any]:
    """Return replicas as the platform starts them."""
    platform = "an LLMInferenceService"
    require_engine(group, platform, "vllm")
    require_gpus(group, platform)
    require_hub(group, platform)
    require_repository(group, platform)
    deployment = group.deployment
    if group.nodes > 1 and (deployment.pp != group.nodes or not group.ranked):
        raise InputError(
            f"{platform} starts a pipeline stage a node, and this replica has pp={deployment.pp} on {group.nodes} nodes; "
            f"use pp={group.nodes}, or export for kubernetes"
        )
    workload: dict[str, Any] = {"replicas": group.count, "template": _template(group)}
    if group.nodes > 1:  # within a node the options say it all
        workload |= {"parallelism": {"tensor": deployment.tp, "pipeline": deployment.pp}, "worker": _template(group)}
    return workload


def _template(group: ReplicaGroup) -> dict[str, Any]:
    """Return what differs from the presets, which merge containers by name."""
    process, gpu = group.server, group.cluster.gpu
    left_out = _PRESET if group.nodes > 1 else {"--port"}
    options = shlex.join(word.replace("$(", "$$(") for word in without(process.argv, left_out))
    return {
        "containers": [
            {
                "name": "main",
                "image": containers.image(group.engine, gpu),
                "env": [{"name": "VLLM_ADDITIONAL_ARGS", "value": options}, *token(group.model)],
                "resources": gpu_limits(process, gpu),
            }
        ]
    }
