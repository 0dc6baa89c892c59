"""``sglang.launch_server`` commands (SGLang 0.5.23; srt/arg_groups/fields, srt/arg_groups/parallel_hook.py)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from catalog.engines.defaults import PLAIN, compute_dtype
from catalog.engines.kv_cache import static_fraction
from catalog.engines.launch.process import DIST_PORT, Process, model_argument, per_node
from catalog.errors import InputError

if TYPE_CHECKING:
    from catalog.engines.registry import Engine
    from catalog.schema import Cluster, Deployment, Gpu, Model


def processes(
    deployment: Deployment, model: Model, cluster: Cluster, engine: Engine, *, address: str, port: int
) -> tuple[Process, ...]:
    """Return one server a node with all its replicas; replicas of several nodes have one server each, on their first."""
    gpu, node = cluster.gpu, cluster.gpus_per_node
    replica = deployment.tp * deployment.pp
    if model.moe_layers and deployment.ranks > 1:
        # experts over all replicas: attention in dp groups inside one tensor-parallel group of everything
        argv = _options(deployment, model, gpu, engine, attention_dp=deployment.dp)
        return _over_nodes(argv, deployment, cluster, address, port)
    argv = _options(deployment, model, gpu, engine, attention_dp=1)
    if replica > node:
        if deployment.dp > 1:
            raise InputError(
                f"sglang has no replicas over several nodes each; start {deployment.dp} deployments with dp=1 instead"
            )
        return _over_nodes(argv, deployment, cluster, address, port)
    per_host = per_node(deployment, cluster)
    servers = []
    for i in range(math.ceil(deployment.dp / per_host)):
        here = min(per_host, deployment.dp - i * per_host)
        count = ("--dp-size", str(here)) if here > 1 else ()
        gpus = tuple(range(here * replica))
        servers.append(Process(argv=(*argv, *count, "--port", str(port)), node=i, gpus=gpus, port=port))
    return tuple(servers)


def _over_nodes(
    argv: tuple[str, ...], deployment: Deployment, cluster: Cluster, address: str, port: int
) -> tuple[Process, ...]:
    """Return all GPUs as one group, over as many nodes as they fill."""
    node, gpus = cluster.gpus_per_node, deployment.num_gpus
    nodes = math.ceil(gpus / node)
    if nodes == 1:
        return (Process(argv=(*argv, "--port", str(port)), gpus=tuple(range(gpus)), port=port),)
    if gpus % node:
        raise InputError(f"{gpus} GPUs in one group do not fill nodes of {node}; use a multiple of {node}")
    shared = ("--nnodes", str(nodes), "--dist-init-addr", f"{address}:{DIST_PORT}", "--port", str(port))
    return tuple(
        Process(
            argv=(*argv, *shared, "--node-rank", str(rank)),
            node=rank,
            gpus=tuple(range(node)),
            port=None if rank else port,
        )
        for rank in range(nodes)
    )


def _options(deployment: Deployment, model: Model, gpu: Gpu, engine: Engine, *, attention_dp: int) -> tuple[str, ...]:
    """Return the command up to what differs between processes; ``deployment`` is resolved.

    With attention in ``attention_dp`` groups the engine divides the limits it is given by their number.
    """
    assert deployment.max_num_seqs is not None
    assert deployment.max_num_batched_tokens is not None
    name = model_argument(model)
    if ":" in name:  # validation_hook.py: reserved for adapters in served names
        raise InputError(f"sglang does not serve a model whose name has a colon: {name[:60]!r}")
    argv = ["python3", "-m", "sglang.launch_server", "--model-path", name, "--host", "0.0.0.0"]  # noqa: S104  a server
    argv += ["--tp-size", str(deployment.tp * attention_dp)]
    if deployment.pp > 1:
        argv += ["--pp-size", str(deployment.pp)]
    if attention_dp > 1:
        argv += ["--attn-dp-size", str(attention_dp)]
    if deployment.ep > 1:
        argv += ["--ep-size", str(deployment.ep)]
    if deployment.all2all_backend:
        argv += ["--moe-a2a-backend", deployment.all2all_backend]
    argv += ["--max-running-requests", str(deployment.max_num_seqs * attention_dp)]
    argv += ["--chunked-prefill-size", str(deployment.max_num_batched_tokens * attention_dp)]
    argv += ["--context-length", str(deployment.max_model_len)]
    argv += ["--mem-fraction-static", f"{static_fraction(deployment, engine, model, gpu):g}"]
    argv += ["--dtype", compute_dtype(model, gpu, deployment.dtype, engine)]
    argv += ["--kv-cache-dtype", "auto" if deployment.kv_dtype in PLAIN else "fp8_e4m3"]
    if deployment.dtype not in PLAIN and not model.quantization:
        argv += ["--quantization", deployment.dtype]
    if not deployment.compiled:
        argv += ["--cuda-graph-backend-decode", "disabled", "--cuda-graph-backend-prefill", "disabled"]
    return tuple(argv)
