"""Models in llama.cpp's GGUF files: the configuration that a file's metadata comes to, and the format of each part by its tensors."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from catalog.bounds import check_model
from catalog.errors import InputError
from catalog.models.gguf_header import Header, Tensor, read_header
from catalog.models.hf_config import model_from_config
from catalog.models.quantization import NARROW_BITS
from catalog.schema import BITS

if TYPE_CHECKING:
    from pathlib import Path

    from catalog.schema import Model

TYPES = {
    "llama": "llama",
    "llama4": "llama4_text",
    "mistral3": "mistral",
    "qwen2": "qwen2",
    "qwen2vl": "qwen2",
    "qwen2moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3vl": "qwen3",
    "qwen3moe": "qwen3_moe",
    "qwen3vlmoe": "qwen3_moe",
    "qwen3next": "qwen3_next",
    "qwen35": "qwen3_5_text",
    "qwen35moe": "qwen3_5_moe_text",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi2": "phi",
    "phi3": "phi3",
    "phimoe": "phimoe",
    "deepseek": "deepseek",
    "deepseek2": "deepseek_v2",
    "glm4": "glm4",
    "glm4moe": "glm4_moe",
    "gpt-oss": "gpt_oss",
    "command-r": "cohere",
    "cohere2": "cohere2",
    "granite": "granite",
    "granitemoe": "granitemoe",
    "granitehybrid": "granitemoehybrid",
    "falcon-h1": "falcon_h1",
    "exaone": "exaone",
    "exaone4": "exaone4",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "minicpm": "minicpm",
    "minicpm3": "minicpm3",
    "internlm2": "internlm2",
    "starcoder2": "starcoder2",
    "stablelm": "stablelm",
    "smollm3": "smollm3",
    "seed_oss": "seed_oss",
    "ernie4_5": "ernie4_5",
    "ernie4_5-moe": "ernie4_5_moe",
    "hunyuan-dense": "hunyuan_v1_dense",
    "hunyuan-moe": "hunyuan_v1_moe",
    "minimax-m2": "minimax_m2",
    "bailingmoe": "bailing_moe",
    "bailingmoe2": "bailing_moe_v2",
    "nemotron": "nemotron",
    "arcee": "arcee",
    "apertus": "apertus",
    "dots1": "dots1",
}
"""``model_type`` by llama.cpp's name of an architecture (gguf-py/gguf/constants.py ``MODEL_ARCH_NAMES``); others are read by
their parts."""
FIELDS = {
    "hidden_size": "embedding_length",
    "max_position_embeddings": "context_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "sliding_window": "attention.sliding_window",
    "num_experts": "expert_count",
    "num_local_experts": "expert_count",
    "n_routed_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "n_shared_experts": "expert_shared_count",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "first_k_dense_replace": "leading_dense_block_count",
    "interleave_moe_layer_step": "interleave_moe_layer_step",
    "full_attention_interval": "full_attention_interval",
    "q_lora_rank": "attention.q_lora_rank",
    "kv_lora_rank": "attention.kv_lora_rank",
    "v_head_dim": "attention.value_length_mla",
    "qk_rope_head_dim": "rope.dimension_count",
    "num_nextn_predict_layers": "nextn_predict_layers",
}
"""Metadata behind the architecture's name, by the field of a ``config.json`` that says the same."""
LATENT_ONLY = ("v_head_dim", "qk_rope_head_dim")
PARTS = (
    (r"^output\.weight$", "head"),
    (r"^(token_embd|per_layer_token_embd)\.", "embedding"),
    (r"ffn_\w+_shexp", "shared"),
    (r"ffn_\w+_exps", "experts"),
    (r"ffn_(gate|up|down)\.", "dense"),
    (r"attn_|ssm_|shortconv", "attention"),
)
"""Which part of a model a tensor belongs to, by its name (gguf-py/gguf/constants.py ``TENSOR_NAMES``); the first that matches."""
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
MOST_FILES = 1000
WIDEST_EIGHT_BIT = 12.0


def read_gguf(file: Path) -> Model:
    """Return the model of a GGUF file; of one in several pieces, all that lie beside it count.

    Raises:
        InputError: it is no such file, or its metadata describes no model that is known and possible.

    """
    headers = [read_header(piece) for piece in _pieces(file)]
    first = headers[0]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    config = _config(Header(metadata=first.metadata, tensors=tensors), str(file))
    model = model_from_config(config, str(file), where=str(file))
    layers = model.num_hidden_layers
    held = [tensor for tensor in tensors if (number := _layer(tensor)) is None or number < layers]
    return check_model(_with_formats(model, held))


def _pieces(file: Path) -> list[Path]:
    """List the files that a model is split into, the first first."""
    split = SPLIT.search(file.name)
    if split is None:
        return [file]
    count = int(split[2])
    if not 0 < count <= MOST_FILES:
        raise InputError(f"{file} would be one of {count} files; {MOST_FILES} are read at the most")
    stem = file.name[: split.start()]
    pieces = [file.with_name(f"{stem}-{number + 1:05d}-of-{count:05d}{file.suffix}") for number in range(count)]
    missing = next((piece for piece in pieces if not piece.is_file()), None)
    if missing is not None:
        raise InputError(f"{missing} is missing; all {count} files of the model must lie side by side")
    return pieces


def _config(header: Header, where: str) -> dict[str, Any]:
    """Return the fields of a ``config.json`` that a file's metadata and tensors say."""
    known = header.metadata
    arch = known.get("general.architecture")
    if not isinstance(arch, str):
        raise InputError(f"{where} says no general.architecture; it must be a model of llama.cpp")
    names = {tensor.name for tensor in header.tensors}
    config = {field: known[key] for field, name in FIELDS.items() if (key := f"{arch}.{name}") in known}
    if "kv_lora_rank" in config:
        config |= _latent(config, known, arch)
    else:
        config = {field: value for field, value in config.items() if field not in LATENT_ONLY}
    table = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    if table is None or len(table.shape) != 2:
        raise InputError(f"{where} holds no token_embd.weight; it must be a whole model")
    config |= {
        "vocab_size": table.shape[1],
        "num_hidden_layers": known.get(f"{arch}.block_count", 0) - config.get("num_nextn_predict_layers", 0),
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": "blk.0.attn_q.bias" in names,
        "use_qk_norm": "blk.0.attn_q_norm.weight" in names,
        "dtype": "float16",
        "model_type": TYPES.get(arch, arch.replace("-", "_")[:60]),
    }
    routed = config.get("num_experts")
    if routed and arch == "llama":
        config |= {"model_type": "mixtral"}
    if (
        routed
        and "blk.0.exp_probs_b.bias" in {re.sub(r"\d+", "0", name, count=1) for name in names}
        and arch == "deepseek2"
    ):
        config |= {"model_type": "deepseek_v3"}
    if arch == "llama4":
        config |= {"intermediate_size_mlp": config.get("intermediate_size")}
    if routed and arch in ("llama4", "gpt-oss", "granitemoe", "granitehybrid", "minimax-m2"):
        config |= {"intermediate_size": config.get("moe_intermediate_size", config.get("intermediate_size"))}
    return config | _patterns(config, where)


def _latent(config: dict[str, Any], known: dict[str, Any], arch: str) -> dict[str, Any]:
    """Return the widths of multi-head latent attention, whose cached head llama.cpp counts as one of keys."""
    rope = config.get("qk_rope_head_dim", 64)
    whole = known.get(f"{arch}.attention.key_length_mla", known.get(f"{arch}.attention.key_length", 128 + rope))
    value = known.get(f"{arch}.attention.value_length_mla", known.get(f"{arch}.attention.value_length", 128))
    heads = config.get("num_attention_heads")
    return {"qk_nope_head_dim": whole - rope, "v_head_dim": value, "head_dim": None, "num_key_value_heads": heads}


def _patterns(config: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the fields that a list of one number a layer comes to: kinds of layers, and the number of those that have one."""
    changed: dict[str, Any] = {}
    for field, value in config.items():
        if not isinstance(value, list):
            continue
        numbers = {number for number in value if number}
        if len(numbers) != 1:
            raise InputError(f"{where}: {field} differs from layer to layer, which is not read; give its config.json")
        changed[field] = numbers.pop()
        if field == "num_key_value_heads" and 0 in value:
            changed["layer_types"] = ["full_attention" if number else "linear_attention" for number in value]
    return changed


def _layer(tensor: Tensor) -> int | None:
    number = re.match(r"blk\.(\d{1,5})\.", tensor.name)
    return int(number[1]) if number else None


def _with_formats(model: Model, tensors: list[Tensor]) -> Model:
    """Return the model with the format of each part, and the size of all tensors."""
    size, numbers, kinds = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for tensor in tensors:
        part = next((part for pattern, part in PARTS if re.search(pattern, tensor.name)), "")
        if part and len(tensor.shape) > 1:
            size[part] += tensor.size
            numbers[part] += tensor.numbers
            kinds[part, tensor.kind] += tensor.size
    bits = {part: 8.0 * size[part] / numbers[part] for part in size if numbers[part]}
    formats = {part: _format(bits[part], {kind for p, kind in kinds if p == part}) for part in bits}
    layers = {part: size[part] for part in formats if part not in ("head", "embedding")}
    if not layers:
        raise InputError(f"{model.name} holds no layers; it must be a whole model")
    total = sum(tensor.size for tensor in tensors)
    most = max(layers, key=lambda part: layers[part])
    form = formats[most]
    if BITS[form] >= 16:
        return replace(model, dtype=form, checkpoint_bytes=total)
    same = [part for part in layers if formats[part] == form]
    mean = 8.0 * sum(size[part] for part in same) / sum(numbers[part] for part in same)
    others = {part: other for part, other in formats.items() if other != form or part not in layers}
    others = {part: model.dtype if BITS[other] >= 16 else other for part, other in others.items()}
    return replace(
        model,
        quantization=form,
        formats=tuple(sorted(others.items())),
        part_bits=tuple(sorted((part, bits[part]) for part in others)),
        scale_bits=mean - BITS[form],
        checkpoint_bytes=total,
    )


def _format(bits: float, kinds: set[str]) -> str:
    """Return the format, a key of ``BITS``, of a part with so many bits a number."""
    if kinds == {"MXFP4"}:
        return "mxfp4"
    if bits <= NARROW_BITS:
        return "int4"
    if bits <= WIDEST_EIGHT_BIT:
        return "int8"
    return "float32" if kinds == {"F32"} else "bfloat16" if "BF16" in kinds else "float16"
