"""Which parameters the times of a model on some layouts depend on, so that derivatives by the others need no evaluation."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.deployment_arrays import EIGHT_BIT_BYTES, FOUR_BIT_BYTES
from advisor.perf_model.parameters import NAMES
from catalog.engines import kv_groups
from catalog.models.stack import stack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from catalog.schema import Model


def dependencies(model: Model, layout: DeploymentArrays) -> NDArray[np.intp]:
    """Return places in ``NAMES``, ascending."""
    width = layout.weight_bytes
    quantised = bool(model.quantization)
    return _dependencies(
        model,
        four=quantised or bool(width.min() < FOUR_BIT_BYTES),
        eight=quantised or bool(((width >= FOUR_BIT_BYTES) & (width < EIGHT_BIT_BYTES)).any()),
        untuned=bool(layout.untuned.any()),
        narrow_kv=bool(layout.kv_bytes.min() < 2.0),
        grouped=bool(layout.tp.max() > 1 or layout.ep.max() > 1),
        staged=bool(layout.pp.max() > 1),
    )


@lru_cache(maxsize=2048)
def _dependencies(
    model: Model, *, four: bool, eight: bool, untuned: bool, narrow_kv: bool, grouped: bool, staged: bool
) -> NDArray[np.intp]:
    mixers = [part for _, layer in stack(model).counts for part in layer.mixers]
    absent = {
        "narrow4_": not four,
        "native4_": not four,
        "expert4_": not (four and model.moe_layers),
        "native_expert4_": not (four and model.moe_layers),
        "narrow8_": not eight,
        "block8_": not eight,
        "expert8_": not (eight and model.moe_layers),
        "expert_": not model.moe_layers,
        "untuned_": not untuned,
        "narrow_kv_": not narrow_kv,
        "latent_": not any(part.latent for part in mixers),
        "state_": not any(part.state_bytes for part in mixers),
        "group_sequence_": kv_groups(model).number == 1,
        "ring_us": not grouped,
        "link": not grouped,
        "ring_link": not (grouped or staged),
        "collective_": not (grouped or staged),
        "stage_": not staged,
        "turn_": not staged,
        "group_imbalance": not staged,
    }
    gone = tuple(prefix for prefix, without in absent.items() if without)
    return np.array([i for i, name in enumerate(NAMES) if not name.startswith(gone)], dtype=np.intp)
