"""Choices that are named where no limit says which is wanted: most throughput, balanced, fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.prediction.estimation import Estimate

MOST_THROUGHPUT, BALANCED, FASTEST = "most throughput", "balanced", "fastest"


def named_choices(front: Sequence[Estimate]) -> Mapping[str, Estimate]:
    """Return the choices of a front of speed for one user against throughput per GPU, equal ones once.

    Balanced is the front's knee: where the product of both, each scaled to 0 at its worst on the front and 1 at its best, is
    largest (of a straight front the middle).

    Args:
        front: deployments of which none is beaten in both; those without a TPOT are left out.

    """
    members = [estimate for estimate in front if estimate.tpot_ms and estimate.output_tok_s_per_gpu]
    if not members:
        return {}
    speed = np.array([1e3 / (estimate.tpot_ms or np.inf) for estimate in members])
    throughput = np.array([estimate.output_tok_s_per_gpu for estimate in members], dtype=float)
    picked = {
        MOST_THROUGHPUT: int(throughput.argmax()),
        BALANCED: int((_scaled(speed) * _scaled(throughput)).argmax()),
        FASTEST: int(speed.argmax()),
    }
    names: dict[str, Estimate] = {}
    for name, row in picked.items():
        if members[row] not in names.values():
            names[name] = members[row]
    return names


def _scaled(values: np.ndarray) -> np.ndarray:
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else np.ones_like(values)
