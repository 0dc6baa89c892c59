"""JSON files of strangers, as every loader takes them: bounded, and nothing in them is run."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 32_000_000


def read_bytes(file: Path) -> bytes:
    """Return a file's bytes, one more than are taken at the most.

    Raises:
        InputError: it cannot be read.

    """
    try:
        with file.open("rb") as opened:
            return opened.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """Return the object that JSON holds, as every loader takes it: Python's ``Infinity`` and ``NaN`` are numbers.

    Raises:
        InputError: it is too large, nested without end, or holds no object.

    """
    if len(data) > MOST_BYTES:
        raise InputError(f"{where} is larger than {MOST_BYTES // 10**6} MB; a model's config.json has a few kB")
    try:
        config = json.loads(data.decode("utf-8-sig"), parse_constant=_constant, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(config, dict):
        raise InputError(f"{where} holds no JSON object; a config.json starts with a brace")
    return config


def _constant(constant: str) -> float:
    return {"Infinity": math.inf, "-Infinity": -math.inf}.get(constant, math.nan)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("a key stands there twice")
    return unique
