"""Answers in the formats that machines read."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def as_json(body: Any) -> str:
    """Write JSON that every parser takes: what is no number (an endless batch, say) becomes null."""
    import json  # only for this format

    return json.dumps(finite(body, digits=DIGITS), indent=2, allow_nan=False) + "\n"


def as_yaml(body: Any) -> str:
    """Write the same as YAML."""
    import yaml  # slow to import and seldom needed

    # libyaml, where PyYAML was built with it, writes the same ten times faster
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(finite(body, digits=DIGITS), Dumper=dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def as_csv(rows: Sequence[Mapping[str, Any]], names: Iterable[str] = ()) -> str:
    """Write rows with a header; the names of the columns are given where there may be no rows. Empty: none or no number."""
    import csv  # only for this format

    fields = list(dict.fromkeys([*names, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: finite(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


DIGITS = 6
"""Significant digits of numbers that are written: ten times finer than what anything here is known to."""


def finite(value: Any, *, digits: int | None = None) -> Any:
    """Return ``value`` with None for every number that is none, and numbers to so many significant digits; None: as they are."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None or value.is_integer() else float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {str(key): finite(item, digits=digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item, digits=digits) for item in value]
    return value
