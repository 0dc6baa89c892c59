"""The types that every package passes around: what a model, a GPU, a cluster, a deployment and a measurement are.

A field's unit is in its name; where it is not, the docstring under the field says it. What a number can be stands in its type: ``catalog.borders``
holds files to it, ``catalog.bounds`` what is put together here. GiB is 2**30 bytes, GB/s is 1e9 bytes a second and per direction, TFLOP/s are dense.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from annotated_types import Interval

from catalog.errors import InputError
from catalog.features import IF_STATED, Adapters, Drafting
from catalog.image_encoder import ImageEncoder, PromptImages  # noqa: TC001  read where files are checked
from catalog.parts import Experts, Stack
from catalog.wording import parallelism

Attention = Literal["gqa", "mla"]
Topology = Literal["nvswitch", "mesh", "pairs", "pcie"]

Degree = Annotated[int, Interval(ge=1, le=65_536)]
"""GPUs, or a degree of parallelism."""
Count = Annotated[int, Interval(ge=1, le=10**9)]
"""Tokens, sequences or repeats."""
Measured = Annotated[float, Interval(ge=1e-9, le=1e12)]
"""A time or a rate."""
Share = Annotated[float, Interval(ge=0, le=1)]

BITS = {
    "float32": 32.0,
    "bfloat16": 16.0,
    "float16": 16.0,
    "fp8": 8.0,
    "int8": 8.0,
    "int4": 4.0,
    "mxfp4": 4.0,
    "nvfp4": 4.0,
}
"""Bits one number takes in each format, scales not counted."""

SCALE_BITS = {"int4": 16.0 / 128 + 4.0 / 128, "mxfp4": 8.0 / 32, "nvfp4": 8.0 / 16, "int8": 0.0, "fp8": 0.0}
"""Bits of scales and zero points per weight: int4 in groups of 128 (GPTQ, AWQ), mxfp4 in 32 (OCP MX), nvfp4 in 16."""


PARTS = {
    "attention": "attention and other mixers",
    "dense": "dense feed-forward blocks",
    "shared": "shared experts",
    "experts": "routed experts",
    "head": "output head",
    "embedding": "embedding table",
}
"""Parts that have a format of their own in quantised checkpoints; head and table are in ``OUTSIDE``."""
OUTSIDE = ("head", "embedding")
"""Parts outside the layers, in 16 bits where a checkpoint says nothing of them."""

EXPERTS_ONLY = frozenset({"mxfp4"})
"""Checkpoint formats of which, without a word, only the experts are quantised where a model has some (gpt-oss model card, section 2.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A decoder-only transformer, as its ``config.json`` describes it; fields are named as in Hugging Face configurations where one exists."""

    name: str
    """Hugging Face id, or the path it was read from."""
    model_type: str
    hidden_size: Annotated[int, Interval(ge=1, le=10**6)]
    num_hidden_layers: Annotated[int, Interval(ge=1, le=1_000)]
    num_attention_heads: Annotated[int, Interval(ge=1, le=10_000)]
    num_key_value_heads: Annotated[int, Interval(ge=1, le=10_000)]
    head_dim: Annotated[int, Interval(ge=1, le=10_000)]
    """Width of one query head; for MLA the sum of the no-position and rotary parts."""
    intermediate_size: Annotated[int, Interval(ge=1, le=10**7)]
    """Width of the dense feed-forward block (of the dense layers, where a model mixes dense and expert layers)."""
    vocab_size: Annotated[int, Interval(ge=1, le=10**7)]
    max_position_embeddings: Count
    dtype: str = "bfloat16"
    """What the checkpoint stores its activations and unquantised weights in."""
    quantization: str | None = None
    """Weight format of a checkpoint that is already quantised (a key of ``BITS``), else None."""
    gated_mlp: bool = True
    """Gate, up and down projections (SwiGLU and kin) rather than up and down alone."""
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    """LayerNorm (weight and bias) rather than RMSNorm."""
    norms_per_layer: Annotated[int, Interval(ge=0, le=16)] = 2
    final_norms: Annotated[int, Interval(ge=0, le=16)] = 1
    """Norms outside the layers: 1 at the end; 2 where the embeddings have one too (BLOOM)."""
    qk_norm: bool = False
    """Per-head RMSNorm on queries and keys."""
    learned_positions: Annotated[int, Interval(ge=0, le=10**9)] = 0
    """Rows of a learned position-embedding table (GPT-2, OPT); 0 for rotary and ALiBi models."""
    rotary_numbers: Annotated[int, Interval(ge=0, le=10**12)] = 0
    """Numbers of the rotary tables that engines hold; 0: of one with ``max_position_embeddings`` rows."""
    head_bias: bool = False

    attention: Attention = "gqa"
    q_lora_rank: Annotated[int, Interval(ge=0, le=10**6)] = 0
    kv_lora_rank: Annotated[int, Interval(ge=0, le=10**6)] = 0
    qk_nope_head_dim: Annotated[int, Interval(ge=0, le=10_000)] = 0
    qk_rope_head_dim: Annotated[int, Interval(ge=0, le=10_000)] = 0
    v_head_dim: Annotated[int, Interval(ge=0, le=10_000)] = 0
    """Width of one value head; 0 means ``head_dim``."""

    sliding_window: Annotated[int, Interval(ge=0, le=10**9)] = 0
    """Tokens that a windowed layer attends to; 0 if no layer is windowed."""
    num_windowed_layers: Annotated[int, Interval(ge=0, le=1_000)] = 0

    num_experts: Annotated[int, Interval(ge=0, le=10**5)] = 0
    num_experts_per_tok: Annotated[int, Interval(ge=0, le=10_000)] = 0
    moe_intermediate_size: Annotated[int, Interval(ge=0, le=10**7)] = 0
    shared_expert_intermediate_size: Annotated[int, Interval(ge=0, le=10**7)] = 0
    """Total width of the experts every token goes through."""
    first_dense_layers: Annotated[int, Interval(ge=0, le=1_000)] = 0
    moe_layer_step: Annotated[int, Interval(ge=1, le=1_000)] = 1
    """Of the layers after the first dense ones, every ``moe_layer_step``-th one has experts."""
    expert_bias: bool = False  # in the experts and the router (gpt-oss)
    shared_expert_gate: bool = False
    """A one-column gate on the shared expert (Qwen2-MoE)."""

    stack: Stack | None = None
    """The layers, where the fields above do not describe them: of several kinds, or with other mixers than attention."""
    table_parameters: Annotated[int, Interval(ge=0, le=10**12)] = 0
    """Rows of embedding tables that layers look up for themselves (Gemma 3n's per-layer embeddings)."""
    formats: tuple[tuple[str, str], ...] = ()
    """Formats of the parts (a key of ``PARTS``) that a quantised checkpoint stores in another than ``quantization``."""
    part_bits: tuple[tuple[str, float], ...] = ()
    """Bits a weight, scales included, of parts in ``formats`` that have not the usual ones (GGUF)."""
    scale_bits: Annotated[float, Interval(ge=-4, le=64)] | None = None
    """Bits of scales and zero points a weight of the checkpoint; None: those of ``SCALE_BITS``."""
    block_scales: bool = False
    """Whether a square block of a quantised checkpoint's weights has one scale (``weight_block_size``)."""
    kv_quantization: str | None = None
    """Format of the KV cache that the checkpoint has scales for, else None."""
    reading: str = ""
    """How its configuration was read, where its type is not known: a warning for the reader."""
    checkpoint_bytes: Annotated[int, Interval(ge=0, le=10**15)] = 0
    """Bytes of the tensors that are loaded, as files beside the configuration, their index or the hub say; 0 where nothing does."""
    mtp_parameters: Annotated[int, Interval(ge=0, le=10**12)] = 0
    """Parameters of the heads that predict several tokens, which are loaded only for speculative decoding."""

    extra_parameters: Annotated[int, Interval(ge=0, le=10**12)] = 0
    """Parameters that the fields above do not describe (attention sinks, sparse-attention indexers), whole model."""
    encoder_parameters: Annotated[int, Interval(ge=0, le=10**12)] = 0
    """Parameters of encoders for other inputs (images) that are loaded beside the language model but idle on text."""
    image_encoder: ImageEncoder | None = None
    """As the configuration describes it; None where it has none of a kind that is known (see ``catalog.models.image_encoders``)."""
    images: PromptImages | None = None
    """Of the prompts that it is asked about; None: they are text."""
    published_parameters: Annotated[float, Interval(ge=0, le=1e15)] = 0.0
    """Parameter count the publisher states, for checking; 0 where it states none."""
    published_source: str = ""
    gated: bool = False
    """The checkpoint can be downloaded only after its licence is accepted."""
    source: str = ""

    @property
    def moe_layers(self) -> int:
        """Return number of layers with routed experts."""
        if self.stack is not None:
            return sum(count for count, layer in self.stack.counts if isinstance(layer.feed_forward, Experts))
        if not self.num_experts:
            return 0
        after = self.num_hidden_layers - self.first_dense_layers
        return after // self.moe_layer_step

    @property
    def value_dim(self) -> int:
        return self.v_head_dim or self.head_dim

    def part_format(self, part: str) -> str:
        """Return the format of a part's matrices in a quantised checkpoint where it is not ``quantization``, else ""."""
        stated = dict(self.formats)
        if (
            self.quantization in EXPERTS_ONLY
            and self.num_experts
            and part != "experts"
            and stated.keys() <= set(OUTSIDE)
        ):
            return stated.get(part, self.dtype)
        return stated.get(part, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator, or one socket of a CPU (vendor "cpu"), by its datasheet."""

    name: str
    vendor: str = "nvidia"
    memory_gib: Annotated[float, Interval(ge=0.1, le=10**5)]
    """Memory that an engine sees: the total that CUDA or HIP reports, a little below ``nvidia-smi``'s and well below the
    marketing figure."""
    memory_bandwidth_gbps: Annotated[float, Interval(ge=0.1, le=10**7)]
    fp16_tflops: Annotated[float, Interval(ge=0.001, le=10**7)]
    """Dense float16 or bfloat16 tensor throughput with float32 accumulation."""
    float16_tflops: Annotated[float, Interval(ge=0, le=10**7)] = 0.0
    """Of float16 where the tensor units have bfloat16 alone (AMX before Granite Rapids); 0: the same."""
    fp8_tflops: Annotated[float, Interval(ge=0, le=10**7)] = 0.0
    """0: no such units; the same for the formats below."""
    int8_tops: Annotated[float, Interval(ge=0, le=10**7)] = 0.0
    fp4_tflops: Annotated[float, Interval(ge=0, le=10**7)] = 0.0
    bf16: bool = True
    compute_capability: str = ""
    """CUDA compute capability ("9.0"); for AMD the gfx architecture ("gfx942")."""
    topology: Topology = "pcie"
    """How the GPUs of one node are joined: through switches, directly all to all, in pairs by a bridge, or by PCIe."""
    nvlink_gbps: Annotated[float, Interval(ge=0, le=10**6)] = 0.0
    """GPU-to-GPU link bandwidth of one GPU, per direction; 0 without one."""
    pcie_gbps: Annotated[float, Interval(ge=0.01, le=10**6)] = 16.0
    """Host link bandwidth, per direction."""
    tdp_w: Annotated[float, Interval(ge=0, le=10**6)] = 0.0
    gpus_per_node: Annotated[int, Interval(ge=1, le=4_096)] = 8
    """Largest number of these GPUs that one server usually holds."""
    notes: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """GPUs of one kind in one or more nodes."""

    gpu: Gpu
    gpus_per_node: int
    nodes: int = 1
    network_gbps: float = 50.0
    """Network bandwidth between nodes, per GPU and direction; 50 GB/s is one 400 Gb/s adapter a GPU."""

    leaf_nodes: int = 0
    """Nodes whose adapters of one rail share a leaf switch; traffic among more of them climbs to the spine. 0: all."""
    oversubscription: float = 1.0
    """Bandwidth into a leaf over that from it to the spine: 1 is none."""

    @property
    def num_gpus(self) -> int:
        return self.gpus_per_node * self.nodes

    def __str__(self) -> str:
        nodes = f"{self.nodes}x" if self.nodes > 1 else ""
        return f"{nodes}{self.gpus_per_node}x{self.gpu.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is asked of a deployment: the length of its requests and how many come."""

    input_len: int = 1024
    output_len: int = 256
    rate: float | None = None
    """Requests a second (open loop)."""
    concurrency: int | None = None
    """Requests in flight over all replicas (closed loop)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Limits a deployment must keep; None where there is none."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None
    percentile: float | None = None
    """None: the limit holds for the mean."""

    @property
    def limits(self) -> dict[str, float]:
        """Return milliseconds by metric of ``LATENCIES``, of those that have a limit."""
        return {name: limit for name in LATENCIES if (limit := getattr(self, name)) is not None}


LATENCIES = ("ttft_ms", "tpot_ms", "e2e_ms")
"""What an SLO may limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """How a model is laid out on GPUs and started; ``None`` in a knob means "what the engine would choose", and resolved ones have none."""

    engine: str = "vllm"
    tp: Degree = 1
    pp: Degree = 1
    dp: Degree = 1
    """Replicas."""
    ep: Degree = 1
    """GPUs the routed experts are spread over; 1: experts are sliced like every other matrix."""
    dcp: Degree = field(default=1, metadata=IF_STATED)
    """GPUs of a tensor-parallel group that share the KV cache of each request by its tokens (decode context parallel)."""
    all2all_backend: str = field(default="", metadata=IF_STATED)
    """What sends tokens to experts that replicas share (``catalog.engines.all_to_all``); empty: the engine's default."""
    sequence_parallel: bool = False
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    max_model_len: Count | None = None
    gpu_memory_utilization: Annotated[float, Interval(ge=0.01, le=1)] | None = None
    dtype: str = "auto"
    """Weight format: a key of ``BITS``, or "auto"."""
    kv_dtype: str = "auto"
    offload: Share = 0.0
    """Share of the layers' weights kept in CPU memory and streamed over the host link, 0 to 1."""
    compiled: bool = True
    """Kernel fusion on, and CUDA graphs unless ``graphs`` says otherwise."""
    graphs: bool | None = None
    """CUDA graphs on; None: as ``compiled``."""
    engine_version: str = ""
    """Release that is asked about, such as "0.24"; empty for the one that the catalog describes."""
    kv_offload: str | None = field(default=None, metadata=IF_STATED)
    """Tiers below the GPUs' KV cache, such as "cpu=200GB+disk=2TB" (``catalog.kv_offload``); plain answers leave it out where there is none."""
    drafting: Drafting | None = field(default=None, metadata=IF_STATED)
    """Speculative decoding, where it is on."""
    adapters: Adapters | None = field(default=None, metadata=IF_STATED)

    @property
    def num_gpus(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def ranks(self) -> int:
        """Return how many replicas at a time share their experts: those of one attention data parallel group; 1 where each has its own."""
        return self.ep // self.tp if self.ep > self.tp else 1

    @property
    def parallelism(self) -> str:
        """Write the layout of one replica as people do: "TP4 PP2", with "EP4" where experts are spread and "DCP4" where contexts are."""
        return parallelism(self.tp, self.pp, self.ep, self.dcp)

    @property
    def layout(self) -> str:
        """Write replicas, where there are several, and parallelism: "2 x TP2 PP1"."""
        return f"{self.dp} x {self.parallelism}" if self.dp > 1 else self.parallelism

    @property
    def has_graphs(self) -> bool:
        return self.compiled if self.graphs is None else self.graphs


STATED = "as stated"
"""The provider of a price that came with the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one GPU costs for an hour at one provider."""

    gpu: str
    usd_per_gpu_hour: Annotated[float, Interval(gt=0, le=10_000)]
    provider: str
    instance: str = ""
    kind: Literal["on-demand", "spot", "reserved", "rental", "owned"] = "on-demand"
    """owned: what one's own GPU costs an hour, from capital, power and the share of time it is used."""
    illustrative: bool = False
    """A round figure from a planning tool, not an offer: used only when the user asks for it."""
    as_of: str = ""
    source: str = ""

    @property
    def offer(self) -> str:
        """Write where the price is from: "Nebius gpu-h200-sxm_1gpu (on-demand, 2026-05)", or that it was stated."""
        if self.provider == STATED:
            return STATED
        where = f"{self.provider} {self.instance}".strip()
        kind = "illustrative figure, no offer" if self.illustrative else self.kind
        return f"{where} ({kind}{f', {self.as_of}' if self.as_of else ''})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured configuration: one row of a runs file. None where a quantity was not measured."""

    run_id: str
    role: Literal["fit", "validate"]
    source: str
    gpu: str
    gpus: Degree
    interconnect: str = ""
    engine: str
    engine_version: str = ""
    model: str
    dtype: str
    kv_dtype: str = "auto"
    tp: Degree = 1
    pp: Degree = 1
    dp: Degree = 1
    ep: Degree = 1
    max_num_batched_tokens: Count | None = None
    max_num_seqs: Count | None = None
    max_model_len: Count | None = None
    gpu_memory_utilization: Annotated[float, Interval(ge=0.01, le=1)] | None = None
    compiled: bool = True
    graphs: bool | None = None
    """Whether CUDA graphs were on; None: as ``compiled``."""
    offload: Share = 0.0
    regime: Literal["static", "steady", "open"] = "static"
    """"static": the whole batch at once; "steady": ``batch`` requests kept in flight; "open": Poisson arrivals,
    or a trace's, which ``fingerprint`` then says."""
    rate: Measured | None = None
    """Requests a second that were offered, in an open run; of a trace their mean."""
    batch: Annotated[int, Interval(ge=0, le=10**9)]
    """Sequences at once per replica; 0 for a saturated run, where the engine took as many as it could; in an open run
    the mean number in flight."""
    input_len: Count
    """Where lengths differ within a run, here and below, their mean."""
    output_len: Count
    prefill_ms: Measured | None = None
    ttft_ms: Measured | None = None
    tpot_ms: Annotated[float, Interval(ge=0, le=1e18)] | None = None
    e2e_ms: Measured | None = None
    output_tok_s: Measured | None = None
    repeats: Count | None = None
    spread: Annotated[float, Interval(ge=0, le=1e18)] | None = None
    """Relative standard deviation of ``e2e_ms`` over the repeats."""
    peak_memory_gib: Annotated[float, Interval(ge=0, le=1e18)] | None = None
    kv_capacity_tokens: Annotated[int, Interval(ge=0, le=10**12)] | None = None
    comm_bytes: Annotated[float, Interval(ge=0, le=1e18)] | None = None
    utilisation: Share | None = None
    """Share of the time in which a GPU was busy, 0 to 1."""
    power_w: Annotated[float, Interval(ge=0, le=1e12)] | None = None
    energy_j: Annotated[float, Interval(ge=0, le=1e18)] | None = None
    top1_agreement: Share | None = None
    """Share of places at which the deployment's logits and a plain reference's have the same largest one, 0 to 1."""
    max_logit_diff: Annotated[float, Interval(ge=0, le=1e12)] | None = None
    ppl_diff: float | None = None
    """Perplexity of given tokens relative to the reference's, less 1."""
    oom: bool = False
    """It ran out of memory; there are no times then."""
    fingerprint: str = ""

    @property
    def deployment(self) -> Deployment:
        """Return the deployment that was measured."""
        names = {f.name for f in fields(Deployment)} & {f.name for f in fields(self)}
        return Deployment(**{name: getattr(self, name) for name in names})


def require_positive(name: str, value: float, *, most: float = math.inf, whole: bool = True) -> None:
    """Raise ``InputError`` unless ``value`` is a finite number above 0 and at most ``most``."""
    kind = "a whole number" if whole else "a number"
    upper = f" and at most {most:g}" if math.isfinite(most) else ""
    wrong_type = isinstance(value, bool) or not isinstance(value, int if whole else (int, float))
    if wrong_type or value == math.inf or not 0 < value <= most:
        raise InputError(f"{name} is {value!r:.60}; it must be {kind} above 0{upper}")
