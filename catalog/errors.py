"""Messages to a user: an error of one line, a note beside an answer, and a name's meaning with the notes about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line that says what was wrong and what would be right."""


class NoRoomError(InputError):
    """What was asked for does not fit beside the model."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something the reader of an answer should know: an assumption, a reading of an ambiguous name, a warning."""

    text: str
    kind: Literal["asked", "note", "warning"] = "note"
    """asked: how the question itself was read, such as what a use filled in."""


@dataclass(frozen=True, slots=True)
class Resolved(Generic[T]):
    """What a name was resolved to, and what to tell the user about it."""

    value: T
    notes: tuple[Note, ...] = field(default=())
