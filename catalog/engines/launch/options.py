"""A process's command taken apart: what platforms say themselves is left out, what an engine's keyword arguments are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence


def pairs(argv: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each option with its value, None for a switch; words that belong to no option are left out."""
    words = list(argv)
    for i, word in enumerate(words):
        if word.startswith("--"):
            after = words[i + 1] if i + 1 < len(words) else "--"
            yield word, None if after.startswith("--") else after


def without(argv: Sequence[str], left_out: Collection[str]) -> list[str]:
    """Return the options of a command but those left out, with their values."""
    kept: list[str] = []
    for name, value in pairs(argv):
        if name not in left_out:
            kept += [name] if value is None else [name, value]
    return kept


def keywords(argv: Sequence[str], left_out: Collection[str]) -> dict[str, Any]:
    """Return options as keyword arguments: ``--max-num-seqs 8`` is ``max_num_seqs=8``."""
    return {
        name.removeprefix("--").replace("-", "_"): True if value is None else _value(value)
        for name, value in pairs(argv)
        if name not in left_out
    }


def _value(text: str) -> Any:
    """Read a number or JSON; other text is itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
