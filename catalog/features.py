"""What an engine may be started with beside a layout and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from catalog.errors import InputError

DraftMethod = Literal["ngram", "eagle", "eagle3", "mtp", "draft"]
"""What drafts tokens: n-grams of the prompt, a head like EAGLE's or EAGLE-3's, the model's own heads, or a model of its own."""
HEADS = ("eagle", "eagle3")
"""Methods whose head is a checkpoint of its own."""
MOST_DRAFT_LEN = 64
MOST_ADAPTERS, MOST_LORAS, MOST_RANK, MOST_SKEW = 100_000, 1024, 512, 10.0
"""Adapters of one model, those in one batch, the largest rank (vLLM's, config/lora.py ``MaxLoRARanks``), and the steepest popularity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """LoRA adapters of one model, as they are asked for and as an engine is started with them."""

    number: Annotated[int, Interval(ge=1, le=MOST_ADAPTERS)]
    """Different ones that requests are of."""
    rank: Annotated[int, Interval(ge=1, le=MOST_RANK)] = 16
    max_loras: Annotated[int, Interval(ge=1, le=MOST_LORAS)] = 1
    """Slots on the GPUs: adapters in one batch."""
    max_cpu_loras: Annotated[int, Interval(ge=1, le=MOST_ADAPTERS)] | None = None
    """Adapters that stay in CPU memory; None: as many as have slots."""
    skew: Annotated[float, Interval(ge=0, le=MOST_SKEW)] = 1.0
    """Exponent of Zipf's law of how often each is asked for; 0: equally often."""

    def __post_init__(self) -> None:
        """Raise ``InputError`` for what cannot be."""
        for name, most in (("number", MOST_ADAPTERS), ("rank", MOST_RANK), ("max_loras", MOST_LORAS)):
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"adapters: {name} is {getattr(self, name)}; it must be from 1 to {most}")
        if self.max_cpu_loras is not None and not self.max_loras <= self.max_cpu_loras <= MOST_ADAPTERS:
            raise InputError(
                f"adapters: max_cpu_loras is {self.max_cpu_loras}; it must be from max_loras, {self.max_loras}, to {MOST_ADAPTERS}"
            )
        if not 0.0 <= self.skew <= MOST_SKEW:
            raise InputError(f"adapters: skew is {self.skew:g}; it must be from 0, all equally often, to {MOST_SKEW:g}")


IF_STATED = {"if_stated": True}
"""Metadata of a field that plain answers leave out where it is its default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafting:
    """Speculative decoding, as an engine is started with it."""

    method: DraftMethod
    model: str = ""
    """That drafts, with the method "draft"; with "eagle" and "eagle3" the checkpoint of the head."""
    draft_len: Annotated[int, Interval(ge=1, le=MOST_DRAFT_LEN)]
    """Tokens drafted a step."""

    def __str__(self) -> str:
        by = f"{self.method} {self.model}" if self.model else self.method
        return f"{by}, {self.draft_len} drafted"
