"""Pipeline stages: which layers each one holds, so that the slowest is as fast as can be."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def balanced_stages(costs: Sequence[float], stages: int, *, first: float = 0.0, last: float = 0.0) -> tuple[range, ...]:
    """Return the layers of each stage, in order, such that the dearest stage costs least; of several such, the most even one.

    ``costs`` are those of the layers in any unit, ``first`` what the first stage has besides (embedding), ``last`` what
    the last one has (final norm, head). Every stage has a layer. Of partitions with the same dearest stage the one with
    the least sum of squares is taken: less time is lost in the other stages.

    Exact, by dynamic programming over (stages, layers), as the linear partition problem (Skiena, The Algorithm Design
    Manual, 8.5): once for the dearest stage, once for the squares of partitions no dearer, O(layers ** 2) where costs are alike.

    Raises:
        InputError: there are fewer layers than stages, or a cost is negative.

    """
    layers = len(costs)
    if not 1 <= stages <= layers:
        raise InputError(f"{layers} layers cannot make {stages} stages; it must be from 1 to {layers}")
    if min(*costs, first, last, 0.0) < 0:
        raise InputError("a layer's cost is negative; it must be 0 or more")
    return _balanced(tuple(costs), stages, first, last)


@lru_cache(maxsize=256)
def _balanced(costs: tuple[float, ...], stages: int, first: float, last: float) -> tuple[range, ...]:
    """Balance the stages, once a model: the model of time asks for the same stages at every look at a model."""
    import numpy as np  # the catalog needs it for nothing else

    layers = len(costs)
    sums = np.array([0.0, *accumulate(costs)])
    ends = np.arange(layers + 1)
    beside = [first * (stage == 0) + last * (stage == stages - 1) for stage in range(stages)]

    # The dearest stage, by how many layers there are so far: it rises with where a stage begins, the stage's own cost falls.
    dearest = np.where(ends == 0, 0.0, np.inf)
    for stage, extra in enumerate(beside):
        low, high = np.full(layers + 1, min(stage, layers)), np.maximum(ends - 1, 0)
        while (low < high).any():
            middle = (low + high) // 2
            falls = dearest[middle] < sums - sums[middle] + extra
            low, high = np.where(falls, np.minimum(middle + 1, high), low), np.where(falls, high, middle)
        tried = [np.maximum(dearest[at], sums - sums[at] + extra) for at in (low, np.maximum(low - 1, 0))]
        dearest = np.where(ends > stage, np.minimum(*tried), np.inf)
    limit = dearest[layers] * (1 + 1e-12)  # sums in another order may differ in their last bit

    # The least sum of squares of stages within it: no stage then has more layers than ``widest``.
    widest = int((ends - np.searchsorted(sums, sums - limit * (1 + 1e-9))).max())
    begins = ends[:, None] - np.arange(widest, 0, -1)
    possible, own = begins >= 0, sums[:, None] - sums[np.maximum(begins, 0)]
    squares, origins = np.where(ends == 0, 0.0, np.inf), []
    for extra in beside:
        cost = np.where(possible & (own + extra <= limit), own + extra, np.inf)
        totals = squares[np.maximum(begins, 0)] + cost**2
        chosen = totals.argmin(axis=1)[:, None]  # the first of equal ones
        squares = np.take_along_axis(totals, chosen, axis=1)[:, 0]
        origins.append(np.take_along_axis(begins, chosen, axis=1)[:, 0])
    parts = [layers]
    for origin in reversed(origins):
        parts.append(int(origin[parts[-1]]))
    return tuple(range(begin, end) for end, begin in reversed(list(pairwise(parts))))
