"""A Hugging Face ``config.json`` as a ``Model``. The file is data from strangers: bounded, and never run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.bounds import check_model
from catalog.config_fields import Fields
from catalog.errors import InputError
from catalog.models.architectures import READERS
from catalog.names import suggestion
from catalog.schema import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_BYTES = 1_000_000
METHODS = "fp8, fbgemm_fp8, awq, gptq, mxfp4, compressed-tensors, modelopt and bitsandbytes"


def read_config(path: str | Path, *, name: str = "") -> Model:
    """The model that a ``config.json``, or a folder with one, describes; called ``name``, or after its folder.

    Raises:
        InputError: it cannot be read, is not JSON, or describes no model that is known and possible.

    """
    path = Path(path)
    try:
        file = path / "config.json" if path.is_dir() else path
        if path.is_dir() and not file.is_file():
            raise InputError(f"{path} has no config.json; give a model's folder or its config.json")
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    folder = str(file.parent) if file.name == "config.json" else str(file)
    return parse_config(data, name=name or folder, where=str(file))


def parse_config(data: bytes, *, name: str, where: str = "config.json") -> Model:
    """The model that the bytes of a ``config.json`` describe; nothing in them is run.

    Args:
        data: the file, at most 1 MB of it.
        name: what the model is called: a Hugging Face id, or the folder that an engine would find it in.
        where: how messages call the file.

    Raises:
        InputError: it is too large, is not JSON, or describes no model that is known and possible.

    """
    if len(data) > MOST_BYTES:
        raise InputError(f"{where} is larger than 1 MB; a model's config.json has a few kB")
    return model_from_config(_parsed(data, where), name, where=where)


def model_from_config(config: Mapping[str, Any], name: str, *, where: str = "config.json") -> Model:
    """The model that a parsed configuration describes.

    Raises:
        InputError: an unknown ``model_type``, a size that is missing or impossible, an unknown quantisation.

    """
    fields = Fields(config, where)
    kind = fields.text("model_type")
    if kind not in READERS:
        hint = suggestion(kind[:100], READERS, otherwise="none is close")
        known = ", ".join(sorted(READERS))
        raise InputError(f"{where}: model_type {kind[:100]!r} is not known; {hint}; known: {known}")
    read = READERS[kind](fields)
    values = {"dtype": _dtype(fields), "quantization": _quantization(fields), **read}
    return check_model(Model(name=name, model_type=kind, source=where, **values))


def _parsed(data: bytes, where: str) -> dict[str, Any]:
    try:
        config = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(config, dict):
        raise InputError(f"{where} holds no JSON object; a config.json starts with a brace")
    return config


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("a key stands there twice")
    return unique


def _dtype(fields: Fields) -> str:
    """What unquantised weights are stored in; nested models say it in either place, and without a word it is float32."""
    text = fields.maybe_part("text_config")
    for part in (fields, *([text] if text else [])):
        for key in ("dtype", "torch_dtype"):
            if part.has(key):
                return part.text(key).removeprefix("torch.")
    return "float32"


def _quantization(fields: Fields) -> str | None:
    """The weight format, from ``quantization_config`` (older exports of compressed-tensors: ``compression_config``)."""
    text = fields.maybe_part("text_config")
    for part in (fields, *([text] if text else [])):
        for key in ("quantization_config", "compression_config"):
            quantization = part.maybe_part(key)
            if quantization is not None:
                return _format(quantization)
    return None


def _format(quantization: Fields) -> str | None:
    method = quantization.text("quant_method")
    if method in ("fp8", "fbgemm_fp8"):
        return "fp8"
    if method == "mxfp4":
        return "mxfp4"
    if method in ("awq", "gptq"):
        return quantization.integer_format("bits")
    if method == "bitsandbytes":
        if quantization.flag("load_in_4bit", default=False):
            return "int4"
        return "int8" if quantization.flag("load_in_8bit", default=False) else None
    if method == "modelopt":
        algorithms = {"FP8": "fp8", "NVFP4": "nvfp4"}
        algorithm = quantization.text("quant_algo")
        if algorithm in algorithms:
            return algorithms[algorithm]
        raise quantization.error(f"quant_algo {algorithm[:50]!r} is not known; known: {', '.join(algorithms)}")
    if method == "compressed-tensors":
        return _compressed(quantization)
    raise quantization.error(f"quant_method {method[:50]!r} is not known; known: {METHODS}")


def _compressed(quantization: Fields) -> str | None:
    groups = quantization.maybe_part("config_groups")
    if groups is None:
        raise quantization.error("config_groups is missing")
    formats = set()
    for name in groups.names():
        weights = groups.part(name).maybe_part("weights")
        if weights is None:
            continue
        if weights.text("type", default="int") == "int":
            formats.add(weights.integer_format("num_bits"))
            continue
        bits = weights.whole("num_bits")
        if bits not in (4, 8):
            raise weights.error(f"floats of {bits} bits are not known; known: 4 and 8")
        small = "mxfp4" if weights.whole("group_size", default=16) == 32 else "nvfp4"
        formats.add("fp8" if bits == 8 else small)
    if len(formats) > 1:
        raise quantization.error(f"weights in several formats ({', '.join(sorted(formats))}) are not modelled")
    return formats.pop() if formats else None
