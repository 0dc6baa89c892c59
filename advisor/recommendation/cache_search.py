"""A search whose first deployments' caches are simulated: until what comes first has been, it looks again with what they hit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from advisor.prediction.deployment_estimate import Estimate
    from advisor.recommendation.problem import DeploymentSearch
    from catalog.errors import Note
    from search.study import StudyResult

ROUNDS = 12
"""Searches, each with what the ones before have simulated, until the first deployments stay."""
COMPARED = 3
"""Deployments at the top that are simulated."""


class RankedAnswer(Protocol):
    """An answer of a search, a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def best(self) -> Estimate | None: ...

    @property
    def candidates(self) -> tuple[Estimate, ...]: ...

    @property
    def assumptions(self) -> tuple[Note, ...]: ...


A = TypeVar("A", bound=RankedAnswer)


def with_caches(
    search: DeploymentSearch, answered: Callable[[DeploymentSearch, StudyResult], A], *, trials: int | None
) -> A:
    """Return the answer of a search whose first deployments' caches have been simulated; those that were not are left out."""
    caches = search.caches
    assert caches is not None
    answer = answered(search, search.run(trials=trials))
    for _ in range(ROUNDS):
        if answer.best is None:
            break
        unknown = [estimate for estimate in answer.candidates[:COMPARED] if estimate.hit_rate is None]
        if not unknown:
            break
        for estimate in unknown:
            caches.simulate(estimate)
        search = replace(search, caches=caches)  # what it keeps of its limits was with other rates
        answer = answered(search, search.run(trials=trials))
    known = tuple(estimate for estimate in answer.candidates if estimate.hit_rate is not None)
    answer = replace(answer, traffic_options=caches.options)
    noted = (*answer.assumptions, *caches.notes(answer.best))
    if answer.best is None or not known:
        return replace(answer, assumptions=noted)
    # a probe would measure prompts that have nothing in common
    return replace(answer, candidates=known, assumptions=noted, next_probe="")
