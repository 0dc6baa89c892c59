"""The memory of deployments, accounted for as their engine does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.perf_model.adapters import beside_slots
from advisor.perf_model.memory.torch_engine import is_run, torch_memory
from advisor.perf_model.memory.vllm import paged_memory
from catalog.engines import find_engine

if TYPE_CHECKING:
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.memory.parts import Memory
    from catalog.schema import Cluster, Model


def memory(model: Model, cluster: Cluster, layout: DeploymentArrays, engine: str = "vllm") -> Memory:
    """Account for the memory of each of the n deployments of ``layout`` on ``engine``; see ``Memory``.

    The plain PyTorch engine's allocations are followed one by one, for the models that it runs; all else is accounted for
    as vLLM does it.

    Raises:
        InputError: the engine is not known.

    """
    if find_engine(engine).memory.allocator == "caching" and is_run(model):
        return torch_memory(model, cluster, layout)
    return beside_slots(paged_memory(model, cluster, layout, engine), model, layout)
