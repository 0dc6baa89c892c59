"""Energy of simulated traffic, from what the scheduler served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.perf_model.energy import GpuWork, dynamic_work

if TYPE_CHECKING:
    from advisor.simulator.request_results import RequestResults
    from advisor.simulator.streaming_statistics import StreamingStatistics
    from catalog.schema import Model


def served_work(
    model: Model, kv_bytes: float, served: RequestResults | StreamingStatistics, *, gpu_s: float
) -> GpuWork:
    """Return the work of simulated traffic; requests that were preempted count once."""
    loads = served.loads
    tokens = loads.given - loads.cached + loads.made - loads.requests
    return dynamic_work(
        model,
        kv_bytes,
        gpu_s=gpu_s,
        passes=((served.steps, tokens / max(served.steps, 1)),),
        tokens=tokens,
        contexts=loads.contexts,
        pairs=loads.pairs,
    )
