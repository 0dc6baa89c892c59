"""Encoders of images and sound beside a language model: their weights, from the fields of their configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catalog.config_fields import Fields

WIDTH = ("vt_hidden_size", "hidden_size", "embed_dim", "d_model", "width")
MLP = ("vt_intermediate_size", "intermediate_size", "encoder_ffn_dim")
LAYERS = ("vt_num_hidden_layers", "num_hidden_layers", "depth", "encoder_layers", "layers")
GATED = frozenset({"silu", "swiglu"})
MOST_LAYERS = 1000


def tower_parameters(c: Fields, hidden: int) -> int:
    """Count the weights of the encoders that ``c`` names, projections to the language model's ``hidden`` included.

    A transformer with biases (arXiv 2010.11929), gated where its activation is; what merges patches is two products.
    Publishers' details vary: within a tenth of such a tower.
    """
    total = 0
    for name in ("vision_config", "audio_config", "vit_config"):
        tower = c.maybe_part(name)
        if tower is not None and any(tower.has(spelling) for spelling in LAYERS):
            total += _tower(tower, hidden)
    return total


def _tower(t: Fields, hidden: int) -> int:
    if (widths := t.list_of("hidden_sizes")) is not None and (depths := t.list_of("depths")) is not None:
        # a ConvNeXt (arXiv 2201.03545): per block a depthwise convolution and two products, four times as wide
        blocks = sum(depth * 8 * width * width for depth, width in zip(depths[:MOST_LAYERS], widths, strict=False))
        return blocks + widths[-1] * t.size("out_hidden_size", default=hidden)
    width = t.size(*WIDTH)
    mlp = t.size(*MLP, default=4 * width)
    layers = t.size(*LAYERS, most=MOST_LAYERS)
    gated = t.text("hidden_act", "hidden_activation", default="gelu") in GATED
    patch, image = t.first("patch_size", default=14), t.first("image_size", default=0)
    frames = t.size("temporal_patch_size", "patch_temporal", default=1)
    channels = t.size("in_channels", "num_channels", "in_chans", default=3)
    positions = t.whole("num_position_embeddings", "position_embedding_size", default=(image // max(patch, 1)) ** 2)
    layer = 4 * (width * width + width) + (3 if gated else 2) * width * mlp + mlp + width + 4 * width
    merge = t.first("spatial_merge_size", "merge_size", "merge_kernel_size", default=1) ** 2 * width
    out = t.size("out_hidden_size", default=hidden)
    mergers = 1 + len(t.wholes("deepstack_visual_indexes") or [])
    projection = mergers * (merge * merge + merge + merge * out + out)
    return channels * frames * patch * patch * width + positions * width + layers * layer + projection
