"""Which models and GPUs are possible: bounds on every number, and the numbers' consistency with each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catalog.errors import InputError
from catalog.schema import BITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catalog.schema import Gpu, Model

MODEL = {
    "hidden_size": (1, 10**6),
    "num_hidden_layers": (1, 1000),
    "num_attention_heads": (1, 10_000),
    "num_key_value_heads": (1, 10_000),
    "head_dim": (1, 10_000),
    "intermediate_size": (1, 10**7),
    "vocab_size": (1, 10**7),
    "max_position_embeddings": (1, 10**9),
    "norms_per_layer": (0, 16),
    "final_norms": (0, 16),
    "learned_positions": (0, 10**9),
    "q_lora_rank": (0, 10**6),
    "kv_lora_rank": (0, 10**6),
    "qk_nope_head_dim": (0, 10_000),
    "qk_rope_head_dim": (0, 10_000),
    "v_head_dim": (0, 10_000),
    "sliding_window": (0, 10**9),
    "num_windowed_layers": (0, 1000),
    "num_experts": (0, 100_000),
    "num_experts_per_tok": (0, 10_000),
    "moe_intermediate_size": (0, 10**7),
    "shared_expert_intermediate_size": (0, 10**7),
    "first_dense_layers": (0, 1000),
    "moe_layer_step": (1, 1000),
    "extra_parameters": (0, 10**12),
    "encoder_parameters": (0, 10**12),
    "published_parameters": (0, 1e15),
}
"""Least and most, by field of ``Model``."""

GPU = {
    "memory_gib": (0.1, 100_000),
    "memory_bandwidth_gbps": (0.1, 10**7),
    "fp16_tflops": (0.001, 10**7),
    "fp8_tflops": (0, 10**7),
    "int8_tops": (0, 10**7),
    "fp4_tflops": (0, 10**7),
    "nvlink_gbps": (0, 10**6),
    "pcie_gbps": (0.01, 10**6),
    "tdp_w": (0, 10**6),
    "gpus_per_node": (1, 4096),
}
"""Least and most, by field of ``Gpu``."""


def check_model(model: Model) -> Model:
    """The model itself.

    Raises:
        InputError: a number is out of its bounds or contradicts another.

    """
    where = model.name
    _check(model, MODEL, where)
    heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
    if heads % kv_heads:
        raise InputError(f"{where}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    if model.dtype not in ("bfloat16", "float16", "float32"):
        raise InputError(f"{where}: dtype is {model.dtype!r}; it must be bfloat16, float16 or float32")
    if model.quantization is not None and BITS.get(model.quantization, 16) >= 16:
        low = ", ".join(name for name, bits in BITS.items() if bits < 16)
        raise InputError(f"{where}: quantization is {model.quantization!r}; it must be one of {low}")
    if model.attention == "mla":
        parts = model.qk_nope_head_dim + model.qk_rope_head_dim
        if not (model.kv_lora_rank and model.v_head_dim) or model.head_dim != parts:
            raise InputError(
                f"{where}: MLA needs kv_lora_rank, v_head_dim and head_dim = qk_nope_head_dim + qk_rope_head_dim = {parts}"
            )
    if model.num_experts and not (0 < model.num_experts_per_tok <= model.num_experts and model.moe_intermediate_size):
        raise InputError(
            f"{where}: {model.num_experts} experts need num_experts_per_tok from 1 to {model.num_experts} "
            f"and a moe_intermediate_size"
        )
    layers = model.num_hidden_layers
    if model.num_windowed_layers > layers or model.first_dense_layers > layers:
        raise InputError(f"{where}: num_windowed_layers and first_dense_layers must be at most its {layers} layers")
    if bool(model.sliding_window) != bool(model.num_windowed_layers):
        raise InputError(f"{where}: sliding_window and num_windowed_layers go together; give both or neither")
    return model


def check_gpu(gpu: Gpu) -> Gpu:
    """The GPU itself.

    Raises:
        InputError: a number is out of its bounds or contradicts another.

    """
    _check(gpu, GPU, gpu.name)
    if gpu.topology in ("nvswitch", "mesh", "pairs") and not gpu.nvlink_gbps:
        raise InputError(f"{gpu.name}: topology {gpu.topology!r} needs nvlink_gbps above 0; without links it is 'pcie'")
    return gpu


def _check(thing: object, bounds: Mapping[str, tuple[float, float]], where: str) -> None:
    for name, (least, most) in bounds.items():
        value = getattr(thing, name)
        if not least <= value <= most:
            raise InputError(f"{where}: {name} is {value!r:.40}; it must be from {least} to {most}")
