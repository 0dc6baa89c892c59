"""How near training comes to the hardware: the parameters of the operators that inference uses too, and a few of its own.

What training moves is fitted to step times that others published (``advisor.training.fitting``), one set for all of them; the
rest keeps the centres of its priors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.parameters import IDEAL, PRIORS, Parameters, Prior

if TYPE_CHECKING:
    from catalog.units import Array

FILE = Path(__file__).parents[1] / "data" / "training_efficiencies.json"

OWN: dict[str, Prior] = {
    "overlap": Prior(
        kind="efficiency", typical=0.85, spread=0.7, meaning="share of communication that runs beside computation"
    ),
    "attention_backward": Prior(
        kind="odds",
        typical=0.6,
        spread=0.4,
        meaning="odds of attention_compute in the backward pass over the forward one",
    ),
    "score_traffic": Prior(
        kind="positive", typical=1.0, spread=0.4, meaning="bytes of the scores of unfused attention over the ideal"
    ),
}
"""Parameters that only training has."""

CENTRES = {
    # Medians of products of 4096 rows and more, timed alone (AIConfigurator 0.12, A100, H100 and H200): bfloat16 0.83, 0.77 and
    # 0.77 of the peak, fp8 with the conversion of its inputs 0.63 and 0.64; attention with 4096 tokens and more 0.54 and 0.59.
    "gemm_compute": Prior(kind="efficiency", typical=0.78, spread=0.25, meaning=PRIORS["gemm_compute"].meaning),
    "narrow8_compute": Prior(kind="odds", typical=0.50, spread=0.25, meaning=PRIORS["narrow8_compute"].meaning),
    "attention_compute": Prior(
        kind="efficiency", typical=0.55, spread=0.4, meaning=PRIORS["attention_compute"].meaning
    ),
    "elementwise_traffic": Prior(
        kind="positive", typical=1.5, spread=0.4, meaning=PRIORS["elementwise_traffic"].meaning
    ),
    "ring_link": PRIORS["ring_link"],
    "gemm_us": PRIORS["gemm_us"],
    "stage_ms": PRIORS["stage_ms"],
}
"""What the fit moves of the parameters that inference has too, as it is believed before."""
FITTED: dict[str, Prior] = CENTRES | OWN
NAMES = tuple(FITTED)
FIXED = {"attention_tile": 128.0, "expert_compute": 0.65, "expert8_compute": 0.5, "latent_compute": 1.0} | {
    "narrow4_compute": 0.25,
    "narrow4_us": 1.0,
}
"""What differs in training by its shapes: attention works in tiles of 128 keys (FlashAttention-2, arXiv 2307.08691, section
3.3); grouped products of experts have hundreds of rows each and come near to plain ones (DeepGEMM reports 1.0 to 1.2 of 2.0
PFLOP/s in fp8 on H800); latent attention is plain attention with wide heads; products in NVFP4 reach 0.37 to 0.48 of the peak
(AIConfigurator 0.12, B200)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiencies:
    """One value of every parameter, or s of them side by side as arrays (s, 1)."""

    operators: Parameters
    overlap: Array | float
    attention_backward: Array | float
    score_traffic: Array | float

    @classmethod
    def from_unbounded(cls, x: Array) -> Efficiencies:
        """Return them from the scale they are fitted on; ``x`` has shape (len(NAMES),) or (s, len(NAMES))."""
        values = {name: FITTED[name].bounded(x[i] if x.ndim == 1 else x[:, i : i + 1]) for i, name in enumerate(NAMES)}
        own = {name: values.pop(name) for name in OWN}
        return cls(operators=replace(Parameters.typical(), **values, **FIXED), **own)

    @classmethod
    def typical(cls) -> Efficiencies:
        """Return the centres of the priors."""
        return cls.from_unbounded(centres())

    @classmethod
    def ideal(cls) -> Efficiencies:
        """Return every efficiency as 1 and no overhead: the hardware's floor."""
        return cls(operators=IDEAL, overlap=1.0, attention_backward=1.0, score_traffic=0.0)


def centres() -> Array:
    """Return the centres of the priors on the unbounded scale, shape (len(NAMES),)."""
    return np.array([FITTED[name].unbounded(FITTED[name].typical) for name in NAMES])


def spreads() -> Array:
    """Return the standard deviations of the priors on the unbounded scale, shape (len(NAMES),)."""
    return np.array([FITTED[name].spread for name in NAMES])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFit:
    """What the published step times say of the parameters, on the unbounded scale."""

    mean: Array
    covariance: Array
    sigma: float
    """Standard deviation of the logarithm of a step time of a publication that was left out, beyond the parameters' own."""
    unseen_sigma: float
    """The same on GPUs and in formats that no fitted publication has."""
    quantile: float
    """Standard deviations on either side that held 90% of the left-out step times."""
    measured: frozenset[tuple[str, str]]
    """GPUs and precisions that publications were fitted of."""

    @property
    def efficiencies(self) -> Efficiencies:
        return Efficiencies.from_unbounded(self.mean)


@cache
def shipped_fit() -> TrainingFit:
    """Return the fit that ships, as ``python -m advisor.training.fitting`` writes it."""
    body = json.loads(FILE.read_text(encoding="utf-8"))
    assert tuple(body["names"]) == NAMES
    return TrainingFit(
        mean=np.array(body["mean"]),
        covariance=np.array(body["covariance"]),
        sigma=body["sigma"],
        unseen_sigma=body["unseen_sigma"],
        quantile=body["quantile"],
        measured=frozenset((gpu, precision) for gpu, precision in body["measured"]),
    )
