"""The commands that start an engine: argument lists, environment and placement of every server process."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from catalog.engines.facts import Engine, find_engine
from catalog.engines.knobs import PLAIN, compute_dtype, resolve
from catalog.engines.layout import pipeline_layers
from catalog.parameters import embedding_parameters, head_parameters, parameters
from catalog.schema import BITS, SCALE_BITS, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catalog.schema import Cluster, Deployment, Gpu, Model

_ADDRESS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?")
_MASTER_PORT = 29501
_RPC_PORT = 29550


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
    files: Mapping[str, str] = field(default_factory=dict)
    """Files it reads beside the model: name and content."""


def command(deployment: Deployment, model: Model, cluster: Cluster) -> list[str]:
    """The argument list that starts the (first) server; print it with ``shlex.join``.

    ``processes`` has them all, where replicas are servers of their own or span nodes.
    """
    return list(processes(deployment, model, cluster)[0].argv)


def environment(deployment: Deployment, model: Model, cluster: Cluster) -> dict[str, str]:
    """Environment variables that the command of ``command`` needs besides a token for gated models."""
    return dict(processes(deployment, model, cluster)[0].environment)


def processes(
    deployment: Deployment, model: Model, cluster: Cluster, *, address: str = "node0", port: int | None = None
) -> tuple[Process, ...]:
    """Every process of the deployment, servers before the workers they wait for.

    ``address`` is the first node's host name or IP address, which the others must reach. Raises ``InputError`` if the
    engine does not run on the GPU or cannot load the model so.
    """
    deployment = resolve(deployment, model, cluster).value
    engine = find_engine(deployment.engine)
    _check_start(deployment, model, cluster.gpu, engine)
    if not _ADDRESS.fullmatch(address):
        raise InputError(f"address {address[:60]!r} is not a host name or IP address")
    return _vllm(deployment, model, cluster, address, port or engine.port)


def _check_start(deployment: Deployment, model: Model, gpu: Gpu, engine: Engine) -> None:
    if refusal := engine.refusal(gpu):
        raise InputError(refusal)
    if engine.name != "vllm":
        raise InputError(f"{engine.name} has no command")
    weights = deployment.dtype
    if weights not in PLAIN and not model.quantization and weights not in engine.online:
        raise InputError(
            f"{engine.name} cannot make {weights} weights of {model.name} while loading; "
            f"name a checkpoint that is stored in {weights}"
        )


def model_argument(model: Model) -> str:
    """What names the model to an engine: its id, or the folder of its ``config.json``."""
    name = model.name.removesuffix("/config.json")
    if not name or name.startswith("-") or not name.isprintable():
        raise InputError(f"model name {model.name[:60]!r} cannot stand in a command; it may not start with '-'")
    return name


def _vllm(deployment: Deployment, model: Model, cluster: Cluster, address: str, port: int) -> tuple[Process, ...]:
    """``vllm serve``: one server for dense replicas of one node, several where they do not share a scheduler or a node.

    With ``--data-parallel-size`` the experts of a MoE model are sliced or spread over all replicas
    (layers/fused_moe/config.py ``FusedMoEParallelConfig.make``), so replicas that keep their own become servers apart.
    """
    together = deployment.dp > 1 and (not model.moe_layers or deployment.ep == deployment.tp * deployment.dp)
    replica, node = deployment.tp * deployment.pp, cluster.gpus_per_node
    base = _vllm_options(deployment, model, cluster.gpu)
    if replica > node:
        return _vllm_across(deployment, base, cluster, address, port, together=together and bool(model.moe_layers))
    per_node = min(node // replica, deployment.dp)
    nodes = math.ceil(deployment.dp / per_node)
    if together and model.moe_layers and nodes > 1:
        return _vllm_wide(deployment, base, per_node, address, port)
    found = []
    for i in range(nodes):
        here = min(per_node, deployment.dp - i * per_node)
        if together or deployment.dp == 1:
            count = ["--data-parallel-size", str(here)] if here > 1 else []
            gpus = tuple(range(here * replica))
            found.append(_server(base + count, cluster.gpu, gpus, node=i, port=port, alone=True))
        else:
            for j in range(here):
                gpus = tuple(range(j * replica, (j + 1) * replica))
                found.append(_server(base, cluster.gpu, gpus, node=i, port=port + j, alone=here == 1))
    return tuple(found)


def _server(argv: list[str], gpu: Gpu, gpus: tuple[int, ...], *, node: int, port: int, alone: bool) -> Process:
    """One server on some GPUs of a node, told which unless it is the node's only one."""
    pinned = {} if alone else {_visible(gpu): ",".join(map(str, gpus))}
    return Process(argv=(*argv, "--port", str(port)), environment=pinned, node=node, gpus=gpus, port=port)


def _visible(gpu: Gpu) -> str:
    return "HIP_VISIBLE_DEVICES" if gpu.vendor == "amd" else "CUDA_VISIBLE_DEVICES"


def _vllm_across(
    deployment: Deployment, base: list[str], cluster: Cluster, address: str, port: int, *, together: bool
) -> tuple[Process, ...]:
    """Replicas that span nodes: a server on the first node of each, headless workers on the rest (config/parallel.py)."""
    node = cluster.gpus_per_node
    span = deployment.tp * deployment.pp // node
    count = deployment.dp if together else 1
    groups = deployment.dp // count
    gpus = tuple(range(node))
    found = []
    for group in range(groups):
        first = group * span * count
        head = address if first == 0 else f"{address}-replica{group}"
        shared = ["--data-parallel-size", str(count)] if count > 1 else []
        shared += ["--nnodes", str(span * count), "--master-addr", head, "--master-port", str(_MASTER_PORT)]
        for rank in range(span * count):
            tail = ["--headless"] if rank else ["--port", str(port)]
            argv = (*base, *shared, "--node-rank", str(rank), *tail)
            found.append(Process(argv=argv, node=first + rank, gpus=gpus, port=None if rank else port))
    return tuple(found)


def _vllm_wide(deployment: Deployment, base: list[str], per_node: int, address: str, port: int) -> tuple[Process, ...]:
    """Replicas of several nodes that share experts: one server, engines without one on the other nodes."""
    if deployment.dp % per_node:
        raise InputError(f"{deployment.dp} replicas that share experts do not spread evenly, {per_node} a node")
    shared = ["--data-parallel-size", str(deployment.dp), "--data-parallel-size-local", str(per_node)]
    shared += ["--data-parallel-address", address, "--data-parallel-rpc-port", str(_RPC_PORT)]
    gpus = tuple(range(per_node * deployment.tp * deployment.pp))
    found = [Process(argv=(*base, *shared, "--port", str(port)), gpus=gpus, port=port)]
    for node in range(1, deployment.dp // per_node):
        tail = ("--headless", "--data-parallel-start-rank", str(node * per_node))
        found.append(Process(argv=(*base, *shared, *tail), node=node, gpus=gpus))
    return tuple(found)


def _vllm_options(deployment: Deployment, model: Model, gpu: Gpu) -> list[str]:
    """What all processes of a deployment share. ``deployment`` is resolved."""
    plain = compute_dtype(model, gpu, deployment.dtype)
    argv = ["vllm", "serve", model_argument(model), "--tensor-parallel-size", str(deployment.tp)]
    if deployment.pp > 1:
        argv += ["--pipeline-parallel-size", str(deployment.pp)]
    if deployment.ep > 1:
        argv += ["--enable-expert-parallel"]
    argv += ["--max-num-seqs", str(deployment.max_num_seqs)]
    argv += ["--max-num-batched-tokens", str(deployment.max_num_batched_tokens)]
    argv += ["--max-model-len", str(deployment.max_model_len)]
    argv += ["--gpu-memory-utilization", f"{deployment.gpu_memory_utilization:g}"]
    argv += ["--dtype", plain]
    # a plain format by name is refused for models that do not default to another (config/cache.py cache_dtype)
    argv += ["--kv-cache-dtype", "auto" if deployment.kv_dtype in PLAIN else deployment.kv_dtype]
    if deployment.dtype not in PLAIN and not model.quantization:
        argv += ["--quantization", deployment.dtype]
    if deployment.offload:
        argv += ["--cpu-offload-gb", f"{offloaded_gib(deployment, model):.2f}"]
    if not deployment.compiled:
        argv += ["--enforce-eager"]
    if deployment.sequence_parallel:
        argv += ["--compilation-config", json.dumps({"pass_config": {"enable_sp": True}})]
    return argv


def offloaded_gib(deployment: Deployment, model: Model) -> float:
    """GiB of weights that each GPU of the fullest stage keeps in CPU memory; ``deployment`` is resolved."""
    layers = parameters(model) - embedding_parameters(model) - head_parameters(model)
    bits = BITS[deployment.dtype] + SCALE_BITS.get(deployment.dtype, 0.0)
    share = max(pipeline_layers(model.num_hidden_layers, deployment.pp)) / model.num_hidden_layers / deployment.tp
    return deployment.offload * layers * share * bits / 8 / 2**30
