"""Energy of serving: what a GPU draws while it is there, and what every byte moved and every operation adds.

E = static_w * GPU-seconds + joules_per_byte * bytes read of weights and KV cache + joules_per_flop * operations, and never
more than the GPU's power limit times GPU-seconds (the split of Hong and Kim, ISCA 2010, into idle and dynamic parts, with
two of those). The three constants of a GPU are fitted to measured runs (``python -m advisor.perf_model.energy``); for a GPU of which
no run measured its energy there is no answer, and none for weights in formats of less than 16 bits, which no run had.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.routing import experts_touched
from catalog.models.sizes import active_parameters, expert_parameters, parameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from catalog.schema import Deployment, Gpu, Measurement, Model

WIDE = ("bfloat16", "float16")
LEVEL_90 = 1.645
"""Standard deviations on either side that hold 90% of a normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What one kind of GPU takes."""

    static_w: float
    joules_per_byte: float
    joules_per_flop: float
    sigma: float
    """Standard deviation of the logarithm of the energy, over the runs fitted."""


POWER: Mapping[str, Power] = {
    "H200-SXM": Power(static_w=206.0, joules_per_byte=89.9e-12, joules_per_flop=0.854e-12, sigma=0.136)
}
"""As ``python -m advisor.perf_model.energy`` prints them: of the runs with the role "fit" of vLLM and plain PyTorch on H200
(catalog/data/runs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuWork:
    """What some GPUs do."""

    gpu_s: float
    """Seconds that they are there, all together."""
    bytes: float
    flops: float

    def joules(self, power: Power, tdp_w: float) -> float:
        energy = power.static_w * self.gpu_s + power.joules_per_byte * self.bytes + power.joules_per_flop * self.flops
        return min(energy, tdp_w * self.gpu_s) if tdp_w > 0 else energy


def power_of(gpu: Gpu, deployment: Deployment) -> Power | None:
    """Return the constants of a GPU whose energy was measured; None for others, what-if ones too, for narrow formats and for drafts."""
    usual = deployment.dtype in WIDE and not deployment.offload and deployment.drafting is None
    return POWER.get(gpu.name) if usual else None


def weights_read(model: Model, tokens: float) -> float:
    """Return parameters that a pass over so many tokens reads: all, or of the experts those it touches."""
    if not model.moe_layers:
        return float(parameters(model))
    touched = float(experts_touched(model, np.array([max(tokens, 1.0)]))[0])
    return parameters(model) - model.moe_layers * (model.num_experts - touched) * expert_parameters(model)


def dynamic_work(
    model: Model,
    kv_bytes: float,
    *,
    gpu_s: float,
    passes: Sequence[tuple[float, float]],
    tokens: float,
    contexts: float,
    pairs: float,
) -> GpuWork:
    """Count the work of 16-bit weights.

    Args:
        model: what is served.
        kv_bytes: of the KV cache for a token, over all GPUs of a replica.
        gpu_s: GPU-seconds.
        passes: numbers of passes, and the tokens in each.
        tokens: computed in all, of prompts and outputs.
        contexts: KV cache entries that decoding reads, in all.
        pairs: query-key pairs, in all.

    """
    return GpuWork(
        gpu_s=gpu_s,
        bytes=2.0 * sum(count * weights_read(model, pass_tokens) for count, pass_tokens in passes)
        + kv_bytes * contexts,
        flops=2.0 * active_parameters(model) * tokens
        + 4.0 * model.num_hidden_layers * model.num_attention_heads * model.head_dim * pairs,
    )


def batch_work(
    model: Model,
    deployment: Deployment,
    kv_bytes: float,
    *,
    batch: float,
    input_len: float,
    output_len: float,
    seconds: float,
    steady: bool,
) -> GpuWork:
    """Return the work of ``batch`` requests of each replica that take ``seconds``; ``steady``: their prompts share the steps of outputs."""
    budget = deployment.max_num_batched_tokens or 8192
    chunks = max(math.ceil(batch * input_len / budget), 1)
    decodes = (output_len, batch * (1.0 + input_len / output_len)) if steady else (output_len - 1.0, batch)
    prefill = () if steady else ((chunks, min(batch * input_len, budget)),)
    work = dynamic_work(
        model,
        kv_bytes,
        gpu_s=deployment.num_gpus / deployment.dp * seconds,
        passes=(decodes, *prefill),
        tokens=batch * (input_len + output_len - 1.0),
        contexts=batch * ((output_len - 1.0) * input_len + output_len**2 / 2.0),
        pairs=batch * (input_len + output_len) ** 2 / 2.0,
    )
    return GpuWork(gpu_s=work.gpu_s * deployment.dp, bytes=work.bytes * deployment.dp, flops=work.flops * deployment.dp)


def measured_work(run: Measurement) -> GpuWork:
    """Return the work of a measured static batch, in the time that it took."""
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.memory.dispatch import memory
    from catalog.gpus import find_gpu
    from catalog.models.find import find_model
    from catalog.schema import Cluster

    model, gpu = find_model(run.model).value, find_gpu(run.gpu).value
    layout = DeploymentArrays.of([run.deployment], model, gpu)
    room = memory(model, Cluster(gpu=gpu, gpus_per_node=run.gpus), layout, run.engine)
    assert run.e2e_ms
    return batch_work(
        model,
        run.deployment,
        float(room.kv_bytes_per_token[0]) * run.tp * run.pp,
        batch=run.batch,
        input_len=run.input_len,
        output_len=run.output_len,
        seconds=run.e2e_ms * 1e-3,
        steady=False,
    )


def with_energy(runs: Iterable[Measurement]) -> list[Measurement]:
    """Return those static batches that the constants can be fitted to and judged by."""
    return [
        run
        for run in runs
        if run.energy_j and run.e2e_ms and run.regime == "static" and not run.offload and run.dtype in WIDE
    ]


def fit_power(runs: Sequence[Measurement]) -> Power:
    """Fit the constants of one kind of GPU, none below 0, that bring the relative errors of the energy to their least squares."""
    from scipy.optimize import nnls

    works, energy = [measured_work(run) for run in runs], np.array([run.energy_j for run in runs])
    # In units that make the columns alike: GPU-seconds, TB, PFLOP.
    columns = np.array([[work.gpu_s, work.bytes / 1e12, work.flops / 1e15] for work in works])
    coefficients, _ = nnls(columns / energy[:, None], np.ones(len(runs)))
    power = Power(
        static_w=float(coefficients[0]),
        joules_per_byte=float(coefficients[1]) / 1e12,
        joules_per_flop=float(coefficients[2]) / 1e15,
        sigma=0.0,
    )
    sigma = math.sqrt(float(np.mean(log_errors(runs, power) ** 2)))
    return Power(
        static_w=power.static_w,
        joules_per_byte=power.joules_per_byte,
        joules_per_flop=power.joules_per_flop,
        sigma=sigma,
    )


def log_errors(runs: Sequence[Measurement], power: Power) -> NDArray[np.float64]:
    """Return the log errors of the energy, given the time that each run took, shape (n,)."""
    from catalog.gpus import find_gpu

    return np.array(
        [
            math.log(measured_work(run).joules(power, find_gpu(run.gpu).value.tdp_w) / run.energy_j)
            for run in runs
            if run.energy_j
        ]
    )


def main() -> None:
    """Print the constants fitted to the shipped runs, and their errors on those that judge."""
    from catalog.runs import shipped_runs

    by_gpu = defaultdict(list)
    for run in with_energy(shipped_runs()):
        by_gpu[run.gpu].append(run)
    for gpu, runs in by_gpu.items():
        power = fit_power([run for run in runs if run.role == "fit"])
        print(
            f"{gpu}: {power.static_w:.1f} W, {power.joules_per_byte * 1e12:.1f} pJ a byte, "
            f"{power.joules_per_flop * 1e12:.3f} pJ an operation, sigma {power.sigma:.3f}"
        )
        for role in ("fit", "validate"):
            errors = log_errors([run for run in runs if run.role == role], power)
            off = np.abs(np.expm1(errors))
            print(
                f"  {role:9}{len(errors)} runs: median error {np.median(off):.1%}, mean {off.mean():.1%}; "
                f"{np.mean(np.abs(errors) <= LEVEL_90 * power.sigma):.0%} within the 90% interval"
            )


if __name__ == "__main__":
    main()
