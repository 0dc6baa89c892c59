"""Options of ``advisor import``: what files do not say, and where runs are kept."""

from __future__ import annotations

from typing import Annotated, Any

from advisor.cli.groups import flag, group
from advisor.cli.options.layout import DP, EP, KV_DTYPE, PP, SEQS, TOKENS, TP
from advisor.cli.options.output import Wide


@group("What the files do not say")
class ImportFacts:
    """Facts of the runs that a file leaves out."""

    gpu: Annotated[str | None, flag("--gpu", metavar="NAME")] = None
    """GPU, such as H100-SXM."""
    gpus: Annotated[int | None, flag("--gpus", metavar="N")] = None
    """Number of GPUs."""
    tensor_parallel_size: Annotated[int | None, TP] = None
    """GPUs that split each layer."""
    pipeline_parallel_size: Annotated[int | None, PP] = None
    """Stages of layers."""
    data_parallel_size: Annotated[int | None, DP] = None
    """Replicas."""
    expert_parallel_size: Annotated[int | None, EP] = None
    """GPUs that the routed experts are spread over."""
    model: Annotated[str | None, flag("--model", metavar="NAME")] = None
    """Catalog name (llama-13b), Hugging Face id, or path to a config.json."""
    engine: Annotated[str | None, flag("--engine", metavar="NAME")] = None
    """vllm, sglang, tensorrt-llm, torch, lmdeploy, xfastertransformer or llama.cpp."""
    engine_version: Annotated[str | None, flag("--engine-version", metavar="X.Y.Z")] = None
    """The engine's version."""
    dtype: Annotated[str | None, flag("--dtype", metavar="FORMAT")] = None
    """Weight format, such as fp8.  [default: the checkpoint's]"""
    kv_cache_dtype: Annotated[str | None, KV_DTYPE] = None
    """KV cache format."""
    max_num_seqs: Annotated[int | None, SEQS] = None
    """Most sequences that run at once per replica.  [default: the engine's]"""
    max_num_batched_tokens: Annotated[int | None, TOKENS] = None
    """Token budget of one step.  [default: the engine's for that GPU]"""
    max_model_len: Annotated[int | None, flag("--max-model-len", metavar="N")] = None
    """Longest sequence to serve.  [default: the model's, or what memory holds]"""
    gpu_memory_utilization: Annotated[float | None, flag("--gpu-memory-utilization", metavar="SHARE")] = None
    """Memory the engine could use, 0 to 1."""
    batch: Annotated[int | None, flag("--batch", metavar="N")] = None
    """Sequences at once per replica (vllm bench latency)."""
    concurrency: Annotated[int | None, flag("--concurrency", metavar="N")] = None
    """Requests kept in flight (AIPerf's CSV)."""
    rate: Annotated[float | None, flag("--rate", metavar="PER_S")] = None
    """Poisson arrivals a second (AIPerf's CSV)."""
    input_len: Annotated[int | None, flag("--input-len", "--isl", metavar="N")] = None
    """Tokens of a prompt."""
    output_len: Annotated[int | None, flag("--output-len", "--osl", metavar="N")] = None
    """Tokens generated."""

    def stated(self, role: str | None) -> dict[str, Any]:
        """Return all facts by the names of ``advisor.import_runs``."""
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for short, name in (
            ("tp", "tensor_parallel_size"),
            ("pp", "pipeline_parallel_size"),
            ("dp", "data_parallel_size"),
            ("ep", "expert_parallel_size"),
            ("kv_dtype", "kv_cache_dtype"),
        ):
            facts[short] = facts.pop(name)
        return {**facts, "role": role}


@group("Where it is kept")
class ImportKept:
    """Where imported runs are kept, and for what."""

    role: Annotated[str | None, flag("--role", metavar="ROLE")] = None
    """fit; or validate, to judge the fit without joining it.  [default: fit]"""
    runs: Annotated[str | None, flag("--runs", metavar="FILE")] = None
    """File to add the runs to.  [default: in $ADVISOR_HOME/runs, which every answer reads]"""
    dry_run: Annotated[bool, flag("--dry-run")] = False
    """Only show what would be added."""


@group("Output")
class ImportOutput(Wide):
    """The format of the files, and how much is shown."""

    format_: Annotated[str, flag("--format", metavar="NAME")] = "auto"
    """auto (by content), vllm-serve, vllm-offline, sglang, guidellm, aiperf, inference-perf, llmperf,
    trtllm-bench, runs, published, closed-loops."""
