"""What is asked of traffic, read once for every question about it: lengths, rate, limits, and what requests have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from advisor.prediction.demand import IMAGE_SIZE, PERCENTILE, read_demand, with_image_tokens
from catalog.errors import InputError
from catalog.quantities import PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from advisor.simulator.class_mix import ClassMix
    from advisor.simulator.conversations import Conversations
    from advisor.simulator.prompt_sharing import PromptSharing
    from catalog.errors import Note
    from catalog.schema import Model, Slo, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficQuestion:
    """Traffic as a user states it, with what a use fills in."""

    workload: Workload
    """With the rate, where one is stated or follows from users."""
    slo: Slo
    conversations: Conversations
    spread: float
    """Coefficient of variation of the lengths."""
    prefix_hit_rate: float
    """Share of each prompt that hits the prefix cache; 0 where what prompts share is simulated."""
    mix: ClassMix | None
    """Classes of requests; None: all are alike."""
    images: int = 0
    """Of every prompt,"""
    image_size: tuple[int, int] = IMAGE_SIZE
    """and the height and width of each."""
    notes: tuple[Note, ...]

    @classmethod
    def read(
        cls,
        workload: Workload | Mapping[str, Any] | None,
        slo: Slo | Mapping[str, Any] | None,
        flags: Mapping[str, Any],
        conversations: Conversations,
        *,
        rate: float | str | None,
        spread: float | None,
        prefix_hit_rate: float | None,
        curve: Sequence[float] = (),
        classes: str | Path | Mapping[str, Any] | ClassMix | None = None,
    ) -> TrafficQuestion:
        """Read the arguments of ``simulate`` and ``plan`` of those names; the think time of ``conversations`` is read here.

        Raises:
            InputError: a name or number that cannot be, or two that contradict each other.

        """
        stated = None if rate is None else PER_SECOND.read(rate, "rate")
        demand = read_demand(workload, slo, flags, percentile=PERCENTILE, rate=stated, turns=conversations.turns)
        common = replace(conversations, think_s=demand.think_s if conversations.turns > 1 else 0.0)
        common.check(prefix_hit_rate=prefix_hit_rate or 0.0, curve=curve)
        asked = demand.workload if stated is None else replace(demand.workload, rate=stated)
        mix = None
        if classes is not None:
            from advisor.simulator.class_mix import read_classes  # brings pydantic

            mix = read_classes(classes, asked, demand.slo, demand.spread(spread))
            often = mix.rate if asked.rate is None and asked.concurrency is None else asked.rate
            asked = replace(mix.lengths, rate=often, concurrency=asked.concurrency)
        limits = demand.slo
        if mix is not None and not limits.limits:  # what is said of all requests is at their usual percentile
            limits = replace(limits, percentile=limits.percentile or PERCENTILE)
        return cls(
            workload=asked,
            slo=limits,
            conversations=common,
            spread=demand.spread(spread),
            prefix_hit_rate=0.0 if common else demand.prefix_hit_rate(prefix_hit_rate),
            mix=mix,
            images=demand.images,
            image_size=demand.image_size,
            notes=demand.notes,
        )

    def of_model(self, model: Model, traffic: object) -> tuple[Model, TrafficQuestion]:
        """Return the model asked about the images of prompts, and the question with their tokens; ``traffic``: a trace or sessions.

        Raises:
            InputError: the model takes no such images, or something else says what prompts hold.

        """
        if not self.images:
            return model, self
        if traffic is not None or self.mix is not None or self.conversations.turns > 1:
            raise InputError(
                "images are of prompts that are all alike; leave out images, or the trace, sessions, turns and classes"
            )
        asked, workload, notes = with_image_tokens(model, self.workload, self.images, self.image_size)
        return asked, replace(self, workload=workload, notes=(*self.notes, *notes))

    @property
    def limited(self) -> bool:
        """Return whether there is any limit, of all requests or of a class."""
        return bool(self.slo.limits) or (self.mix is not None and any(kind.slo.limits for kind in self.mix.classes))

    def check_hits(self, sharing: PromptSharing | None) -> None:
        """Raise ``InputError`` where a hit rate is stated of requests whose prompts say themselves what the cache hits."""
        if self.prefix_hit_rate and sharing is not None:
            raise InputError("what prompts have in common decides what the cache hits; leave out prefix_hit_rate")
