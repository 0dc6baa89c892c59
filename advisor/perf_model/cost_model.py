"""Everything the time of a pass depends on: model, GPUs, layout, memory, parameters, engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.memory.dispatch import memory
from catalog.engines import engine_timing, largest_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.perf_model.correction import Correction
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.memory.parts import Memory
    from advisor.perf_model.parameters import Parameters
    from catalog.engines import EngineTiming
    from catalog.schema import Cluster, Model
    from catalog.units import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Everything the time of a pass depends on beside the pass itself."""

    model: Model
    cluster: Cluster
    layout: DeploymentArrays
    memory: Memory
    parameters: Parameters
    engine: str = "vllm"
    """As ``engine_family`` names it."""
    correction: Correction | None = None
    """Of the times of the phases, by runs of this model nearby."""
    prefix_hit_rate: Array | float = 0.0
    """Share of each prompt's tokens that is in the prefix cache when it comes, of batches kept in flight; shape (n,), or one for all."""
    lockstep: bool = True
    """Ranks that share experts wait, in a steady state, for the longest of them (``advisor.perf_model.lockstep.longest_rank``)."""
    ideal: bool = False
    """Nothing is lost to how an engine does it: what physics allows."""

    @classmethod
    def of(
        cls, model: Model, cluster: Cluster, layout: DeploymentArrays, parameters: Parameters, engine: str = "vllm"
    ) -> CostModel:
        """Return the cost model of ``layout``'s deployments, with the memory that the engine takes and leaves there."""
        return cls(
            model=model,
            cluster=cluster,
            layout=layout,
            memory=memory(model, cluster, layout, engine),
            parameters=parameters,
            engine=engine,
        )

    @property
    def factors(self) -> tuple[Array | float, Array | float]:
        """Return the factors on the time of prefill passes, and of decode steps."""
        return (1.0, 1.0) if self.correction is None else (self.correction.factors[0], self.correction.factors[1])

    @property
    def timing(self) -> EngineTiming:
        """Return how the engine spends its time."""
        return engine_timing(self.engine)

    @property
    def captured_tokens(self) -> Array:
        """Return tokens of the largest pass that is captured in a CUDA graph, prefills among them, shape (n,); 0.0: none is."""
        releases, which = np.unique(self.layout.release, return_inverse=True)
        largest = [float(largest_graph(self.engine, self.cluster.gpu, int(minor))) for minor in releases]
        return np.array(largest)[which.reshape(-1)]

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> CostModel:
        nearby = None if self.correction is None else self.correction.take(rows)
        hits = self.prefix_hit_rate[rows] if np.ndim(self.prefix_hit_rate) else self.prefix_hit_rate  # type: ignore[index]
        return replace(
            self, layout=self.layout.take(rows), memory=self.memory.take(rows), correction=nearby, prefix_hit_rate=hits
        )
