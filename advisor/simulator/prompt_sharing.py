"""What requests have in common: prompts that begin alike, and turns that go on with what was said before them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalog.units import Array

    Integers = NDArray[np.int64]

NONE = -1
"""Where there is no such stream, request or block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSharing:
    """Of n requests, what each says: the beginning of a stream of tokens, as many as its prompt and its answer have.

    A stream shares ``branch`` tokens with its parent, and none after them; see ``advisor.simulator.block_cache``.
    """

    stream: Integers
    """(n,)."""
    parent: Integers
    """Of each stream; -1 without."""
    branch: Integers
    """Tokens it shares with its parent."""
    session: Integers
    """Which requests belong together, (n,), for routers that keep them on one replica."""
    after: Integers
    """The request, of those before it, whose answer lets it come; -1: it comes when it comes, (n,)."""
    wait_s: Array
    """Between that answer and it, (n,): the user thinks, or a tool works."""

    @property
    def follows(self) -> bool:
        """Return whether any request waits for an answer."""
        return bool((self.after >= 0).any())

    def standing(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Leave out of those in ``mask`` the ones that wait, over however many, for one that is not in it; shape (n,)."""
        while True:
            lost = mask & (self.after >= 0) & ~mask[self.after]
            if not lost.any():
                return mask
            mask = mask & ~lost

    def of(self, chosen: NDArray[np.bool_]) -> PromptSharing:
        """Return what some of the requests share; those that one of them waits for are among them."""
        number = np.cumsum(chosen) - 1
        after = self.after[chosen]
        return replace(
            self,
            stream=self.stream[chosen],
            session=self.session[chosen],
            wait_s=self.wait_s[chosen],
            after=np.where(after >= 0, number[after], NONE),
        )

    def stretched(self, factor: float) -> PromptSharing:
        """Return the same of prompts that are so many times as long."""
        return self if factor == 1.0 else replace(self, branch=np.rint(self.branch * factor).astype(np.int64))

    def all_at_once(self, taken: Integers) -> PromptSharing:
        """Return what requests share that wait for no answer, those of ``taken``, whose numbers may exceed n: then they
        come a second time, and share with those before only what all sessions begin with.
        """
        n, streams = len(self.stream), len(self.parent)
        copies = int(taken.max()) // n + 1
        # What several streams branch off from and no request says alone is the same in every copy.
        common = np.zeros(streams, dtype=bool)
        common[self.parent[self.parent >= 0]] = True
        common[self.stream] = False
        copy = np.repeat(np.arange(copies), streams) * streams
        parent = np.tile(self.parent, copies)
        within = (parent >= 0) & ~common[parent]
        own = self.stream[taken % n]
        return PromptSharing(
            stream=own + np.where(common[own], 0, taken // n * streams),
            parent=np.where(within, parent + copy, parent),
            branch=np.tile(self.branch, copies),
            session=self.session[taken % n] + taken // n * n,
            after=np.full(len(taken), NONE),
            wait_s=np.zeros(len(taken)),
        )


def apart(count: int) -> PromptSharing:
    """Return requests that have nothing in common."""
    return PromptSharing(
        stream=np.arange(count),
        parent=np.full(count, NONE),
        branch=np.zeros(count, np.int64),
        session=np.arange(count),
        after=np.full(count, NONE),
        wait_s=np.zeros(count),
    )
