"""The commands that start an engine."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from catalog.engines.all_to_all import HIGH_THROUGHPUT
from catalog.engines.defaults import PLAIN, resolve
from catalog.engines.launch import sglang, tensorrt_llm, vllm
from catalog.engines.launch.process import Process, check_address, pinned
from catalog.engines.registry import Engine, find_engine
from catalog.errors import InputError
from catalog.schema import require_positive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalog.schema import Cluster, Deployment, Gpu, Model


def command(deployment: Deployment, model: Model, cluster: Cluster) -> list[str]:
    """Return the argument list that starts the (first) server; print it with ``shlex.join``.

    ``processes`` has them all, where replicas are servers of their own or span nodes.
    """
    return list(processes(deployment, model, cluster)[0].argv)


def environment(deployment: Deployment, model: Model, cluster: Cluster) -> dict[str, str]:
    """Return environment variables that the command of ``command`` needs, besides HF_TOKEN for a gated model."""
    return dict(processes(deployment, model, cluster)[0].environment)


def processes(
    deployment: Deployment, model: Model, cluster: Cluster, *, address: str = "node0", port: int | None = None
) -> tuple[Process, ...]:
    """Return every process of the deployment, a server before the workers that join it.

    ``address`` is the first node's host name or IPv4 address, which the others must reach; ``port`` where the first
    server answers. Raises ``InputError`` where the engine does not run the model or the GPU.
    """
    deployment = resolve(deployment, model, cluster).value
    engine = find_engine(deployment.engine)
    _check_start(deployment, model, cluster.gpu, engine)
    check_address(address)
    port = engine.port if port is None else port
    require_positive("port", port, most=65535 - deployment.dp)
    if deployment.dp > deployment.ranks > 1:
        started = tuple(_groups(deployment, model, cluster, engine, address=address, port=port))
    else:
        started = _processes(deployment, model, cluster, engine, address, port)
    nodes = 1 + max(process.node for process in started)
    if nodes > cluster.nodes:
        raise InputError(
            f"{deployment.dp} replicas of {deployment.tp * deployment.pp} GPUs take {nodes} nodes of {cluster.gpus_per_node} GPUs, for none "
            f"may lie on two in part; there are {cluster.nodes}"
        )
    return started


def _processes(
    deployment: Deployment, model: Model, cluster: Cluster, engine: Engine, address: str, port: int
) -> tuple[Process, ...]:
    if engine.name == "vllm":
        return vllm.processes(deployment, model, cluster, address, port)
    if engine.name == "sglang":
        return sglang.processes(deployment, model, cluster, engine, address=address, port=port)
    return tensorrt_llm.processes(deployment, model, cluster, engine, port)


def _groups(
    deployment: Deployment, model: Model, cluster: Cluster, engine: Engine, *, address: str, port: int
) -> Iterator[Process]:
    """Yield the processes of every group of replicas that share their experts, packed on the nodes, or each on nodes of its own."""
    one = replace(deployment, dp=deployment.ranks)
    nodes, together = math.ceil(one.num_gpus / cluster.gpus_per_node), max(cluster.gpus_per_node // one.num_gpus, 1)
    for i in range(deployment.dp // deployment.ranks):
        node, slot = i // together * nodes, i % together
        head = address if node == 0 else f"node{node}"
        for process in _processes(one, model, cluster, engine, head, port + slot):
            gpus = tuple(slot * one.num_gpus + gpu for gpu in process.gpus)
            placed = replace(process, node=node + process.node, gpus=gpus)
            yield pinned(placed, cluster.gpu) if together > 1 else placed


def _check_start(deployment: Deployment, model: Model, gpu: Gpu, engine: Engine) -> None:
    if engine.no_command:
        raise InputError(engine.no_command)
    if refusal := engine.refusal(gpu) or engine.model_refusal(model, gpu, deployment.engine_version):
        raise InputError(refusal)
    if (
        deployment.has_graphs != deployment.compiled and deployment.all2all_backend != HIGH_THROUGHPUT
    ):  # it has none itself
        raise InputError(
            f"graphs is {deployment.graphs} with compiled {deployment.compiled}; commands are written with both on or "
            f"both off: leave graphs out"
        )
    for feature, what in ((deployment.drafting, "speculation"), (deployment.adapters, "LoRA adapters")):
        if feature is not None and engine.name != "vllm":
            raise InputError(f"commands with {what} are written for vllm, not {engine.name}; leave that out")
    weights = deployment.dtype
    if weights not in PLAIN and not model.quantization and weights not in engine.online:
        raise InputError(
            f"{engine.name} cannot make {weights} weights of {model.name} while loading; "
            f"name a checkpoint that is stored in {weights}"
        )
