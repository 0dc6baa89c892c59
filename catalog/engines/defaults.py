"""What an engine makes of the knobs left open, and what it would refuse."""

from __future__ import annotations

import difflib
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from catalog.engines.all_to_all import HIGH_THROUGHPUT, exchange_backend, own_tokens
from catalog.engines.kv_cache import own_static_share
from catalog.engines.parallelism import check_layout
from catalog.engines.registry import Engine, engine_name, find_engine
from catalog.errors import InputError, Note, Resolved
from catalog.kv_offload import read_kv_offload
from catalog.schema import BITS, Deployment, require_positive

if TYPE_CHECKING:
    from catalog.schema import Cluster, Gpu, Model

PLAIN = ("float32", "float16", "bfloat16")
"""Formats that products can be computed in without scales."""

CHECKPOINTS = {"int4": " (AWQ or GPTQ)", "fp8": " (FP8)", "int8": " (W8A8)", "nvfp4": " (ModelOpt)"}
"""What checkpoints of a format are called."""
MOST_SEQS = 65536
MOST_TOKENS = 2**24
LEAST_SHARE = 0.01
"""Least ``gpu_memory_utilization`` that a deployment may have."""
_UNKNOWN_LENGTH = 2048  # config/model.py _get_and_verify_max_len, where a configuration names no length


def resolve(deployment: Deployment, model: Model, cluster: Cluster) -> Resolved[Deployment]:
    """Return ``deployment`` with every open knob as its engine would set it, and notes on what was chosen.

    Limits follow ``vllm serve`` (engine/arg_utils.py ``_set_default_max_num_seqs_and_batched_tokens_args``). Raises
    ``InputError`` for what cannot start. An engine without kernels for the GPU is a warning here, so that older
    versions can be reasoned about; ``command`` refuses it.
    """
    engine = find_engine(deployment.engine)
    gpu = cluster.gpu
    notes: list[Note] = []
    check_layout(model, tp=deployment.tp, pp=deployment.pp, dp=deployment.dp, ep=deployment.ep, dcp=deployment.dcp)
    _check_parallel(deployment, engine)
    _check_placement(deployment, cluster)
    _check_shares(deployment)
    refusals = (engine.refusal(gpu), engine.model_refusal(model, gpu, deployment.engine_version))
    notes += [Note(refusal, "warning") for refusal in refusals if refusal]
    dtype = _weights(deployment, model, gpu, engine, notes)
    kv_dtype = _kv(deployment, model, gpu, engine, dtype, notes)
    max_model_len = _length(deployment, model)
    backend = exchange_backend(deployment, model, cluster, engine)
    max_num_seqs, max_num_batched_tokens = _limits(deployment, gpu, engine, max_model_len, backend)
    resolved = replace(
        deployment,
        engine=engine.name,
        all2all_backend=backend,
        dtype=dtype,
        kv_dtype=kv_dtype,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        graphs=deployment.has_graphs and backend != HIGH_THROUGHPUT,
    )
    resolved = replace(resolved, gpu_memory_utilization=_memory_share(resolved, model, gpu, engine))
    opened = [name for name in ENGINES_CHOICE if getattr(deployment, name) is None]
    if opened:
        chosen = ", ".join(f"{name} {getattr(resolved, name)}" for name in opened)
        notes.append(Note(f"{chosen}: what {engine_name(resolved)} chooses on {gpu.name}"))
    return Resolved(resolved, tuple(notes))


ENGINES_CHOICE = ("max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization")
"""Knobs that the engine chooses by the GPU where nobody states them."""


def compute_dtype(model: Model, gpu: Gpu, dtype: str = "auto", engine: str | Engine = "vllm") -> str:
    """Return what activations and unquantised weights are in: one of ``PLAIN``.

    The checkpoint's own format where the GPU has it, else float16, else (models whose numbers overflow there) float32;
    config/model.py ``_resolve_auto_dtype``.
    """
    if dtype in PLAIN:
        return dtype
    refused = (engine if isinstance(engine, Engine) else find_engine(engine)).float16_refused
    order = ["bfloat16"] * gpu.bf16 + ["float16"] * (model.model_type not in refused) + ["float32"]
    return model.dtype if model.dtype in order and model.dtype != "float32" else order[0]


def _check_parallel(deployment: Deployment, engine: Engine) -> None:
    degrees = {
        "pp": deployment.pp > 1,
        "ep": deployment.ep > 1,
        "sp": deployment.sequence_parallel,
        "offload": deployment.offload > 0,
        "kv_offload": bool(read_kv_offload(deployment.kv_offload)),
    }
    words = {
        "pp": "pipeline parallelism",
        "ep": "expert parallelism",
        "sp": "sequence parallelism",
        "offload": "weights in CPU memory",
        "kv_offload": "KV blocks below the GPUs",
    }
    for name, wanted in degrees.items():
        if wanted and name not in engine.parallel:
            raise InputError(f"{engine.name} is not known to support {words[name]}; leave it off or use vllm")
    check_contexts(deployment.dcp, engine, drafts=deployment.drafting is not None)
    if deployment.sequence_parallel and (deployment.tp == 1 or not deployment.compiled):
        raise InputError("sequence_parallel is on; it needs tp above 1 and compiled on")


def check_contexts(dcp: int, engine: Engine, *, drafts: bool = False) -> None:
    """Raise ``InputError`` where spreading a context over GPUs is not modelled: of another engine than vLLM, or beside ``drafts``."""
    if dcp > 1 and "dcp" not in engine.parallel:
        raise InputError(
            f"decode context parallelism is modelled as vllm has it, not {engine.name}; leave dcp out or use vllm"
        )
    if dcp > 1 and drafts:
        raise InputError("drafts are not modelled beside decode context parallelism; leave out dcp or speculate")


def _check_placement(deployment: Deployment, cluster: Cluster) -> None:
    """Check that replicas stand within whole nodes, or spanning a whole number of them."""
    if deployment.num_gpus > cluster.num_gpus:
        raise InputError(
            f"tp={deployment.tp} pp={deployment.pp} dp={deployment.dp} takes {deployment.num_gpus} GPUs; "
            f"{cluster} has {cluster.num_gpus}"
        )
    replica, node = deployment.tp * deployment.pp, cluster.gpus_per_node
    if replica > node and replica % node:
        raise InputError(
            f"a replica of {replica} GPUs does not fill nodes of {node}; make tp x pp a multiple of {node}, or at most it"
        )
    if replica <= node and deployment.dp > node // replica * cluster.nodes:
        raise InputError(
            f"{deployment.dp} replicas of {replica} GPUs do not fit {cluster}: {node // replica} a node; "
            f"dp can be at most {node // replica * cluster.nodes}"
        )


def _check_shares(deployment: Deployment) -> None:
    if deployment.gpu_memory_utilization is not None:
        require_positive("gpu_memory_utilization", deployment.gpu_memory_utilization, most=1, whole=False)
    if not 0 <= deployment.offload < 1:
        raise InputError(f"offload is {deployment.offload!r}; it must be a share of the weights, from 0 to below 1")


def _weights(deployment: Deployment, model: Model, gpu: Gpu, engine: Engine, notes: list[Note]) -> str:
    wanted, stored = deployment.dtype, model.quantization
    formats = engine.weight_formats(gpu)
    if wanted == "auto":
        narrow = deployment.kv_dtype == "fp8" and gpu.compute_capability in engine.fp8_kv_in_bfloat16
        chosen = stored or ("bfloat16" if narrow else compute_dtype(model, gpu, engine=engine))
        if not stored and chosen != model.dtype:
            why = f"{gpu.name} has no {model.dtype}" if model.dtype not in formats else f"checkpoint is {model.dtype}"
            if narrow:
                why = f"{engine.name} reads an fp8 KV cache into nothing else on {gpu.name}"
            notes.append(Note(f"dtype {chosen}: {why}"))
    else:
        chosen = known_format(wanted, "dtype")
        if chosen != wanted:
            notes.append(Note(f"dtype {wanted} read as {chosen}"))
    if stored and chosen != stored:
        raise InputError(f"dtype is {chosen}, but {model.name} is stored in {stored}; use dtype=auto or {stored}")
    if not formats:
        raise InputError(engine.refusal(gpu) or f"{engine.name} is not known on {gpu.name}")
    if chosen not in formats:
        raise InputError(f"{engine.name} has no {chosen} weights on {gpu.name}; it has {', '.join(formats)} there")
    if chosen == "float16" and model.model_type in engine.float16_refused:
        raise InputError(f"{engine.name} does not run {model.model_type} in float16 (it overflows); use bfloat16")
    if not stored and chosen not in PLAIN and chosen not in engine.online:
        notes.append(
            Note(
                f"needs a checkpoint of {model.name} in {chosen}{CHECKPOINTS.get(chosen, '')}; pass its id as --model",
                "warning",
            )
        )
    if chosen not in PLAIN and not engine.computes_in(gpu, chosen):
        notes.append(Note(f"{gpu.name} has no {chosen} arithmetic: weights are dequantised to 16 bit for each product"))
    return chosen


def _kv(deployment: Deployment, model: Model, gpu: Gpu, engine: Engine, dtype: str, notes: list[Note]) -> str:
    if deployment.kv_dtype == "auto":
        stored = model.kv_quantization
        if stored and stored in engine.kv_formats(gpu, model):
            notes.append(Note(f"kv_dtype {stored}: the checkpoint has scales for it"))
            return stored
        return compute_dtype(model, gpu, dtype, engine)
    chosen = known_format(deployment.kv_dtype, "kv_dtype")
    formats = engine.kv_formats(gpu, model)
    if not formats:
        raise InputError(engine.refusal(gpu) or f"{engine.name} is not known on {gpu.name}")
    if chosen not in formats:
        raise InputError(
            f"{engine.name} has no {chosen} KV cache for {model.name} on {gpu.name}; it has {', '.join(formats)}"
        )
    plain = compute_dtype(model, gpu, dtype, engine)
    if chosen in PLAIN and chosen != plain:
        # config/cache.py: a plain format is an option only for models that do not default to it
        raise InputError(f"kv_dtype is {chosen}, but {model.name} runs in {plain}; use kv_dtype=auto or {plain}")
    if chosen == "fp8" and plain == "float16" and gpu.compute_capability in engine.fp8_kv_in_bfloat16:
        instead = "dtype=bfloat16" if dtype == plain else "kv_dtype=auto"
        raise InputError(
            f"{engine.name} reads an fp8 KV cache on {gpu.name} into bfloat16 only, and {model.name} runs in {plain}; "
            f"use {instead}"
        )
    return chosen


def known_format(name: str, what: str) -> str:
    """Return a format by its name, or by a word for it such as "awq".

    Raises:
        InputError: it is none; ``what`` is what it was given as.

    """
    if name in BITS:
        return name
    word = str(name).strip().casefold().replace("_", "-")
    if word in FORMAT_WORDS:
        return FORMAT_WORDS[word]
    close = difflib.get_close_matches(str(name), BITS, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: auto, {', '.join(BITS)}"
    raise InputError(f"unknown {what} {str(name)[:40]!r}; {hint}")


FORMAT_WORDS = {
    "awq": "int4",
    "gptq": "int4",
    "gguf": "int4",
    "w4a16": "int4",
    "q4": "int4",
    "q4-k-m": "int4",
    "q4-0": "int4",
    "4bit": "int4",
    "4-bit": "int4",
    "bnb-4bit": "int4",
    "w4": "int4",
    "int4-awq": "int4",
    "awq-int4": "int4",
    "gptq-int4": "int4",
    "w8a8": "int8",
    "w8a16": "int8",
    "q8": "int8",
    "q8-0": "int8",
    "8bit": "int8",
    "8-bit": "int8",
    "gptq-int8": "int8",
    "fp8-block": "fp8",
    "fp8-dynamic": "fp8",
    "fp8-e4m3": "fp8",
    "fp8-e5m2": "fp8",
    "e4m3": "fp8",
    "w8a8-fp8": "fp8",
    "mxfp8": "fp8",
    "fp4": "nvfp4",
    "modelopt-fp4": "nvfp4",
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "f16": "float16",
    "fp32": "float32",
    "float": "float32",
    "f32": "float32",
}
"""People's words for formats, in lower case and with hyphens."""


def _length(deployment: Deployment, model: Model) -> int:
    most = model.max_position_embeddings or _UNKNOWN_LENGTH
    if deployment.max_model_len is None:
        return most
    require_positive("max_model_len", deployment.max_model_len)
    if deployment.max_model_len > most and model.max_position_embeddings:
        raise InputError(
            f"max_model_len is {deployment.max_model_len}; {model.name} has {most} positions, use at most that"
        )
    return deployment.max_model_len


def _memory_share(deployment: Deployment, model: Model, gpu: Gpu, engine: Engine) -> float:
    """Return ``gpu_memory_utilization`` of a deployment in which nothing else is open."""
    if deployment.gpu_memory_utilization is not None:
        return deployment.gpu_memory_utilization
    if engine.memory_rule == "static":  # where it keeps more free than there is nothing fits, which its memory says
        return max(own_static_share(deployment, engine, model, gpu), LEAST_SHARE)
    return engine.memory_share(deployment.engine_version)


def _limits(deployment: Deployment, gpu: Gpu, engine: Engine, max_model_len: int, backend: str = "") -> tuple[int, int]:
    """Return ``max_num_seqs`` and ``max_num_batched_tokens``, of an engine with that back end between replicas."""
    defaults = engine.batch_defaults(gpu, deployment.engine_version)
    seqs, tokens = deployment.max_num_seqs, deployment.max_num_batched_tokens
    if seqs is not None:
        require_positive("max_num_seqs", seqs, most=MOST_SEQS)
    if tokens is not None:
        require_positive("max_num_batched_tokens", tokens, most=MOST_TOKENS)
    if tokens is not None and tokens % engine.token_multiple:
        near = math.ceil(tokens / engine.token_multiple) * engine.token_multiple
        raise InputError(
            f"max_num_batched_tokens is {tokens}; {engine.name} takes multiples of {engine.token_multiple}, such as {near}"
        )
    if tokens is None:
        # never below seqs: vLLM would refuse its own default there
        most = own_tokens(backend, defaults)
        tokens = max(min(most, (seqs or defaults.max_num_seqs) * max_model_len), seqs or 1)
        tokens = math.ceil(tokens / engine.token_multiple) * engine.token_multiple
    if seqs is None:
        seqs = min(defaults.max_num_seqs, tokens)
    if tokens < seqs:
        raise InputError(
            f"max_num_batched_tokens is {tokens}, below max_num_seqs {seqs}; every running sequence needs a token a step"
        )
    return seqs, tokens
