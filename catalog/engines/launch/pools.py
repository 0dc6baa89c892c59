"""Replicas that only compute prompts and others that only decode, as engines start them, and the router before both.

vLLM hands KV caches over by its NixlConnector, whose servers find each other by a side channel (vLLM 0.33: config/kv_transfer.py,
v1/nixl/connector.py and base_scheduler.py, envs.py), and vllm-router sends each request through both pools. SGLang has a mode for each pool
and a bootstrap server in every one for prompts (SGLang 0.5.23: ``--disaggregation-mode``), and its router knows both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from catalog.engines.defaults import resolve
from catalog.engines.launch.commands import processes
from catalog.engines.launch.containers import engine_of
from catalog.engines.launch.platforms.accelerators import accelerator
from catalog.engines.launch.process import ROUTER_PORT, Process, pinned
from catalog.engines.launch.replica_group import ReplicaGroup, replica_group
from catalog.engines.registry import find_engine
from catalog.errors import InputError
from catalog.models.sizes import has_states

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from catalog.schema import Cluster, Deployment, Model

Role = Literal["prefill", "decode"]
KV_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}
SIDE_CHANNEL_HOST, SIDE_CHANNEL_PORT = "VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT"
"""vLLM's variables of the address that other servers reach it by, and of where it listens (envs.py),"""
FIRST_SIDE_CHANNEL = 5600
"""by default there; a server takes one port for each of its replicas."""
POD_ADDRESS = {"name": SIDE_CHANNEL_HOST, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
"""Where a pod is found by those of the other pool."""
STATE_LAYOUT = {"VLLM_SSM_CONV_STATE_LAYOUT": "DS"}
"""Which vLLM asks for where a model's recurrent layers have states to hand over (v1/nixl/base_worker.py)."""
BOOTSTRAP_PORT, BOOTSTRAP_OPTION = 8998, "--disaggregation-bootstrap-port"
"""Of SGLang's server for prompts, and the option that sets it."""
PRODUCT_LABEL = "nvidia.com/gpu.product"
"""What NVIDIA's GPU feature discovery writes on a node."""
NEEDS = {"vllm": "pip install nixl vllm-router", "sglang": "pip install nixl sglang-router"}
"""What both pools need beside the engine; vLLM's and SGLang's container images have nixl."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPool:
    """Replicas of one layout for one part of the work."""

    role: Role
    deployment: Deployment
    """Of all of them."""
    cluster: Cluster

    def group(self, model: Model, *, port: int | None = None, apart: bool = False) -> PoolGroup:
        """Return the replica that is started several times, in its role; ``apart``: its nodes have GPUs of another kind than the
        other pool's.
        """
        resolved = resolve(self.deployment, model, self.cluster).value
        group = replica_group(resolved, model, self.cluster, engine_of(resolved), port=port)
        in_role = tuple(self.in_role(process) for process in group.processes)
        product = accelerator("gpu-feature-discovery", self.cluster.gpu) if apart else None
        labels = {} if product is None else {PRODUCT_LABEL: product}
        added = [{"name": name, "value": value} for name, value in self.environment(model).items()]
        address = [POD_ADDRESS] if self.deployment.engine == "vllm" else []
        return PoolGroup(
            role=self.role, group=replace(group, processes=in_role), variables=[*address, *added], node_labels=labels
        )

    def environment(self, model: Model) -> dict[str, str]:
        """Return the variables that the hand-over of this model's cache needs."""
        return dict(STATE_LAYOUT) if has_states(model) and self.deployment.engine == "vllm" else {}

    def in_role(self, process: Process, bootstrap_port: int = BOOTSTRAP_PORT) -> Process:
        """Return a process of the engine as one of this pool."""
        if self.deployment.engine == "sglang":
            words = ["--disaggregation-mode", self.role, "--disaggregation-transfer-backend", "nixl"]
            if self.role == "prefill":
                words += [BOOTSTRAP_OPTION, str(bootstrap_port)]
        else:
            words = [
                "--kv-transfer-config",
                json.dumps({"kv_connector": "NixlConnector", "kv_role": KV_ROLES[self.role]}),
            ]
        return replace(process, argv=(*process.argv, *words))


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolGroup:
    """What a platform starts many of in one pool."""

    role: Role
    group: ReplicaGroup
    variables: Sequence[Mapping[str, Any]]
    """Of every container, as Kubernetes has them."""
    node_labels: Mapping[str, str]
    """Of the nodes that it has to be on; none where any will do, or no label is known."""


def check_joined(prefill: Deployment, decode: Deployment, model: Model, cluster: Cluster | None) -> None:
    """Raise ``InputError`` for pools that cannot hand a KV cache over, or have too few GPUs; ``cluster``: what they share, if anything."""
    if (prefill.engine, prefill.dtype, prefill.kv_dtype) != (decode.engine, decode.dtype, decode.kv_dtype):
        raise InputError("the pools for prompts and outputs must have one engine, dtype and kv_dtype")
    if cluster is not None and prefill.num_gpus + decode.num_gpus > cluster.num_gpus:
        raise InputError(
            f"{prefill.num_gpus} GPUs for prompts and {decode.num_gpus} for outputs of {model.name} are more than the "
            f"{cluster.num_gpus} of {cluster}"
        )


def check_pools(prefill: ServingPool, decode: ServingPool, model: Model) -> None:
    """Raise ``InputError`` for pools that no engine starts."""
    one, other = prefill.deployment, decode.deployment
    if one.engine not in NEEDS:
        raise InputError(
            f"pools for prompts and outputs are written for {' and '.join(NEEDS)}, not {one.engine}; use --engine vllm"
        )
    check_joined(one, other, model, decode.cluster if prefill.cluster.gpu == decode.cluster.gpu else None)
    if max(one.pp, other.pp) > 1:
        raise InputError(f"{one.engine} hands no KV cache over between pipeline stages; use pp=1 in both pools")
    if one.kv_offload or other.kv_offload:
        raise InputError("pools for prompts and outputs are not written with kv_offload; leave one out")


def pool_processes(prefill: ServingPool, decode: ServingPool, model: Model) -> tuple[Process, ...]:
    """Return a server for every replica, those for prompts first, and on the first node the router, by node.

    Raises:
        InputError: they cannot start, or do not fit on the nodes.

    """
    shared = prefill.cluster.gpu == decode.cluster.gpu
    servers = [list(_placed(prefill, model, node=0, used=0))]
    node, used = _after(servers[0], prefill.cluster, whole=not shared)
    servers.append(list(_placed(decode, model, node=node, used=used, others=servers[0])))
    nodes = max(process.node for process in servers[1]) + 1
    if shared and nodes > decode.cluster.nodes:
        raise InputError(
            f"both pools take {nodes} nodes of {decode.cluster.gpus_per_node} GPUs, for no replica lies on two in part; there are {decode.cluster.nodes}"
        )
    placed = [_reachable(process, nodes) for pool in servers for process in pool]
    urls = [
        [f"http://{_host(process, nodes)}:{process.port}" for process in pool if process.port is not None]
        for pool in servers
    ]
    routed = Process(
        argv=router(prefill.deployment.engine, *urls, bootstrap_ports=_bootstrap_ports(servers[0])), port=ROUTER_PORT
    )
    return tuple(sorted([*placed, routed], key=lambda process: process.node))


def router(
    engine: str, prefill: Sequence[str], decode: Sequence[str], *, bootstrap_ports: Sequence[int] = ()
) -> tuple[str, ...]:
    """Return the command of the router before servers at these addresses."""
    if engine == "sglang":
        argv = ["python3", "-m", "sglang_router.launch_router", "--pd-disaggregation"]
        ports = [[str(port)] for port in bootstrap_ports]
    else:
        argv, ports = ["vllm-router", "--vllm-pd-disaggregation"], [[] for _ in prefill]
    argv += [word for url, port in zip(prefill, ports, strict=True) for word in ("--prefill", url, *port)]
    argv += [word for url in decode for word in ("--decode", url)]
    return (*argv, "--policy", "round_robin", "--host", "0.0.0.0", "--port", str(ROUTER_PORT))  # noqa: S104  a server


def _placed(
    pool: ServingPool, model: Model, *, node: int, used: int, others: Sequence[Process] = ()
) -> Iterator[Process]:
    """Yield the processes of every replica from that node and its first ``used`` GPUs on, each server with ports of its own there."""
    deployment, cluster = resolve(pool.deployment, model, pool.cluster).value, pool.cluster
    one, engine = replace(deployment, dp=deployment.ranks), find_engine(deployment.engine)
    size, per_node = one.num_gpus, cluster.gpus_per_node
    here = sum(process.node == node for process in others)
    for _ in range(deployment.dp // deployment.ranks):
        if used and used + size > per_node:
            node, used, here = node + 1, 0, 0
        for process in processes(one, model, cluster, address=f"node{node}", port=engine.port + here):
            gpus = tuple(used + gpu for gpu in process.gpus)
            placed = replace(pool.in_role(process, BOOTSTRAP_PORT + here), node=node + process.node, gpus=gpus)
            placed = replace(placed, environment={**placed.environment, **pool.environment(model)})
            if engine.name == "vllm" and process.port is not None:
                side = {SIDE_CHANNEL_PORT: str(FIRST_SIDE_CHANNEL + here * deployment.ranks)}
                placed = replace(placed, environment={**placed.environment, **side})
            yield placed if len(gpus) == per_node else pinned(placed, cluster.gpu)
        used, here = used + size, here + 1
        if used >= per_node:
            node, used, here = node + -(-used // per_node), 0, 0


def _after(placed: Sequence[Process], cluster: Cluster, *, whole: bool) -> tuple[int, int]:
    """Return the first node with a free GPU and how many are taken there; ``whole``: the first that is free."""
    last = max(process.node for process in placed)
    used = max(max(process.gpus) + 1 for process in placed if process.node == last)
    return (last + 1, 0) if whole or used == cluster.gpus_per_node else (last, used)


def _host(process: Process, nodes: int) -> str:
    return f"node{process.node}" if nodes > 1 else "localhost"


def _reachable(process: Process, nodes: int) -> Process:
    """Return a process that the servers of other nodes find."""
    if nodes == 1 or SIDE_CHANNEL_PORT not in process.environment:
        return process
    return replace(process, environment={**process.environment, SIDE_CHANNEL_HOST: _host(process, nodes)})


def _bootstrap_ports(servers: Sequence[Process]) -> list[int]:
    return [
        int(process.argv[process.argv.index(BOOTSTRAP_OPTION) + 1])
        for process in servers
        if process.port is not None and BOOTSTRAP_OPTION in process.argv
    ]
