"""NVIDIA Dynamo: a DynamoGraphDeployment of a frontend and workers (ai-dynamo/dynamo 1.6, deploy/operator/api/v1beta1).

Workers are the engine inside Dynamo's own image; its operator says who leads where a worker spans nodes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from catalog.engines.launch import containers
from catalog.engines.launch.options import without
from catalog.engines.launch.pods import arguments, config_maps, gpu_limits, token, volumes
from catalog.engines.launch.process import model_argument
from catalog.engines.launch.replica_group import NODE_OPTIONS, require_engine, require_ranked
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.engines.launch.pools import PoolGroup
    from catalog.engines.launch.process import Process
    from catalog.engines.launch.replica_group import ReplicaGroup

VERSION = "1.6.1"
_REGISTRY = "nvcr.io/nvidia/ai-dynamo"
_BACKENDS = {
    "vllm": ("vllm", "vllm-runtime", "dynamo.vllm"),
    "sglang": ("sglang", "sglang-runtime", "dynamo.sglang"),
    "tensorrt-llm": ("trtllm", "tensorrtllm-runtime", "dynamo.trtllm"),
}
"""Of each engine: the framework's name there, the image, the module."""
_OPERATOR = NODE_OPTIONS | {"--port", "--host", "--dist-init-addr", "--backend", "--enable_chunked_prefill"}
"""What the operator says of addresses and ranks, and options of ``trtllm-serve`` that a worker has no need of."""
_RENAMED = {
    "--tp_size": "--tensor-parallel-size",
    "--pp_size": "--pipeline-parallel-size",
    "--ep_size": "--expert-parallel-size",
    "--max_batch_size": "--max-batch-size",
    "--max_num_tokens": "--max-num-tokens",
    "--max_seq_len": "--max-seq-len",
    "--kv_cache_free_gpu_memory_fraction": "--free-gpu-memory-fraction",
    "--extra_llm_api_options": "--extra-engine-args",
}
"""Options of ``trtllm-serve`` as Dynamo's worker calls them (components/src/dynamo/trtllm/utils/trtllm_utils.py)."""


def graph_deployment(group: ReplicaGroup) -> list[dict[str, Any]]:
    """Return the graph, and the ConfigMap with the engine's options where it has a file of them."""
    group = _checked(group)
    worker, maps = _worker(group, containers.label(group.model))
    return [*maps, _graph(group, [{"name": "Worker", "type": "worker", **worker}])]


def graph_pools(prefill: PoolGroup, decode: PoolGroup) -> list[dict[str, Any]]:
    """Return the graph with a component for each pool; its frontend sends prompts to the one for them."""
    components = []
    for pool in (prefill, decode):
        worker, _ = _worker(_checked(pool.group), containers.label(pool.group.model))
        spec = worker["podTemplate"]["spec"]
        if pool.group.engine.name == "vllm":  # SGLang's own options say it
            spec["containers"][0]["args"] += ["--disaggregation-mode", pool.role]
        # the address is the worker's own to find
        spec["containers"][0]["env"] += [each for each in pool.variables if "value" in each]
        if pool.node_labels:
            spec["nodeSelector"] = dict(pool.node_labels)
        components.append({"name": f"{pool.role.capitalize()}Worker", "type": pool.role, **worker})
    return [_graph(decode.group, components)]


def _checked(group: ReplicaGroup) -> ReplicaGroup:
    """Return the group as Dynamo starts it."""
    platform = "Dynamo"
    require_engine(group, platform, *_BACKENDS)
    if group.cluster.gpu.vendor != "nvidia":
        raise InputError(
            f"Dynamo's images are for NVIDIA GPUs, not for {group.cluster.gpu.name}; export for kubernetes"
        )
    require_ranked(group, platform)
    return _with_chunked_prefill(group)


def _image(group: ReplicaGroup) -> dict[str, Any]:
    return {"name": "main", "image": f"{_REGISTRY}/{_BACKENDS[group.engine.name][1]}:{VERSION}"}


def _graph(group: ReplicaGroup, workers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the graph of a frontend and workers."""
    frontend = {
        "name": "Frontend",
        "type": "frontend",
        "replicas": 1,
        "podTemplate": {"spec": {"containers": [_image(group)]}},
    }
    spec = {"backendFramework": _BACKENDS[group.engine.name][0], "components": [frontend, *workers]}
    kind = {"apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment"}
    return kind | {"metadata": {"name": containers.label(group.model)}, "spec": spec}


def _worker(group: ReplicaGroup, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a component's workers, and the ConfigMap ``name`` that they read where there is one."""
    held, mounts = volumes(group.server, group.model, name)
    # the operator mounts shared memory itself
    held, mounts = [v for v in held if v["name"] != "shm"], [m for m in mounts if m["name"] != "shm"]
    container = _image(group) | {
        "command": ["python3", "-m", _BACKENDS[group.engine.name][2]],
        "args": _arguments(group.server, group),
        "env": [{"name": key, "value": value} for key, value in containers.environment(group.model).items()]
        + token(group.model),
        "resources": gpu_limits(group.server, group.cluster.gpu),
        "volumeMounts": mounts,
    }
    worker: dict[str, Any] = {
        "replicas": group.count,
        "podTemplate": {"spec": {"containers": [container], "volumes": held}},
    }
    if group.nodes > 1:
        worker["multinode"] = {"nodeCount": group.nodes}
    return worker, config_maps(group, name)


def _with_chunked_prefill(group: ReplicaGroup) -> ReplicaGroup:
    """Return the group with the switch of ``trtllm-serve`` in the options file, the only place where a worker reads it."""
    if group.engine.name != "tensorrt-llm":
        return group
    files = {name: {**content, "enable_chunked_prefill": True} for name, content in group.server.files.items()}
    return replace(group, processes=tuple(replace(process, files=files) for process in group.processes))


def _arguments(process: Process, group: ReplicaGroup) -> list[str]:
    flag = "--model" if group.engine.name == "vllm" else "--model-path"
    options = without(containers.argv(process), _OPERATOR | {"--model-path"})
    return arguments([flag, model_argument(group.model), *(_RENAMED.get(word, word) for word in options)])
