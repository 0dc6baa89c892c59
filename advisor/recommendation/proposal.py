"""What another weight format would buy, where nobody has stated one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from advisor.recommendation.problem import OBJECTIVES, checked
from catalog.engines import find_engine
from catalog.errors import InputError
from catalog.quality import Quality, quality_of

if TYPE_CHECKING:
    from advisor.prediction.deployment_estimate import Estimate
    from advisor.recommendation.problem import DeploymentSearch

PROPOSED_FORMATS = ("fp8", "int4")
PAYS = 1.15
"""Times the throughput from which a format is proposed: less is within most intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A weight format that pays."""

    dtype: str
    throughput: float
    """Times the output tokens a second of a GPU."""
    fewer_gpus: int
    """GPUs that it needs less for what is recommended."""
    quality: Quality | None
    """What is published of it; None: nothing."""


def proposals(search: DeploymentSearch, best: Estimate) -> tuple[Proposal, ...]:
    """Return the formats that pay beside ``best``, the one that pays most first."""
    model, gpu = search.model, search.cluster.gpu
    offered = find_engine(search.engine).weight_formats(gpu)
    if model.quantization or not best.output_tok_s_per_gpu or OBJECTIVES[search.objective][1] != "maximize":
        return ()
    shown = []
    for dtype in PROPOSED_FORMATS:
        if dtype not in offered:
            continue
        try:
            other, _ = checked(replace(search, dtypes=(dtype,)))
            estimate = other.quick_best()
        except InputError:  # the engine has it not with this cache
            continue
        if estimate is None or not estimate.output_tok_s_per_gpu or estimate.batch > estimate.max_concurrency:
            continue
        gain = estimate.output_tok_s_per_gpu / best.output_tok_s_per_gpu
        if gain >= PAYS:
            shown.append(
                Proposal(
                    dtype=dtype,
                    throughput=gain,
                    fewer_gpus=max(
                        best.deployment.tp * best.deployment.pp - estimate.deployment.tp * estimate.deployment.pp, 0
                    ),
                    quality=quality_of(model, dtype),
                )
            )
    return tuple(sorted(shown, key=lambda each: -each.throughput))
