"""A change of a question that gives it an answer, for who shows it as words and for who makes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """A change of the question that gives it an answer."""

    text: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Values by the keywords of the question, limits by their fields of ``Slo``; empty where none alone is enough."""
