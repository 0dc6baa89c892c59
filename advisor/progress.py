"""How far long work has come, for whoever waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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


@dataclass(slots=True, kw_only=True)
class Course:
    """Work of so many steps on its way."""

    watch: Watch | None
    steps: float
    over: float = 0.0
    best: str = ""
    _loss: tuple[float, ...] | None = None

    def tell(self, doing: str, over: float | None = None) -> None:
        """Say what is begun, and with ``over`` how many steps are behind; never fewer than before."""
        self.over = max(self.over, min(over or 0.0, self.steps))
        if self.watch is not None:
            self.watch(Progress(share=self.over / self.steps if self.steps else 0.0, doing=doing, best=self.best))

    def offer(self, loss: tuple[float, ...], text: str) -> None:
        """Take an answer for the best one so far if its loss is smaller."""
        if self._loss is None or loss < self._loss:
            self._loss, self.best = loss, text
