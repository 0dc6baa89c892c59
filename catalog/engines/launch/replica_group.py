"""What a platform starts many of: the processes of one replica, and how many such replicas there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from catalog.engines.launch.commands import processes
from catalog.engines.launch.process import is_local
from catalog.errors import InputError
from catalog.models.sizes import parameters
from catalog.schema import BITS, SCALE_BITS
from catalog.units import GIB

if TYPE_CHECKING:
    from catalog.engines.launch.process import Process
    from catalog.engines.registry import Engine
    from catalog.schema import Cluster, Deployment, Model

LEADER = "leader.invalid"
"""Stands in commands for the address of a replica's first node, which only the platform knows."""
ADDRESS_OPTIONS = frozenset({"--master-addr", "--dist-init-addr", "--data-parallel-address"})
"""Options of engines whose value is, or begins with, that address."""
NODE_OPTIONS = frozenset({"--nnodes", "--master-addr", "--master-port", "--node-rank", "--headless"})
"""Options of vLLM that place a process among the nodes of its replica, which some platforms say themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaGroup:
    """The processes of one replica, a node each, the one that answers first; and the number of replicas."""

    deployment: Deployment
    """Resolved, with all replicas."""
    model: Model
    cluster: Cluster
    engine: Engine
    processes: tuple[Process, ...]
    count: int
    """Replicas; those that share their experts are one server and count once."""

    @property
    def nodes(self) -> int:
        """Return nodes that one replica spans."""
        return len(self.processes)

    @property
    def server(self) -> Process:
        """Return the process that answers requests."""
        return self.processes[0]

    @property
    def ranked(self) -> bool:
        """Return whether the nodes' commands differ by their rank alone, as platforms for several nodes need it."""
        return self.nodes == 1 or "--node-rank" in self.processes[1].argv

    @property
    def checkpoint_gib(self) -> float:
        """Return the weights' size in the format that is served, scales included, GiB."""
        bits = BITS[self.deployment.dtype] + SCALE_BITS.get(self.deployment.dtype, 0.0)
        return parameters(self.model) * bits / 8 / GIB


def replica_group(
    deployment: Deployment, model: Model, cluster: Cluster, engine: Engine, *, port: int | None = None
) -> ReplicaGroup:
    """Return the replica that is started ``count`` times; ``deployment`` is resolved, ``port`` its server's if not the engine's.

    Raises:
        InputError: as ``processes``.

    """
    one = replace(deployment, dp=deployment.ranks)
    group = processes(one, model, cluster, address=LEADER, port=port)
    return ReplicaGroup(
        deployment=deployment,
        model=model,
        cluster=cluster,
        engine=engine,
        processes=group,
        count=deployment.dp // deployment.ranks,
    )


def require_engine(group: ReplicaGroup, platform: str, *engines: str) -> None:
    """Refuse engines that ``platform`` does not start."""
    if group.engine.name not in engines:
        raise InputError(
            f"{platform} starts {' or '.join(engines)}, not {group.engine.name}; use --engine {engines[0]}"
        )


def require_one_node(group: ReplicaGroup, platform: str, instead: str) -> None:
    """Refuse replicas of several nodes, naming formats that can say them."""
    if group.nodes > 1:
        raise InputError(
            f"{platform} starts replicas within a node, this one spans {group.nodes}; export for {instead}"
        )


def require_ranked(group: ReplicaGroup, platform: str) -> None:
    """Refuse replicas whose nodes' commands differ by more than their rank."""
    if not group.ranked:
        raise InputError(
            f"replicas that share their experts over {group.nodes} nodes are not written for {platform}; use ep=tp, or "
            "export the engine's own commands for each node"
        )


def require_gpus(group: ReplicaGroup, platform: str) -> None:
    """Refuse deployments on CPUs, whose nodes these platforms do not describe."""
    if group.cluster.gpu.vendor == "cpu":
        raise InputError(f"{platform} is written for GPUs, not for {group.cluster.gpu.name}; export for kubernetes")


def require_hub(group: ReplicaGroup, platform: str) -> None:
    """Refuse models in a folder, where the platform downloads them."""
    if is_local(group.model):
        raise InputError(
            f"{platform} downloads the model from Hugging Face, and this one is a folder; export for kubernetes"
        )


def require_repository(group: ReplicaGroup, platform: str) -> None:
    """Refuse one GGUF file of a repository, where the platform takes what stands behind the colon for a revision."""
    if ":" in group.model.name:
        raise InputError(
            f"{platform} downloads whole repositories, not one file ({group.model.name[:60]}); export for kubernetes"
        )
