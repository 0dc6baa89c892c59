"""Traces of real traffic: CSV or JSON Lines with a time, an input and an output length, read in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.serving.traffic import MOST_REQUESTS, Traffic
from catalog.schema import InputError, Note

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray

TIMES = ("arrival_s", "time", "timestamp", "timestamp_ms", "arrival_time", "arrived_at", "arrival")
INPUTS = (
    "input_len",
    "input",
    "input_length",
    "contexttokens",
    "request tokens",
    "num_prefill_tokens",
    "input_tokens",
    "prompt_len",
)
OUTPUTS = (
    "output_len", "output", "output_length", "generatedtokens", "response tokens", "num_decode_tokens", "output_tokens",
)  # fmt: skip
"""Names of columns, in any case: this project's, plain ones, and those of the traces of Azure (ContextTokens), BurstGPT
(Request tokens), Mooncake (input_length) and Vidur (num_prefill_tokens)."""
MILLISECONDS = ("timestamp_ms",)
PIECE = 200_000
"""Rows read at once."""


def read_trace(path: str | Path, *, duration_s: float | None = None, rate: float | None = None) -> Traffic:
    """The requests of a file; times count from the first.

    Args:
        path: CSV, or JSON Lines (``.jsonl``) as Mooncake's, whose ``timestamp`` is in milliseconds. Times are numbers of
            seconds or dates.
        duration_s: no more of it than that, reading stops there.
        rate: stretch or squeeze the times so that so many requests come a second.

    Raises:
        InputError: it cannot be read, has no such columns, or a row that no request can have: the message names it.

    """
    source = Path(path)
    times: list[NDArray[np.float64]] = []
    inputs: list[NDArray[np.int64]] = []
    outputs: list[NDArray[np.int64]] = []
    first, last, empty, count, row = None, -np.inf, 0, 0, 0
    for piece in _pieces(source):
        at, given, asked = _columns(piece, source, row)
        if len(at):
            if at[0] < 0:
                raise InputError(f"{source} request {row + 1}: its time is {at[0]:g}; it must be at least 0")
            first = at[0] if first is None else first
            at = at - first
            _check(at, given, asked, last, source, row)
            last = at[-1]
        row += len(at)
        kept = asked > 0
        if duration_s is not None:
            kept &= at < duration_s
        empty += int((asked == 0).sum())
        times.append(at[kept])
        inputs.append(given[kept].astype(np.int64))
        outputs.append(asked[kept].astype(np.int64))
        count += len(times[-1])
        if count > MOST_REQUESTS:
            raise InputError(f"{source} has more than {MOST_REQUESTS} requests; take a part of it by its duration")
        if duration_s is not None and last >= duration_s:
            break
    if not count:
        raise InputError(f"{source} has no request with at least one output token")
    arrival = np.concatenate(times)
    span = (
        duration_s if duration_s is not None and last >= duration_s else float(arrival[-1]) * count / max(count - 1, 1)
    )
    if rate is not None:
        if not (np.isfinite(rate) and rate > 0):
            raise InputError(f"rate is {rate:g}; it must be a number above 0")
        factor = count / rate / span if span > 0 else 0.0
        arrival, span = arrival * factor, count / rate
    notes = (Note(f"{empty} requests of {source.name} have no output token and are left out"),) if empty else ()
    return Traffic(
        arrival_s=arrival, input_len=np.concatenate(inputs), output_len=np.concatenate(outputs),
        duration_s=span or 1.0, notes=notes,
    )  # fmt: skip


def _pieces(source: Path) -> Iterator[pd.DataFrame]:
    import pandas as pd  # noqa: PLC0415  slow to import, and only traces need it

    lines = source.suffix.casefold() in {".jsonl", ".ndjson"}
    try:
        if lines:
            with pd.read_json(source, lines=True, chunksize=PIECE, dtype=False) as pieces:
                yield from pieces
        else:
            with pd.read_csv(source, chunksize=PIECE, skipinitialspace=True) as pieces:
                yield from pieces
    except OSError as error:
        raise InputError(f"cannot read the trace {source}: {error.strerror or error}") from error
    except pd.errors.EmptyDataError as error:
        raise InputError(f"the trace {source} is empty; it must have columns time, input, output") from error
    except (ValueError, pd.errors.ParserError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source} is no trace: {str(error).splitlines()[0][:120]}") from error


def _columns(piece: pd.DataFrame, source: Path, row: int) -> tuple[Any, Any, Any]:
    names = {str(name).strip().casefold(): name for name in piece.columns}
    chosen = [
        _one(names, known, what, source) for known, what in ((TIMES, "time"), (INPUTS, "input"), (OUTPUTS, "output"))
    ]
    at = _seconds(piece[names[chosen[0]]], source, row)
    if chosen[0] in MILLISECONDS or (chosen[0] == "timestamp" and chosen[1] == "input_length"):
        at = at / 1e3  # Mooncake's
    given, asked = (_numbers(piece[names[name]], name, source, row) for name in chosen[1:])
    return at, given, asked


def _one(names: Iterable[str], known: Sequence[str], what: str, source: Path) -> str:
    for name in known:
        if name in names:
            return name
    have = ", ".join(list(names)[:8]) or "none"
    raise InputError(f"{source} has no column for the {what}: one of {', '.join(known[:4])}, ...; it has {have}")


def _seconds(values: pd.Series[Any], source: Path, row: int) -> NDArray[np.float64]:
    import pandas as pd  # noqa: PLC0415

    numbers = pd.to_numeric(values, errors="coerce")
    if len(values) and numbers.isna().all() and not values.isna().all():
        dates = pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")
        numbers = (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return _whole(numbers, values, "time", source, row)


def _numbers(values: pd.Series[Any], name: str, source: Path, row: int) -> NDArray[np.float64]:
    import pandas as pd  # noqa: PLC0415

    return _whole(pd.to_numeric(values, errors="coerce"), values, name, source, row)


def _whole(numbers: pd.Series[Any], values: pd.Series[Any], name: str, source: Path, row: int) -> NDArray[np.float64]:
    found = numbers.to_numpy(dtype=float)
    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        value = values.iloc[wrong[0]]
        told = f"{value!r:.40}" if isinstance(value, str) else f"{value}"
        raise InputError(f"{source} request {row + wrong[0] + 1}: {name} is {told}; it must be a number")
    return found


def _check(at: Any, given: Any, asked: Any, last: float, source: Path, row: int) -> None:
    """Every request of a piece can be, and comes after the one before it."""

    def refuse(wrong: NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            raise InputError(f"{source} request {row + int(np.argmax(wrong)) + 1}: {what}")

    refuse(np.diff(at, prepend=last) < 0, "it arrives before the one above it; sort the trace by time")
    refuse((given < 1) | (given > 2**24) | (given % 1 > 0), "its input must be a whole number of tokens, at least 1")
    refuse((asked < 0) | (asked > 2**24) | (asked % 1 > 0), "its output must be a whole number of tokens, at least 0")
