"""Pipeline stages: which layers each one holds, so that the slowest is as fast as can be."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING

from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

NOWHERE: tuple[float, float, tuple[int, ...]] = (math.inf, math.inf, ())
"""No partition within the limit."""


def balanced_stages(costs: Sequence[float], stages: int, *, first: float = 0.0, last: float = 0.0) -> tuple[range, ...]:
    """The layers of each stage, in order, such that the dearest stage costs least; of several such, the most even one.

    ``costs`` are those of the layers in any unit, ``first`` what the first stage has besides (embedding), ``last`` what
    the last one has (final norm, head). Every stage has a layer. Of partitions with the same dearest stage the one with
    the least sum of squares is taken: less time is lost in the other stages.

    Exact, by dynamic programming over (stages, layers), O(stages * layers ** 2), as the linear partition problem (Skiena,
    The Algorithm Design Manual, 8.5): once for the dearest stage, once for the squares of partitions no dearer.

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
    """Kept: the model of time asks for the same stages at every look at a model."""
    layers = len(costs)
    sums = [0.0, *accumulate(costs)]

    def cost(stage: int, begin: int, end: int) -> float:
        return sums[end] - sums[begin] + first * (stage == 0) + last * (stage == stages - 1)

    def best(limit: float) -> tuple[float, float, tuple[int, ...]]:
        """(dearest stage, sum of squares, where stages begin) with the least dearest one; within a limit, squares."""
        bounded = limit < math.inf
        # partitions of the first layers into the stages so far, by how many layers they are
        found: dict[int, tuple[float, float, tuple[int, ...]]] = {0: (0.0, 0.0, ())}
        for stage in range(stages):
            found = {
                end: min(
                    (
                        (
                            max(dearest, cost(stage, begin, end)),
                            squares + cost(stage, begin, end) ** 2,
                            (*begins, begin),
                        )
                        for begin, (dearest, squares, begins) in found.items()
                        if begin < end and cost(stage, begin, end) <= limit
                    ),
                    key=itemgetter(1 if bounded else 0),
                    default=NOWHERE,
                )
                for end in range(stage + 1, layers - stages + stage + 2)
            }
        return found[layers]

    dearest = best(math.inf)[0]
    begins = best(dearest * (1 + 1e-12))[2]  # sums in another order may differ in their last bit
    return tuple(range(begin, end) for begin, end in zip(begins, (*begins[1:], layers), strict=True))
