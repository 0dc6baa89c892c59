"""A Hugging Face ``config.json`` as a ``Model``. The file is data from strangers: bounded, and never run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.bounds import check_model
from catalog.config_fields import Fields
from catalog.errors import InputError
from catalog.models.architectures import READERS
from catalog.models.by_parts import predictor_parameters, read_by_parts
from catalog.models.checkpoint import CheckpointSize, read_checkpoint
from catalog.models.families import ALIASES, FAMILIES, Family
from catalog.models.image_encoders import read_image_encoder
from catalog.models.json_file import parse_json, read_bytes
from catalog.models.quantization import PLAIN, Formats, read_formats
from catalog.models.rotary import read_rotary
from catalog.models.stack import stack
from catalog.models.towers import tower_parameters
from catalog.names import squash
from catalog.schema import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

WRAPPED = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where configurations of models with other inputs keep that of the language model."""
VERSION = re.compile(r"\d+")
SHORTEST_FAMILY = 5
"""Letters from which on a type that begins like a family is taken for one of it."""


def read_config(path: str | Path, *, name: str = "") -> Model:
    """Return the model that a ``config.json``, or a folder with one, describes; called ``name``, or after its folder.

    Formats that ``hf_quant_config.json`` beside it states count, too, and the size that safetensors files or their index
    state is the weights'.

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
    if file.name != "config.json":
        return model
    checkpoint = read_checkpoint(file.parent, layers=model.num_hidden_layers, tied=model.tie_word_embeddings)
    return with_checkpoint(model, checkpoint)


def with_checkpoint(model: Model, checkpoint: CheckpointSize | None) -> Model:
    """Return the model with the size that its files state.

    Where most of it is in 8-bit floats and the configuration says no word of it, that is its format.
    """
    if checkpoint is None:
        return model
    most = checkpoint.by_dtype[0][0] if checkpoint.by_dtype else ""
    if model.quantization is None and most.startswith("F8_E"):
        note = f"its weights are stored in {most}, which its configuration does not say"
        model = replace(model, quantization="fp8", reading=model.reading or note)
    return replace(model, checkpoint_bytes=checkpoint.total)


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
    around, inner = outer, outer
    if kind not in READERS:
        around, inner = _language_model(outer)
    read, reading = _read(inner, kind)
    hidden = int(read["hidden_size"])
    if "encoder_parameters" not in read and inner is not outer:
        read["encoder_parameters"] = tower_parameters(outer, hidden)
    read["image_encoder"] = read_image_encoder(outer, hidden)
    # the head belongs to what is around the decoder, so that one says whether it is tied
    read["tie_word_embeddings"] = around.flag("tie_word_embeddings", default=read["tie_word_embeddings"])
    kind = kind or inner.text("model_type", default="unknown")
    model = check_model(
        Model(name=name, model_type=kind, source=where, dtype=_dtype(outer, inner), reading=reading, **read)
    )
    formats = _formats(outer, inner, model, beside)
    language = _language_model(outer)[1]
    heads = predictor_parameters(language, stack(model), model.hidden_size)
    model = replace(model, rotary_numbers=read_rotary(language, model), mtp_parameters=heads)
    return replace(_with_formats(model, formats), block_scales=any(map(_block_scales, (outer, inner))))


def _read(c: Fields, outer_kind: str) -> tuple[dict[str, Any], str]:
    """Return the fields of ``Model``, and how they were read where the type is not known."""
    kind = c.text("model_type", default="")
    for spelling in (kind, outer_kind):
        name = ALIASES.get(spelling, spelling)
        if name in READERS:
            return READERS[name](c), ""
        family = FAMILIES.get(name)
        if family is not None:
            return read_by_parts(c, family), f"{spelling} is read like {family.like}" if family.like else ""
    kind = kind or outer_kind
    near = _relative(kind[:100])
    like = f"; nearest family: {near}" if near else ""
    what = f"model_type {kind[:60]!r} is not known" if kind else "model_type is missing"
    reading = f"{what}, so it is read by the parts that its fields name{like}"
    return read_by_parts(c, FAMILIES.get(near, Family())), reading


def _language_model(c: Fields) -> tuple[Fields, Fields]:
    """Return the configuration of the language model within one with encoders, behind what is directly around it."""
    around = c
    for _ in range(3):
        inner = next((part for name in WRAPPED if (part := c.maybe_object(name)) is not None), None)
        if inner is None:
            break
        around, c = c, inner
    return around, c


def _relative(kind: str) -> str:
    """Return the family that a type whose name nobody knows is another version of, or ""."""
    bare = VERSION.sub("", squash(kind))
    known = {squash(family): family for family in FAMILIES}
    alike = {name: family for name, family in known.items() if VERSION.sub("", name) == bare}
    begun = {
        name: family for name, family in known.items() if len(name) >= SHORTEST_FAMILY and squash(kind).startswith(name)
    }
    near = alike or begun
    return near[max(near, key=lambda name: (len(name), name))] if near else ""


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
