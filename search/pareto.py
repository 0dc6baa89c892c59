"""Which points no other point beats in every objective, for up to three objectives and millions of points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MOST_OBJECTIVES = 3
CULLING_ROUNDS = 12


def non_dominated(losses: ArrayLike) -> NDArray[np.bool_]:
    """Return which rows of ``losses`` no other row dominates, every objective to be as small as possible.

    A row dominates another if it is nowhere larger and somewhere smaller; equal rows do not dominate each other, so
    the answer does not depend on the order of rows. Rows with a NaN are never in the answer and dominate nothing.

    Args:
        losses: shape (points, objectives), one to three objectives.

    Returns:
        Boolean mask, shape (points,). O(n log n) for two objectives and O(n log² n) for three, whatever the points.
    """
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim != 2 or not 1 <= losses.shape[1] <= MOST_OBJECTIVES:
        raise ValueError(f"losses have shape {losses.shape}; expected (points, 1 to {MOST_OBJECTIVES})")
    mask = np.zeros(len(losses), dtype=bool)
    alive = np.flatnonzero(~np.isnan(losses).any(axis=1))
    if not len(alive):
        return mask
    alive = _culled(losses, alive)
    alive = alive[np.lexsort(losses[alive].T[::-1])]
    rows = losses[alive]
    # Equal rows share one fate: the sweeps below see each distinct row once.
    new = np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)])
    mask[alive] = _front_of_distinct(rows[new])[np.cumsum(new) - 1]
    return mask


def _culled(losses: NDArray[np.float64], alive: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return ``alive`` without most of its dominated rows: cheap passes against a few rows that are good all round."""
    ranks = np.empty((len(alive), losses.shape[1]), dtype=np.int64)
    rows = np.arange(len(alive))
    for objective in range(losses.shape[1]):
        ranks[np.argsort(losses[alive, objective], kind="stable"), objective] = rows
    total = ranks.sum(axis=1)
    for _ in range(CULLING_ROUNDS):
        strong = losses[alive[np.argmin(total)]]
        undominated = ~((losses[alive] >= strong).all(axis=1) & (losses[alive] > strong).any(axis=1))
        total[np.argmin(total)] = np.iinfo(np.int64).max  # has had its turn; the next round takes another
        few = np.count_nonzero(undominated) > 0.9 * len(alive)
        alive, total = alive[undominated], total[undominated]
        if few:
            break
    return alive


def _front_of_distinct(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return ``non_dominated`` for rows that are distinct and in lexicographic order: only earlier ones can dominate."""
    if rows.shape[1] == 1:
        return np.equal(np.arange(len(rows)), 0)
    if rows.shape[1] == 2:
        lowest = np.minimum.accumulate(rows[:, 1])
        falls = np.ones(len(rows), dtype=bool)
        falls[1:] = lowest[1:] < lowest[:-1]
        return falls
    return ~_dominated_by_earlier(_ranks(rows[:, 1]), _ranks(rows[:, 2]))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the position of each value among the distinct values."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _dominated_by_earlier(y: NDArray[np.int64], z: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each ``i`` whether some ``j < i`` has ``y[j] <= y[i]`` and ``z[j] <= z[i]``.

    Divide and conquer, every level in one vectorised pass: at a level, blocks of ``width`` rows are paired, and within
    a pair sorted by y a running minimum of the left block's z tells the right block its answer.
    Kung, Luccio, Preparata, "On finding the maxima of a set of vectors", JACM 22 (1975).
    """
    n = len(y)
    dominated = np.zeros(n, dtype=bool)
    position = np.arange(n)
    order = np.lexsort((position, y))  # of rows with equal y the earlier comes first, so that the later one sees it
    width = 1 << max(n - 1, 1).bit_length() - 1
    while width:
        pair = order // (2 * width)
        left = order & width == 0
        # Later pairs are shifted below earlier ones, so the running minimum starts anew in each.
        shift = pair * -(n + 1)
        lowest = np.minimum.accumulate(np.where(left, z[order], n) + shift)
        dominated[order] |= ~left & (lowest <= z[order] + shift)
        # Split every pair into its blocks, each still sorted by y: a stable partition, cheaper than sorting again.
        lefts = np.cumsum(left)
        split = np.empty_like(order)
        split[pair * width + np.where(left, lefts - 1, width + position - lefts)] = order
        order = split
        width //= 2
    return dominated
