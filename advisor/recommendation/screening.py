"""Models by GPUs by formats, screened: what memory cannot hold or money not pay goes, the rest is ranked by a roofline.

Tens of thousands of combinations take milliseconds so; the best are then evaluated in full (``comparison``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.deployment_arrays import checkpoint_dtype, matrix_flops
from catalog.engines import find_engine
from catalog.models.sizes import active_parameters, counted_bytes, kv_bytes_per_token, parameters
from catalog.schema import BITS
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from catalog.schema import Cluster, Gpu, Model, Price, Slo, Workload
    from catalog.units import Array

    Mask = NDArray[np.bool_]

ANY_FORMAT = ("auto", "fp8", "int8", "int4")
"""Weight formats that "any" stands for."""
RESERVED_GIB = 1.0
"""Least of a GPU's memory that activations and the engine take: vLLM reported 1.4 GiB and more of every model that was loaded
(``catalog/data/memory``)."""
MOST_BATCH = 256.0
"""Sequences at once beyond which the roofline of a replica is not followed."""
SLACK = 2.0
"""By what factor the roofline's tokens a second may fall short of those needed: it reads the cache of every request at its full
length, windows and all, so that it is no bound by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedHardware:
    """GPUs that are asked about: a cluster, or a kind of GPU as many as it takes inside of a server."""

    cluster: Cluster
    price: Price | None
    open_count: bool = False

    @property
    def counts(self) -> tuple[int, ...]:
        """Return how many GPUs there may be."""
        if not self.open_count:
            return (self.cluster.num_gpus,)
        most = self.cluster.gpu.gpus_per_node
        return tuple(count for count in (1, 2, 4, 8, 16, 32, 64, 72) if count <= most)

    def of(self, count: int) -> Cluster:
        """Return so many of them."""
        return replace(self.cluster, gpus_per_node=count, nodes=1) if self.open_count else self.cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedDeployment:
    """A model in a format on so many GPUs."""

    model: Model
    hardware: ScreenedHardware
    count: int
    dtype: str
    """As ``DeploymentSearch`` takes it: "auto" is the checkpoint's."""
    tok_s: float
    """Output tokens a second by the roofline; ranks candidates and is shown to nobody."""

    @property
    def hourly(self) -> float | None:
        """Return dollars an hour; None without a price."""
        price = self.hardware.price
        return None if price is None else price.usd_per_gpu_hour * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """What was left of all combinations."""

    candidates: tuple[ScreenedDeployment, ...]
    """Of each model, kind of GPU and format that can be, the fewest GPUs that hold it and can be fast enough."""
    combinations: int
    """Models times kinds of GPUs times formats."""
    too_large: int
    too_slow: int
    too_dear: int
    unsupported: int
    """In formats that the engine has not on those GPUs, or on GPUs that it does not run on."""
    unpriced: int
    """Whose GPUs have no price, where there is a budget: nobody knows whether it pays for them."""


def screen(
    models: Sequence[Model],
    hardware: Sequence[ScreenedHardware],
    formats: Sequence[str],
    engine: str,
    *,
    workload: Workload,
    slo: Slo,
    budget: float | None,
    kv_dtype: str = "auto",
) -> Screening:
    """Return the combinations that may be: bounds of physics rule out the rest, so none is ruled out wrongly.

    Args:
        models: n of them.
        hardware: m of them.
        formats: weight formats; a quantised checkpoint has its own only.
        engine: whose formats count.
        workload: lengths of the requests.
        slo: a limit on TPOT rules out what cannot read its weights in that time.
        budget: most dollars an hour for all GPUs; it rules out GPUs whose price nobody knows.
        kv_dtype: format of the KV cache.

    """
    sizes = [(place, count) for place in hardware for count in place.counts]
    table = _Table.of(sizes)
    screened: list[ScreenedDeployment] = []
    lost = {"large": 0, "slow": 0, "dear": 0, "unpriced": 0, "format": 0}
    combinations = 0
    starts = np.cumsum([0, *(len(place.counts) for place in hardware)])
    kind = find_engine(engine)
    gpus = {place.cluster.gpu.name: place.cluster.gpu for place in hardware}
    offered = {name: () if kind.refusal(gpu) else kind.weight_formats(gpu) for name, gpu in gpus.items()}
    for model in models:
        for dtype, stored in _forms(model, formats):
            fits, fast, paid, tok_s = table.judge(stored, dtype, workload, slo, budget, kv_dtype)
            for i, place in enumerate(hardware):
                combinations += 1
                rows = slice(starts[i], starts[i + 1])
                stands = checkpoint_dtype(model, place.cluster.gpu) if dtype == "auto" else dtype
                if stands not in offered[place.cluster.gpu.name]:
                    lost["format"] += 1
                    continue
                holds = fits[rows]
                if not holds.any():
                    lost["large"] += 1
                    continue
                quick = holds & fast[rows]
                if not quick.any():
                    lost["slow"] += 1
                    continue
                can = quick & paid[rows]
                if not can.any():
                    lost["unpriced" if place.price is None else "dear"] += 1
                    continue
                at = int(np.argmax(can))
                screened.append(
                    ScreenedDeployment(
                        model=model,
                        hardware=place,
                        count=place.counts[at],
                        dtype=dtype,
                        tok_s=float(tok_s[rows][at]),
                    )
                )
    return Screening(
        candidates=tuple(screened),
        combinations=combinations,
        too_large=lost["large"],
        too_slow=lost["slow"],
        too_dear=lost["dear"],
        unpriced=lost["unpriced"],
        unsupported=lost["format"],
    )


def _forms(model: Model, formats: Sequence[str]) -> list[tuple[str, Model]]:
    """Return the formats that a model can have, and the model as its checkpoint would be."""
    if model.quantization:
        return [("auto", model)]
    forms: dict[str, Model] = {}
    for dtype in formats:
        own = dtype in ("auto", model.dtype)
        forms["auto" if own else dtype] = model if own else replace(model, quantization=dtype, formats=())
    return list(forms.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """GPUs in arrays of shape (k,): every hardware with each of its counts."""

    gpus: tuple[Gpu, ...]
    count: Array
    memory: Array
    """Bytes of all of them."""
    bandwidth: Array
    """Bytes a second of all of them."""
    hourly: Array
    """Dollars for all of them; NaN without a price."""
    flops: Mapping[str, Array]
    """FLOP/s of all of them by format, filled as asked for."""

    @classmethod
    def of(cls, sizes: Sequence[tuple[ScreenedHardware, int]]) -> _Table:
        gpus = tuple(place.cluster.gpu for place, _ in sizes)
        count = np.array([float(number) for _, number in sizes])
        priced = [np.nan if place.price is None else place.price.usd_per_gpu_hour for place, _ in sizes]
        return cls(
            gpus=gpus,
            count=count,
            memory=count * GIB * np.array([max(gpu.memory_gib - RESERVED_GIB, 0.0) for gpu in gpus]),
            bandwidth=count * 1e9 * np.array([gpu.memory_bandwidth_gbps for gpu in gpus]),
            hourly=count * np.array(priced),
            flops={
                dtype: count * np.array([matrix_flops(gpu, dtype) for gpu in gpus])
                for dtype in ("float16", "fp8", "int8", "nvfp4")
            },
        )

    def judge(
        self, stored: Model, dtype: str, workload: Workload, slo: Slo, budget: float | None, kv_dtype: str
    ) -> tuple[Mask, Mask, Mask, Array]:
        """Return what holds, may be fast enough and is paid for, and output tokens a second by a roofline, (k,) each."""
        weights = counted_bytes(stored)
        active = weights * active_parameters(stored) / max(parameters(stored), 1)
        length = workload.input_len + workload.output_len
        number = 2.0 if kv_dtype == "auto" else BITS[kv_dtype] / 8.0
        request = max(kv_bytes_per_token(stored, number, windowed=False) * length, 1.0)
        room = self.memory - weights
        fits = room >= request
        reads_s = active / self.bandwidth
        # a step that only reads what one token needs: nothing is faster
        fast = np.ones_like(fits) if slo.tpot_ms is None else reads_s * 1e3 <= slo.tpot_ms
        paid = np.ones_like(fits) if budget is None else self.hourly <= budget
        flops = self.flops.get(stored.quantization or dtype, self.flops["float16"])
        token_s = 2.0 * active_parameters(stored) / flops
        batch = np.clip(room / request, 1.0, MOST_BATCH)
        step_s = np.maximum((weights + batch * request) / self.bandwidth, batch * token_s)
        prompt_s = batch * token_s * workload.input_len / workload.output_len
        tok_s = batch / (step_s + prompt_s)
        return fits, fast & (SLACK * tok_s >= needed_tok_s(workload, slo)), paid, tok_s


def needed_tok_s(workload: Workload, slo: Slo) -> float:
    """Return output tokens a second without which so many requests in flight cannot keep the limits; 0 where nothing says so."""
    flight, made = workload.concurrency or 0, workload.output_len
    longest = [] if slo.e2e_ms is None else [slo.e2e_ms]
    if slo.ttft_ms is not None and slo.tpot_ms is not None:
        longest.append(slo.ttft_ms + (made - 1) * slo.tpot_ms)
    return 1e3 * flight * made / min(longest) if longest and flight <= MOST_BATCH else 0.0
