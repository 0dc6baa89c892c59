"""A Hugging Face ``config.json`` as a ``Model``. The file is data from strangers: bounded, and never run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.bounds import check_model
from catalog.config_fields import Fields
from catalog.errors import InputError
from catalog.models.architectures import READERS
from catalog.models.by_parts import read_by_parts
from catalog.models.families import ALIASES, FAMILIES, Family
from catalog.models.quantization import PLAIN, Formats, read_formats
from catalog.models.stack import stack
from catalog.models.towers import tower_parameters
from catalog.names import closest, squash
from catalog.schema import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_BYTES = 32_000_000
WRAPPED = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where configurations of models with other inputs keep that of the language model."""
SAME = {
    "deepseek_vl_v2": "deepseek_v2",
    "glm4v_moe_text": "glm4_moe",
    "glm4v_text": "glm4",
    "glm_ocr_text": "glm4",
    "kimi_vl": "deepseek_v3",
    "llava": "llama",
    "llama4_unified": "llama4",
    "mistral3": "mistral",
    "ministral3": "mistral",
    "pixtral": "mistral",
    "qwen2_5_omni_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen3_omni_moe_text": "qwen3_moe",
    "qwen3_vl_moe_text": "qwen3_moe",
    "qwen3_vl_text": "qwen3",
    "solar": "llama",
    "voxtral": "llama",
    "yi": "llama",
    "aquila": "llama",
    "xverse": "llama",
    "decilm": "llama",
    "gemma3n": "gemma3n_text",
}
"""Types that are read as another, for their decoders are the same."""


def read_config(path: str | Path, *, name: str = "") -> Model:
    """Return the model that a ``config.json``, or a folder with one, describes; called ``name``, or after its folder.

    Formats that ``hf_quant_config.json`` beside it states count, too, and the size that ``model.safetensors.index.json``
    states is kept.

    Raises:
        InputError: it cannot be read, is not JSON, or describes no model that is known and possible.

    """
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise InputError(f"{path} has no config.json; give a model's folder or its config.json")
    data = read_bytes(file)
    folder = str(file.parent) if file.name == "config.json" else str(file)
    beside = file.with_name("hf_quant_config.json")
    stated = None
    if file.name == "config.json" and beside.is_file():
        stated = parse_json(read_bytes(beside), str(beside))
    model = parse_config(data, name=name or folder, where=str(file), beside=stated)
    index = file.with_name("model.safetensors.index.json")
    if file.name == "config.json" and index.is_file():
        metadata = Fields(parse_json(read_bytes(index), str(index)), str(index)).maybe_object("metadata")
        size = metadata.number("total_size", most=1e15) if metadata and metadata.has("total_size") else 0.0
        model = replace(model, checkpoint_bytes=int(size))
    return model


def read_bytes(file: Path) -> bytes:
    """Return a file's bytes, one more than are taken at the most.

    Raises:
        InputError: it cannot be read.

    """
    try:
        with file.open("rb") as opened:
            return opened.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error


def parse_config(
    data: bytes, *, name: str, where: str = "config.json", beside: Mapping[str, Any] | None = None
) -> Model:
    """Return the model that the bytes of a ``config.json`` describe; nothing in them is run.

    Args:
        data: the file, at most 32 MB of it.
        name: what the model is called: a Hugging Face id, or the folder that an engine would find it in.
        where: how messages call the file.
        beside: what ``hf_quant_config.json`` beside it holds.

    Raises:
        InputError: it is too large, is not JSON, or describes no model that is known and possible.

    """
    return model_from_config(parse_json(data, where), name, where=where, beside=beside)


def model_from_config(
    config: Mapping[str, Any], name: str, *, where: str = "config.json", beside: Mapping[str, Any] | None = None
) -> Model:
    """Return the model that a parsed configuration describes.

    A ``model_type`` that nobody knows is read by the parts that its fields name; ``Model.reading`` says so.

    Raises:
        InputError: a part that is missing, a size that is missing or impossible, an unknown quantisation.

    """
    outer = Fields(config, where)
    kind = outer.text("model_type", default="")
    inner = outer
    if kind not in READERS:
        inner = _language_model(outer)
    read, reading = _read(inner, kind)
    hidden = int(read["hidden_size"])
    if "encoder_parameters" not in read and inner is not outer:
        read["encoder_parameters"] = tower_parameters(outer, hidden)
    if inner is not outer and not inner.has("tie_word_embeddings") and outer.has("tie_word_embeddings"):
        read["tie_word_embeddings"] = outer.flag("tie_word_embeddings", default=False)
    kind = kind or inner.text("model_type", default="unknown")
    model = check_model(
        Model(name=name, model_type=kind, source=where, dtype=_dtype(outer, inner), reading=reading, **read)
    )
    formats = _formats(outer, inner, model, beside)
    return replace(_with_formats(model, formats), block_scales=any(map(_block_scales, (outer, inner))))


def _read(c: Fields, outer_kind: str) -> tuple[dict[str, Any], str]:
    """Return the fields of ``Model``, and how they were read where the type is not known."""
    kind = c.text("model_type", default="")
    for spelling in (kind, outer_kind):
        reader = READERS.get(SAME.get(spelling, spelling))
        if reader is not None:
            return reader(c), ""
        family = FAMILIES.get(ALIASES.get(spelling, spelling))
        if family is not None:
            return read_by_parts(c, family), f"{spelling} is read like {family.like}" if family.like else ""
    kind = kind or outer_kind
    known = {squash(spelling): spelling for spelling in FAMILIES} | {squash(spelling): spelling for spelling in READERS}
    near = closest(kind[:100], known, count=1) if kind else []
    values = read_by_parts(c, FAMILIES.get(near[0], Family()) if near else Family())
    like = f"; nearest family: {near[0]}" if near else ""
    what = f"model_type {kind[:60]!r} is not known" if kind else "model_type is missing"
    return values, f"{what}, so it is read by the parts that its fields name{like}"


def _language_model(c: Fields) -> Fields:
    """Return the configuration of the language model within one with encoders."""
    for _ in range(3):
        inner = next((part for name in WRAPPED if (part := c.maybe_object(name)) is not None), None)
        if inner is None:
            break
        c = inner
    return c


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """Return the object that JSON holds, as every loader takes it: Python's ``Infinity`` and ``NaN`` are numbers.

    Raises:
        InputError: it is too large, nested without end, or holds no object.

    """
    if len(data) > MOST_BYTES:
        raise InputError(f"{where} is larger than {MOST_BYTES // 10**6} MB; a model's config.json has a few kB")
    try:
        config = json.loads(data.decode("utf-8-sig"), parse_constant=_constant, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(config, dict):
        raise InputError(f"{where} holds no JSON object; a config.json starts with a brace")
    return config


def _constant(constant: str) -> float:
    return {"Infinity": math.inf, "-Infinity": -math.inf}.get(constant, math.nan)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("a key stands there twice")
    return unique


def _dtype(*parts: Fields) -> str:
    """Return what unquantised weights are stored in; nested models say it in either place, and without a word it is float32."""
    for part in parts:
        for key in ("dtype", "torch_dtype"):
            if part.has(key):
                return part.text(key).removeprefix("torch.")
    return "float32"


def _formats(outer: Fields, inner: Fields, model: Model, beside: Mapping[str, Any] | None) -> Formats:
    """Read the formats from wherever they stand (older exports of compressed-tensors: ``compression_config``)."""
    layers = stack(model)
    stated = None
    if beside is not None:
        quantization = beside.get("quantization", beside)
        stated = read_formats(
            Fields(quantization if isinstance(quantization, dict) else {}, "hf_quant_config.json"), layers
        )
    for part in (outer, inner):
        for key in ("quantization_config", "compression_config"):
            quantization = part.maybe_part(key)
            if quantization is not None and quantization.names():
                formats = read_formats(quantization.with_default("expert_dtype", part), layers)
                return replace(formats, kv_cache=formats.kv_cache or (stated.kv_cache if stated else None))
    return stated or Formats()


def _block_scales(fields: Fields) -> bool:
    """Return whether one scale is of a square block of weights (finegrained fp8 of DeepSeek-V3 and Qwen3)."""
    quantization = fields.maybe_part("quantization_config")
    return quantization is not None and quantization.has("weight_block_size")


def _with_formats(model: Model, formats: Formats) -> Model:
    parts = tuple((part, model.dtype if form == PLAIN else form) for part, form in formats.parts)
    return check_model(
        replace(
            model,
            quantization=formats.weights,
            formats=parts,
            scale_bits=formats.scale_bits,
            kv_quantization=formats.kv_cache,
        )
    )
