"""What comes in from outside, checked by pydantic against the dataclass it becomes; what is wrong is said in one line.

Types and bounds stand beside the fields (``Annotated[int, Interval(ge=1)]``), and a field that does not exist is refused with the
closest that does. pydantic takes a tenth of a second to start, so it is imported by the first check.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import secrets
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_type_hints

from catalog.bounds import bounds_of, in_words
from catalog.errors import InputError
from catalog.names import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import TypeAdapter

T = TypeVar("T")

EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dataclass_type": "an object",
    "dict_type": "an object",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "string_pattern_mismatch": "short text that can be part of a file's name",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What would be right, by pydantic's name of the error; its names of others here below."""
MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
OUTSIDE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def checked(kind: type[T], value: Any, where: str) -> T:
    """Return ``value`` as ``kind``, a dataclass or a tuple of some.

    Args:
        kind: what it must become; annotations hold types and bounds.
        value: parsed JSON, TOML or YAML.
        where: it stands, for messages.

    Raises:
        InputError: naming ``where``, the first field that is wrong and what would be right.

    """
    return _validated(
        kind, lambda adapter: adapter.validate_json(json.dumps([value], default=_date), strict=True), where
    )


def checked_text(kind: type[T], cells: Mapping[str, Any], where: str) -> T:
    """Return text, as in the cells of a CSV file or typed on a command line, as the dataclass ``kind``.

    Spreadsheets write whole numbers as 4.0 and booleans in capitals, which is read as what is meant.

    Raises:
        InputError: as ``checked``.

    """
    return _validated(kind, lambda adapter: adapter.validate_python([dict(cells)]), where)


def _validated(kind: type[T], validate: Callable[[TypeAdapter[Any]], Any], where: str) -> T:
    from pydantic import ValidationError

    try:
        return cast("T", validate(_adapter(cast("Any", kind)))[0])
    except ValidationError as error:
        raise InputError(f"{where}: {_line(error.errors(include_url=False), kind)}") from error
    except (OverflowError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{where}: it is nested too deeply, or is no plain text, number or list") from error


def _date(value: Any) -> str:
    """Write a date or time of TOML or YAML as text; everything else that is no JSON is refused."""
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    raise TypeError(f"{value!r:.60} is no JSON")


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file that, whatever happens meanwhile, holds all of ``content`` or what it held before.

    Raises:
        OSError, ValueError: it cannot be written.

    """
    data = content.encode() if isinstance(content, str) else content
    place = Path(path).resolve()
    if place.exists() and not place.is_file():  # a pipe or a device, such as /dev/stdout
        place.write_bytes(data)
        return
    beside = place.with_name(f".{place.name[:50]}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if place.exists():
            beside.chmod(place.stat().st_mode & 0o777)
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    return TypeAdapter(
        list[kind], config=config
    )  # a list, since a dataclass itself takes no configuration from outside


def _line(problems: Sequence[Any], kind: Any) -> str:
    """Return what is wrong in our words: which field, what it is, what it must be."""
    problem = min(problems, key=_gravity)  # the first of equally grave ones
    place = _place(problem)
    field = " ".join(place) or "it"
    bounds = bounds_of(kind).get(field) if isinstance(kind, type) and is_dataclass(kind) else None
    match problem["type"]:
        case name if name in MISSING:
            places = [_place(other) for other in problems if other["type"] == name]
            names = [" ".join(other) for other in places if other[:-1] == place[:-1]]
            return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing{_form(kind, place)}"
        case "unexpected_keyword_argument":
            known = list(getattr(_kind_at(kind, problem["loc"][1:-1]), "__dataclass_fields__", ()))
            hint = suggestion(place[-1], known, otherwise=f"fields: {', '.join(known)}" if known else "")
            inside = f"{' '.join(place[:-1])}: " if place[:-1] else ""
            return f"{inside}unknown field {place[-1]!r:.60}" + (f"; {hint}" if hint else "")
        case name if bounds is not None and name in OUTSIDE:
            must = in_words(bounds)
        case name:
            must = EXPECTED.get(name) or problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    value = problem["input"]
    is_number = isinstance(value, str) and problem["type"] in (*OUTSIDE, "finite_number")  # of a cell
    return f"{field} is {value if is_number else repr(value):.60}; it must be {must}{_form(kind, place)}"


def _place(problem: Any) -> list[str]:
    """Return where a problem is, as people count."""
    return [str(part + 1) if isinstance(part, int) else part for part in problem["loc"][1:]]


def _kind_at(kind: Any, path: Sequence[str | int]) -> Any:
    """Return the type that stands in ``kind`` at a path of fields and numbers; None where there is none of its own."""
    for part in path:
        if isinstance(part, int):
            kind = next(iter(get_args(kind)), None)
        else:
            kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    return kind


def _gravity(problem: Any) -> int:
    """Order problems: a name that does not exist explains another that is missing."""
    return 0 if problem["type"] == "unexpected_keyword_argument" else 2 if problem["type"] in MISSING else 1


def _form(kind: Any, place: list[str]) -> str:
    """Return what the items of a list look like, where its field's description says so."""
    if not (place and is_dataclass(kind)):
        return ""
    extras = getattr(get_type_hints(kind, include_extras=True).get(place[0]), "__metadata__", ())
    return next((f"; each is {extra.description}" for extra in extras if getattr(extra, "description", None)), "")
