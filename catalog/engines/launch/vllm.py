"""``vllm serve`` commands (vLLM 0.24; engine/arg_utils.py, config/parallel.py, entrypoints/cli/serve.py)."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from catalog.engines.defaults import PLAIN, compute_dtype
from catalog.engines.launch.process import DIST_PORT, Process, model_argument, offloaded_gib, per_node, separate_servers
from catalog.errors import InputError
from catalog.features import HEADS
from catalog.kv_offload import read_kv_offload
from catalog.models.sizes import parameters
from catalog.schema import BITS, SCALE_BITS
from catalog.units import GIB

if TYPE_CHECKING:
    from catalog.schema import Cluster, Deployment, Gpu, Model

_RPC_PORT = 29550
ROOTS = {"disk": "/mnt/kv_cache", "store": "/mnt/kv_store"}
"""Directories of secondary tiers: of a drive of the node, and of a file system that all servers mount."""
LOOKUP = 4
"""Longest n-gram that is looked up in the prompt, as vLLM's documentation starts it (docs/features/spec_decode.md)."""
OFFLOADING_BACKEND, TIERING_SPEC, FILE_TIER = "native", "TieringOffloadingSpec", "fs"
"""vLLM's names of a tier in CPU memory alone, of tiers below it, and of one in a directory (v1/kv_offload/tiering/factory.py)."""
HASH_SEED = {"PYTHONHASHSEED": "0"}
"""Servers that share a store name its blocks alike only with one seed (v1/core/kv_cache_utils.py ``init_none_hash``)."""
CPU_WORKING_GIB = 4.0
"""GiB of a CPU worker beside weights and KV cache: activations of a step, oneDNN's repacked buffers, Python."""


def processes(deployment: Deployment, model: Model, cluster: Cluster, address: str, port: int) -> tuple[Process, ...]:
    """Return one server for the dense replicas of a node, several where they share neither a node nor their experts.

    With ``--data-parallel-size`` the experts of a MoE model are sliced or spread over all replicas
    (layers/fused_moe/config.py ``FusedMoEParallelConfig.make``), so replicas that keep their own become servers apart.
    """
    if cluster.gpu.vendor == "cpu":
        space = cpu_environment(deployment, model, cluster.gpu)
        started = _processes(deployment, model, cluster, address, port)
        return tuple(replace(process, environment={**process.environment, **space}) for process in started)
    started = _processes(deployment, model, cluster, address, port)
    if any(tier.shared for tier in read_kv_offload(deployment.kv_offload)):
        return tuple(replace(process, environment={**process.environment, **HASH_SEED}) for process in started)
    return started


def cpu_environment(deployment: Deployment, model: Model, gpu: Gpu) -> dict[str, str]:
    """Variables that vLLM's CPU build takes the place of GPU options from (vllm/envs.py): a worker's KV cache in GiB, its cores."""
    bits = BITS[deployment.dtype] + SCALE_BITS.get(deployment.dtype, 0.0)
    weights = parameters(model) * bits / 8 / GIB / (deployment.tp * deployment.pp)
    assert deployment.gpu_memory_utilization is not None
    space = deployment.gpu_memory_utilization * gpu.memory_gib - weights - CPU_WORKING_GIB
    return {"VLLM_CPU_KVCACHE_SPACE": str(max(int(space), 1)), "VLLM_CPU_OMP_THREADS_BIND": "auto"}


def _processes(deployment: Deployment, model: Model, cluster: Cluster, address: str, port: int) -> tuple[Process, ...]:
    argv = options(deployment, model, cluster.gpu)
    replica = deployment.tp * deployment.pp
    share_experts = bool(model.moe_layers) and deployment.ranks > 1
    if replica > cluster.gpus_per_node:
        return _spanning(deployment, argv, cluster, address, port, share_experts=share_experts)
    per_host = per_node(deployment, cluster)
    if share_experts and deployment.dp > per_host:
        return _wide(deployment, argv, per_host, address, port)
    if model.moe_layers and not share_experts:
        return tuple(separate_servers(deployment, cluster, port, lambda at: (*argv, "--port", str(at))))
    servers = []
    for node in range(math.ceil(deployment.dp / per_host)):
        here = min(per_host, deployment.dp - node * per_host)
        count = ("--data-parallel-size", str(here)) if here > 1 else ()
        gpus = tuple(range(here * replica))
        servers.append(Process(argv=(*argv, *count, "--port", str(port)), node=node, gpus=gpus, port=port))
    return tuple(servers)


def options(deployment: Deployment, model: Model, gpu: Gpu) -> tuple[str, ...]:
    """Return the command up to what differs between processes; ``deployment`` is resolved."""
    argv = ["vllm", "serve", model_argument(model), "--tensor-parallel-size", str(deployment.tp)]
    if deployment.pp > 1:
        argv += ["--pipeline-parallel-size", str(deployment.pp)]
    if deployment.dcp > 1:
        argv += ["--decode-context-parallel-size", str(deployment.dcp)]
    if deployment.ep > 1:
        argv += ["--enable-expert-parallel"]
    if deployment.all2all_backend:
        argv += ["--all2all-backend", deployment.all2all_backend]
    argv += ["--max-num-seqs", str(deployment.max_num_seqs)]
    argv += ["--max-num-batched-tokens", str(deployment.max_num_batched_tokens)]
    argv += ["--max-model-len", str(deployment.max_model_len)]
    argv += ["--gpu-memory-utilization", f"{deployment.gpu_memory_utilization:.4g}"]
    argv += ["--dtype", compute_dtype(model, gpu, deployment.dtype)]
    # naming a plain format is refused for models that do not default to another (config/cache.py cache_dtype)
    argv += ["--kv-cache-dtype", "auto" if deployment.kv_dtype in PLAIN else deployment.kv_dtype]
    if deployment.dtype not in PLAIN and not model.quantization:
        argv += ["--quantization", deployment.dtype]
    if deployment.offload:
        argv += ["--cpu-offload-gb", f"{offloaded_gib(deployment, model):.2f}"]
    argv += kv_offload_words(deployment)
    argv += speculation_words(deployment)
    argv += adapter_words(deployment)
    if not deployment.compiled:
        argv += ["--enforce-eager"]
    if deployment.sequence_parallel:
        # without a number vLLM turns it off for small models and most GPUs (passes/fusion/sequence_parallelism.py)
        passes = {"enable_sp": True, "sp_min_token_num": _sp_min_tokens(deployment, model)}
        argv += ["--compilation-config", json.dumps({"pass_config": passes})]
    return tuple(argv)


def kv_offload_words(deployment: Deployment) -> list[str]:
    """Return the options of tiers below the GPUs' KV cache (config/cache.py ``kv_offloading_size``, v1/kv_offload/tiering).

    Raises:
        InputError: a tier below CPU memory without that: everything passes through it.

    """
    tiers = {tier.name: tier for tier in read_kv_offload(deployment.kv_offload)}
    if not tiers:
        return []
    if "cpu" not in tiers:
        raise InputError(
            "vLLM loads KV blocks from disks and stores through CPU memory; state a tier there, too, such as cpu=50GB"
        )
    if len(tiers) == 1:
        return [
            "--kv-offloading-size",
            f"{tiers['cpu'].size_bytes / GIB:.4g}",
            "--kv-offloading-backend",
            OFFLOADING_BACKEND,
        ]
    connector = {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": TIERING_SPEC,
            "cpu_bytes_to_use": round(tiers["cpu"].size_bytes),
            "secondary_tiers": [{"type": FILE_TIER, "root_dir": ROOTS[name]} for name in tiers if name in ROOTS],
        },
    }
    return ["--kv-transfer-config", json.dumps(connector)]


def adapter_words(deployment: Deployment) -> list[str]:
    """Return the options of LoRA adapters (config/lora.py ``LoRAConfig``)."""
    adapters = deployment.adapters
    if adapters is None:
        return []
    held = str(adapters.max_cpu_loras or adapters.max_loras)
    words = ["--enable-lora", "--max-loras", str(adapters.max_loras), "--max-cpu-loras", held]
    return [*words, "--max-lora-rank", str(adapters.rank)]


def speculation_words(deployment: Deployment) -> list[str]:
    """Return the option of speculative decoding (config/speculative.py ``SpeculativeConfig``).

    Raises:
        InputError: a head whose checkpoint nobody named.

    """
    drafting = deployment.drafting
    if drafting is None:
        return []
    if drafting.method in HEADS and not drafting.model:
        raise InputError(
            f"an EAGLE head is a checkpoint of its own; name it, such as speculate {drafting.method}:CHECKPOINT"
        )
    method = "draft_model" if drafting.method == "draft" else drafting.method
    if method == "eagle" and "eagle3" in drafting.model.casefold().replace("-", ""):  # as SpeculativeConfig reads names
        method = "eagle3"
    config: dict[str, object] = {"method": method, "num_speculative_tokens": drafting.draft_len}
    if drafting.model:
        config["model"] = drafting.model
    if drafting.method == "ngram":
        config["prompt_lookup_max"] = LOOKUP
    return ["--speculative-config", json.dumps(config)]


def _sp_min_tokens(deployment: Deployment, model: Model) -> int:
    """Return tokens from which sequence parallelism pays: vLLM's figure for Hopper, 8 MiB of activations a GPU."""
    return max(deployment.tp, 8 * 2**20 * deployment.tp // (2 * model.hidden_size))


def _spanning(
    deployment: Deployment, argv: tuple[str, ...], cluster: Cluster, address: str, port: int, *, share_experts: bool
) -> tuple[Process, ...]:
    """Return replicas of several nodes each: a server on the first node of each, headless workers on the rest."""
    node = cluster.gpus_per_node
    together = deployment.dp if share_experts else 1
    span = deployment.tp * deployment.pp // node * together
    servers = []
    for first in range(0, deployment.dp // together * span, span):
        head = address if first == 0 else f"node{first}"
        shared = ["--data-parallel-size", str(together)] if together > 1 else []
        shared += ["--nnodes", str(span), "--master-addr", head, "--master-port", str(DIST_PORT)]
        for rank in range(span):
            tail = ("--node-rank", str(rank), *(("--headless",) if rank else ("--port", str(port))))
            process = Process(
                argv=(*argv, *shared, *tail),
                node=first + rank,
                gpus=tuple(range(node)),
                port=None if rank else port,
            )
            servers.append(process)
    return tuple(servers)


def _wide(deployment: Deployment, argv: tuple[str, ...], per_host: int, address: str, port: int) -> tuple[Process, ...]:
    """Return replicas that share experts over several nodes: one server, engines without one on the other nodes."""
    if deployment.dp % per_host:
        raise InputError(
            f"{deployment.dp} replicas share their experts, but nodes hold {per_host}; make dp a multiple of {per_host}"
        )
    shared: tuple[str, ...] = ("--data-parallel-size", str(deployment.dp), "--data-parallel-size-local", str(per_host))
    shared += ("--data-parallel-address", address, "--data-parallel-rpc-port", str(_RPC_PORT))
    gpus = tuple(range(per_host * deployment.tp * deployment.pp))
    servers = [Process(argv=(*argv, *shared, "--port", str(port)), gpus=gpus, port=port)]
    for node in range(1, deployment.dp // per_host):
        tail = ("--headless", "--data-parallel-start-rank", str(node * per_host))
        servers.append(Process(argv=(*argv, *shared, *tail), node=node, gpus=gpus))
    return tuple(servers)
