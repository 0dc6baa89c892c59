"""The free parameters of the model of time: what they mean, what they may be, and what is believed before any data.

Each parameter is fitted on an unbounded scale: an efficiency in (0, 1) by its logit, a positive quantity by its
logarithm. Priors are Gaussian on that scale, so log-normal (logit-normal) in the quantity itself.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from catalog.units import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is believed of one parameter before it has been measured."""

    kind: Literal["efficiency", "positive", "odds"]
    typical: float
    spread: float
    """Standard deviation, on the unbounded scale, over engines and GPUs together."""
    meaning: str

    def unbounded(self, value: float) -> float:
        return float(np.log(value / (1.0 - value)) if self.kind == "efficiency" else np.log(value))

    def bounded(self, x: Array | float) -> Array | float:
        return 1.0 / (1.0 + np.exp(-np.asarray(x))) if self.kind == "efficiency" else np.exp(x)


def _efficiency(typical: float, spread: float, meaning: str) -> Prior:
    return Prior(kind="efficiency", typical=typical, spread=spread, meaning=meaning)


def _positive(typical: float, spread: float, meaning: str) -> Prior:
    return Prior(kind="positive", typical=typical, spread=spread, meaning=meaning)


def _odds(typical: float, spread: float, meaning: str) -> Prior:
    return Prior(kind="odds", typical=typical, spread=spread, meaning=meaning)


PRIORS: dict[str, Prior] = {
    "gemm_memory": _efficiency(
        0.80, 0.6, "share of memory bandwidth that matrix products reach when they read weights"
    ),
    "gemm_compute": _efficiency(0.70, 0.6, "share of peak FLOP/s that large matrix products reach"),
    "gemm_sharpness": _positive(3.0, 0.3, "exponent of the smooth maximum of memory and compute time"),
    "gemm_us": _positive(4.0, 0.5, "fixed time of one matrix product on the GPU: ramp up and drain, microseconds"),
    "expert_memory": _efficiency(0.60, 0.7, "the same as gemm_memory for grouped expert products"),
    "expert_compute": _efficiency(0.45, 0.7, "the same as gemm_compute for grouped expert products"),
    "expert_sharpness": _positive(2.0, 0.3, "the same as gemm_sharpness for grouped expert products"),
    "expert_us": _positive(7.0, 0.5, "fixed time of one grouped expert product on the GPU, microseconds"),
    # Kernels for narrow formats: odds of an efficiency, e / (1 - e), over those of the 16-bit kernels beside them, so that
    # no efficiency passes 1, and fixed times as multiples. Centres and spreads are those of fits to published closed loops
    # of fp8 and nvfp4 checkpoints on H100 to B300, and of int4 kernels on H200 (AIConfigurator 0.12).
    "narrow8_memory": _odds(1.0, 0.4, "odds of gemm_memory with 8-bit weights over those with 16-bit ones"),
    "narrow8_compute": _odds(0.6, 0.5, "the same of gemm_compute"),
    "block8_memory": _odds(
        0.8, 0.4, "odds of gemm_memory where a square block of 8-bit weights has one scale, over others"
    ),
    "block8_compute": _odds(0.6, 0.5, "the same of gemm_compute"),
    "narrow4_memory": _odds(0.3, 0.8, "odds of gemm_memory with 4-bit weights over those with 16-bit ones"),
    "narrow4_compute": _odds(0.8, 0.6, "the same of gemm_compute"),
    "narrow4_us": _positive(1.5, 0.5, "fixed time of a product with 4-bit weights over gemm_us"),
    "expert8_memory": _odds(0.5, 0.6, "odds of expert_memory with 8-bit experts over those with 16-bit ones"),
    "expert8_compute": _odds(0.35, 0.6, "the same of expert_compute"),
    "expert8_us": _positive(1.5, 0.5, "fixed time of a grouped product with 8-bit experts over expert_us"),
    "expert4_memory": _odds(0.5, 0.8, "odds of expert_memory with 4-bit experts over those with 16-bit ones"),
    "expert4_compute": _odds(0.6, 0.8, "the same of expert_compute"),
    "expert4_us": _positive(1.5, 0.5, "fixed time of a grouped product with 4-bit experts over expert_us"),
    # Centre and spread are between none and the 1.5 to 2 that vLLM's developers report for tuning a table.
    "untuned_memory": _odds(
        0.7, 0.4, "odds of expert_memory where vLLM has no tile sizes tuned for the experts on that GPU, over others"
    ),
    "untuned_compute": _odds(0.7, 0.5, "the same of expert_compute"),
    # The same for 4 bits that tensor cores multiply as they are (NVFP4 on Blackwell), whose kernels are those of 8 bits rather than those
    # that unpack weights; so are their centres and spreads.
    "native4_memory": _odds(1.0, 0.4, "odds of gemm_memory with 4-bit weights multiplied in 4 bits over 16-bit ones"),
    "native4_compute": _odds(0.6, 0.5, "the same of gemm_compute"),
    "native4_us": _positive(1.5, 0.5, "fixed time of such a product over gemm_us"),
    "native_expert4_memory": _odds(0.5, 0.6, "odds of expert_memory with such experts over those with 16-bit ones"),
    "native_expert4_compute": _odds(0.35, 0.6, "the same of expert_compute"),
    "native_expert4_us": _positive(1.5, 0.5, "fixed time of a grouped product with such experts over expert_us"),
    "kv_memory": _efficiency(0.65, 0.7, "share of memory bandwidth that decode attention reaches when it reads KV"),
    "kv_tile": _positive(
        96.0, 0.8, "tokens of KV that decode attention reads or waits for beyond the context of a sequence"
    ),
    "attention_compute": _efficiency(0.45, 0.7, "share of peak FLOP/s that prefill attention reaches"),
    "attention_tile": _positive(
        400.0, 0.8, "tokens of KV that prefill attention computes with or waits for beyond the causal ones of a token"
    ),
    "attention_us": _positive(8.0, 0.5, "fixed time of the attention of one layer on the GPU, microseconds"),
    "narrow_kv_memory": _odds(0.4, 0.5, "odds of kv_memory with an 8-bit cache over those with a 16-bit one"),
    "latent_memory": _odds(0.7, 0.7, "odds of kv_memory with latent attention over those of others"),
    "latent_compute": _odds(0.6, 0.7, "odds of attention_compute with latent attention over those of others"),
    "state_memory": _efficiency(
        0.50, 0.7, "share of memory bandwidth that recurrent layers reach when they read and write states in decode"
    ),
    "state_compute": _efficiency(0.15, 1.0, "share of peak FLOP/s that recurrent layers reach in prefill"),
    "state_us": _positive(20.0, 0.7, "fixed time of the kernels of one recurrent layer on the GPU, microseconds"),
    "elementwise_traffic": _positive(1.5, 0.6, "bytes moved by norms, rotary embedding and activations over the ideal"),
    "kernel_us": _positive(1.5, 0.6, "fixed time of any other kernel on the GPU, microseconds"),
    "layer_host_us": _positive(250.0, 0.7, "host time to launch one layer outside a CUDA graph, microseconds"),
    "expert_host_us": _positive(300.0, 0.7, "the same that a layer with experts takes more, microseconds"),
    "latent_host_us": _positive(
        150.0,
        0.8,
        "the same that a layer with latent attention takes more, whose prefill is of more and smaller kernels",
    ),
    "admission_ms": _positive(
        2.0, 0.8, "time from a request's arrival to its first pass on an idle engine, milliseconds"
    ),
    "step_ms": _positive(0.7, 0.8, "host time of one engine step, milliseconds"),
    "sequence_us": _positive(6.0, 1.0, "host and sampling time of one sequence in one step, microseconds"),
    "group_sequence_us": _positive(
        8.0,
        0.7,
        "host time of the scheduler for one sequence and group of layers in one step, beside the GPU, microseconds",
    ),
    "collective_us": _positive(6.0, 0.6, "fixed time of one short collective over the fastest link, microseconds"),
    "link": _efficiency(0.60, 0.6, "share of link bandwidth that short collectives reach"),
    "ring_us": _positive(20.0, 0.6, "fixed time of one long collective over the fastest link, microseconds"),
    "ring_link": _efficiency(0.75, 0.6, "share of link bandwidth that long collectives and sends reach"),
    "stage_ms": _positive(0.4, 0.8, "host and hand-over time of one more pipeline stage in one step, milliseconds"),
    "turn_ms": _positive(
        1.8, 0.7, "host time from one pipeline micro-batch's step to the next one's, beside the GPU, milliseconds"
    ),
    "group_imbalance": _positive(0.25, 0.8, "extra time of the largest pipeline micro-batch over the mean one"),
}

NAMES = tuple(PRIORS)
SPREADS: Array = np.array([prior.spread for prior in PRIORS.values()])
"""Standard deviations of the priors on the unbounded scale, shape (len(NAMES),)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """One value of every parameter, in its own unit (see ``PRIORS``); or s of them side by side, as arrays (s, 1).

    Everything computed from s values of the parameters and n configurations has shape (s, n).
    """

    gemm_memory: Array | float
    gemm_compute: Array | float
    gemm_sharpness: Array | float
    gemm_us: Array | float
    expert_memory: Array | float
    expert_compute: Array | float
    expert_sharpness: Array | float
    expert_us: Array | float
    narrow8_memory: Array | float
    narrow8_compute: Array | float
    block8_memory: Array | float
    block8_compute: Array | float
    narrow4_memory: Array | float
    narrow4_compute: Array | float
    narrow4_us: Array | float
    expert8_memory: Array | float
    expert8_compute: Array | float
    expert8_us: Array | float
    expert4_memory: Array | float
    expert4_compute: Array | float
    expert4_us: Array | float
    untuned_memory: Array | float
    untuned_compute: Array | float
    native4_memory: Array | float
    native4_compute: Array | float
    native4_us: Array | float
    native_expert4_memory: Array | float
    native_expert4_compute: Array | float
    native_expert4_us: Array | float
    kv_memory: Array | float
    kv_tile: Array | float
    attention_compute: Array | float
    attention_tile: Array | float
    attention_us: Array | float
    narrow_kv_memory: Array | float
    latent_memory: Array | float
    latent_compute: Array | float
    state_memory: Array | float
    state_compute: Array | float
    state_us: Array | float
    elementwise_traffic: Array | float
    kernel_us: Array | float
    layer_host_us: Array | float
    expert_host_us: Array | float
    latent_host_us: Array | float
    admission_ms: Array | float
    step_ms: Array | float
    sequence_us: Array | float
    group_sequence_us: Array | float
    collective_us: Array | float
    link: Array | float
    ring_us: Array | float
    ring_link: Array | float
    stage_ms: Array | float
    turn_ms: Array | float
    group_imbalance: Array | float

    @classmethod
    def typical(cls) -> Parameters:
        """Return the centre of the priors: what to expect of an engine and a GPU nobody has measured."""
        return cls(**{name: prior.typical for name, prior in PRIORS.items()})

    @classmethod
    def from_unbounded(cls, x: Array) -> Parameters:
        """Read them from the scale they are fitted on; ``x`` has shape (len(NAMES),) or (s, len(NAMES))."""
        if x.ndim == 1:
            return cls(**{name: float(PRIORS[name].bounded(value)) for name, value in zip(NAMES, x, strict=True)})
        return cls(**{name: np.asarray(PRIORS[name].bounded(x[:, i : i + 1])) for i, name in enumerate(NAMES)})

    def unbounded(self) -> Array:
        """Return them on the scale they are fitted on, shape (len(NAMES),)."""
        return np.array([PRIORS[name].unbounded(float(getattr(self, name))) for name in NAMES])


assert tuple(f.name for f in fields(Parameters)) == NAMES


ODDS = tuple(name for name, prior in PRIORS.items() if prior.kind == "odds")
"""Ratios of odds: 1 changes nothing."""


def scaled_odds(efficiency: Array | float, ratio: Array | float) -> Array | float:
    """Return the efficiency whose odds are ``ratio`` times those of ``efficiency``; it stays between 0 and 1."""
    return ratio * efficiency / (1.0 - efficiency + ratio * efficiency)


EFFICIENCIES = tuple(name for name, prior in PRIORS.items() if prior.kind == "efficiency")

IDEAL = Parameters(
    **{name: 1.0 if name in EFFICIENCIES else 1e-9 for name in NAMES}
    | {name: 1024.0 for name in NAMES if name.endswith("sharpness")}
    | dict.fromkeys(ODDS, 1.0)
)
"""Every efficiency 1 and every overhead gone: the roofline itself. The exponents make the smooth maximum sharp."""
