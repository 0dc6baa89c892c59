"""What ships with the package, made into dataclasses without the checks of ``catalog.borders``, which the tests run on all of it.

A start thus needs no pydantic for what has been checked once and for all.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


def built(kind: type[T], value: Any) -> T:
    """Return parsed JSON or TOML as ``kind``, as ``catalog.borders.checked`` would of the same."""
    return cast("T", _make(cast("Any", kind))(value))


def built_of_text(kind: type[T], cells: Mapping[str, str]) -> T:
    """Return the cells of a CSV row as ``kind``, as ``catalog.borders.checked_text`` would of the same."""
    makers = _of_text(cast("Any", kind))
    return kind(**{name: makers[name](cell) for name, cell in cells.items()})


@cache
def _of_text(kind: type) -> dict[str, Callable[[str], Any]]:
    """Return what makes the value of each field of its cell."""
    makers: dict[Any, Callable[[str], Any]] = {float: float, int: int, bool: lambda cell: cell.lower() == "true"}
    plain = {
        name: next((part for part in get_args(hint) if part is not NoneType), hint)
        if NoneType in get_args(hint)
        else hint
        for name, hint in get_type_hints(kind).items()
    }
    return {name: makers.get(hint, _same) for name, hint in plain.items()}


@cache
def _make(kind: Any) -> Any:
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        makers = {field.name: _make(hints[field.name]) for field in fields(kind)}
        cls: Any = kind
        return lambda value: cls(**{name: makers[name](part) for name, part in value.items()})
    if get_origin(kind) in (tuple, frozenset):
        container, item = get_origin(kind), _make(get_args(kind)[0])
        if item is _same:
            return container
        return lambda value: container(map(item, value))
    one = [field for field in get_args(kind) if field is not NoneType]
    if NoneType in get_args(kind) and len(one) == 1:
        inner = _make(one[0])
        return _same if inner is _same else lambda value: None if value is None else inner(value)
    return float if kind is float else _same  # a whole number in the file may stand for a float


def _same(value: Any) -> Any:
    return value
