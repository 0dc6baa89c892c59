"""The encoder of images beside a language model: its layers, and how many patches and tokens an image is.

The rules are those of the processors in transformers (v5, src/transformers/models): ``smart_resize`` in
qwen2_vl/image_processing_qwen2_vl.py, gemma3/processing_gemma3.py, llava/processing_llava.py, pixtral/image_processing_pixtral.py and
processing_pixtral.py, llama4/image_processing_llama4_fast.py (``get_best_fit``, ``find_supported_resolutions``) and processing_llama4.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from catalog.errors import InputError

Width = Annotated[int, Interval(ge=1, le=10**6)]
Number = Annotated[int, Interval(ge=0, le=10**9)]
MOST_SIDE = 100_000
"""Pixels of a side of an image."""
MOST_IMAGES = 10_000
"""In one prompt."""
MOST_ASPECT = 200
"""Ratio of the sides above which Qwen's processors refuse an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """One image of some size as an encoder takes it and a prompt holds it."""

    tokens: int
    """Of the prompt; breaks between rows or tiles included, marks before and behind the image not."""
    patches: int
    """That pass the encoder."""
    pairs: float
    """Pairs of patches that attend to each other in a full layer; those of a tile see only their tile,"""
    windowed_pairs: float
    """and in a windowed one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEncoder:
    """A transformer over patches of an image, and what makes tokens of the patches (arXiv 2010.11929)."""

    rule: Literal["resized", "fixed", "rows", "tiles"]
    """How the size of an image decides its tokens: rounded to whole merged patches within limits of its pixels (Qwen-VL); brought to one
    size (Gemma 3, LLaVA); the same within a longest side, with a break behind each row (Pixtral); or cut into tiles (Llama 4)."""
    hidden_size: Width
    layers: Annotated[int, Interval(ge=1, le=1000)]
    intermediate_size: Width
    gated: bool = False
    patch_size: Width
    patch_numbers: Width
    """Of a patch: its pixels, times colours and frames."""
    merge: Annotated[int, Interval(ge=1, le=64)] = 1
    """Side of the square of patches that become one token."""
    image_size: Number = 0
    """Side that an image, or a tile, is brought to, or its longest; 0: none."""
    image_tokens: Number = 0
    """Of an image or a tile that is brought to one size."""
    least_pixels: Number = 0
    most_pixels: Number = 0
    tiles: Annotated[int, Interval(ge=1, le=1024)] = 1
    """At most, the small copy of the whole image not among them."""
    full_layers: Annotated[int, Interval(ge=0, le=1000)] | None = None
    """Whose patches see the whole image, where others see a window of it; None: all."""
    window_patches: Number = 0
    """Of such a window."""
    projections: tuple[tuple[Width, Width], ...] = ()
    """Matrices, rows and columns, that each token passes behind the layers."""

    @property
    def whole_layers(self) -> int:
        return self.layers if self.full_layers is None else self.full_layers

    @property
    def most_tokens(self) -> int:
        """Return the tokens of the largest image."""
        side = math.isqrt(self.most_pixels) if self.rule == "resized" else self.image_size * self.tiles
        return self.encode(side, side).tokens

    def encode(self, width: int, height: int) -> EncodedImage:
        """Return an image of so many pixels as it is encoded.

        Raises:
            InputError: no image can have such sides.

        """
        for side in (width, height):
            if not 1 <= side <= MOST_SIDE:
                raise InputError(f"an image has a side of {side} pixels; it must have from 1 to {MOST_SIDE}")
        if max(width, height) > MOST_ASPECT * min(width, height):
            raise InputError(f"an image of {width}x{height} is more than {MOST_ASPECT} times as long as it is wide")
        if self.rule == "resized":
            rows, columns = self._resized(height, width)
            return self._encoded(rows * columns, rows * columns * self.merge**2)
        if self.rule == "rows":
            rows, columns = self._rows(height, width)
            return self._encoded(rows * (columns + 1), rows * columns * self.merge**2)
        side = self.image_size // self.patch_size
        if self.rule == "fixed":
            return self._encoded(self.image_tokens, side**2)
        down, across = self._tiles(height, width)
        number = down * across + (1 if down * across > 1 else 0)
        breaks = down * across if number > 1 else 0  # one behind each tile, of its row or of the next
        return self._encoded(number * self.image_tokens + breaks, number * side**2, apart=number)

    def _encoded(self, tokens: int, patches: int, apart: int = 1) -> EncodedImage:
        pairs = float(patches) * patches / apart
        window = float(patches) * min(self.window_patches, patches) if self.window_patches else pairs
        return EncodedImage(tokens=tokens, patches=patches, pairs=pairs, windowed_pairs=window)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of merged patches, as ``smart_resize`` does."""
        unit = self.patch_size * self.merge
        sides = [max(round(side / unit), 1) for side in (height, width)]
        pixels = sides[0] * sides[1] * unit**2
        if self.most_pixels and pixels > self.most_pixels:
            shrink = math.sqrt(height * width / self.most_pixels)
            sides = [max(math.floor(side / shrink / unit), 1) for side in (height, width)]
        elif pixels < self.least_pixels:
            grow = math.sqrt(self.least_pixels / (height * width))
            sides = [math.ceil(side * grow / unit) for side in (height, width)]
        return sides[0], sides[1]

    def _rows(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of merged patches of an image whose longest side is limited."""
        unit, ratio = self.patch_size * self.merge, max(height, width) / self.image_size
        sides = [math.floor(side / ratio) if ratio > 1 else side for side in (height, width)]
        return max((sides[0] - 1) // unit + 1, 1), max((sides[1] - 1) // unit + 1, 1)

    def _tiles(self, height: int, width: int) -> tuple[int, int]:
        """Return tiles down and across: those that enlarge an image least, or else shrink it least; of equals the fewest."""
        grids = [(down, across) for down in range(1, self.tiles + 1) for across in range(1, self.tiles // down + 1)]
        scales = [min(down * self.image_size / height, across * self.image_size / width) for down, across in grids]
        larger = [scale for scale in scales if scale >= 1]
        chosen = min(larger) if larger else max(scales)
        return min((grid for grid, scale in zip(grids, scales, strict=True) if scale == chosen), key=math.prod)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptImages:
    """The images of every prompt of a workload."""

    number: Annotated[int, Interval(ge=1, le=MOST_IMAGES)]
    """Of one prompt."""
    width: int
    height: int
    """Pixels."""
    prompt_len: int
    """Tokens of a prompt, those of its images among them."""
    image: EncodedImage

    @property
    def tokens(self) -> int:
        """Return the tokens of a prompt that are of images."""
        return self.number * self.image.tokens

    def per_token(self, amount: float) -> float:
        """Return an amount of one image as that of a mean token of a prompt."""
        return self.number * amount / self.prompt_len
