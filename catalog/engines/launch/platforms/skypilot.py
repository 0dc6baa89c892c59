"""SkyPilot: a task, with a ``service`` section where several nodes answer apart (sky/utils/schemas.py, SkyPilot 0.14)."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, Any

from catalog.engines.launch import containers
from catalog.engines.launch.platforms.accelerators import accelerator
from catalog.engines.launch.replica_group import ADDRESS_OPTIONS, LEADER, require_gpus, require_hub, require_ranked
from catalog.errors import InputError
from catalog.yaml_files import here_document

if TYPE_CHECKING:
    from catalog.engines.launch.process import Process
    from catalog.engines.launch.replica_group import ReplicaGroup

_SYSTEM_GIB = 100
"""Of a node's disk beside the model: system, image, compiled kernels."""
_START_S = 3600
"""To download and load."""


def task(group: ReplicaGroup) -> list[dict[str, Any]]:
    """Return a task for ``sky launch`` or, with several replicas, for ``sky serve up``.

    A replica has the GPUs that it uses and no more, for SkyServe starts machines of its own for each.
    """
    require_gpus(group, "SkyPilot")
    require_hub(group, "SkyPilot")
    model, gpu, server = group.model, group.cluster.gpu, group.server
    kind = accelerator("skypilot", gpu)
    if kind is None:
        raise InputError(f"SkyPilot's catalog has no {gpu.name}; export for kubernetes, or the engine's own command")
    resources = {
        "accelerators": f"{kind}:{len(server.gpus)}",
        "image_id": f"docker:{containers.image(group.engine, gpu)}",
        "disk_size": _SYSTEM_GIB + math.ceil(2 * group.checkpoint_gib),
        "ports": server.port,
    }
    body: dict[str, Any] = {"name": containers.label(model)}
    if group.count > 1:
        probe = {"path": group.engine.health, "initial_delay_seconds": _START_S}
        body["service"] = {"readiness_probe": probe, "replicas": group.count}
    body["resources"] = resources
    if group.nodes > 1:
        body["num_nodes"] = group.nodes
    if model.gated:
        body["secrets"] = {"HF_TOKEN": None}  # asked for: sky launch --secret HF_TOKEN
    return [body | {"run": _run(group)}]


def _run(group: ReplicaGroup) -> str:
    files = [here_document(name, content) for name, content in group.server.files.items()]
    lines = [*files, *_commands(group)]
    return "\n".join(lines) + "\n"


def _commands(group: ReplicaGroup) -> list[str]:
    """Return what each node runs: the first answers, the others join it at its address."""
    if group.nodes == 1:
        return [shlex.join(group.server.argv)]
    require_ranked(group, "SkyPilot")
    leader, worker = group.processes[0], group.processes[1]
    return [
        'HEAD=$(echo "$SKYPILOT_NODE_IPS" | head -n1)',
        'if [ "$SKYPILOT_NODE_RANK" = 0 ]; then',
        f"  {_ranked(leader)}",
        "else",
        f"  {_ranked(worker)}",
        "fi",
    ]


def _ranked(process: Process) -> str:
    """Quote a command, with the shell's variables for rank and address in their two places."""
    words: list[str] = []
    for before, word in zip(("", *process.argv), process.argv, strict=False):
        if before == "--node-rank":
            words.append('"$SKYPILOT_NODE_RANK"')
        elif before in ADDRESS_OPTIONS:
            words.append(f'"$HEAD"{shlex.quote(word.removeprefix(LEADER)) if word != LEADER else ""}')
        else:
            words.append(shlex.quote(word))
    return " ".join(words)
