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

from advisor.perf_model.parameters import IDEAL, PRIORS, Parameters, Prior, scaled_odds

if TYPE_CHECKING:
    from catalog.schema import Gpu
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

PRODUCT_SHARES = {"8.0": 0.83, "9.0": 0.77, "10.0": 0.70, "10.3": 0.75, "12.0": 0.79, "L40S": 0.59}
"""Share of the 16-bit peak that products of 4096 rows and more reach when they are timed alone, by compute capability or GPU: medians of
vLLM's (AIConfigurator 0.12 on A100; H100 and H200; B200 and GB200; B300 and GB300; RTX PRO 6000; L40S). The later a GPU, the less of its
peak its power feeds."""
HOPPER = "9.0"
FLASH_2_ON_HOPPER = 0.36
"""Odds of attention_compute of FlashAttention-2 on Hopper over those on A100: 35% of the peak (FlashAttention-3, arXiv 2407.08608,
abstract) for some 60% (FlashAttention-2, arXiv 2307.08691, abstract: 50 to 73%)."""

CENTRES = {
    # Products as above; fp8 0.67 of the peak on H100 and 0.66 on H200 without the conversion of the inputs (TensorRT-LLM's), which is
    # counted apart; attention with 4096 tokens and more 0.54 on A100 and 0.59 on H100 (AIConfigurator 0.12).
    "gemm_compute": Prior(
        kind="efficiency", typical=PRODUCT_SHARES["8.0"], spread=0.25, meaning="share of peak FLOP/s on A100"
    ),
    "narrow8_compute": Prior(kind="odds", typical=0.6, spread=0.25, meaning=PRIORS["narrow8_compute"].meaning),
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
    "native4_compute": 0.3,
    "native4_us": 1.0,
}
"""What differs in training by its shapes: attention works in tiles of 128 keys (FlashAttention-2, arXiv 2307.08691, section
3.3); grouped products of experts have hundreds of rows each and come near to plain ones (DeepGEMM reports 1.0 to 1.2 of 2.0
PFLOP/s in fp8 on H800); latent attention is plain attention with wide heads; products in NVFP4 reach 0.37 to 0.48 of the peak where
those in 16 bits reach 0.70 (AIConfigurator 0.12, B200)."""


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

    def on_gpu(self, gpu: Gpu, *, flash_2: bool) -> Efficiencies:
        """Return them as they are on ``gpu``, from those on A100; ``flash_2``: attention's kernels are FlashAttention-2's."""
        products = scaled_odds(self.operators.gemm_compute, product_odds(gpu))
        attention = FLASH_2_ON_HOPPER if flash_2 and gpu.compute_capability == HOPPER else 1.0
        return replace(
            self,
            operators=replace(
                self.operators,
                gemm_compute=products,
                attention_compute=scaled_odds(self.operators.attention_compute, attention),
            ),
        )

    @classmethod
    def ideal(cls) -> Efficiencies:
        """Return every efficiency as 1 and no overhead: the hardware's floor."""
        return cls(operators=IDEAL, overlap=1.0, attention_backward=1.0, score_traffic=0.0)


def product_odds(gpu: Gpu) -> float:
    """Return the odds of gemm_compute on a GPU over those on A100, as kernels timed alone have them; 1 where none were."""
    share = PRODUCT_SHARES.get(gpu.name, PRODUCT_SHARES.get(gpu.compute_capability, PRODUCT_SHARES["8.0"]))
    own = PRODUCT_SHARES["8.0"]
    return share / (1.0 - share) / (own / (1.0 - own))


def spread_of_gpus() -> float:
    """Return the standard deviation of the logarithm of the share that large products reach, over kinds of GPUs."""
    return float(np.std(np.log(list(PRODUCT_SHARES.values())), ddof=1))


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
    """The same on GPUs and in formats that no fitted publication has: kinds of GPUs differ in what kernels reach, and publications in how
    well they are tuned."""
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
