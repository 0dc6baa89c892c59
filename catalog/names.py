"""Names as people type them: which entry one means, and what is close to one that means nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SEPARATORS = re.compile(r"[\s_\-]+")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name stands for."""

    entry: str
    """Key of the table entry."""
    name: str
    """The full name: the entry's own, or that of a variant of the same shape."""
    ambiguous: bool = False
    """The name could mean other things as well, so a note says so."""


def squash(name: str) -> str:
    """Return a name without case and separators: "Llama 2_13B" and "llama-2-13b" are one."""
    return SEPARATORS.sub("", name.casefold())


def closest(name: str, spellings: Mapping[str, str], *, count: int = 3) -> list[str]:
    """Return up to ``count`` of the names that look most like ``name``, best first.

    ``spellings`` leads from squashed spellings to the names they stand for.
    """
    from difflib import get_close_matches  # only for error messages

    wanted = squash(name)[:100]
    begun = [spelling for spelling in spellings if len(wanted) > 2 and spelling.startswith(wanted)]
    near = sorted(begun, key=len) + get_close_matches(wanted, spellings, n=4 * count, cutoff=0.6)
    near += [spelling for spelling in spellings if len(wanted) > 2 and wanted in spelling]
    return list(dict.fromkeys(spellings[spelling] for spelling in near))[:count]


def suggestion(name: str, names: Iterable[str], *, otherwise: str = "") -> str:
    """Return the tail of an error message: the closest names, or ``otherwise``."""
    near = closest(name, {squash(known): known for known in names})
    return f"closest: {', '.join(near)}" if near else otherwise
