"""``trtllm-serve serve`` commands and their options file (TensorRT-LLM 1.2; tensorrt_llm/commands/serve.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from catalog.engines.defaults import PLAIN, compute_dtype
from catalog.engines.kv_cache import graph_sizes
from catalog.engines.launch.process import Process, model_argument, separate_servers
from catalog.errors import InputError

if TYPE_CHECKING:
    from catalog.engines.registry import Engine
    from catalog.schema import Cluster, Deployment, Model

OPTIONS_FILE = "trtllm-options.yaml"


def processes(deployment: Deployment, model: Model, cluster: Cluster, engine: Engine, port: int) -> tuple[Process, ...]:
    """Return a server for each replica; one for replicas that share their experts, which attend apart."""
    replica, node = deployment.tp * deployment.pp, cluster.gpus_per_node
    together = bool(model.moe_layers) and deployment.ranks > 1
    if together and deployment.tp > 1:
        raise InputError(
            f"tensorrt-llm shares experts over replicas of one GPU only; use tp=1 or ep={deployment.tp}, not "
            f"tp={deployment.tp} ep={deployment.ep}"
        )
    if (deployment.num_gpus if together else replica) > node:
        raise InputError(
            "trtllm-serve over several nodes is started by mpirun or Slurm with trtllm-llmapi-launch, which is not "
            f"rendered here; keep a server's GPUs within {node}"
        )
    files = {OPTIONS_FILE: _file(deployment, model, cluster, engine, together=together)}
    if together:
        sliced = replace(deployment, tp=deployment.dp, dp=1)
        argv = _options(sliced, model, port)
        return (Process(argv=argv, gpus=tuple(range(deployment.num_gpus)), port=port, files=files),)
    servers = separate_servers(deployment, cluster, port, lambda at: _options(deployment, model, at))
    return tuple(replace(server, files=files) for server in servers)


def _options(deployment: Deployment, model: Model, port: int) -> tuple[str, ...]:
    argv = ["trtllm-serve", "serve", model_argument(model), "--host", "0.0.0.0", "--port", str(port)]  # noqa: S104  a server
    argv += ["--backend", "pytorch", "--tp_size", str(deployment.tp), "--pp_size", str(deployment.pp)]
    if deployment.ep > 1:
        argv += ["--ep_size", str(deployment.ep)]
    argv += ["--max_batch_size", str(deployment.max_num_seqs)]
    argv += ["--max_num_tokens", str(deployment.max_num_batched_tokens)]
    argv += ["--max_seq_len", str(deployment.max_model_len)]
    argv += ["--kv_cache_free_gpu_memory_fraction", f"{deployment.gpu_memory_utilization:.4g}"]
    argv += ["--enable_chunked_prefill", "--extra_llm_api_options", OPTIONS_FILE]
    return tuple(argv)


def _file(deployment: Deployment, model: Model, cluster: Cluster, engine: Engine, *, together: bool) -> dict[str, Any]:
    """Return what only the options file can say (llmapi ``TorchLlmArgs``)."""
    plain = compute_dtype(model, cluster.gpu, deployment.dtype, engine)
    # By itself it captures graphs up to 128 sequences, and answers count on one for every batch that runs; padded sizes go on in
    # powers of two (llmapi CudaGraphConfig._generate_cuda_graph_batch_sizes).
    captured = bool(graph_sizes(engine, cluster.gpu, deployment))
    graphs = {"max_batch_size": deployment.max_num_seqs, "enable_padding": True} if captured else None
    settings: dict[str, Any] = {
        "dtype": plain,
        # the options file replaces whole sections, so the share of memory stands here, too
        "kv_cache_config": {
            "dtype": "auto" if deployment.kv_dtype in PLAIN else deployment.kv_dtype,
            "free_gpu_memory_fraction": float(f"{deployment.gpu_memory_utilization:.4g}"),
        },
        "cuda_graph_config": graphs,
    }
    return settings | ({"enable_attention_dp": True} if together else {})
