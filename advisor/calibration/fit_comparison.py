"""Whether a fit that was made anew is the one in a file: what ``python -m advisor.calibration.shipped_fit --check`` says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from advisor.calibration.surrogate import Surrogate

LABELS = ("provenance", "engine", "gpu", "model", "metric", "release")
"""Fields by which a row of a file is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldDifference:
    """A field that two files do not have alike."""

    field: str
    """Its place, as in "marginals[vllm H200-SXM].mean[3]"."""
    shipped: Any
    rebuilt: Any

    def __str__(self) -> str:
        return f"{self.field}: {_brief(self.shipped)} ships, {_brief(self.rebuilt)} is what the repository makes"


def check_rebuilt(rebuilt: Surrogate, path: Path, tolerance: float = 0.0) -> FieldDifference | None:
    """Return the first field in which the file at ``path`` is not ``rebuilt``, None where they are the same.

    Args:
        rebuilt: the fit made anew.
        path: of the file that ``Surrogate.write`` made.
        tolerance: share of a number, or of the largest number of its list, by which it may differ; 0.0: the files are equal byte for byte.

    Raises:
        InputError: the file cannot be read, or is no JSON.

    """
    try:
        text = path.read_text(encoding="utf-8")
        shipped = json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    made = rebuilt.to_json() + "\n"
    if text == made:
        return None
    different = first_difference(shipped, json.loads(made), tolerance)
    if different is None and tolerance == 0.0:  # the same fields in other words
        return FieldDifference(field="the text itself", shipped=f"{len(text)} bytes", rebuilt=f"{len(made)} bytes")
    return different


def first_difference(shipped: Any, rebuilt: Any, tolerance: float = 0.0, field: str = "") -> FieldDifference | None:
    """Return the first field, depth first, that is not the same in two JSON documents; ``tolerance`` as ``check_rebuilt`` has it."""
    if isinstance(shipped, dict) and isinstance(rebuilt, dict):
        pairs = [
            (f"{field}.{name}" if field else name, shipped.get(name), rebuilt.get(name))
            for name in dict.fromkeys([*shipped, *rebuilt])
        ]
    elif isinstance(shipped, list) and isinstance(rebuilt, list):
        if len(shipped) != len(rebuilt):
            return FieldDifference(field=f"length of {field}", shipped=len(shipped), rebuilt=len(rebuilt))
        if all(_is_number(value) for value in (*shipped, *rebuilt)):
            return _first_apart(shipped, rebuilt, tolerance, field)
        pairs = [(f"{field}[{_label(row, i)}]", row, rebuilt[i]) for i, row in enumerate(shipped)]
    elif _is_number(shipped) and _is_number(rebuilt):
        apart = _first_apart([shipped], [rebuilt], tolerance, field)
        return apart and FieldDifference(field=field, shipped=shipped, rebuilt=rebuilt)
    else:
        same = type(shipped) is type(rebuilt) and shipped == rebuilt  # True is no 1
        return None if same else FieldDifference(field=field, shipped=shipped, rebuilt=rebuilt)
    found = (first_difference(one, other, tolerance, place) for place, one, other in pairs)
    return next((difference for difference in found if difference), None)


def _first_apart(shipped: list[float], rebuilt: list[float], tolerance: float, field: str) -> FieldDifference | None:
    most = tolerance * max((abs(value) for value in shipped), default=0.0)
    for i, (one, other) in enumerate(zip(shipped, rebuilt, strict=True)):
        if abs(one - other) > most:
            return FieldDifference(field=f"{field}[{i}]", shipped=one, rebuilt=other)
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _label(row: Any, index: int) -> str:
    named = [str(row[name]) for name in LABELS if name in row] if isinstance(row, dict) else []
    return " ".join(named) or str(index)


def _brief(value: Any) -> str:
    return f"{json.dumps(value):.60}"
