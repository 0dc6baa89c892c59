"""Many deployments evaluated at once: their times, how sure they are, and what time goes to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.calibration.intervals import Regime, beyond_dense, implementation_variance, scale_name
from advisor.calibration.support import extrapolation_variance, unmeasured_variance
from advisor.perf_model.cost import CAUSES
from advisor.perf_model.cost_model import CostModel
from advisor.perf_model.dependencies import dependencies
from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES
from advisor.perf_model.forward_pass import decode_pass, prefill_pass
from advisor.perf_model.memory.kv_capacity import max_concurrency, request_gib
from advisor.perf_model.memory.uncertainty import spread_gib
from advisor.perf_model.operators import Product, products
from advisor.perf_model.parameters import EFFICIENCIES, IDEAL, ODDS, Parameters, scaled_odds
from advisor.perf_model.phase_times import in_blocks
from advisor.perf_model.roofline import product_cost
from advisor.perf_model.sensitivity import log_slopes, shifted
from advisor.perf_model.static_batch import static_batch_times
from advisor.perf_model.steady_state import steady_state_times

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.calibration.parameter_posterior import ParameterPosterior
    from advisor.calibration.residual_gp import Residuals
    from advisor.calibration.surrogate import Surrogate
    from advisor.perf_model.cost import Cost
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.phase_times import PhaseTimes
    from catalog.schema import Cluster, Model
    from catalog.units import Array

TIME_METRICS = ("prefill_ms", "ttft_ms", "tpot_ms", "e2e_ms", "output_tok_s")
HIGHER_IS_BETTER = frozenset({"output_tok_s", "output_tok_s_per_gpu"})
TIMES_OF = {"static": static_batch_times, "steady": steady_state_times}
"""The model of time of a batch that arrives at once, and of one that is kept in flight."""


def interval_ends(metric: str, value: Any, factor: Any, bound: Any) -> tuple[Any, Any]:
    """Return the ends of a metric's interval: ``factor`` to either side, but never past the physical ``bound``; numbers or arrays."""
    low, high = value / factor, value * factor
    if metric in HIGHER_IS_BETTER:
        return low, np.maximum(np.minimum(high, bound), value)
    return np.minimum(np.maximum(low, bound), value), high


PARTS_OF_E2E = ("prefill_ms", "ttft_ms")
"""Times that are part of ``e2e_ms``."""


def upper_within(value: Any, high: Any, whole: Any, whole_high: Any) -> Any:
    """Return the upper end of a time that is part of another: no later than the upper end of the whole, where ``value`` is not later than
    the whole itself; numbers or arrays.
    """
    return np.where(value <= whole, np.maximum(np.minimum(high, whole_high), value), high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """n deployments of one model on one kind of GPU under one workload; arrays have shape (n,)."""

    cost_model: CostModel
    regime: Regime
    batch: Array
    input_len: Array
    output_len: Array
    times: PhaseTimes
    mean: Array | None = None
    moved: PhaseTimes | None = None
    """The times at the parameters ``sensitivity.shifted`` makes of ``mean``, of which ``times`` are the first, where they are known."""

    @classmethod
    def of(
        cls,
        model: Model,
        cluster: Cluster,
        layout: DeploymentArrays,
        *,
        batch: Array,
        input_len: float,
        output_len: float,
        regime: Regime,
        parameters: Parameters,
        engine: str = "vllm",
        mean: Array | None = None,
        residuals: Residuals | None = None,
        prefix_hit_rate: Array | float = 0.0,
    ) -> Prediction:
        """Evaluate ``layout``'s deployments; a batch that does not fit runs in waves.

        ``mean``: the same parameters on the scale they are fitted on, with which the derivatives of one deployment's times, which
        ``sigmas`` needs, come from the same evaluation; ``residuals``: of runs of this model, which correct the times near them; ``prefix_hit_rate``: as ``CostModel`` has it.
        """
        cost_model = CostModel.of(model, cluster, layout, parameters, engine)
        cost_model = replace(cost_model, prefix_hit_rate=prefix_hit_rate)
        lengths = np.full(len(layout), float(input_len)), np.full(len(layout), float(output_len))
        batch = np.broadcast_to(np.asarray(batch, dtype=float), (len(layout),))
        if residuals is not None:
            cost_model = replace(
                cost_model, correction=residuals.correction(layout, batch, *lengths, spread=regime == "static")
            )
        moved = None
        if mean is not None and len(layout) == 1:
            moved = in_blocks(TIMES_OF[regime], _shifted(cost_model, mean), batch, *lengths)
        times = in_blocks(TIMES_OF[regime], cost_model, batch, *lengths) if moved is None else moved.first()
        prediction = cls(
            cost_model=cost_model,
            regime=regime,
            batch=batch,
            input_len=lengths[0],
            output_len=lengths[1],
            times=times,
            mean=mean,
            moved=moved,
        )
        return prediction if residuals is None else prediction._above_the_floor()

    def _above_the_floor(self) -> Prediction:
        """Return it with corrections that take no time below what physics allows."""
        cost_model = self.cost_model
        assert cost_model.correction is not None
        least = cost_model.correction.factors.min(axis=0)
        # Without them every time is above its floor by at least the best efficiency, but for what none of them scales.
        best, odds = (
            max(float(np.max(getattr(cost_model.parameters, name))) for name in names) for names in (EFFICIENCIES, ODDS)
        )
        best = float(scaled_odds(best, max(odds, 1.0)))
        scaled = (cost_model.layout.offload == 0) & cost_model.timing.cuts_prompts
        close = np.flatnonzero((least < 1.0) & ((least < best) | ~scaled))
        if not close.size:
            return self
        near = self.take(close)
        floors = near.floors()
        below = np.zeros(len(close), dtype=bool)
        for name, values in near.metrics().items():
            better = values > floors[name] if name == "output_tok_s" else values < floors[name]
            below |= better & (near.times.e2e_ms > 0)
        if not below.any():
            return self
        factors = cost_model.correction.factors.copy()
        factors[:, close[below]] = np.maximum(factors[:, close[below]], 1.0)
        cost_model = replace(cost_model, correction=replace(cost_model.correction, factors=factors))
        return self._run(cost_model, self.batch, self.input_len, self.output_len)

    def take(self, rows: NDArray[Any]) -> Prediction:
        """Return the chosen rows, evaluated again unless they are all."""
        if np.array_equal(rows, np.arange(len(self.batch))):
            return self
        return self._run(self.cost_model.take(rows), self.batch[rows], self.input_len[rows], self.output_len[rows])

    def _run(self, cost_model: CostModel, batch: Array, input_len: Array, output_len: Array) -> Prediction:
        return replace(
            self,
            cost_model=cost_model,
            batch=batch,
            input_len=input_len,
            output_len=output_len,
            times=in_blocks(TIMES_OF[self.regime], cost_model, batch, input_len, output_len),
            moved=None,
        )

    @property
    def concurrency(self) -> Array:
        """Return sequences of the workload's length that the KV cache of one replica holds."""
        return max_concurrency(
            self.cost_model.model, self.cost_model.memory, self.cost_model.layout, self.input_len + self.output_len
        )

    def chances(self, engine: str) -> tuple[Array, Array]:
        """Return the probability that memory is left for one request of the workload's length, and for the whole batch at once."""
        cost_model, spread = self.cost_model, self._memory_spread(engine)
        request = request_gib(cost_model.model, cost_model.memory, cost_model.layout, self.input_len + self.output_len)
        at_once = np.minimum(self.batch, cost_model.layout.max_num_seqs)
        left = [(cost_model.memory.slack_gib - count * request) / spread for count in (1.0, at_once)]
        one, all_ = (np.array([NormalDist().cdf(x) for x in np.clip(rows, -38.0, 38.0)]) for rows in left)
        return one, np.where(at_once < self.batch, 0.0, all_)

    def _memory_spread(self, engine: str) -> Array:
        cost_model = self.cost_model
        return spread_gib(engine, cost_model.cluster.gpu, cost_model.layout, cost_model.memory)

    def capacity_ends(self, engine: str) -> tuple[Array, Array]:
        """Return the fewest and the most tokens that the KV cache of one replica holds with a probability of 90%."""
        room = self.cost_model.memory
        half = NormalDist().inv_cdf(0.95) * self._memory_spread(engine)
        per_gib = room.kv_capacity_tokens / np.maximum(room.kv_gib, 1e-9)
        most = np.where(room.slack_gib > room.kv_gib + 1e-9, room.kv_gib, np.inf)  # what the engine uses at the most
        ends = [np.floor(np.clip(room.slack_gib + side, 0.0, most) * per_gib) for side in (-half, half)]
        return ends[0], ends[1]

    def metrics(self) -> dict[str, Array]:
        return {name: getattr(self.times, name) for name in TIME_METRICS}

    def sigmas(self, marginal: ParameterPosterior, surrogate: Surrogate, engine: str) -> dict[str, Array]:
        """Return the standard deviation of the logarithm of each metric, shape (n,): parameters' spread and residual noise; ``engine``: as
        ``engine_family`` names it.
        """
        moving = dependencies(self.cost_model.model, self.cost_model.layout)
        moved = self.moved
        if moved is None or self.mean is None or not np.array_equal(marginal.mean, self.mean):
            shifted_model = _shifted(self.cost_model, marginal.mean)
            moved = self._run(shifted_model, self.batch, self.input_len, self.output_len).times
        unseen = extrapolation_variance(marginal.seen, self.cost_model.model, self.cost_model.layout)[moving]
        covariance = marginal.covariance[np.ix_(moving, moving)]
        experts = beyond_dense(self.cost_model.model)
        unmeasured = unmeasured_variance(marginal, self.cost_model.model, self.cost_model.layout)
        spreads = {}
        for name in TIME_METRICS:
            slopes = log_slopes(getattr(moved, name))
            variance = np.einsum("pn,pq,qn->n", slopes, covariance, slopes) + np.sum(slopes**2 * unseen, axis=0)
            plain, staged = (
                surrogate.scale(
                    marginal.provenance, engine, scale_name(name, self.regime, staged=staged, experts=experts)
                ).noise
                for staged in (False, True)
            )
            noise = marginal.dispersion * np.where(self.cost_model.layout.pp > 1, staged, plain)
            unknown = implementation_variance(marginal.provenance, self.cost_model.layout.compiled) + unmeasured
            spreads[name] = np.sqrt(np.maximum(variance, 0.0) + noise**2 * self._left(name) + unknown)
        return spreads

    def _left(self, metric: str) -> Array | float:
        """Return the share of a residual's variance that runs nearby leave. They are static batches, and what they say of
        the steady state was tested on too few runs to narrow its intervals.
        """
        if self.cost_model.correction is None or self.regime == "steady":
            return 1.0
        return self.cost_model.correction.left_of(metric, np.clip(self.times.prefill_ms / self.times.e2e_ms, 0.0, 1.0))

    def floors(self) -> dict[str, Array]:
        """Return the physical bounds: time at peak bandwidth and peak FLOP/s with no overhead at all, shape (n,).

        Times cannot be shorter, throughput cannot be higher.
        """
        cost_model = replace(self.cost_model, parameters=IDEAL, correction=None, ideal=True)
        ideal = self._run(cost_model, self.batch, self.input_len, self.output_len)
        return ideal.metrics()


def _shifted(cost_model: CostModel, mean: Array) -> CostModel:
    """Return the cost model at ``mean`` and one step further in each parameter that its times depend on."""
    moving = dependencies(cost_model.model, cost_model.layout)
    return replace(cost_model, parameters=Parameters.from_unbounded(shifted(mean, moving)))


def time_by_operator(evaluation: Prediction, row: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return milliseconds of one row, by phase ("prefill", "decode"), operator and cause; zeros are left out."""
    times = evaluation.times
    return {"prefill": times.prefill.row(row), "decode": times.decode.row(row)}


def request_causes(evaluation: Prediction) -> dict[str, Array]:
    """Return milliseconds of one request's life by cause, shape (n,): its prefill and its decode steps."""
    steps = np.maximum(evaluation.output_len - 1.0, 0.0)
    whole: Cost = evaluation.times.prefill + evaluation.times.decode * steps
    return whole.by_cause()


def product_report(evaluation: Prediction, row: int) -> list[dict[str, Any]]:
    """Return every matrix product of one row in prefill and decode: shape, work, and what bounds it."""
    only = np.array([row])
    cost_model, input_len = evaluation.cost_model.take(only), evaluation.input_len[only]
    budget = np.minimum(cost_model.layout.max_num_batched_tokens, evaluation.batch[only] * input_len)
    zero = np.zeros(1)
    context = input_len + evaluation.output_len[only] / 2.0
    passes = {
        "prefill": prefill_pass(budget, np.maximum(budget / input_len, 1.0), zero, zero),
        "decode": decode_pass(cost_model.model, evaluation.times.running[only], context),
    }
    gpu, rows = cost_model.cluster.gpu, []
    for phase, step in passes.items():
        for product in products(cost_model.model, cost_model.layout, step):
            cost = product_cost(product, cost_model.layout, gpu, cost_model.parameters)
            causes = dict.fromkeys(CAUSES, 0.0) | cost.row(0).get(product.name, {})
            rows.append(
                {
                    "phase": phase,
                    "product": product.name,
                    "m": float(np.ravel(product.m)[0]),
                    "k": float(np.ravel(product.k)[0]),
                    "n": float(np.ravel(product.n)[0]),
                    "layers": product.layers,
                    "gflop": float(np.ravel(product.flops)[0]) / 1e9,
                    "flop_per_byte": _intensity(product, cost_model.layout),
                    "ms": sum(causes.values()),
                    "bound": max(causes, key=lambda cause: causes[cause]),
                }
            )
    return rows


def _intensity(product: Product, layout: DeploymentArrays) -> float:
    width = max(layout.weight_bytes[0], ACTIVATION_BYTES) if product.kind == "half" else layout.weight_bytes[0]
    return float(np.ravel(product.flops)[0] / (np.ravel(product.weights)[0] * width))


def ridge_batch(evaluation: Prediction, row: int) -> float:
    """Return the sequences per replica at which one row's decode products reach the roofline's ridge: from memory- to compute-bound.

    Where weight reads and FLOPs take equally long: m FLOPs 2 k n / (peak e_c) = k n bytes / (bandwidth e_m), so
    m = bytes peak e_c / (2 bandwidth e_m) rows; with experts, m rows reach each expert at m N / k tokens.
    """
    cost_model = evaluation.cost_model
    model, parameters, gpu = cost_model.model, cost_model.parameters, cost_model.cluster.gpu
    ratio = float(cost_model.layout.weight_bytes[row] * cost_model.layout.matrix_flops[row]) / (
        2.0 * gpu.memory_bandwidth_gbps * 1e9
    )
    dense = ratio * float(parameters.gemm_compute) / float(parameters.gemm_memory)
    if not model.moe_layers:
        return dense
    routed = ratio * float(parameters.expert_compute) / float(parameters.expert_memory)
    return routed * model.num_experts / model.num_experts_per_tok
