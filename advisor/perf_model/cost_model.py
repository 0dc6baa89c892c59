"""Everything the time of a pass depends on: model, GPUs, layout, memory, parameters, engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.perf_model.correction import Correction
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.memory.parts import Memory
    from advisor.perf_model.parameters import Parameters
    from catalog.schema import Cluster, Model
    from catalog.units import Array


FP8_CACHE = 0.65
"""Efficiency at which vLLM's decode attention reads an 8-bit cache, as a share of that of a 16-bit one. From the seven batches
of Llama-3.1-8B on one H200 that had one (FlashAttention 3; ``catalog/data/runs/vllm-0.24.0_h200_static.csv``): their TPOT is
within 2.8% in the mean with it, 7.5% without."""


FP8_PRODUCTS = 0.9
"""Share of the peak of 8-bit products that vLLM's reach, over the share of 16-bit ones that theirs reach. Prefill of Llama-2-7B,
Llama-3.1-8B and Qwen2.5-7B in fp8 on one H200 takes 7% longer than if it were 1, in the mean (batches of 16 and more;
``catalog/data/runs/vllm-0.24.0_h200_static.csv``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Everything the time of a pass depends on beside the pass itself."""

    model: Model
    cluster: Cluster
    layout: DeploymentArrays
    memory: Memory
    parameters: Parameters
    engine: str = "vllm"
    correction: Correction | None = None
    """Of the times of the phases, by runs of this model nearby."""
    ideal: bool = False
    """Nothing is lost to how an engine does it: what physics allows."""

    @property
    def effective_parameters(self) -> Parameters:
        """The parameters, with what the formats of the cache and of the weights cost."""
        found, layout = self.parameters, self.layout
        if self.ideal or self.engine != "vllm":
            return found
        narrow = layout.kv_bytes < ACTIVATION_BYTES
        if self.model.attention != "mla" and np.any(narrow):
            found = replace(found, kv_memory=found.kv_memory * np.where(narrow, FP8_CACHE, 1.0))
        faster = layout.matrix_flops > layout.half_flops
        if np.any(faster):
            found = replace(found, gemm_compute=found.gemm_compute * np.where(faster, FP8_PRODUCTS, 1.0))
        return found

    @property
    def factors(self) -> tuple[Array | float, Array | float]:
        """On the time of prefill passes, and of decode steps."""
        return (1.0, 1.0) if self.correction is None else (self.correction.factors[0], self.correction.factors[1])

    @property
    def whole_prompts(self) -> bool:
        """Whether prompts are never cut, batches run in turn, and only decode steps are recorded in CUDA graphs: so does
        the plain PyTorch engine of the probes (``probes.torch_engine.pipeline``).
        """
        return self.engine.startswith("torch")

    def take(self, rows: NDArray[np.bool_]) -> CostModel:
        nearby = None if self.correction is None else self.correction.take(rows)
        return replace(self, layout=self.layout.take(rows), memory=self.memory.take(rows), correction=nearby)
