"""What is predicted of the shapes that a plan may measure with a deployment, one prediction for those of equal lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.prediction.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from advisor.calibration.intervals import Regime
    from advisor.perf_model.parameters import Parameters
    from catalog.schema import Cluster, Deployment, Model


def predictions_by_length(
    model: Model,
    cluster: Cluster,
    deployment: Deployment,
    shapes: Sequence[tuple[int, int, int]],
    parameters: Parameters,
    regime: Regime,
) -> Iterator[tuple[int, int, list[int], Prediction]]:
    """Yield input and output length, the batches of the ``shapes`` (batch, input_len, output_len) that have them, and the
    prediction of a resolved deployment at these batches.
    """
    for input_len, output_len in dict.fromkeys(shape[1:] for shape in shapes):
        batches = [shape[0] for shape in shapes if shape[1:] == (input_len, output_len)]
        prediction = Prediction.of(
            model,
            cluster,
            DeploymentArrays.of([deployment] * len(batches), model, cluster.gpu),
            batch=np.array(batches, dtype=float),
            input_len=input_len,
            output_len=output_len,
            regime=regime,
            parameters=parameters,
            engine=deployment.engine,
        )
        yield input_len, output_len, batches, prediction
