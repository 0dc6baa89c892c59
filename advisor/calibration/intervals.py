"""Which tested error scale an interval takes, and the variance between implementations of one engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from catalog.models.sizes import has_states

if TYPE_CHECKING:
    from catalog.schema import Model
    from catalog.units import Array

LEVEL = 0.9
"""Probability with which the intervals that answers show hold."""
STAGED = " PP"
"""Errors of pipelined runs are kept under the metric's name with this behind it: they are larger."""
EXPERTS = " experts"
"""Errors of models with experts or recurrent layers likewise."""


def beyond_dense(model: Model) -> bool:
    """Return whether a model has experts or recurrent layers."""
    return model.moe_layers > 0 or has_states(model)


def implementation_variance(provenance: str, compiled: Array | float) -> Array:
    """Return the variance that an unmeasured engine without compilation adds to each log prediction."""
    return np.where((np.asarray(compiled) > 0) | (provenance != "analytic"), 0.0, EAGER_SIGMA**2)


def scale_name(metric: str, regime: Regime, *, staged: bool, experts: bool = False) -> str:
    """Return under which name the errors of a metric in a regime are kept; ``staged``: with more than one pipeline stage; ``experts``: of a
    model with experts or recurrent layers (``beyond_dense``).

    The errors of throughput stand for all of the steady state but the time to the first token, which depends on how arrivals cluster.
    """
    if regime == "static":
        return metric + STAGED if staged else metric + EXPERTS if experts else metric
    name = "steady ttft_ms" if metric in ("ttft_ms", "prefill_ms") else "steady output_tok_s"
    return name + EXPERTS if experts and name != "steady ttft_ms" else name


Regime = Literal["static", "steady"]


EAGER_SIGMA = 0.8
"""Standard deviation of the logarithm of time among eager PyTorch implementations nobody has measured here: from
gpt-fast, near the floor, to Hugging Face ``generate`` of early 2024, five and more times slower (gpt-fast README)."""
