"""What comes in from outside, checked by pydantic against the dataclass it becomes; what is wrong is told in one line.

Types and bounds stand beside the fields (``Annotated[int, Field(ge=1)]``), and a field that does not exist is refused with the
closest that does. pydantic takes a tenth of a second to start, so it is imported by the first check.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from catalog.errors import InputError
from catalog.names import suggestion

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "an object",
    "dict_type": "an object",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "string_pattern_mismatch": "short text that can be part of a file's name",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What would be right, by pydantic's name of the error."""


def checked(kind: type[T], value: Any, where: str) -> T:
    """Return ``value`` as ``kind``, a dataclass or a tuple of some.

    Args:
        kind: what it must become; annotations hold types and bounds.
        value: parsed JSON, TOML or YAML.
        where: it stands, for messages.

    Raises:
        InputError: naming ``where``, the first field that is wrong and what would be right.

    """
    from pydantic import ValidationError

    try:
        return cast("T", _adapter(cast("Any", kind)).validate_json(json.dumps([value]))[0])
    except ValidationError as error:
        raise InputError(f"{where}: {_line(error.errors(include_url=False)[0], kind)}") from error
    except (OverflowError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{where}: it is nested too deeply, or is no plain text, number or list") from error


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

    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return TypeAdapter(
        list[kind], config=config
    )  # a list, since a dataclass itself takes no configuration from outside


def _line(problem: Any, kind: Any) -> str:
    """Return what is wrong in our words: which field, what it is, what it must be."""
    place = [str(part + 1) if isinstance(part, int) else part for part in problem["loc"][1:]]
    field = " ".join(place) or "it"
    match problem["type"]:
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return f"{field} is missing{_form(kind, place)}"
        case "unexpected_keyword_argument":
            known = [name for name in getattr(kind, "__dataclass_fields__", ()) if len(place) == 1]
            hint = suggestion(place[-1], known, otherwise=f"fields: {', '.join(known)}" if known else "")
            return f"unknown field {place[-1]!r:.60}" + (f"; {hint}" if hint else "")
        case "literal_error" | "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" | "value_error":
            must = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        case name:
            must = EXPECTED.get(name) or problem["msg"].removeprefix("Input should be ")
    return f"{field} is {problem['input']!r:.60}; it must be {must}{_form(kind, place)}"


def _form(kind: Any, place: list[str]) -> str:
    """Return what the items of a list look like, where its field's description says so."""
    if not (place and is_dataclass(kind)):
        return ""
    extras = getattr(get_type_hints(kind, include_extras=True).get(place[0]), "__metadata__", ())
    return next((f"; each is {extra.description}" for extra in extras if getattr(extra, "description", None)), "")
