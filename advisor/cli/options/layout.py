"""Options of the layout and the engine, in vLLM's spelling."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from advisor.cli.groups import flag, group
from advisor.cli.options.values import checked_policy, checked_router, engine_names
from catalog.features import Adapters
from catalog.quantities import COUNT, SHARE
from catalog.schema import Deployment

PANEL = "Layout and engine"
TP = flag("--tensor-parallel-size", "--tp", metavar="N")
PP = flag("--pipeline-parallel-size", "--pp", metavar="N")
DP = flag("--data-parallel-size", "--dp", metavar="N")
EP = flag("--expert-parallel-size", "--ep", metavar="N")
ALL2ALL = flag("--all2all-backend", "--moe-a2a-backend", metavar="NAME")
DCP = flag("--decode-context-parallel-size", "--dcp", metavar="N")
ENGINE = flag("--engine", metavar="NAME", completion=engine_names)
VERSION = flag("--engine-version", metavar="X.Y")
DTYPE = flag("--dtype", "--weights", metavar="FORMAT")
KV_DTYPE = flag("--kv-cache-dtype", "--kv-dtype", metavar="FORMAT")
SEQS = flag("--max-num-seqs", metavar="N", quantity=COUNT)
TOKENS = flag("--max-num-batched-tokens", metavar="N", quantity=COUNT)
BUDGETS = flag("--max-num-batched-tokens", metavar="N")


def _budgets(texts: list[str] | None) -> list[int] | str | None:
    """Read token budgets, or the word that stands for all that are worth trying."""
    if not texts or "any" in texts:
        return "any" if texts else None
    return [int(COUNT.read(text, "--max-num-batched-tokens")) for text in texts]


@group(PANEL)
class Degrees:
    """A stated layout."""

    tensor_parallel_size: Annotated[int, TP] = 1
    """GPUs that split each layer."""
    pipeline_parallel_size: Annotated[int, PP] = 1
    """Stages of layers."""
    data_parallel_size: Annotated[int, DP] = 1
    """Replicas."""
    expert_parallel_size: Annotated[int, EP] = 1
    """GPUs that the routed experts are spread over."""
    decode_context_parallel_size: Annotated[int, DCP] = 1
    """GPUs of each layer's that share the KV cache of a request by its tokens, where they would hold copies of it."""


@group(PANEL)
class ChosenDegrees:
    """A layout that may be stated."""

    tensor_parallel_size: Annotated[int | None, TP] = None
    """GPUs that split each layer."""
    pipeline_parallel_size: Annotated[int | None, PP] = None
    """Stages of layers."""
    data_parallel_size: Annotated[int | None, DP] = None
    """Replicas."""
    expert_parallel_size: Annotated[int | None, EP] = None
    """GPUs that the routed experts are spread over."""
    decode_context_parallel_size: Annotated[int | None, DCP] = None
    """GPUs of each layer's that share the KV cache of a request by its tokens, where they would hold copies of it."""

    def degrees(self) -> dict[str, Any]:
        """Return the degrees that are stated."""
        layout = {
            "tp": self.tensor_parallel_size,
            "pp": self.pipeline_parallel_size,
            "dp": self.data_parallel_size,
            "ep": self.expert_parallel_size,
            "dcp": self.decode_context_parallel_size,
        }
        return {name: degree for name, degree in layout.items() if degree is not None}


@group(PANEL)
class Release:
    """An engine, and a release of it."""

    engine: Annotated[str, ENGINE] = "vllm"
    """vllm, sglang, tensorrt-llm, torch (plain PyTorch), lmdeploy, xfastertransformer or llama.cpp."""
    engine_version: Annotated[str | None, VERSION] = None
    """Release to predict, such as 0.24.  [default: the one that the catalog describes]"""


@group(PANEL)
class Room:
    """The room for sequences: how long they may be, and the memory for them."""

    max_model_len: Annotated[int | None, flag("--max-model-len", metavar="N", quantity=COUNT)] = None
    """Longest sequence to serve.  [default: the model's, or what memory holds]"""
    gpu_memory_utilization: Annotated[
        float | None, flag("--gpu-memory-utilization", "--mem-fraction-static", metavar="SHARE", quantity=SHARE)
    ] = None
    """Share of each GPU's memory that the engine may use; for SGLang, the share for weights and KV cache.  [default: the engine's]"""


@group(PANEL)
class Offloaded:
    """Weights in CPU memory."""

    offload: Annotated[float, flag("--offload", metavar="SHARE", quantity=SHARE)] = 0.0
    """Share of the layers' weights kept in CPU memory and streamed, 0 to 1."""


@group(PANEL)
class CachedBelow:
    """Tiers below the GPUs' KV cache."""

    kv_offload: Annotated[list[str] | None, flag("--kv-offload", metavar="TIER=SIZE")] = None
    """Also keep KV blocks of prompts in CPU memory, on disk or in a store: cpu=200GB (vLLM's --kv-offloading-size), disk=2TB@6GB/s,
    store=10TB@25GB/s, the first two of each replica. Can be repeated.  [bandwidths by default: the host link, an NVMe drive, a network adapter]"""

    def below(self) -> dict[str, Any]:
        """Return the field of a ``Deployment`` that they state."""
        return {"kv_offload": "+".join(self.kv_offload)} if self.kv_offload else {}


@group(PANEL)
class Exchanged:
    """What sends tokens to experts that replicas share."""

    all2all_backend: Annotated[str | None, ALL2ALL] = None
    """What sends tokens to experts that replicas share: vllm's allgather_reducescatter, deepep_high_throughput or deepep_low_latency;
    sglang's none or deepep.  [default: the engine's, the first]"""

    def exchange(self) -> dict[str, Any]:
        """Return the field of a ``Deployment`` that is stated."""
        return {} if self.all2all_backend is None else {"all2all_backend": self.all2all_backend}


@group(PANEL)
class SpreadContext:
    """The degree to which contexts are spread, of all layouts that are searched."""

    decode_context_parallel_size: Annotated[int | None, DCP] = None
    """GPUs of each layer's that share the KV cache of a request by its tokens.  [default: 1 and, from 8192 tokens of a request on, as many as
    would hold copies of it compete]"""


@group(PANEL)
class Routed:
    """The router before replicas."""

    router: Annotated[str, flag("--router", metavar="NAME", callback=checked_router)] = "round_robin"
    """Router between replicas: round_robin, least_loaded, prefix_aware, session_sticky or power_of_two."""


@group(PANEL)
class Queued:
    """The queue of a replica."""

    scheduling_policy: Annotated[str, flag("--scheduling-policy", metavar="NAME", callback=checked_policy)] = "fcfs"
    """Order in which a replica serves what waits: fcfs, or priority, by the priorities of --classes."""


@group(PANEL)
class EngineOptions(Room, Release):
    """An engine and its knobs."""

    dtype: Annotated[str, DTYPE] = "auto"
    """Weight format: auto (the checkpoint's), bfloat16, float16, fp8, int8, int4, ..."""
    kv_cache_dtype: Annotated[str, KV_DTYPE] = "auto"
    """KV cache format: auto (the model's), fp8, ..."""
    max_num_seqs: Annotated[int | None, SEQS] = None
    """Most sequences that run at once per replica.  [default: the engine's]"""
    max_num_batched_tokens: Annotated[int | None, TOKENS] = None
    """Token budget of one step.  [default: the engine's for that GPU]"""

    def knobs(self) -> dict[str, Any]:
        """Return the fields of a ``Deployment`` that they state."""
        return {
            "engine": self.engine,
            "engine_version": self.engine_version or "",
            "dtype": self.dtype,
            "kv_dtype": self.kv_cache_dtype,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "max_model_len": self.max_model_len,
            "gpu_memory_utilization": self.gpu_memory_utilization,
        }


@group(PANEL)
class Linked:
    """The link between pools of replicas."""

    kv_link: Annotated[float | None, flag("--kv-link", metavar="GB_S")] = None
    """GB/s of a GPU over the link between prefill and decode.  [default: NVLink within a node, else the network]"""


@group(PANEL)
class RoutedEngine(Linked, SpreadContext, Exchanged, CachedBelow, Queued, Routed, EngineOptions):
    """An engine, its queue, the router before its replicas, and the link between pools of them."""

    def knobs(self) -> dict[str, Any]:
        """Return the fields of a ``Deployment`` that they state."""
        return {**EngineOptions.knobs(self), **self.below(), **self.exchange()}


@group(PANEL)
class FixedLayout(Offloaded, Exchanged, EngineOptions, Degrees):
    """A stated layout and the engine."""

    def knobs(self) -> dict[str, Any]:
        """Return the fields of a ``Deployment`` that they state."""
        return {
            **EngineOptions.knobs(self),
            "tp": self.tensor_parallel_size,
            "pp": self.pipeline_parallel_size,
            "dp": self.data_parallel_size,
            "ep": self.expert_parallel_size,
            "dcp": self.decode_context_parallel_size,
            "offload": self.offload,
            **self.exchange(),
        }

    def deployment(self) -> Deployment:
        """Return them as a ``Deployment``."""
        return Deployment(**self.knobs())


@group("Adapters")
class Adapted:
    """LoRA adapters that requests are of."""

    lora_adapters: Annotated[int | None, flag("--lora-adapters", metavar="N")] = None
    """Different LoRA adapters that requests are of, drawn by their popularity.  [default: none]"""
    lora_rank: Annotated[int, flag("--max-lora-rank", "--lora-rank", metavar="N")] = 16
    """Rank of the adapters."""
    max_loras: Annotated[int, flag("--max-loras", metavar="N")] = 1
    """Slots for adapters on the GPUs: those that may be in one batch."""
    max_cpu_loras: Annotated[int | None, flag("--max-cpu-loras", metavar="N")] = None
    """Adapters that stay in CPU memory; others are loaded from disk.  [default: --max-loras]"""
    lora_skew: Annotated[float, flag("--lora-skew", metavar="EXPONENT")] = 1.0
    """Exponent of Zipf's law of how often each adapter is asked for; 0: equally often."""

    @property
    def stated(self) -> Adapters | None:
        """Return the adapters that are stated; None without."""
        if self.lora_adapters is None:
            return None
        return Adapters(
            number=self.lora_adapters,
            rank=self.lora_rank,
            max_loras=self.max_loras,
            max_cpu_loras=self.max_cpu_loras,
            skew=self.lora_skew,
        )

    def adapted(self, deployment: Deployment) -> Deployment:
        """Return a deployment with the adapters that are stated."""
        return replace(deployment, adapters=self.stated)


@group("Speculation")
class Speculative:
    """Drafted tokens, which the model verifies."""

    speculate: Annotated[str | None, flag("--speculate", metavar="METHOD")] = None
    """What drafts tokens: ngram, eagle, eagle3, mtp (the model's own heads) or draft:MODEL, for recommend also auto; the answer says what that gains."""
    draft_len: Annotated[int | None, flag("--draft-len", metavar="N")] = None
    """Tokens drafted per step.  [default: the number that gains most]"""
    acceptance: Annotated[float | None, flag("--acceptance", metavar="SHARE", quantity=SHARE)] = None
    """Probability that a drafted token is accepted.  [default: as published for the method, with its spread]"""

    def keywords(self) -> dict[str, Any]:
        """Return what the functions take of it."""
        return {"speculate": self.speculate, "draft_len": self.draft_len, "acceptance": self.acceptance}


@group(PANEL)
class PromptPool:
    """A pool of replicas for prompts."""

    prefill_replicas: Annotated[int, flag("--prefill-replicas", metavar="N")] = 0
    """Replicas that only compute prompts and pass the KV cache to the others, which then only decode."""
    prefill_tp: Annotated[int | None, flag("--prefill-tp", metavar="N")] = None
    """Tensor parallel size of the prefill replicas.  [default: --tp]"""
    prefill_gpus: Annotated[str | None, flag("--prefill-gpus", metavar="GPUS")] = None
    """GPUs of another kind that compute the prompts, such as 4xL40S: as many replicas as they hold, or --prefill-replicas."""


@group(PANEL)
class SimulatedLayout(PromptPool, Linked, CachedBelow, Queued, Routed, FixedLayout):
    """A stated layout, pools of replicas, and what it is compared with."""

    def knobs(self) -> dict[str, Any]:
        """Return the fields of a ``Deployment`` that they state."""
        return {**FixedLayout.knobs(self), **self.below()}

    poll_steps: Annotated[int | None, flag("--poll-steps", metavar="N")] = None
    """Decode steps after which the scheduler looks for new requests (SGLang's --scheduler-recv-interval).  [default: the engine's, 1]"""
    batch_wait_steps: Annotated[int | None, flag("--batch-wait-steps", metavar="N")] = None
    """Steps for which prompts that fill no step are held back (TensorRT-LLM's batch_wait_timeout_iters).  [default: the engine's, 0]"""
    delivery_rate: Annotated[int | None, flag("--delivery-rate", metavar="TOK_S", quantity=COUNT)] = None
    """Tokens per second that one replica's front end delivers.  [default: sglang 20000, others any number]"""
    compare: Annotated[list[str] | None, flag("--compare", metavar="KNOBS")] = None
    """Also serve the same requests with these knobs changed: tp=1,dp=2 or prefill_replicas=0. Can be repeated."""

    def scheduling(self) -> dict[str, Any]:
        """Return the knobs of scheduler and front end as ``simulate`` takes them."""
        return {
            "poll_steps": self.poll_steps,
            "batch_wait_steps": self.batch_wait_steps,
            "delivery_tok_s": self.delivery_rate,
            "kv_link_gbps": self.kv_link,
        }


@group(PANEL)
class ChosenLayout(PromptPool, CachedBelow, Offloaded, Exchanged, EngineOptions, ChosenDegrees):
    """A layout that may be stated, with a pool for prompts or without, and the engine."""

    def knobs(self) -> dict[str, Any]:
        """Return the fields of a ``Deployment`` that they state."""
        return {**EngineOptions.knobs(self), **self.exchange()}


@group(PANEL)
class SearchedEngine(Linked, SpreadContext, Exchanged, CachedBelow, Routed, Offloaded, Room, Release):
    """An engine and what the search may choose from."""

    dtype: Annotated[list[str] | None, DTYPE] = None
    """Weight format allowed: auto (the checkpoint's), fp8, int4, ..., or any (16, 8 and 4 bits). Can be repeated; the best is chosen."""
    kv_cache_dtype: Annotated[list[str] | None, KV_DTYPE] = None
    """KV cache format allowed: auto (the model's), fp8, ... Can be repeated."""
    max_num_seqs: Annotated[int | None, SEQS] = None
    """Largest batch per replica to consider.  [default: 1024]"""
    max_num_batched_tokens: Annotated[list[str] | None, BUDGETS] = None
    """Token budget of a step allowed, or any, of which the best is chosen. Can be repeated.  [default: the engine's for that GPU]"""

    def keywords(self) -> dict[str, Any]:
        """Return what ``recommend`` takes."""
        return {
            "engine": self.engine,
            "engine_version": self.engine_version or "",
            "dtypes": self.dtype,
            "kv_dtypes": self.kv_cache_dtype,
            "max_batch": self.max_num_seqs,
            "router": self.router,
            "max_num_batched_tokens": _budgets(self.max_num_batched_tokens),
            "max_model_len": self.max_model_len,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "offload": self.offload,
            "kv_link_gbps": self.kv_link,
            "dcp": self.decode_context_parallel_size,
            **self.exchange(),
            **self.below(),
        }


@group(PANEL)
class ComparedEngine:
    """Engines and formats that are put side by side."""

    engine: Annotated[str, ENGINE] = "vllm"
    """Engines, separated by commas: vllm, sglang, tensorrt-llm, torch (plain PyTorch), lmdeploy, xfastertransformer, llama.cpp."""
    dtype: Annotated[list[str] | None, DTYPE] = None
    """Weight formats, separated by commas: auto, fp8, int4, ...; any: 16, 8 and 4 bits.  [default: the checkpoint's if models and
    GPUs are named, else any]"""
    max_model_len: Annotated[int | None, flag("--max-model-len", metavar="N", quantity=COUNT)] = None
    """Longest sequence to serve.  [default: the model's, or what memory holds]"""

    def keywords(self) -> dict[str, Any]:
        """Return what ``compare`` takes."""
        formats = ",".join(self.dtype) if self.dtype else None
        return {"engine": self.engine, "formats": formats, "max_model_len": self.max_model_len}


@group(PANEL)
class TunedEngine:
    """An engine that is measured here."""

    engine: Annotated[str, flag("--engine", metavar="NAME")] = "torch"
    """torch (plain PyTorch) or vllm (if it is installed beside advisor)."""
    dtype: Annotated[str, DTYPE] = "auto"
    """Weight format: auto (the checkpoint's), bfloat16, float16, fp8, int8, int4, ..."""
    max_num_seqs: Annotated[int | None, SEQS] = None
    """Largest batch per replica to consider.  [default: 1024]"""
