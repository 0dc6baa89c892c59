"""How an engine spends time and memory, as facts of an ``Engine``: what the models of time and memory ask instead of its name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTiming:
    """What an engine does with a forward pass and with a batch."""

    cuts_prompts: bool = True
    """Whether prompts are cut into chunks of ``max_num_batched_tokens`` that share steps with decodes (chunked prefill). Else
    whole prompts are prefilled, batches run in turn, and there is no scheduler to simulate."""
    graph_tokens: int = 512
    """Tokens of the largest pass that is captured in a CUDA graph, prefills among them; 0: decode steps alone are, of any size."""
    graphs_by_gpu: bool = False
    """Whether prompts share the graphs of decodes, so that the largest pass is ``BatchDefaults.max_graph_size`` of the GPU where that is
    known."""
    fuses_elementwise: bool = True
    """Whether norms, activations and the routing of experts are kernels of their own without compilation, too."""
    balances_stages: bool = False
    """Whether pipeline stages are cut by what layers cost (``torch_stages``), not by their number alone."""
    tp_host_us: float = 0.0
    """Host time that the two sums of a layer take outside a CUDA graph with tensor parallelism, microseconds."""
    mixes_prompts: bool = True
    """Whether prompts and decodes share steps. Else prompts that wait are prefilled in steps of their own before decoding goes on."""
    reserves_outputs: bool = False
    """Whether a request is admitted only where the cache holds all of its prompt and output, so that none is ever evicted; else where
    it holds the prompt, and the cache of the output is allotted as it grows."""
    poll_steps: int = 1
    """Decode steps after which the scheduler looks for new requests; after a step with prompts it always does."""
    batch_wait_steps: int = 0
    """Steps for which new prompts that fill no step are held back while others decode."""
    delivery_tok_s: float = math.inf
    """Tokens a second that the front end of one replica delivers, one after the other."""
    aligns_prompts: bool = False
    """Whether replicas that share experts compute their prompts in the same steps (TensorRT-LLM's ``attention_dp_config``), so that none
    waits for those of another."""
    mixed_attention: float = 1.0
    """Time of decode attention in a pass with prompts, over that in a pass without."""
    reads_cache_by_heads_on: tuple[str, ...] = ()
    """Vendors of the GPUs on which decode attention reads the KV cache once for each query head, not once for those that share it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """What an engine keeps in GPU memory, and how sure that is."""

    allocator: Literal["paged", "caching"] = "paged"
    """Whether a paged pool of KV cache is sized by a profiled pass, or tensors come one by one from torch's caching allocator."""
    online_quantisation_gib: float = 0.0
    """What quantising a 16-bit checkpoint to 8 bits while loading it takes beyond the weights, GiB."""
    spread_gib: float | None = None
    """Standard deviation of what is left for the KV cache, by comparison with the engine's own reports on ``measured_on``, GiB;
    None: nobody compared."""
    measured_on: tuple[str, ...] = ()
    """GPUs on which it was compared."""
    measured_releases: tuple[str, ...] = ()
    """Releases that were compared, such as "0.24"; the farther another version is from the nearest, the larger the spread."""
    reserves_graphs_on: tuple[str, ...] = ("nvidia", "amd")
    """Vendors of the GPUs on which memory for CUDA graphs is set aside before the KV cache is sized."""
    graph_sizes: tuple[tuple[int, int, int], ...] = ()
    """Batch sizes that CUDA graphs are captured for, as ranges (first, end, step); the largest allowed one is captured, too."""
    graph_tokens_a_sequence: int = 1
    """The largest captured batch is at most so many times ``max_num_seqs``,"""
    graphs_within_budget: bool = False
    """and at most ``max_num_batched_tokens``."""
    captures_cap: bool = True
    """Whether the largest allowed batch is captured even if no range holds it; if not, only where it is the token budget."""
    captures_seqs_from_minor: int = 0
    """From release 0.x on with x of this ``max_num_seqs`` is captured, too, where it is no larger than the largest; 0: in none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineGeneration:
    """Versions of an engine whose times say little of today's."""

    name: str
    """Name under which their parameters are fitted."""
    before_minor: int = 0
    """Versions 0.x with x below this; 0: runs that state no version."""
    timing: EngineTiming


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """What an engine's Prometheus metrics are called; empty: it has none of that."""

    path: str = "/metrics"
    label: str = "model_name"
    """Label with the model's name."""
    enabled_by: str = ""
    """What has to be set for the engine to have them."""
    ttft: str = ""
    """Histogram of seconds to the first token."""
    tpot: str = ""
    """Histogram of seconds per output token."""
    kv_cache: str = ""
    """Gauge of the share of the KV cache in use."""
    running: str = ""
    """Gauge of requests in the batch."""
    waiting: str = ""
    """Gauge of requests in the queue."""
    e2e: str = ""
    """Histogram of seconds from arrival to the last token."""
    finished: str = ""
    """Counter of requests that were answered."""
    prompted: str = ""
    """Counter of prompt tokens."""
    generated: str = ""
    """Counter of output tokens."""
    preempted: str = ""
    """Counter of preemptions."""

    @property
    def histograms(self) -> dict[str, str]:
        """Return the histogram of each latency, by ``catalog.schema.LATENCIES``."""
        return {"ttft_ms": self.ttft, "tpot_ms": self.tpot, "e2e_ms": self.e2e}

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all histograms, counters and gauges that the engine has."""
        counters = (self.finished, self.prompted, self.generated, self.preempted)
        gauges = (self.running, self.waiting, self.kv_cache)
        return tuple(name for name in (*self.histograms.values(), *counters, *gauges) if name)
