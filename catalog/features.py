"""What an engine may be started with beside a layout and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

DraftMethod = Literal["ngram", "eagle", "mtp", "draft"]
"""What drafts tokens: n-grams of the prompt, a head like EAGLE's, the model's own heads, or a model of its own."""
MOST_DRAFT_LEN = 64

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
