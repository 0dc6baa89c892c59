"""What an engine may be started with beside a layout and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from catalog.errors import InputError

DraftMethod = Literal["ngram", "eagle", "mtp", "draft"]
"""What drafts tokens: n-grams of the prompt, a head like EAGLE's, the model's own heads, or a model of its own."""
MOST_DRAFT_LEN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """LoRA adapters of one model, as they are asked for and as an engine is started with them."""

    number: Annotated[int, Interval(ge=1, le=100_000)]
    """Different ones that requests are of."""
    rank: Annotated[int, Interval(ge=1, le=512)] = 16
    max_loras: Annotated[int, Interval(ge=1, le=1024)] = 1
    """Slots on the GPUs: adapters in one batch."""
    max_cpu_loras: Annotated[int, Interval(ge=1, le=100_000)] | None = None
    """Adapters that stay in CPU memory; None: as many as have slots."""
    skew: Annotated[float, Interval(ge=0, le=10)] = 1.0
    """Exponent of Zipf's law of how often each is asked for; 0: equally often."""

    def __post_init__(self) -> None:
        """Raise ``InputError`` for what cannot be."""
        for name, least, most in (("number", 1, 100_000), ("rank", 1, 512), ("max_loras", 1, 1024)):
            if not least <= getattr(self, name) <= most:
                raise InputError(f"adapters: {name} is {getattr(self, name)}; it must be from {least} to {most}")
        if self.max_cpu_loras is not None and self.max_cpu_loras < self.max_loras:
            raise InputError(
                f"adapters: max_cpu_loras is {self.max_cpu_loras}; it must be at least max_loras, {self.max_loras}"
            )
        if not 0.0 <= self.skew <= 10.0:
            raise InputError(f"adapters: skew is {self.skew:g}; it must be from 0, all equally often, to 10")


IF_STATED = {"if_stated": True}
"""Metadata of a field that plain answers leave out where it is None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafting:
    """Speculative decoding, as an engine is started with it."""

    method: DraftMethod
    model: str = ""
    """That drafts, with the method "draft"; with "eagle" the checkpoint of the head."""
    draft_len: Annotated[int, Interval(ge=1, le=MOST_DRAFT_LEN)]
    """Tokens drafted a step."""

    def __str__(self) -> str:
        by = f"{self.method} {self.model}" if self.model else self.method
        return f"{by}, {self.draft_len} drafted"
