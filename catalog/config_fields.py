"""Values of a parsed JSON object, taken out one by one with a check of type and size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST = 10**9


class Fields:
    """A JSON object and where it stands, for messages."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self.where = where

    def error(self, message: str) -> InputError:
        return InputError(f"{self.where}: {message}")

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(name) is not None

    def names(self) -> list[str]:
        return list(self._values)

    def size(self, *names: str, default: int | None = None, null: int | None = None, most: int = MOST) -> int:
        """A whole number of at least 1, under the first of ``names`` that is there.

        ``default`` stands in where none is, ``null`` (else ``default``) where one is there but null; without either the
        field is one that must not be guessed.
        """
        return self.whole(*names, default=default, null=null, least=1, most=most)

    def whole(
        self, *names: str, default: int | None = None, null: int | None = None, least: int = 0, most: int = MOST
    ) -> int:
        """A whole number from ``least`` to ``most``; otherwise like ``size``."""
        name = next((name for name in names if self.has(name)), None)
        if name is None:
            is_null = any(name in self._values for name in names)
            fallback = null if is_null and null is not None else default
            if fallback is None:
                raise self.error(f"{names[0]} is missing; without it the model's size is unknown")
            return fallback
        value = self._values[name]
        if type(value) is not int or not least <= value <= most:
            shown = repr(value) if type(value) in (int, float, bool) and abs(value) < 1e18 else _kind(value)
            raise self.error(f"{name} is {shown}; it must be a whole number from {least} to {most}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._values.get(name)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.error(f"{name} is {_kind(value)}; it must be true or false")
        return value

    def text(self, name: str, *, default: str | None = None) -> str:
        value = self._values.get(name, default)
        if value is None and default is None:
            raise self.error(f"{name} is missing")
        if not isinstance(value, str):
            raise self.error(f"{name} is {_kind(value)}; it must be text")
        return value

    def texts(self, name: str, length: int) -> list[str] | None:
        """A list of ``length`` texts, or None where there is none."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != length or not all(isinstance(each, str) for each in value):
            raise self.error(f"{name} must be a list of {length} texts, one a layer")
        return value

    def wholes(self, name: str) -> list[int] | None:
        """A list of whole numbers, or None where there is none."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(each) is int for each in value):
            raise self.error(f"{name} must be a list of whole numbers")
        return value

    def part(self, name: str) -> Fields:
        """An object within this one."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            raise self.error(f"{name} is {'missing' if value is None else _kind(value)}; it must be an object")
        return Fields(value, f"{self.where}: {name[:100]!r}")

    def maybe_part(self, name: str) -> Fields | None:
        return self.part(name) if self.has(name) else None

    def integer_format(self, name: str) -> str:
        """The weight format of integers with so many bits."""
        bits = self.whole(name)
        if bits not in (4, 8):
            raise self.error(f"integers of {bits} bits are not modelled; 4 and 8 are")
        return f"int{bits}"


def _kind(value: Any) -> str:
    """What a JSON value is, in words short enough for a message."""
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    kinds = {bool: "true or false", int: "a number out of range", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null")
