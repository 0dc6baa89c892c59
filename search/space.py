"""The points a search may choose from: axes of named choices and the rules that couple them, all as numpy arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from catalog.errors import InputError
from catalog.schema import require_positive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Columns: TypeAlias = Mapping[str, NDArray[Any]]
"""Points as a struct of arrays: every array has one entry a point."""
Rule: TypeAlias = Callable[[Columns], NDArray[np.bool_]]
"""Which of the points are allowed, one boolean a point."""

CHUNK = 1 << 17
"""Points enumerated at once: enough to amortise numpy's overhead, few enough to bound memory."""

STEPS_PER_OCTAVE = 8
"""Batch sizes between one power of two and the next: neighbours differ by at most an eighth."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """Choices that are made together: row ``i`` gives every one of ``columns`` its ``i``-th value.

    A single knob has one column. Degrees of parallelism are one axis of four columns, because few of the products of
    tp, pp, dp and ep are valid. Texts are kept as codes into ``labels[name]``.
    """

    columns: Columns
    labels: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        lengths = {len(column) for column in self.columns.values()}
        if not lengths or 0 in lengths:
            raise InputError(f"no valid choice of {', '.join(self.columns) or 'anything'} is left; one is needed")
        if len(lengths) > 1:
            raise ValueError(f"columns of unequal length: {', '.join(self.columns)}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @classmethod
    def of(cls, name: str, options: Iterable[bool | float | str]) -> Axis:
        """Make an axis of one knob and its options in their order, each once."""
        return cls.table([{name: option} for option in dict.fromkeys(options)], names=(name,))

    @classmethod
    def table(cls, rows: Iterable[Any], *, names: Sequence[str] = ()) -> Axis:
        """Make an axis of choices made together: a mapping or a dataclass instance a row; ``names`` (all fields) become
        columns.
        """
        records = [row if isinstance(row, Mapping) else dataclasses.asdict(row) for row in rows]
        columns: dict[str, NDArray[Any]] = {}
        labels: dict[str, tuple[str, ...]] = {}
        for name in names or (records[0] if records else ()):
            values = [record[name] for record in records]
            if values and isinstance(values[0], str):
                labels[name] = tuple(dict.fromkeys(values))
                codes = {label: code for code, label in enumerate(labels[name])}
                values = [codes[value] for value in values]
            columns[name] = np.array(values)
        return cls(columns=columns, labels=labels)

    def crossed(self, name: str, options: Sequence[Sequence[int]]) -> Axis:
        """Return the same choices with one more, whose options depend on the row: row ``i`` may take any of
        ``options[i]``.
        """
        counts = [len(of_row) for of_row in options]
        columns = {key: np.repeat(column, counts) for key, column in self.columns.items()}
        columns[name] = np.fromiter((option for of_row in options for option in of_row), np.int64, sum(counts))
        return Axis(columns=columns, labels=self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Every combination of one row of each axis that all rules allow.

    A point is a vector of row numbers, one an axis; arrays of points have shape (points, axes).
    """

    axes: tuple[Axis, ...]
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if not self.axes:
            raise ValueError("a space needs at least one axis")
        names = [name for axis in self.axes for name in axis.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"a name is on more than one axis: {', '.join(names)}")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis) for axis in self.axes)

    @property
    def size(self) -> int:
        """Count the points before the rules: what enumerating costs."""
        return math.prod(self.shape)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for axis in self.axes for name in axis.columns)

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Return what the codes of each column of texts stand for."""
        return {name: texts for axis in self.axes for name, texts in axis.labels.items()}

    def take(self, points: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the values of ``points``, whether the rules allow them or not."""
        return {
            name: column[points[:, number]]
            for number, axis in enumerate(self.axes)
            for name, column in axis.columns.items()
        }

    def records(self, columns: Columns) -> list[dict[str, Any]]:
        """Return the same points as plain Python values, texts in place of their codes: one mapping a point."""
        labels = self.labels
        values = {
            name: [labels[name][code] for code in columns[name]] if name in labels else columns[name].tolist()
            for name in self.names
        }
        return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]

    def find(self, records: Iterable[Mapping[str, Any]]) -> NDArray[np.int64]:
        """Find the allowed points among ``records`` (as of ``records()``); others, and those lacking a name, are left
        out.
        """
        rows: list[dict[tuple[Any, ...], int]] = []
        for axis in self.axes:
            alone = Space((axis,))
            values = (tuple(record.values()) for record in alone.records(axis.columns))
            rows.append({value: row for row, value in enumerate(values)})
        indices = [
            [
                of_axis.get(tuple(record.get(name) for name in axis.columns), -1)
                for axis, of_axis in zip(self.axes, rows, strict=True)
            ]
            for record in records
        ]
        points = np.array(indices, dtype=np.int64).reshape(-1, len(self.axes))
        points = points[(points >= 0).all(axis=1)]
        return points[self.allows(self.take(points))]

    def allows(self, columns: Columns) -> NDArray[np.bool_]:
        """Return which points all rules allow."""
        allowed = np.ones(len(next(iter(columns.values()))), dtype=bool)
        for rule in self.rules:
            allowed &= rule(columns)
        return allowed

    def chunks(self, most: int = CHUNK) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]]:
        """Yield every allowed point and its values, in order, from ``most`` points before the rules at a time."""
        for start in range(0, self.size, most):
            flat = np.arange(start, min(start + most, self.size))
            points = np.stack(np.unravel_index(flat, self.shape), axis=1)
            columns = self.take(points)
            if self.rules:
                allowed = self.allows(columns)
                points, columns = points[allowed], {name: column[allowed] for name, column in columns.items()}
            yield points, columns

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the values of every allowed point."""
        chunks = [columns for _, columns in self.chunks()]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in self.names}


def batch_sizes(most: int, *, thresholds: Iterable[int] = ()) -> list[int]:
    """Return batch sizes from 1 to ``most`` worth trying: all up to 16, then eight evenly spaced ones an octave.

    Throughput over batch is smooth except at thresholds (memory full, a limit on latency reached, the largest captured
    graph), so neighbours an eighth apart lie close to any optimum between them, and the ``thresholds`` handed in are
    tried exactly; those outside 1..most are dropped.
    """
    require_positive("batch", most)
    sizes = {min(most, size) for size in range(1, 2 * STEPS_PER_OCTAVE)}
    start = 2 * STEPS_PER_OCTAVE
    while start <= most:
        sizes.update(size for size in range(start, 2 * start, start // STEPS_PER_OCTAVE) if size <= most)
        start *= 2
    return sorted(sizes | {most} | {size for size in thresholds if 1 <= size <= most})
