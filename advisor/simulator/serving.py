"""What a simulation may be asked of how requests are served: the router, the prefix cache, and knobs of the scheduler and the front end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advisor.simulator.routers import FCFS, check_policy, check_router
from catalog.errors import InputError, Note
from catalog.schema import LATENCIES, require_positive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor.simulator.scheduler import Scheduler
    from catalog.engines import EngineTiming
    from catalog.schema import Deployment, Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerKnobs:
    """Knobs that recipes of engines set; None: the engine's default (``catalog.engines.traits.EngineTiming``)."""

    poll_steps: int | None = None
    """Decode steps after which the scheduler looks for new requests: SGLang's ``--scheduler-recv-interval``, 10 to 30 in InferenceX's recipes."""
    batch_wait_steps: int | None = None
    """Steps for which prompts that fill no step are held back: TensorRT-LLM's ``batch_wait_timeout_iters``, 20 in InferenceX's of 70B."""
    delivery_tok_s: float | None = None
    """Tokens a second that the front end of a replica delivers."""

    def __post_init__(self) -> None:
        if self.poll_steps is not None:
            require_positive("poll_steps", self.poll_steps, most=10**6)
        if self.batch_wait_steps not in (None, 0):
            require_positive("batch_wait_steps", self.batch_wait_steps or 0, most=10**6)
        if self.delivery_tok_s is not None and self.delivery_tok_s != math.inf:
            require_positive("delivery_tok_s", self.delivery_tok_s, whole=False)

    def chosen(self, timing: EngineTiming) -> dict[str, Any]:
        """Return them as fields of a ``Scheduler``, the engine's where they are not stated."""
        return {
            name: getattr(timing if value is None else self, name)
            for name in self.__slots__
            for value in [getattr(self, name)]
        }


def check_policy_of(policy: str, engine: str, knobs: Mapping[str, Any]) -> None:
    """Raise ``InputError`` for a policy that is not known, or that an engine's scheduler is not simulated with."""
    check_policy(policy)
    if policy == FCFS:
        return
    if engine != "vllm":
        raise InputError(f"priorities are simulated as vllm has them; with {engine} leave out scheduling_policy")
    if knobs["poll_steps"] > 1 or knobs["batch_wait_steps"]:
        raise InputError(
            "a scheduler that holds requests back is not simulated with priorities; leave out poll_steps and batch_wait_steps, or scheduling_policy"
        )


def serving_warnings(
    deployment: Deployment, scheduler: Scheduler, rate: float | None, *, saturation_s: float
) -> list[Note]:
    """Say where the engine's own scheduler is another, and where more requests come than can be served."""
    notes = []
    if deployment.ranks > 1 and scheduler.ranks == 1:
        notes.append(
            Note("ranks that share their experts step together; they are simulated as if each went on alone", "warning")
        )
    if deployment.engine != "vllm":
        notes.append(
            Note(f"steps are timed as {deployment.engine}'s, but scheduled as vLLM's V1 engine does", "warning")
        )
    if rate is not None and rate > saturation_s:
        overload = (
            f"overloaded: {rate:.3g} requests/s offered, {saturation_s:.3g} served at most; about "
            f"{math.ceil(rate / saturation_s)} times these GPUs are needed"
        )
        notes.append(Note(overload, "warning"))
    return notes


def check_serving(slo: Slo | None, router: str, prefix_hit_rate: float, front_end_ms: float, draws: int) -> None:
    """Raise ``InputError`` for what no simulation can be asked."""
    check_router(router)
    if not 0.0 <= prefix_hit_rate < 1.0:
        raise InputError(f"prefix_hit_rate is {prefix_hit_rate:g}; it must be from 0 to below 1")
    if not 0.0 <= front_end_ms <= 1e5:
        raise InputError(f"front_end_ms is {front_end_ms:g}; it must be from 0 to 100000")
    if isinstance(draws, bool) or not isinstance(draws, int) or not 0 <= draws <= 1000:
        raise InputError(f"draws is {draws!r:.40}; it must be a whole number from 0 to 1000")
    if slo is None:
        return
    for name in LATENCIES:
        if getattr(slo, name) is not None:
            require_positive(name, getattr(slo, name), whole=False)
    if slo.percentile is not None and not 0.0 < slo.percentile < 100.0:
        raise InputError(f"percentile is {slo.percentile:g}; it must be between 0 and 100, such as 95")
