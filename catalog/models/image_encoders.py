"""Image encoders read from configurations; of models whose catalog entry holds none, from ``catalog/data/image_encoders.toml``."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from catalog.config_fields import Fields
from catalog.errors import InputError
from catalog.image_encoder import MOST_IMAGES, ImageEncoder, PromptImages
from catalog.schema import require_positive
from catalog.tables import DATA, read_toml

if TYPE_CHECKING:
    from collections.abc import Callable

    from catalog.schema import Model

MOST_LAYERS = 1000
QWEN2_PIXELS, QWEN3_PIXELS = (56 * 56, 14 * 14 * 4 * 16384), (256 * 256, 4096 * 4096)
"""Least and most pixels of an image: preprocessor_config.json of Qwen/Qwen2.5-VL-7B-Instruct and of Qwen/Qwen3-VL-8B-Instruct."""
LLAMA4_TILES = 16
"""Of an image: ``max_patches`` in preprocessor_config.json of meta-llama/Llama-4-Scout-17B-16E-Instruct."""


def read_image_encoder(outer: Fields, hidden: int) -> ImageEncoder | None:
    """Return the image encoder that a configuration describes, None where it has none of a kind that is known.

    Args:
        outer: the whole configuration.
        hidden: width of the language model.

    """
    vision = outer.maybe_part("vision_config")
    kind = outer.text("model_type", default="")
    read = READERS.get(kind)
    if vision is None or read is None:
        return None
    if kind == "llava" and vision.text("model_type", default="") == "pixtral":
        read = _pixtral
    values = read(outer, vision, hidden)
    return None if values is None else ImageEncoder(**_common(vision) | values)


def _common(v: Fields) -> dict[str, Any]:
    patch = v.size("patch_size", default=14)
    colours = v.size("in_channels", "in_chans", "num_channels", default=3)
    return {
        "hidden_size": v.size("hidden_size"),
        "layers": v.size("depth", "num_hidden_layers", most=MOST_LAYERS),
        "intermediate_size": v.size("intermediate_size"),
        "patch_size": patch,
        "patch_numbers": patch**2 * colours * v.size("temporal_patch_size", default=1),
    }


def _qwen_vl(outer: Fields, v: Fields, hidden: int) -> dict[str, Any]:
    width, merge = v.size("hidden_size"), v.size("spatial_merge_size", default=2)
    mergers = 1 + len(v.wholes("deepstack_visual_indexes") or [])
    full = v.wholes("fullatt_block_indexes")
    window = v.whole("window_size", default=0) // v.size("patch_size", default=14)
    joined, out = merge**2 * width, v.size("out_hidden_size", default=hidden)
    least, most = QWEN3_PIXELS if outer.text("model_type").startswith("qwen3") else QWEN2_PIXELS
    return {
        "rule": "resized",
        "gated": v.text("hidden_act", default="gelu") == "silu",
        "merge": merge,
        "least_pixels": least,
        "most_pixels": most,
        "full_layers": len(full) if full is not None and window else None,
        "window_patches": window**2 if full is not None else 0,
        "projections": ((joined, joined), (joined, out)) * mergers,
    }


def _gemma3(outer: Fields, v: Fields, hidden: int) -> dict[str, Any]:
    return {
        "rule": "fixed",
        "image_size": v.size("image_size", default=896),
        "image_tokens": outer.size("mm_tokens_per_image", default=256),
        "projections": ((v.size("hidden_size"), hidden),),
    }


def _llava(outer: Fields, v: Fields, hidden: int) -> dict[str, Any]:
    width, image = v.size("hidden_size"), v.size("image_size", default=336)
    side = image // v.size("patch_size", default=14)
    beside = int(outer.text("vision_feature_select_strategy", default="default") == "full")  # CLIP's class token
    has_class = v.text("model_type", default="clip_vision_model").startswith("clip")
    return {
        "rule": "fixed",
        "image_size": image,
        "image_tokens": side**2 + beside * has_class,
        "projections": ((width, hidden), (hidden, hidden)),
    }


def _pixtral(outer: Fields, v: Fields, hidden: int) -> dict[str, Any]:
    width, merge = v.size("hidden_size"), outer.size("spatial_merge_size", default=1)
    merger = ((merge**2 * width, width),) if merge > 1 else ()
    return {
        "rule": "rows",
        "gated": True,
        "merge": merge,
        "image_size": v.size("image_size", default=1024),
        "projections": (*merger, (width, hidden), (hidden, hidden)),
    }


def _llama4(_: Fields, v: Fields, hidden: int) -> dict[str, Any]:
    image, patch = v.size("image_size", default=336), v.size("patch_size", default=14)
    inner, between = v.size("projector_input_dim", default=4096), v.size("projector_output_dim", default=4096)
    return {
        "rule": "tiles",
        "image_size": image,
        "image_tokens": (image // patch) ** 2 // 4,  # pixel_shuffle_ratio 0.5
        "tiles": LLAMA4_TILES,
        "projections": (
            (v.size("intermediate_size"), inner),
            (inner, between),
            (v.size("vision_output_dim", default=4096), hidden),
        ),
    }


READERS: dict[str, Callable[[Fields, Fields, int], dict[str, Any]]] = {
    "qwen2_5_vl": _qwen_vl,
    "qwen3_vl": _qwen_vl,
    "qwen3_vl_moe": _qwen_vl,
    "gemma3": _gemma3,
    "llava": _llava,
    "mistral3": _pixtral,
    "llama4": _llama4,
}
"""By the ``model_type`` of the whole configuration."""


@cache
def _tabulated() -> dict[str, Fields]:
    """Return the configurations of encoders by the model's name."""
    rows = read_toml(DATA / "image_encoders.toml")["encoders"]
    return {name: Fields(row, f"image_encoders.toml: {name}") for row in rows for name in row["models"]}


def with_images(model: Model, number: int, size: tuple[int, int], text_len: int) -> Model:
    """Return the model asked about prompts of ``text_len`` tokens of text and so many images, each ``size`` pixels high and wide.

    Raises:
        InputError: it takes no images, or none of such a size, or how many tokens one is is not known.

    """
    require_positive("images", number, most=MOST_IMAGES)
    encoder = encoder_of(model)
    if encoder is None:
        why = "how it cuts images into tokens is not known" if model.encoder_parameters else "it has no image encoder"
        raise InputError(
            f"{model.name} cannot be asked about images: {why}; kinds that are known: {', '.join(READERS)}, such as qwen2.5-vl-7b"
        )
    height, width = size
    image = encoder.encode(width, height)
    prompt = text_len + number * image.tokens
    return replace(
        model, images=PromptImages(number=number, width=width, height=height, prompt_len=prompt, image=image)
    )


def read_size(text: str) -> tuple[int, int]:
    """Return the height and the width of an image in pixels: "1024x768".

    Raises:
        InputError: it is no such text.

    """
    sides = re.fullmatch(r"(\d{1,6})\s*[xX]\s*(\d{1,6})", str(text).strip())
    if sides is None:
        raise InputError(f"image_size is {text!r:.40}; it must be HEIGHTxWIDTH in pixels, such as 1024x768")
    return int(sides[1]), int(sides[2])


def encoder_of(model: Model) -> ImageEncoder | None:
    """Return the image encoder of a model, None where none is known."""
    if model.image_encoder is not None:
        return model.image_encoder
    held = _tabulated().get(model.name)
    return None if held is None else read_image_encoder(held, model.hidden_size)
