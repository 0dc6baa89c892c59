"""Values of a parsed JSON object, taken out one by one with a check of type and size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST = 10**9
MOST_WORDS = 100_000


class Fields:
    """A JSON object and where it stands, for messages."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self.where = where

    def error(self, message: str) -> InputError:
        return InputError(f"{self.where}: {message}")

    def has(self, name: str) -> bool:
        """Return whether the field is there and not null."""
        return self._values.get(name) is not None

    def names(self) -> list[str]:
        return list(self._values)

    def size(self, *names: str, default: int | None = None, null: int | None = None, most: int = MOST) -> int:
        """Return a whole number of at least 1, under the first of ``names`` that is there.

        ``default`` stands in where none is, ``null`` (else ``default``) where one is there but null; without either the
        field is one that must not be guessed.
        """
        return self.whole(*names, default=default, null=null, least=1, most=most)

    def whole(
        self, *names: str, default: int | None = None, null: int | None = None, least: int = 0, most: int = MOST
    ) -> int:
        """Return a whole number from ``least`` to ``most``; otherwise like ``size``."""
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

    def first(self, *names: str, default: int | None = None) -> int:
        """Return a whole number, or the first of a list of them, of which some configurations have one a layer."""
        name = next((name for name in names if self.has(name)), names[0])
        value = self._values.get(name)
        if isinstance(value, list) and value and all(type(item) is int for item in value):
            return Fields({name: value[0]}, self.where).whole(name)
        return self.whole(*names, default=default, null=default)

    def list_of(self, name: str) -> list[int] | None:
        """Return a list of whole numbers above 0, or None where the field is something else."""
        value = self._values.get(name)
        fits = isinstance(value, list) and all(type(item) is int and 0 < item <= MOST for item in value)
        return value if fits else None

    def length(self, name: str, *, most: int) -> int:
        """Return the number of items of a list, at least one."""
        value = self._values.get(name)
        if not isinstance(value, list) or not 0 < len(value) <= most:
            raise self.error(f"{name} must be a list of 1 to {most} items")
        return len(value)

    def parts(self, name: str, length: int) -> list[Fields]:
        """Return a list of ``length`` objects."""
        value = self._values.get(name)
        if not isinstance(value, list) or len(value) != length or not all(isinstance(item, dict) for item in value):
            raise self.error(f"{name} must be a list of {length} objects, one a layer")
        return [Fields(item, f"{self.where}: {name[:100]!r} {number}") for number, item in enumerate(value)]

    def number(self, name: str, *, most: float = MOST) -> float:
        """Return a number from 0 to ``most``."""
        value = self._values.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= most:
            raise self.error(f"{name} is {_kind(value)}; it must be a number from 0 to {most:g}")
        return float(value)

    def is_list(self, name: str) -> bool:
        """Return whether the field is a list."""
        return isinstance(self._values.get(name), list)

    def flag(self, *names: str, default: bool) -> bool:
        """Return a truth value, under the first of ``names`` that is there and not null."""
        name = next((name for name in names if self.has(name)), None)
        if name is None:
            return default
        value = self._values[name]
        if type(value) is not bool:
            raise self.error(f"{name} is {_kind(value)}; it must be true or false")
        return value

    def is_text(self, name: str) -> bool:
        """Return whether the field is text."""
        return isinstance(self._values.get(name), str)

    def text(self, *names: str, default: str | None = None) -> str:
        """Return text, under the first of ``names`` that is there and not null."""
        name = next((name for name in names if self.has(name)), names[0])
        value = self._values.get(name, default)
        if value is None and default is None:
            raise self.error(f"{name} is missing")
        value = default if value is None else value
        if not isinstance(value, str):
            raise self.error(f"{name} is {_kind(value)}; it must be text")
        return value

    def texts(self, name: str, length: int, *, repeated: bool = False) -> list[str] | None:
        """Return a list of ``length`` texts, or of fewer that repeat, or None where there is none."""
        value = self._values.get(name)
        if value is None:
            return None
        if repeated and isinstance(value, list) and 0 < len(value) < length:
            value = [value[number % len(value)] for number in range(length)]
        if not isinstance(value, list) or len(value) != length or not all(isinstance(item, str) for item in value):
            raise self.error(f"{name} must be a list of {length} texts, one a layer")
        return value

    def wholes(self, name: str, *, length: int | None = None) -> list[int] | None:
        """Return a list of whole numbers, of ``length`` where it is given; None where there is none."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise self.error(f"{name} must be a list of whole numbers")
        if length is not None and len(value) != length:
            raise self.error(f"{name} has {len(value)} numbers; it must have {length}, one a layer")
        return value

    def part(self, name: str) -> Fields:
        """Return an object within this one."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            raise self.error(f"{name} is {'missing' if value is None else _kind(value)}; it must be an object")
        return Fields(value, f"{self.where}: {name[:100]!r}")

    def maybe_object(self, name: str) -> Fields | None:
        """Return an object within this one that has fields, or None where there is none."""
        value = self._values.get(name)
        return self.part(name) if isinstance(value, dict) and value else None

    def with_default(self, name: str, other: Fields) -> Fields:
        """Return these fields, and of another object one that is not among them."""
        if self.has(name) or not other.has(name):
            return self
        return self.replaced({name: other._values[name]})

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, parsed."""
        return dict(self._values)

    def replaced(self, changes: Mapping[str, Any]) -> Fields:
        """Return these fields with others in the place of some."""
        return Fields({**self._values, **changes}, self.where)

    def items_of(self, name: str) -> list[str]:
        """Return the texts of a list; empty where there is none."""
        value = self._values.get(name)
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

    def words(self) -> str:
        """Return all keys and texts in it, one after another, to look words up in."""
        texts: list[str] = []
        open_: list[Any] = [dict(self._values)]
        while open_ and len(texts) < MOST_WORDS:
            value = open_.pop()
            if isinstance(value, dict):
                texts += map(str, value)
                open_ += value.values()
            elif isinstance(value, list):
                open_ += value
            elif isinstance(value, str):
                texts.append(value)
        return " ".join(texts)

    def negative(self, name: str) -> bool:
        """Return whether a number below 0 stands there, which some files write for none."""
        value = self._values.get(name)
        return isinstance(value, int) and value < 0

    def maybe_part(self, name: str) -> Fields | None:
        return self.part(name) if self.has(name) else None

    def integer_format(self, name: str) -> str:
        """Return the weight format of integers with so many bits."""
        bits = self.whole(name)
        if bits not in (4, 8):
            raise self.error(f"integers of {bits} bits are not modelled; 4 and 8 are")
        return f"int{bits}"


def _kind(value: Any) -> str:
    """Return what a JSON value is, in words short enough for a message."""
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    kinds = {bool: "true or false", int: "a number out of range", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null")
