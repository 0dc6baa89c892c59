"""Names as people type them: which entry one means, and what is close to one that means nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SEPARATORS = re.compile(r"[\s_\-]+")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name stands for."""

    entry: str
    """Key of the table entry."""
    name: str
    """The full name: the entry's own, or that of a variant of the same shape."""
    ambiguous: bool = False
    """The name could mean other things as well, so the reader is told."""


def squash(name: str) -> str:
    """A name without case and separators: "Llama 2_13B" and "llama-2-13b" are one."""
    return SEPARATORS.sub("", name.casefold())


def closest(name: str, names: Iterable[str] | Mapping[str, str], *, count: int = 3) -> list[str]:
    """Up to ``count`` of ``names`` that look most like ``name``, best first.

    ``names`` may be a mapping from the squashed spellings of names to the names themselves.
    """
    from difflib import get_close_matches  # noqa: PLC0415  only for error messages

    spelled = dict(names) if isinstance(names, Mapping) else {squash(each): each for each in names}
    wanted = squash(name)[:100]
    near = get_close_matches(wanted, spelled, n=4 * count, cutoff=0.6)
    near += [each for each in spelled if len(wanted) > 2 and wanted in each]
    return list(dict.fromkeys(spelled[each] for each in near))[:count]


def suggestion(name: str, names: Iterable[str] | Mapping[str, str], *, otherwise: str = "") -> str:
    """The tail of an error message: the closest names, or ``otherwise``."""
    near = closest(name, names)
    return f"closest: {', '.join(near)}" if near else otherwise
