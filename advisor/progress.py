"""How far long work has come, for whoever waits for it."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Watch = Callable[["Progress"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One moment of long work."""

    share: float
    """Of the work that is over, from 0 to 1; it never falls. Steps are weighed by about what they take."""
    doing: str
    """What is being done, in words."""
    best: str = ""
    """The best answer so far, in words; empty while there is none."""
    answers: tuple[Any, ...] = ()
    """The answers so far, best first: of a plan its ``FleetOption``s, without intervals."""


@dataclass(slots=True, kw_only=True)
class Course:
    """Work of so many steps on its way."""

    watch: Watch | None
    steps: float
    over: float = 0.0
    best: str = ""
    _offers: list[tuple[tuple[float, ...], Any]] = field(default_factory=list)
    """Answers with their losses, best first."""

    def tell(self, doing: str, over: float | None = None) -> None:
        """Say what is begun, and with ``over`` how many steps are behind; never fewer than before."""
        self.over = max(self.over, min(over or 0.0, self.steps))
        if self.watch is not None:
            share = self.over / self.steps if self.steps else 0.0
            answers = tuple(answer for _, answer in self._offers if answer is not None)
            self.watch(Progress(share=share, doing=doing, best=self.best, answers=answers))

    def offer(self, loss: tuple[float, ...], text: str, answer: Any = None) -> None:
        """Take an answer, for the best one so far if its loss is smaller; ``answer``: what the watcher is shown of it."""
        if not self._offers or loss < self._offers[0][0]:
            self.best = text
        bisect.insort(self._offers, (loss, answer), key=itemgetter(0))
