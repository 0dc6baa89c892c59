"""Measured runs: those shipped with the package, the user's own, and the append-only store that probes write.

A store is a file of ``catalog.jsonl_store``, one ``Measurement`` a line without its empty fields. The same columns as CSV are
read too.
"""

from __future__ import annotations

import csv
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from catalog.borders import checked, checked_text
from catalog.bounds import check_bounds
from catalog.errors import InputError
from catalog.jsonl_store import append_made, json_lines, line_of
from catalog.names import suggestion
from catalog.paths import own_runs
from catalog.schema import Measurement
from catalog.shipped import built_of_text
from catalog.tables import DATA, field_types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import pandas as pd

NOISE = 1.05
"""By how much one clock may disagree with another before two times contradict each other."""


@cache
def shipped_runs() -> tuple[Measurement, ...]:
    """Return the runs that come with the package, file by file."""
    paths = sorted((DATA / "runs").glob("*.csv"))
    return tuple(built_of_text(Measurement, cells) for path in paths for _, cells in _csv_rows(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRuns:
    """The user's own runs, each once."""

    runs: tuple[Measurement, ...]
    left_out: tuple[str, ...]
    """What of the files cannot be used, a line each."""


def user_runs() -> tuple[Measurement, ...]:
    """Return the user's own runs: every CSV and JSON Lines file of ``$ADVISOR_HOME/runs``, as far as they can be read."""
    return read_user_runs().runs


def read_user_runs() -> UserRuns:
    """Return the same, and what cannot be used: a line that is damaged says nothing against the others."""
    runs: dict[str, tuple[str, Measurement]] = {}
    left_out = []
    for path in own_runs():
        for where, run in _attempts(path):
            if isinstance(run, InputError):
                left_out.append(str(run))
            elif why := _contradiction(runs.setdefault(run.run_id, (where, run)), where, run):
                left_out.append(why)
    return UserRuns(runs=tuple(run for _, run in runs.values()), left_out=tuple(left_out))


def read_runs(path: str | Path, *more: str | Path) -> tuple[Measurement, ...]:
    """Return the runs of a CSV file (``.csv``) or of a store (anything else), or of several; each counts once.

    Raises:
        InputError: one cannot be read; or, with the line's number, an unknown column, a missing or impossible value, or
            another run of the same ``run_id``.

    """
    runs: dict[str, tuple[str, Measurement]] = {}
    for source in (path, *more):
        for where, run in _attempts(Path(source)):
            if isinstance(run, InputError):
                raise run
            if why := _contradiction(runs.setdefault(run.run_id, (where, run)), where, run):
                raise InputError(why)
    return tuple(run for _, run in runs.values())


def _contradiction(first: tuple[str, Measurement], where: str, run: Measurement) -> str:
    """Return why a run cannot count beside the ``first`` of its ``run_id``; empty where it says the same."""
    if differing := difference(first[1], run):
        return f"{where} is another run of the run_id {run.run_id!r:.60} of {first[0]}: {differing}; remove one of them"
    return ""


def difference(run: Measurement, other: Measurement) -> str:
    """Return the first field in which two accounts of one run differ, in words; empty if there is none."""
    for field in fields(Measurement):
        before, now = getattr(run, field.name), getattr(other, field.name)
        if before != now and field.name != "fingerprint":
            return f"{field.name} {before} where this says {now}"
    return ""


def _attempts(path: Path) -> Iterator[tuple[str, Measurement | InputError]]:
    """Yield where each run of a file stands, and the run, or why it is none; what ends the reading comes last."""
    of_cells = path.suffix.casefold() == ".csv"
    read = checked_text if of_cells else checked
    try:
        for where, row in _csv_rows(path) if of_cells else json_lines(path):
            try:
                yield where, row if isinstance(row, InputError) else check_run(read(Measurement, row, where), where)
            except InputError as error:
                yield where, error
    except InputError as error:
        yield str(path), error
    except OSError as error:
        yield str(path), InputError(f"cannot read {path}: {error.strerror}")
    except UnicodeDecodeError:
        yield str(path), InputError(f"{path} is not UTF-8 text")
    except ValueError as error:  # a name that no file can have
        yield str(path), InputError(f"cannot read {str(path)!r}: {error}")


def from_cells(cells: Mapping[str, str], where: str) -> Measurement:
    """Return a run from the cells of a CSV row by their columns' names; empty ones were not measured.

    Raises:
        InputError: naming ``where``: an unknown column, a missing or impossible value.

    """
    filled = {name: cell for name, cell in cells.items() if cell != ""}
    return check_run(checked_text(Measurement, filled, where), where)


def append_runs(path: str | Path, measurements: Iterable[Measurement]) -> None:
    """Add runs to a store, all or none; it is made if it does not exist. POSIX only (``flock``).

    Raises:
        InputError: an impossible value, or the file cannot be written; then nothing was added.

    """
    lines = _lines(measurements)
    _add(Path(path), lambda: "".join(lines.values()))


def keep_runs(path: str | Path, measurements: Iterable[Measurement]) -> frozenset[str]:
    """Add those that the store does not have yet; which ones were added, by ``run_id``.

    Other writers wait meanwhile: of several that bring the same run, one adds it.

    Raises:
        InputError: as ``append_runs``, or the store cannot be read.

    """
    path = Path(path)
    lines = _lines(measurements)
    added: set[str] = set()

    def missing() -> str:
        kept = {run.run_id for _, run in _attempts(path) if not isinstance(run, InputError)}
        added.update(lines.keys() - kept)
        return "".join(line for name, line in lines.items() if name in added)

    _add(path, missing)
    return frozenset(added)


def _lines(measurements: Iterable[Measurement]) -> dict[str, str]:
    """Return the lines of a store for some runs, by ``run_id``."""
    return {run.run_id: _line(check_run(run, f"run {run.run_id!r}")) for run in measurements}


def _add(path: Path, make: Callable[[], str]) -> None:
    if path.suffix.casefold() == ".csv":
        raise InputError(f"{path} is a CSV file; runs are added to a store such as {path.with_suffix('.jsonl')}")
    try:
        append_made(path, make)
    except OSError as error:
        raise InputError(f"cannot add runs to {path}: {error.strerror}; nothing was added") from error


def check_run(run: Measurement, where: str) -> Measurement:
    """Return the run itself.

    Raises:
        InputError: a value that cannot have been measured, or two that contradict each other.

    """
    check_bounds(run, where)
    for name in ("run_id", "gpu", "engine", "model", "dtype"):
        if not getattr(run, name).strip():
            raise InputError(f"{where}: {name} is empty")
    if run.tp * run.pp * run.dp > run.gpus:
        raise InputError(f"{where}: tp x pp x dp is {run.tp * run.pp * run.dp}, more than its {run.gpus} GPUs")
    for name in ("prefill_ms", "ttft_ms", "tpot_ms"):
        part = getattr(run, name)
        if part is not None and run.e2e_ms is not None and part > NOISE * run.e2e_ms:
            raise InputError(f"{where}: {name} {part:g} is longer than the whole run, e2e_ms {run.e2e_ms:g}")
    return run


def to_frame(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """Return one row a run, one column a field, in the order of ``Measurement``; numbers that were not measured are NaN."""
    import pandas as pd  # heavy, and few callers need it

    runs = list(measurements)
    hints = field_types(Measurement)
    columns = {name: pd.Series([getattr(run, name) for run in runs], dtype=_dtype(hints[name])) for name in hints}
    return pd.DataFrame(columns)


def _dtype(hint: Any) -> str:
    kinds = [kind for kind in (hint, *get_args(hint)) if kind in (int, float, bool)]
    if not kinds:
        return "str"
    exact = {int: "int64", float: "float64", bool: "bool"}
    return exact.get(hint, "boolean" if bool in kinds else "float64")  # NaN where nothing was measured


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            _check_header(header, path)
            for cells in reader:
                where = f"{path} line {reader.line_num}"
                if len(cells) != len(header):
                    if not cells:
                        continue
                    raise InputError(f"{where} has {len(cells)} cells; its header has {len(header)}")
                yield where, {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
        except csv.Error as error:
            raise InputError(f"{path} line {reader.line_num} is not CSV: {error}") from error


def _check_header(header: Sequence[str], path: Path) -> None:
    known = [field.name for field in fields(Measurement)]
    needed = [field.name for field in fields(Measurement) if field.default is MISSING]
    for name in header:
        if name not in known:
            hint = suggestion(name, known, otherwise=f"columns: {', '.join(known)}")
            raise InputError(f"{path} line 1: unknown column {name!r}; {hint}")
    if missing := [name for name in needed if name not in header]:
        raise InputError(f"{path} line 1: columns {', '.join(missing)} are missing")
    if len(set(header)) < len(header):
        raise InputError(f"{path} line 1: a column stands there twice")


def _line(run: Measurement) -> str:
    return line_of({field.name: getattr(run, field.name) for field in fields(run)})
