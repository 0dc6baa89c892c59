"""The first-token time that a benchmark client reports of requests kept in flight: over a burst and the loop behind it."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

from advisor.calibration.intervals import LEVEL
from advisor.perf_model.static_batch import static_batch_times

if TYPE_CHECKING:
    from advisor.prediction.prediction import Prediction
    from catalog.units import Array

PROMPTS = 10
"""Requests that a client sends for each that it keeps in flight, as InferenceX's recipes have it."""
BUNCHED = 1.2
"""Requests that come in bunches, as a multiple of those in the burst: what follows on it still comes together. Of the simulated loops of
``python -m advisor.validation.client_loops``, whose mean this reproduces within 8% (nine in ten of vLLM's)."""
CLIENT_FACTOR = 1.9
"""Within which factor nine in ten first-token times of the public closed loops lie of what is simulated of them by fits without their
models (``python -m advisor.validation.client_loops``)."""
CLIENT_SIGMA = math.log(CLIENT_FACTOR) / NormalDist().inv_cdf(0.5 + LEVEL / 2.0)
"""The same as a standard deviation of the logarithm."""


def client_ttft_ms(prediction: Prediction) -> Array:
    """Return the mean milliseconds to the first token over ``PROMPTS`` requests for each in flight, the first of which come at once; (n,)."""
    together = static_batch_times(
        prediction.cost_model, prediction.batch, prediction.input_len, prediction.output_len
    ).ttft_ms
    share = BUNCHED / PROMPTS
    return share * together + (1.0 - share) * prediction.times.ttft_ms
