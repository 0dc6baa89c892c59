"""Requests as they were served, one by one: what lies behind a serving run's means."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from catalog.borders import checked, checked_text
from catalog.errors import InputError
from catalog.jsonl_store import append_lines, append_made, json_rows, line_of
from catalog.schema import Count  # noqa: TC001  read by ``checked``

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Time = Annotated[float, Interval(ge=0, le=1e12)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request of the run ``run_id``, whose other properties are in its ``Measurement``."""

    run_id: str
    arrival_s: Annotated[float, Interval(ge=0, le=1e12)]
    """Since the run began."""
    input_len: Count
    output_len: Count
    ttft_ms: Time
    """Time to first token, from the arrival."""
    e2e_ms: Time
    itl_p50_ms: Time | None = None
    """Gaps between the messages that brought tokens: median, 95th percentile and longest."""
    itl_p95_ms: Time | None = None
    itl_max_ms: Time | None = None


def append_requests(path: Path, requests: Iterable[Request]) -> None:
    """Add requests to a store, all or none.

    Raises:
        InputError: the file cannot be written; then nothing was added.

    """
    lines = "".join(line_of(asdict(request)) for request in requests)
    try:
        if lines:
            append_lines(path, lines)
    except OSError as error:
        raise InputError(f"cannot add requests to {path}: {error.strerror}; nothing was added") from error


def keep_requests(path: Path, requests: Iterable[Request]) -> None:
    """Add the requests of runs of which the store has none yet; other writers wait meanwhile.

    Raises:
        InputError: the file cannot be read or written; then nothing was added.

    """
    lines = [(request.run_id, line_of(asdict(request))) for request in requests]

    def missing() -> str:
        kept = {request.run_id for request in read_requests(path)}
        return "".join(line for run_id, line in lines if run_id not in kept)

    try:
        append_made(path, missing)
    except OSError as error:
        raise InputError(f"cannot add requests to {path}: {error.strerror}; nothing was added") from error


def read_requests(path: Path) -> tuple[Request, ...]:
    """Return the requests of a CSV file (``.csv``) or of a store (anything else).

    Raises:
        InputError: it cannot be read, or a line is none.

    """
    try:
        if path.suffix.casefold() != ".csv":
            return tuple(checked(Request, row, where) for where, row in json_rows(path))
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        filled = [{str(name): text for name, text in row.items() if text} for row in rows]
        return tuple(checked_text(Request, row, f"{path} line {number}") for number, row in enumerate(filled, 2))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text") from error
