"""What a weight format costs in answers: the published share of the original's benchmark score, by model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from catalog.errors import InputError
from catalog.tables import DATA, read_toml, table

if TYPE_CHECKING:
    from catalog.schema import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """A published comparison of a quantised model with its original."""

    models: tuple[str, ...]
    """Catalog names of the shapes it was measured on."""
    dtype: str
    recovery: Annotated[float, Interval(ge=0, le=1.2)]
    """The quantised model's mean score over the original's."""
    benchmark: str
    checkpoint: str
    """What was measured."""
    source: str


@cache
def all_quality() -> tuple[Quality, ...]:
    """Return every published comparison that ships."""
    from catalog.borders import checked  # needs pydantic

    path = DATA / "quality.toml"
    rows = read_toml(path).get("quality", [])
    if not isinstance(rows, list):
        raise InputError(f"{path}: comparisons must be tables that start with [[quality]]")
    return tuple(checked(Quality, row, f"{path}: comparison {number}") for number, row in enumerate(rows, 1))


@cache
def _by_shape() -> dict[tuple[str, str], Quality]:
    meanings = table("models")
    by_shape: dict[tuple[str, str], Quality] = {}
    for quality in all_quality():
        for name in quality.models:
            meaning = meanings.meaning(name)
            assert meaning is not None, name
            by_shape.setdefault((meaning.entry, quality.dtype), quality)
    return by_shape


def quality_of(model: Model, dtype: str) -> Quality | None:
    """Return what was published of ``model`` in ``dtype``; None where nothing was."""
    meaning = table("models").meaning(model.name)
    return None if meaning is None else _by_shape().get((meaning.entry, dtype))
