"""Several classes of requests on the same GPUs: read from a file, and drawn together or found in a trace."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path  # noqa: TC003
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Interval, Len

from advisor.prediction.demand import PERCENTILE, read_demand
from advisor.simulator.arrivals import Arrivals, closed_loop, open_loop
from advisor.simulator.class_labels import ClassLabels, TrafficClass
from catalog.borders import checked
from catalog.errors import InputError
from catalog.quantities import PER_SECOND
from catalog.schema import Slo, Workload, require_positive
from catalog.yaml_files import read_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

FEWEST_OF_CLASS = 200
"""Requests that the rarest class has by default at least: of fewer a 95th percentile is that of ten."""
OF_A_TRACE = ("share", "rate", "input_len", "output_len", "spread")
"""What a trace says of its requests itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassQuestion:
    """One class as a file states it, in the words of ``advisor simulate``."""

    name: Annotated[str, Len(1, 60)]
    share: Annotated[float, Interval(gt=0, le=1e6)] | None = None
    """Of the requests, beside those of the other classes: 3 and 1 are 75% and 25%."""
    rate: float | str | None = None
    """Requests a second, in place of a share."""
    use: str | None = None
    input_len: int | str | None = None
    output_len: int | str | None = None
    spread: Annotated[float, Interval(ge=0, le=3)] | None = None
    priority: Annotated[int, Interval(ge=-(2**31), le=2**31)] = 0
    """The lowest is served first where the engine schedules by priority, as vLLM has it."""
    ttft: float | str | None = None
    tpot: float | str | None = None
    e2e: float | str | None = None
    percentile: Annotated[float, Interval(ge=0, lt=100)] | None = None
    """Of the requests that the limits are on; 0: their mean; None: the 95th."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassesQuestion:
    """A file of classes."""

    classes: Annotated[tuple[ClassQuestion, ...], Len(1, 100)]

    def __post_init__(self) -> None:
        """Raise ``InputError`` for names that are there twice, or shares beside rates."""
        twice = [name for name, times in Counter(kind.name for kind in self.classes).items() if times > 1]
        if twice:
            raise InputError(f"class {twice[0]!r} is there twice; give each a name of its own")
        for kind in self.classes:
            if kind.share is not None and kind.rate is not None:
                raise InputError(f"class {kind.name} has a share and a rate; leave out one of them")
        if len({kind.rate is None for kind in self.classes}) > 1:
            raise InputError("some classes have a rate and some have none; give all a rate, or all a share")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMix:
    """k classes whose requests come together."""

    classes: tuple[TrafficClass, ...]
    workloads: tuple[Workload, ...]
    """Mean lengths of each."""
    spreads: tuple[float, ...]
    """Coefficients of variation of those."""
    shares: tuple[float, ...]
    """Of the requests; they sum to 1."""
    rate: float | None
    """Requests a second of all, where the classes state theirs."""
    stated: tuple[tuple[str, ...], ...]
    """What of ``OF_A_TRACE`` each states."""

    @property
    def lengths(self) -> Workload:
        """Return the mean lengths over all requests."""
        inputs, outputs = (
            sum(share * getattr(workload, name) for share, workload in zip(self.shares, self.workloads, strict=True))
            for name in ("input_len", "output_len")
        )
        return Workload(input_len=max(round(inputs), 1), output_len=max(round(outputs), 1))

    @property
    def longest_output(self) -> int:
        return max(workload.output_len for workload in self.workloads)

    def lasting_s(self, rate: float) -> float:
        """Return the seconds within which the rarest class has ``FEWEST_OF_CLASS`` requests at ``rate`` a second of all."""
        return FEWEST_OF_CLASS / (rate * min(self.shares))

    def stretched(self, input_len: float, output_len: float) -> ClassMix:
        """Return the same with lengths multiplied."""
        workloads = tuple(
            replace(
                workload,
                input_len=max(round(workload.input_len * input_len), 1),
                output_len=max(round(workload.output_len * output_len), 1),
            )
            for workload in self.workloads
        )
        return replace(self, workloads=workloads)

    def traffic(
        self,
        workload: Workload,
        *,
        duration_s: float,
        longest: int,
        seed: int = 0,
        burstiness: float = 1.0,
        curve: Sequence[float] = (),
    ) -> Arrivals:
        """Draw requests at the rate of ``workload``, or so many kept in flight; its lengths are those of the classes.

        At a rate each class is a process of its own; in flight the class of whoever comes next is drawn.

        Raises:
            InputError: a number that cannot be; the message names the class.

        """
        parts = []
        for number, (kind, lengths) in enumerate(zip(self.classes, self.workloads, strict=True)):
            common: dict[str, Any] = {
                "duration_s": duration_s,
                "longest": longest,
                "seed": _seed(seed, number),
                "spread": self.spreads[number],
            }
            rate = None if workload.rate is None else workload.rate * self.shares[number]
            offered = replace(lengths, rate=rate, concurrency=workload.concurrency)
            try:
                if workload.concurrency is not None:
                    parts.append(closed_loop(offered, **common))
                else:
                    parts.append(open_loop(offered, burstiness=burstiness, curve=curve, **common))
            except InputError as error:
                raise InputError(f"class {kind.name}: {error}") from None
        if workload.concurrency is not None:
            return self._in_flight(parts, seed)
        return self._together(parts)

    def _in_flight(self, loops: Sequence[Arrivals], seed: int) -> Arrivals:
        """Join closed loops of the same size: each place is one's of a class that is drawn by its share."""
        count = len(loops[0])
        label = np.random.default_rng((seed, 4)).choice(len(loops), count, p=self.shares)
        place = np.arange(count)
        inputs, outputs = (
            np.stack([getattr(loop, name) for loop in loops])[label, place] for name in ("input_len", "output_len")
        )
        return replace(
            loops[0], input_len=inputs, output_len=outputs, classes=ClassLabels(classes=self.classes, label=label)
        )

    def _together(self, parts: Sequence[Arrivals]) -> Arrivals:
        """Merge open loops by their times."""
        arrival, inputs, outputs = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("arrival_s", "input_len", "output_len")
        )
        order = np.argsort(arrival, kind="stable")
        label = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return replace(
            parts[0],
            arrival_s=arrival[order],
            input_len=inputs[order],
            output_len=outputs[order],
            classes=ClassLabels(classes=self.classes, label=label[order]),
        )

    def check_trace(self) -> None:
        """Raise ``InputError`` where a class states what a trace says itself."""
        for kind, stated in zip(self.classes, self.stated, strict=True):
            if stated:
                raise InputError(
                    f"class {kind.name} states {' and '.join(stated)}; the trace says that, and which requests are of it: leave it out"
                )


def _seed(seed: int, number: int) -> int:
    """Return the seed of the random numbers of a class: of the first that of the question."""
    return seed if number == 0 else int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def read_classes(
    source: str | Path | Mapping[str, Any] | ClassMix, lengths: Workload, slo: Slo, spread: float
) -> ClassMix:
    """Return the classes of a YAML or JSON file, or of a mapping like one; lengths, limits and spread hold for those that state none.

    Raises:
        InputError: it cannot be read, or something in it cannot be.

    """
    if isinstance(source, ClassMix):
        return source
    where = "classes" if isinstance(source, Mapping) else str(source)
    content = dict(source) if isinstance(source, Mapping) else read_yaml(source, "a file of classes")
    if isinstance(content, list):
        content = {"classes": content}
    if not isinstance(content, dict):
        raise InputError(f"{where}: it must have classes, a list, each with a name and a share or a rate")
    question = checked(ClassesQuestion, content, where)
    try:
        return _mix(question, lengths, slo, spread)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _mix(question: ClassesQuestion, lengths: Workload, slo: Slo, spread: float) -> ClassMix:
    plain = Workload(input_len=lengths.input_len, output_len=lengths.output_len)
    workloads, spreads, classes, weights = [], [], [], []
    for kind in question.classes:
        flags = {name: getattr(kind, name) for name in ("use", "input_len", "output_len", "ttft", "tpot", "e2e")}
        try:
            demand = read_demand(plain if kind.use is None else None, None, flags, percentile=PERCENTILE)
            for name, limit in demand.slo.limits.items():
                require_positive(name, limit, whole=False)
            weights.append(_weight(kind))
        except InputError as error:
            raise InputError(f"class {kind.name}: {error}") from None
        workloads.append(demand.workload)
        spreads.append(kind.spread if kind.spread is not None else demand.spread(spread if kind.use is None else None))
        limits = demand.slo if demand.slo.limits else slo
        if kind.percentile is not None:
            limits = replace(limits, percentile=kind.percentile or None)
        classes.append(TrafficClass(name=kind.name, priority=kind.priority, slo=limits))
    total = math.fsum(weights)
    return ClassMix(
        classes=tuple(classes),
        workloads=tuple(workloads),
        spreads=tuple(spreads),
        shares=tuple(weight / total for weight in weights),
        rate=total if question.classes[0].rate is not None else None,
        stated=tuple(
            tuple(name for name in OF_A_TRACE if getattr(kind, name) is not None) for kind in question.classes
        ),
    )


def _weight(kind: ClassQuestion) -> float:
    """Return the rate or the share of a class; 1 where neither is stated, so that such classes are equally many."""
    if kind.rate is None:
        return 1.0 if kind.share is None else kind.share
    rate = PER_SECOND.read(kind.rate, "rate")
    require_positive("rate", rate, whole=False, most=1e5)
    return rate
