"""What comes in is checked against the type it becomes, and a file is written whole or not at all."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import Field

from catalog.borders import checked, write_whole
from catalog.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    size: Annotated[int, Field(ge=1, le=8)]
    kind: Literal["a", "b"] = "a"
    share: float = 0.0
    on: bool = True
    sizes: tuple[tuple[int, int], ...] = ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "the file: size is missing"),
        ({"size": 0}, "the file: size is 0; it must be greater than or equal to 1"),
        ({"size": True}, "the file: size is True; it must be a whole number"),
        ({"size": "4"}, "the file: size is '4'; it must be a whole number"),
        ({"size": 10**400}, "the file: size is 1"),
        ({"size": 4, "kind": "c"}, "the file: kind is 'c'; it must be 'a' or 'b'"),
        ({"size": 4, "share": float("nan")}, "the file: share is nan; it must be a finite number"),
        ({"size": 4, "on": 1}, "the file: on is 1; it must be true or false"),
        ({"size": 4, "kin": "a"}, "the file: unknown field 'kin'; closest: kind"),
        ({"size": 4, "sizes": [[1, 2], [3]]}, "the file: sizes 2 2 is missing"),
        (3, "the file: it is 3; it must be an object"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(value, message):
    with pytest.raises(InputError) as refusal:
        checked(Part, value, "the file")
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    parts: tuple[Part, ...]


def test_a_field_that_does_not_exist_is_told_where_it_stands():
    with pytest.raises(InputError, match=r"^the file: parts 2: unknown field 'kin'; closest: kind$"):
        checked(Whole, {"parts": [{"size": 1}, {"size": 2, "kin": "a"}]}, "the file")


def test_what_is_right_becomes_the_dataclass():
    assert checked(Part, {"size": 8, "share": 1}, "the file") == Part(size=8, share=1.0)


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path):
    path = tmp_path / "page.txt"
    path.write_text("before")
    path.chmod(0o640)
    write_whole(path, "after")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("after", 0o640)
    assert list(tmp_path.iterdir()) == [path]
