"""What is started where: one process of a deployment, and what every engine's command shares."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from catalog.engines.parallelism import pipeline_layers
from catalog.errors import InputError
from catalog.models.sizes import embedding_parameters, head_parameters, parameters
from catalog.schema import BITS, SCALE_BITS
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from catalog.schema import Cluster, Deployment, Gpu, Model

DIST_PORT = 29501
"""Where the nodes of one replica meet."""
ROUTER_PORT = 8080
"""Where a router answers that stands before several servers."""
_ADDRESS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One command to run on one node."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    node: int = 0
    gpus: tuple[int, ...] = ()
    """Indices of the node's GPUs that it uses."""
    port: int | None = None
    """Where it answers requests; None for a worker of another node's server."""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """YAML files it reads beside the model, by the name that stands in ``argv``: what they say."""


def model_argument(model: Model) -> str:
    """Return what names the model to an engine: its id, or the folder of its ``config.json``."""
    name = model.name.removesuffix("/config.json")
    if not name or name.startswith("-") or not name.isprintable():
        raise InputError(
            f"model name {model.name[:60]!r} cannot stand in a command; it must be printable and not start with '-'"
        )
    return name


def is_local(model: Model) -> bool:
    """Return whether the model is a folder rather than an id on the Hugging Face hub."""
    return model_argument(model).startswith(("/", ".", "~"))


def check_address(address: str) -> str:
    """Return ``address`` if it is a host name or an IPv4 address."""
    if not _ADDRESS.fullmatch(address):
        raise InputError(f"address {address[:60]!r} is not a host name or an IPv4 address")
    return address


def visible_devices(gpu: Gpu) -> str:
    """Return the environment variable that says which GPUs, or of a CPU which memory nodes, a process may use."""
    return {"amd": "HIP_VISIBLE_DEVICES", "cpu": "CPU_VISIBLE_MEMORY_NODES"}.get(gpu.vendor, "CUDA_VISIBLE_DEVICES")


def pinned(process: Process, gpu: Gpu) -> Process:
    """Return ``process`` confined to its GPUs."""
    return replace(process, environment={**process.environment, visible_devices(gpu): ",".join(map(str, process.gpus))})


def per_node(deployment: Deployment, cluster: Cluster) -> int:
    """Return replicas that each node but the last holds; the deployment's replicas fit a node each."""
    return min(cluster.gpus_per_node // (deployment.tp * deployment.pp), deployment.dp)


def separate_servers(
    deployment: Deployment, cluster: Cluster, port: int, argv: Callable[[int], tuple[str, ...]]
) -> Iterator[Process]:
    """Yield one server a replica, packed on the nodes; ``argv`` gives the command for a port."""
    size, per_host = deployment.tp * deployment.pp, per_node(deployment, cluster)
    for i in range(deployment.dp):
        node, slot = divmod(i, per_host)
        gpus = tuple(range(slot * size, (slot + 1) * size))
        process = Process(argv=argv(port + slot), node=node, gpus=gpus, port=port + slot)
        yield pinned(process, cluster.gpu) if per_host > 1 else process


def offloaded_gib(deployment: Deployment, model: Model) -> float:
    """Return GiB of weights that each GPU of the fullest stage keeps in CPU memory; ``deployment`` is resolved."""
    layers = parameters(model) - embedding_parameters(model) - head_parameters(model)
    bits = BITS[deployment.dtype] + SCALE_BITS.get(deployment.dtype, 0.0)
    share = max(pipeline_layers(model.num_hidden_layers, deployment.pp)) / model.num_hidden_layers / deployment.tp
    return deployment.offload * layers * share * bits / 8 / GIB
