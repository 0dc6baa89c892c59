"""An engine's settings under the names that its command line gives them, as fields of ``Measurement``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catalog.engines.all_to_all import BACK_ENDS
from catalog.importers.errors import UnusableRun

if TYPE_CHECKING:
    from collections.abc import Mapping

SIZES = {
    "tensor_parallel_size": "tp",
    "pipeline_parallel_size": "pp",
    "data_parallel_size": "dp",
    **{
        name: name
        for name in ("tp", "pp", "dp", "ep", "gpus", "max_num_seqs", "max_num_batched_tokens", "max_model_len")
    },
    "tp_size": "tp",
    "pp_size": "pp",
    "dp_size": "dp",
    "ep_size": "ep",
    "max_running_requests": "max_num_seqs",
    "chunked_prefill_size": "max_num_batched_tokens",
    "context_length": "max_model_len",
}
"""vLLM's names, those of its short options and of ``--metadata`` as people write it, then SGLang's."""

FORMATS = {
    **dict.fromkeys(("float16", "half", "fp16"), "float16"),
    **dict.fromkeys(("bfloat16", "bf16"), "bfloat16"),
    **dict.fromkeys(("float32", "float", "fp32"), "float32"),
    **dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2", "w8a8_fp8", "modelopt", "fbgemm_fp8"), "fp8"),
    **dict.fromkeys(("int8", "w8a8_int8"), "int8"),
    **dict.fromkeys(("awq", "awq_marlin", "int4", "w4a16_awq", "w4a16"), "int4"),
    **dict.fromkeys(("nvfp4", "modelopt_fp4"), "nvfp4"),
    "mxfp4": "mxfp4",
}
"""Formats of numbers, as engines call them."""

SPECULATION = ("speculative_config", "speculative_algorithm", "speculative_model", "num_speculative_tokens")

CONTEXT_DEGREES = ("decode_context_parallel_size", "dcp_size", "prefill_context_parallel_size", "attn_cp_size")
"""vLLM's and SGLang's degrees in which the context of a request is spread over GPUs."""

EXCHANGES = {"all2all_backend": BACK_ENDS["vllm"][0], "moe_a2a_backend": BACK_ENDS["sglang"][0]}
"""vLLM's and SGLang's back end between replicas that share experts, and the default of each, with which runs are taken to be."""


def settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that an engine's settings state; those that leave the choice to the engine ("auto", null) state
    none.

    Raises:
        Unusable: speculative decoding, contexts spread over GPUs, or another back end between experts, which runs do not record.

    """
    plain = {name.lstrip("-").replace("-", "_"): value for name, value in values.items()}
    if any(plain.get(name) not in (None, "", 0, "0", "None", "null") for name in SPECULATION):
        raise UnusableRun("speculative decoding, which the catalog's runs do not record")
    if _true(plain.get("enable_dp_attention")):
        raise UnusableRun("data-parallel attention, which the catalog's runs do not record")
    if any((whole(plain.get(name)) or 1) > 1 for name in CONTEXT_DEGREES):
        raise UnusableRun("context parallelism, which the catalog's runs do not record")
    if any(plain.get(name) not in (None, "", default) for name, default in EXCHANGES.items()):
        raise UnusableRun("a back end of its own between experts, which the catalog's runs do not record")
    stated: dict[str, Any] = {}
    for name, field in SIZES.items():
        size = whole(plain.get(name))
        if size is not None:
            stated[field] = size
    share = plain.get("gpu_memory_utilization", plain.get("mem_fraction_static"))
    if share not in (None, ""):
        try:
            stated["gpu_memory_utilization"] = float(share)
        except (TypeError, ValueError, OverflowError):
            raise UnusableRun(f"gpu_memory_utilization is {share!r:.40}; it must be a number") from None
    for name, field in (("quantization", "dtype"), ("kv_cache_dtype", "kv_dtype")):
        known = number_format(plain.get(name))
        if known:
            stated[field] = known
    stated.setdefault("compute_dtype", number_format(plain.get("dtype")))
    if not stated["compute_dtype"]:
        del stated["compute_dtype"]
    if _true(plain.get("enable_expert_parallel")):
        stated["ep"] = stated.get("tp", 1) * stated.get("dp", 1)
    if _true(plain.get("enforce_eager")):
        stated["compiled"] = False
    if _true(plain.get("disable_cuda_graph")):
        stated["graphs"] = False
    for name in ("gpu", "engine", "engine_version", "model"):
        value = plain.get(name)
        if isinstance(value, str) and value.strip():
            stated[name] = value.strip()
    return stated


def number_format(name: Any) -> str:
    """Return the catalog's name of a format of numbers; empty for none and for those it does not know."""
    return FORMATS.get(str(name).removeprefix("torch.").casefold(), "") if name else ""


def whole(value: Any) -> int | None:
    """Return a whole number above 0, from a number or its text; None for anything else, such as vLLM's "auto"."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number > 0 and number.is_integer() and not isinstance(value, bool) else None


def _true(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.casefold() == "true")
