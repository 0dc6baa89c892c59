"""Classes of requests: what each is called, its priority and its limits, and which request is of which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from catalog.schema import Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficClass:
    """Requests that are alike to whoever runs the service: one name, one priority, one set of limits."""

    name: str
    priority: int
    """As vLLM's requests have it: the lowest is served first, where the engine schedules by priority."""
    slo: Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLabels:
    """Of n requests the class of each."""

    classes: tuple[TrafficClass, ...]
    label: NDArray[np.int64]
    """Place in ``classes``, (n,)."""

    @property
    def levels(self) -> NDArray[np.int64]:
        """Return the level of each request's priority, 0 first, without gaps between levels, (n,)."""
        priorities = np.array([kind.priority for kind in self.classes])
        return np.unique(priorities, return_inverse=True)[1].astype(np.int64)[self.label]

    def of(self, chosen: NDArray[Any]) -> ClassLabels:
        """Return those of some requests, by a mask or by their numbers."""
        return replace(self, label=self.label[chosen])

    def limits(self) -> list[tuple[NDArray[np.bool_], Mapping[str, float]]]:
        """Return for each class which requests are of it, (n,), and its limits in ms by metric."""
        return [(self.label == number, kind.slo.limits) for number, kind in enumerate(self.classes)]


def labels_of(names: NDArray[Any], classes: Sequence[TrafficClass]) -> tuple[NDArray[np.int64], int | None]:
    """Return the place of each name among the classes, (n,), and the first row whose name is none of theirs."""
    places = {kind.name: number for number, kind in enumerate(classes)}
    label = np.array([places.get(str(name).strip(), -1) for name in names], dtype=np.int64)
    unknown = np.flatnonzero(label < 0)
    return label, int(unknown[0]) if len(unknown) else None
