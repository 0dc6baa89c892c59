"""Traces of real traffic: CSV or JSON Lines with a time, an input and an output length, read in pieces."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from advisor.simulator.arrivals import MOST_REQUESTS, PIECE, WHOLE, Arrivals, ArrivalStream
from advisor.simulator.block_hashes import SIZES, sharing_of
from advisor.simulator.class_labels import ClassLabels, labels_of
from catalog.errors import InputError, Note
from catalog.schema import require_positive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from advisor.simulator.class_labels import TrafficClass

    Rows = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]

TIMES = (
    *("arrival_s", "time", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_us", "timestamp_ns"),
    *("arrival_time", "arrived_at", "arrival", "created", "created_at", "start_time"),
)
INPUTS = (
    "input_len",
    "input",
    "input_length",
    "contexttokens",
    "request tokens",
    "num_prefill_tokens",
    "input_tokens",
    "prompt_len",
    "prompt_tokens",
    "num_prompt_tokens",
)
OUTPUTS = (
    "output_len",
    "output",
    "output_length",
    "generatedtokens",
    "response tokens",
    "num_decode_tokens",
    "output_tokens",
    "completion_tokens",
    "num_generation_tokens",
)
"""Names of columns, in any case: this project's, plain ones, and those of the traces of Azure (ContextTokens), BurstGPT
(Request tokens), Mooncake (input_length) and Vidur (num_prefill_tokens), the usage of OpenAI's interface (prompt_tokens,
completion_tokens) and vLLM's metrics (num_prompt_tokens, num_generation_tokens)."""
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds in each unit of time."""
EPOCHS = ((1e16, "ns"), (1e14, "us"), (1e11, "ms"))
"""Times from so much on count since 1970 in that unit: now is 1.8e9 s."""
SESSIONS = frozenset(("chat_id", "parent_chat_id", "turn"))
"""Columns of the traces of Alibaba's Bailian, named like Mooncake's but timed in seconds."""
CLASS = "class"
"""Column of the class of a request."""
HASHES = "hash_ids"
"""Column of the blocks of a prompt (see ``advisor.simulator.block_hashes``); in JSON Lines, or as text in CSV."""
MOST_TOKENS = 2**24
JSON_LINES = (".jsonl", ".ndjson")
"""How files of JSON Lines are called; all others are CSV."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFile:
    """A file of requests, and in which unit its times are."""

    path: str | Path
    unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    """A key of ``UNITS``; "auto": as the names of its columns and the size of its times say."""
    timed: bool = True
    """False: only the lengths are asked for; the file needs no times and no order."""
    classes: tuple[TrafficClass, ...] = ()
    """Which its column ``class`` names; empty: it is not read."""


AT_ONCE_S = 1e-6
"""A whole trace within a microsecond, the finest that clocks of traces tell apart, came at once."""


def read_trace(path: str | Path | TraceFile, *, duration_s: float | None = None, rate: float | None = None) -> Arrivals:
    """Read the requests of a file; times count from the first.

    Args:
        path: CSV, or JSON Lines (``.jsonl``). Times are dates, or numbers: of seconds, of milliseconds in Mooncake's traces,
            in the unit that the column's name ends with (``timestamp_ms``), that fits a count since 1970, or that a
            ``TraceFile`` states. With ``hash_ids`` prompts share the blocks they have in common.
        duration_s: no more of it than that, reading stops there.
        rate: stretch or squeeze the times so that so many requests come a second.

    Raises:
        InputError: it cannot be read, has no such columns, more requests than memory should hold, or a row that no request
            can have: the message names its line.

    """
    arrivals = _read(_trace_file(path), duration_s, rate, whole=MOST_REQUESTS, streamed=False)
    assert isinstance(arrivals, Arrivals)
    return arrivals


def open_trace(
    path: str | Path | TraceFile, *, duration_s: float | None = None, rate: float | None = None
) -> Arrivals | ArrivalStream:
    """Read the same as a stream where there are more than ``WHOLE`` requests: the file has then been checked to its
    end, and is read again, piece by piece, for every simulation.
    """
    return _read(_trace_file(path), duration_s, rate, whole=WHOLE, streamed=True)


def _trace_file(path: str | Path | TraceFile) -> TraceFile:
    """Return what a path names.

    Raises:
        InputError: the unit is none.

    """
    trace = path if isinstance(path, TraceFile) else TraceFile(path=path)
    if trace.unit not in ("auto", *UNITS):
        raise InputError(f"the unit of a trace's times is {trace.unit!r:.40}; it must be auto, {', '.join(UNITS)}")
    return trace


def _read(
    trace: TraceFile, duration_s: float | None, rate: float | None, *, whole: int, streamed: bool
) -> Arrivals | ArrivalStream:
    for name, value in (("duration", duration_s), ("rate", rate)):
        if value is not None:
            require_positive(name, value, whole=False)
    source = Path(trace.path)
    reading = _Reading(trace, duration_s)
    pieces: list[Rows] = []
    count, last = 0, 0.0
    for rows in reading:
        count += len(rows[0])
        last = float(rows[0][-1]) if len(rows[0]) else last
        if count <= whole:
            pieces.append(rows)
            continue
        pieces.clear()
        if not streamed:
            raise InputError(f"{source} has more than {whole} requests; take a part of it by its duration")
        if not source.is_file():
            raise InputError(
                f"{source} has more than {whole} requests and cannot be read twice; store it in a file, or take a part of it by "
                "its duration"
            )
        reading.hashes = None
    if reading.last == -np.inf and source.suffix.casefold() not in JSON_LINES:
        raise InputError(
            f"{source} has no line below its first, which names the columns: a time, an input and an output length"
        )
    if not count:
        raise InputError(f"{source} has no request with at least one output token")
    span = duration_s if duration_s is not None and reading.last >= duration_s else last * count / max(count - 1, 1)
    factor = 1.0
    if rate is not None:
        factor, span = count / rate / span if span > AT_ONCE_S else 0.0, count / rate
    span = span if span > AT_ONCE_S else 1.0
    if count > whole:
        return ArrivalStream(
            make=lambda: (_traffic(rows, factor, span) for rows in _Reading(trace, duration_s, hashed=False)),
            count=count,
            duration_s=span,
            notes=reading.notes,
        )
    at, inputs, outputs = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
    sharing = sharing_of(reading.hashes, inputs) if reading.hashes else None
    notes = reading.notes
    if reading.hashes and sharing is None:
        text = f"{HASHES} of {source.name} fit prompts in blocks of no size from {SIZES[0]} to {SIZES[-1]} tokens and are not used"
        notes = (*notes, Note(text, "warning"))
    classes = ClassLabels(classes=trace.classes, label=np.concatenate(reading.labels)) if trace.classes else None
    return replace(_traffic((at, inputs, outputs), factor, span), sharing=sharing, classes=classes, notes=notes)


def _traffic(rows: Rows, factor: float, span: float) -> Arrivals:
    return Arrivals(arrival_s=rows[0] * factor, input_len=rows[1], output_len=rows[2], duration_s=span)


class _Reading:
    """One pass over a file: its requests, checked, piece by piece."""

    def __init__(self, trace: TraceFile, duration_s: float | None, *, hashed: bool = True) -> None:
        self._source, self._duration_s = Path(trace.path), duration_s
        self._unit: str = "" if trace.unit == "auto" else trace.unit
        self._timed = trace.timed
        self._doubt = ""
        """Why the unit may be another."""
        self.last = -np.inf
        """When the latest request read came."""
        self._empty = self._blank = 0
        self.hashes: list[Sequence[Any]] | None = [] if hashed else None
        """Of the blocks of each prompt read; none where the file has none, None where they are not wanted."""
        self._hashed = False
        self._classes = trace.classes
        self.labels: list[NDArray[np.int64]] = []
        """Of the classes of the requests read, where they are wanted."""

    @property
    def notes(self) -> tuple[Note, ...]:
        """Say which requests were left out."""
        texts = []
        if self._empty:
            texts.append(f"{self._empty} requests of {self._source.name} have no output token and are left out")
        if self._doubt:
            texts.append(
                f"times of {self._source.name} are read as {WORDS[self._unit]}, {self._doubt}; say otherwise with --trace-unit"
            )
        if self._blank:
            texts.append(f"{self._blank} lines of {self._source.name} are blank and left out")
        if self._hashed and self.hashes is None:
            texts.append(
                f"of more than {WHOLE} requests the {HASHES} of {self._source.name} are not used: no prefix is shared"
            )
        return tuple(map(Note, texts))

    def __iter__(self) -> Iterator[Rows]:
        first: float | None = None
        for place, piece in map(self._without_blanks, _pieces(self._source)):
            if piece.empty:
                continue
            try:
                names, at, inputs, outputs = _columns(piece, place, timed=self._timed)
            except OverflowError as error:
                last = place.numbers[-1]
                raise InputError(f"{place(0)} to {last}: a number is too large for a time or a length") from error
            if not self._unit:
                self._unit, self._doubt = _unit(names, at)
            at = at * UNITS[self._unit]
            if first is None:
                first = at[0]
                if first < 0:
                    raise InputError(f"{place(0)}: its time is {first:g}; it must be at least 0")
            at = at - first
            _check(at, inputs, outputs, self.last, place)
            self.last = at[-1]
            served = outputs > 0
            self._empty += int((outputs == 0).sum())
            if self._duration_s is not None:
                served &= at < self._duration_s
            if HASHES in names:
                self._take_hashes(piece[names[HASHES]][served], place, np.flatnonzero(served))
            if self._classes:
                self._take_classes(piece, names, place, np.flatnonzero(served))
            yield at[served], inputs[served].astype(np.int64), outputs[served].astype(np.int64)
            if self._duration_s is not None and self.last >= self._duration_s:
                return

    def _take_classes(
        self, piece: pd.DataFrame, names: Mapping[str, Any], place: _Places, rows: NDArray[np.intp]
    ) -> None:
        stated = piece[names[_one(names, (CLASS,), "class", self._source)]].to_numpy()[rows]
        label, unknown = labels_of(stated, self._classes)
        if unknown is not None:
            known = ", ".join(kind.name for kind in self._classes)
            raise InputError(f"{place(rows[unknown])}: its class is {stated[unknown]!r:.60}; the classes are {known}")
        self.labels.append(label)

    def _take_hashes(self, column: pd.Series[Any], place: _Places, rows: NDArray[np.intp]) -> None:
        self._hashed = True
        if self.hashes is None:
            return
        for row, value in zip(rows.tolist(), column.tolist(), strict=True):
            chain = value.strip("[] ").replace(",", " ").split() if isinstance(value, str) else value
            if not isinstance(chain, list) or not all(isinstance(key, (int, str)) for key in chain):
                raise InputError(
                    f"{place(row)}: {HASHES} is {value!r:.40}; it must be a list of numbers, one a block of the prompt"
                )
            self.hashes.append(chain)

    def _without_blanks(self, read: tuple[_Places, pd.DataFrame]) -> tuple[_Places, pd.DataFrame]:
        place, piece = read
        blank = piece.isna().all(axis=1).to_numpy()
        if not blank.any():
            return read
        self._blank += int(blank.sum())
        return replace(place, numbers=place.numbers[~blank]), piece[~blank]


def _pieces(source: Path) -> Iterator[tuple[_Places, pd.DataFrame]]:
    import pandas as pd  # slow to import, and only traces need it

    lines = source.suffix.casefold() in JSON_LINES
    read = 0
    try:
        if lines:
            with pd.read_json(source, lines=True, chunksize=PIECE, dtype=False) as pieces:
                for piece in pieces:
                    yield _Places(source, "request", np.arange(read + 1, read + 1 + len(piece))), piece
                    read += len(piece)
        else:
            # Blank lines are counted, so that a line that is told is the file's; and no column is an index, for rows with a
            # value more than the header would be read shifted by one.
            with pd.read_csv(
                source,
                chunksize=PIECE,
                skipinitialspace=True,
                skip_blank_lines=False,
                low_memory=False,
                index_col=False,
                sep=_separator(source),
            ) as pieces:
                for piece in _strictly(pieces, source):
                    yield _Places(source, "line", np.arange(read + 2, read + 2 + len(piece))), piece
                    read += len(piece)
    except OSError as error:
        raise InputError(f"cannot read the trace {source}: {error.strerror or error}") from error
    except pd.errors.EmptyDataError as error:
        raise InputError(f"the trace {source} is empty; it must have columns time, input, output") from error
    except (ValueError, pd.errors.ParserError) as error:
        if isinstance(error, InputError):
            raise
        where = f" after request {read}" if lines and read else ""
        raise InputError(f"{source} is no trace{where}: {str(error).splitlines()[0][:120]}") from error


COMPRESSED = (".gz", ".bz2", ".zip", ".xz", ".zst")


def _separator(source: Path) -> str:
    """Return what stands between the values of a row: where the first line has no comma, a semicolon or a tab."""
    if not source.is_file() or source.suffix.casefold() in COMPRESSED:  # a pipe is read once
        return ","
    with source.open("rb") as file:
        first = file.readline(10_000)
    return next((mark for mark in (",", ";", "\t") if mark.encode() in first), ",")


def _strictly(pieces: Iterator[pd.DataFrame], source: Path) -> Iterator[pd.DataFrame]:
    """Yield the pieces, where pandas loses no value of a row."""
    import pandas as pd

    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            try:
                piece = next(pieces, None)
            except pd.errors.ParserWarning as error:
                raise InputError(f"{source} has rows with more values than its first line has names") from error
        if piece is None:
            return
        yield piece


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the n rows of a piece are in the file."""

    source: Path
    what: str
    numbers: NDArray[np.int64]

    def __call__(self, row: int) -> str:
        return f"{self.source} {self.what} {self.numbers[row]}"


def _columns(
    piece: pd.DataFrame, place: _Places, *, timed: bool
) -> tuple[Mapping[str, Any], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return columns by their names in small letters; times in the file's unit, inputs and outputs, (n,) each."""
    names = {str(name).strip().casefold(): name for name in piece.columns}
    lengths = [_one(names, known, what, place.source) for known, what in ((INPUTS, "input"), (OUTPUTS, "output"))]
    inputs, outputs = (_numbers(piece[names[name]], name, place) for name in lengths)
    if not timed:
        return {**names, "": ""}, np.zeros(len(piece)), inputs, outputs
    time = _one(names, TIMES, "time", place.source)
    at, of_dates = _times(piece[names[time]], place)
    return {**names, "": "" if of_dates else time}, at, inputs, outputs


WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def _unit(names: Mapping[str, Any], at: NDArray[np.float64]) -> tuple[str, str]:
    """Return the unit of a file's times, and what speaks for it where its names leave it open."""
    time = names[""]  # none: dates, which are seconds by now
    stated = time.rpartition("_")[2]
    if not time or stated in UNITS:
        return stated or "s", ""
    for least, unit in EPOCHS:
        if at[0] >= least:
            return unit, "which makes them dates of our time"
    if time == "timestamp" and "input_length" in names:
        if SESSIONS & names.keys() or (at % 1 > 0).any():
            return "s", "as in Bailian's traces"
        return "ms", "as in Mooncake's traces"
    return "s", ""


def _one(names: Iterable[str], known: Sequence[str], what: str, source: Path) -> str:
    for name in known:
        if name in names:
            return name
    have = ", ".join(list(names)[:8]) or "none"
    raise InputError(f"{source} has no column for the {what}: one of {', '.join(known[:4])}, ...; it has {have}")


def _times(values: pd.Series[Any], place: _Places) -> tuple[NDArray[np.float64], bool]:
    """Return times as they stand, or seconds since 1970 of dates; and whether they are dates."""
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce")
    of_dates = bool(len(values) and numbers.isna().all() and not values.isna().all())
    if of_dates:
        dates = pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")
        numbers = (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return _whole(numbers, values, "time", place), of_dates


def _numbers(values: pd.Series[Any], name: str, place: _Places) -> NDArray[np.float64]:
    import pandas as pd

    return _whole(pd.to_numeric(values, errors="coerce"), values, name, place)


def _whole(numbers: pd.Series[Any], values: pd.Series[Any], name: str, place: _Places) -> NDArray[np.float64]:
    numeric = numbers.to_numpy(dtype=float)
    wrong = np.flatnonzero(~np.isfinite(numeric))
    if len(wrong):
        value = values.iloc[wrong[0]]
        shown = f"{value!r:.40}" if isinstance(value, str) else f"{value}"
        raise InputError(f"{place(wrong[0])}: {name} is {shown}; it must be a number")
    return numeric


def _check(at: Any, inputs: Any, outputs: Any, last: float, place: _Places) -> None:
    """Raise ``InputError`` where a request of a piece cannot be, or comes before the one above it."""
    if (wrong := np.diff(at, prepend=last) < 0).any():
        raise InputError(f"{place(int(np.argmax(wrong)))}: it arrives before the one above it; sort the trace by time")
    for name, values, least in (("input", inputs, 1), ("output", outputs, 0)):
        wrong = (values < least) | (values > MOST_TOKENS) | (values % 1 > 0)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"{place(row)}: its {name} is {values[row]:.10g}; it must be a whole number of tokens from {least} to {MOST_TOKENS}"
            )
