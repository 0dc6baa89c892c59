"""Requests that have something in common: system prompts, and turns of a conversation that send all that was said before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.simulator.arrivals import (
    MOST_REQUESTS,
    Arrivals,
    check_burstiness,
    check_lengths,
    closed_loop,
    drawn_gaps,
    enough_arrivals,
    open_loop,
)
from advisor.simulator.prompt_sharing import NONE, PromptSharing
from catalog.engines import kv_groups
from catalog.errors import InputError, Note
from catalog.schema import require_positive
from probes.serving_benchmark import SETTLING, TrafficProfile, lengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.schema import Model, Workload

MOST_TURNS = 10_000
LONGEST = 3.0
"""Mean lengths of a session that those under way at the beginning may have begun before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """What the requests of some traffic have in common.

    A prompt is a system prompt, then what was said before, then ``input_len`` new tokens of the workload.
    """

    shared_prefix: int = 0
    """Tokens of a system prompt, with which every request begins."""
    num_prefixes: int = 1
    """Different system prompts; sessions take them in turn."""
    turns: int = 1
    """Requests of a session. Each sends all that was said before it, and comes when the one before it has been answered and
    the user has thought, or a tool has worked."""
    think_s: float = 0.0
    """Mean of that time; exponential."""

    def check(self, *, prefix_hit_rate: float = 0.0, curve: Sequence[float] = ()) -> None:
        """Raise ``InputError`` for what cannot be."""
        if self.shared_prefix:
            require_positive("shared_prefix", self.shared_prefix, most=2**24)
        require_positive("num_prefixes", self.num_prefixes, most=10**6)
        require_positive("turns", self.turns, most=MOST_TURNS)
        if not 0.0 <= self.think_s <= 1e6:
            raise InputError(f"think_time is {self.think_s:g} s; it must be from 0 to 1000000")
        if self.num_prefixes > 1 and not self.shared_prefix:
            raise InputError("num_prefixes is of system prompts; say how long they are with shared_prefix")
        if self and prefix_hit_rate:
            raise InputError("what prompts have in common decides what the cache hits; leave out prefix_hit_rate or it")
        if self.turns > 1 and len(curve):
            raise InputError(
                "a curve of the rate is for requests by themselves, not for sessions; leave out curve or turns"
            )

    def check_alone(self, what: str) -> None:
        """Raise ``InputError`` where something else says what requests have in common."""
        if self:
            raise InputError(f"{what} says what prompts have in common; leave out shared_prefix and turns")

    def traffic(
        self,
        workload: Workload,
        *,
        duration_s: float,
        longest: int,
        seed: int,
        spread: float,
        burstiness: float,
        curve: Sequence[float] = (),
    ) -> Arrivals:
        """Draw the requests: arguments as those of ``advisor.simulator.arrivals.open_loop``.

        Raises:
            InputError: a number that cannot be.

        """
        drawn: dict[str, Any] = {"duration_s": duration_s, "seed": seed, "spread": spread}
        room = longest - self.shared_prefix
        if room <= workload.input_len:
            raise InputError(
                f"{self.shared_prefix} tokens before {workload.input_len} of each request are longer than the {longest} tokens "
                "served at most"
            )
        if self.turns > 1:
            if workload.concurrency is not None:
                return self.session_loop(workload, longest=room, **drawn)
            return self.sessions(workload, longest=room, burstiness=burstiness, **drawn)
        if workload.concurrency is not None:
            return self.beginning_alike(closed_loop(workload, longest=room, **drawn))
        return self.beginning_alike(open_loop(workload, longest=room, burstiness=burstiness, curve=curve, **drawn))

    @property
    def lasting_s(self) -> float:
        """Return for how many seconds a closed loop of them comes by default, so that it has settled when its sessions are of all ages."""
        return self.turns * self.think_s / SETTLING if self.turns > 1 else 0.0

    def __bool__(self) -> bool:
        return bool(self.shared_prefix) or self.turns > 1

    def beginning_alike(self, requests: Arrivals) -> Arrivals:
        """Return the requests with a system prompt before each."""
        n, groups = len(requests), self.num_prefixes
        number = np.arange(n)
        sharing = PromptSharing(
            stream=groups + number,
            parent=np.concatenate([np.full(groups, NONE), number % groups]),
            branch=np.concatenate([np.zeros(groups, np.int64), np.full(n, self.shared_prefix)]),
            session=number,
            after=np.full(n, NONE),
            wait_s=np.zeros(n),
        )
        return replace(requests, input_len=requests.input_len + self.shared_prefix, sharing=sharing)

    def sessions(
        self,
        workload: Workload,
        *,
        duration_s: float,
        longest: int,
        seed: int = 0,
        spread: float = 0.0,
        burstiness: float = 1.0,
    ) -> Arrivals:
        """Draw sessions that begin at random times, so many that ``workload.rate`` requests come a second.

        At the beginning as many are under way as later, if answers take no time; what their first request there
        sends is in no cache.

        Raises:
            InputError: no request comes, or there are more than memory should hold.

        """
        require_positive("rate", workload.rate or 0.0, whole=False)
        require_positive("duration", duration_s, whole=False)
        assert workload.rate is not None
        check_lengths(workload, spread)
        check_burstiness(burstiness)
        turns, span = self.turns, LONGEST * (self.turns - 1) * self.think_s
        expected = workload.rate / turns * (duration_s + span)
        if expected * turns > MOST_REQUESTS:
            raise InputError(
                f"{workload.rate:g} requests a second for {duration_s:g} s, and sessions under way before, are "
                f"{expected * turns:.3g}; a simulation of sessions takes at most {MOST_REQUESTS}"
            )
        random = np.random.default_rng((seed, 1))
        gaps = drawn_gaps(random, burstiness, enough_arrivals(expected, burstiness))
        begins = np.cumsum(gaps) / workload.rate * turns - span
        begins = begins[begins < duration_s]
        waits = (
            random.exponential(self.think_s, (len(begins), turns)) if self.think_s else np.zeros((len(begins), turns))
        )
        waits[:, 0] = 0.0
        offer = TrafficProfile(
            input_len=workload.input_len, output_len=workload.output_len, seconds=duration_s, spread=spread, seed=seed
        )
        new, outputs = (drawn.reshape(-1, turns) for drawn in lengths(offer, len(begins) * turns, longest))
        nominal = begins[:, None] + np.cumsum(waits, axis=1)
        said = np.cumsum(new + outputs, axis=1)
        inputs = self.shared_prefix + said - outputs
        session, turn = np.nonzero((nominal >= 0.0) & (nominal < duration_s))
        if not len(session):
            raise InputError(f"no request comes within {duration_s:g} s at {workload.rate:g} a second; make it longer")
        order = np.lexsort((turn, session, nominal[session, turn]))
        session, turn = session[order], turn[order]
        return Arrivals(
            arrival_s=nominal[session, turn],
            input_len=inputs[session, turn],
            output_len=outputs[session, turn],
            duration_s=duration_s,
            sharing=self._turns(session, turn, waits[session, turn]),
            settling=turns > 1,
        )

    def session_loop(
        self, workload: Workload, *, duration_s: float, longest: int, seed: int = 0, spread: float = 0.0
    ) -> Arrivals:
        """Draw sessions of which ``workload.concurrency`` requests are kept in flight: see ``advisor.simulator.follow_ups``.

        The first ones begin at all of their turns alike, as if in the middle of an answer; what they send is in no cache.

        Raises:
            InputError: there are more than memory should hold.

        """
        loop = closed_loop(workload, duration_s=duration_s, longest=longest, seed=seed, spread=spread)
        turns, first = self.turns, loop.starters
        count = -(-len(loop) // turns) + first
        waits = np.random.default_rng((seed, 1)).exponential(self.think_s or 1.0, (count, turns)) * (self.think_s > 0)
        offer = TrafficProfile(
            input_len=workload.input_len, output_len=workload.output_len, seconds=duration_s, spread=spread, seed=seed
        )
        new, outputs = (drawn.reshape(-1, turns) for drawn in lengths(offer, count * turns, longest))
        inputs = self.shared_prefix + np.cumsum(new + outputs, axis=1) - outputs
        begins = np.where(np.arange(count) < first, np.arange(count) % turns, 0)
        session, turn = np.nonzero(np.arange(turns) >= begins[:, None])
        outputs[np.arange(first), begins[:first]] = loop.output_len[:first]
        return replace(
            loop,
            arrival_s=np.zeros(len(session)),
            input_len=inputs[session, turn],
            output_len=outputs[session, turn],
            sharing=self._turns(session, turn, waits[session, turn]),
        )

    def _turns(self, session: np.ndarray, turn: np.ndarray, waits: np.ndarray) -> PromptSharing:
        """Return what n requests share, by their session and their turn in it, (n,) each."""
        groups, number = self.num_prefixes, np.arange(len(session))
        by_turn = np.lexsort((turn, session))
        goes_on = np.concatenate([[False], np.diff(session[by_turn]) == 0])
        after = np.full(len(session), NONE)
        after[by_turn[goes_on]] = by_turn[np.flatnonzero(goes_on) - 1]
        sessions = int(session.max()) + 1
        return PromptSharing(
            stream=groups + session,
            parent=np.concatenate([np.full(groups, NONE), np.arange(sessions) % groups]),
            branch=np.concatenate([np.zeros(groups, np.int64), np.full(sessions, self.shared_prefix)]),
            session=session,
            after=after,
            wait_s=np.where(after >= 0, waits, 0.0) + 0.0 * number,
        )


def cache_warnings(model: Model) -> list[Note]:
    """Say where an engine's prefix cache is not the one that is simulated: blocks of one group of full layers."""
    if kv_groups(model).number == 1 and not model.sliding_window:
        return []
    text = f"layers of {model.name} with windows or states keep other blocks; its prefix cache is simulated as if all were full attention"
    return [Note(text, "warning")]


NOTHING_SHARED = Conversations()
