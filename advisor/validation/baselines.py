"""Other ways to predict, fitted to the same runs: the roofline alone, the nearest measured run, trees on raw features.

They are what the model of time has to beat; none of them is used for an answer.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.observations import METRICS
from advisor.perf_model.parameters import IDEAL
from advisor.validation.prediction_errors import Check

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advisor.calibration.observations import RunGroup
    from catalog.units import Array

ROOFLINE, SCALED, NEAREST = "roofline alone", "roofline, one efficiency", "nearest run"
FOREST, BOOSTED = "random forest", "gradient boosting"


def baselines(fitted: Sequence[RunGroup], judged: Sequence[RunGroup]) -> dict[str, list[Check]]:
    """Return predictions of every run in ``judged`` by each method, as checks without an interval.

    The learners take the same features: sizes of the model, GPU, layout, format, batch and lengths. The trees need
    scikit-learn and are left out where it is not installed.
    """
    floors, seen = _floors(judged), _floors(fitted)
    known = _targets(fitted)
    efficiency = np.array([_median_gap(known[:, k], seen[:, k]) for k in range(len(METRICS))])
    log_predictions = {ROOFLINE: floors, SCALED: floors + efficiency, NEAREST: _nearest(fitted, judged, known)}
    if find_spec("sklearn") is not None:
        from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor  # an extra

        log_predictions[FOREST] = _learned(
            lambda: RandomForestRegressor(n_estimators=100, random_state=0), fitted, judged, known
        )
        log_predictions[BOOSTED] = _learned(
            lambda: GradientBoostingRegressor(n_estimators=200, max_depth=4, random_state=0), fitted, judged, known
        )
    return {name: _checks(judged, logs) for name, logs in log_predictions.items()}


def _floors(groups: Sequence[RunGroup]) -> Array:
    """Return the logarithm of what the hardware's peaks allow, shape (runs, metrics)."""
    return np.concatenate([np.log(np.maximum(group.predict(IDEAL), 1e-12)).T for group in groups])


def _targets(groups: Sequence[RunGroup]) -> Array:
    """Return the logarithm of what was measured, shape (runs, metrics); NaN where it was not."""
    return np.concatenate([np.log(group.measured).T for group in groups])


def _median_gap(known: Array, floor: Array) -> float:
    gap = (known - floor)[~np.isnan(known)]
    return float(np.median(gap)) if gap.size else 0.0


def _features(groups: Sequence[RunGroup], engines: Sequence[str]) -> Array:
    """Return the logarithms of sizes, then shares and which engine it is, shape (runs, features)."""
    rows = []
    for group in groups:
        model, gpu, layout = group.model, group.cluster.gpu, group.layout
        fixed = [
            math.log(value)
            for value in (
                model.hidden_size,
                model.num_hidden_layers,
                model.intermediate_size or model.moe_intermediate_size,
                model.num_attention_heads,
                model.num_key_value_heads,
                model.head_dim,
                model.vocab_size,
                max(model.num_experts, 1),
                max(model.num_experts_per_tok, 1),
                gpu.memory_gib,
                gpu.memory_bandwidth_gbps,
                gpu.fp16_tflops,
                gpu.nvlink_gbps + 1.0,
            )
        ]
        which = [float(group.engine == engine) for engine in engines]
        varying = np.stack(
            [
                np.log(layout.tp),
                np.log(layout.pp),
                np.log(layout.weight_bytes),
                np.log(layout.max_num_batched_tokens),
                np.log(group.batch),
                np.log(group.input_len),
                np.log(group.output_len),
                layout.compiled + 0.0,
                layout.offload + 0.0,
            ],
            axis=1,
        )
        same = np.broadcast_to(np.array([*fixed, *which]), (len(varying), len(fixed) + len(which)))
        rows.append(np.concatenate([same, varying], axis=1))
    return np.concatenate(rows)


def _both(fitted: Sequence[RunGroup], judged: Sequence[RunGroup]) -> tuple[Array, Array]:
    engines = sorted({group.engine for group in fitted})
    return _features(fitted, engines), _features(judged, engines)


def _nearest(fitted: Sequence[RunGroup], judged: Sequence[RunGroup], known: Array) -> Array:
    """Return the times of the run nearest in standardised features among those that state the quantity."""
    have, want = _both(fitted, judged)
    spread = np.maximum(have.std(axis=0), 1e-9)
    apart = np.linalg.norm((want[:, None] - have[None]) / spread, axis=2)
    logs = np.full((len(want), len(METRICS)), np.nan)
    for k in range(len(METRICS)):
        stated = ~np.isnan(known[:, k])
        if stated.any():
            logs[:, k] = known[stated, k][np.argmin(apart[:, stated], axis=1)]
    return logs


def _learned(make: Callable[[], object], fitted: Sequence[RunGroup], judged: Sequence[RunGroup], known: Array) -> Array:
    have, want = _both(fitted, judged)
    logs = np.full((len(want), len(METRICS)), np.nan)
    for k in range(len(METRICS)):
        stated = ~np.isnan(known[:, k])
        if stated.any():
            logs[:, k] = make().fit(have[stated], known[stated, k]).predict(want)  # type: ignore[attr-defined]
    return logs


def _checks(groups: Sequence[RunGroup], logs: Array) -> list[Check]:
    checks, row = [], 0
    for group in groups:
        for m, run in enumerate(group.runs):
            for k, metric in enumerate(METRICS):
                measured, log = float(group.measured[k, m]), float(logs[row, k])
                if not (math.isnan(measured) or math.isnan(log)):
                    value = math.exp(log)
                    checks.append(
                        Check(
                            run=run,
                            engine=group.engine,
                            metric=metric,
                            split="not fitted",
                            measured=measured,
                            predicted=value,
                            low=value,
                            high=value,
                        )
                    )
            row += 1
    return checks
