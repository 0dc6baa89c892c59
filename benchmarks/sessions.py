"""Conversations that share prompts: turns that send all that was said before, so that an engine's prefix cache can serve it.

A session belongs to one of some groups; all of a group begin with the same system prompt. Each turn adds tokens of the user's
to what was said, waits for the whole answer, and thinks. Sessions begin as a Poisson process. What a request's prompt is
made of follows from the profile and from ``session``, ``group`` and ``turn`` of its record alone: the tokens of a group's system prompt, then,
turn by turn, the user's and the answer's.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probes.serving_benchmark import LOW_IDS, poisson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    Answer = AsyncIterator[tuple[Sequence[int], int]]
    """Token ids as they come, and how many tokens of the prompt the engine took from its cache."""
    Ask = Callable[[Sequence[int], int], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionProfile:
    """The conversations of one run."""

    name: str
    rate: float
    """Sessions begun a second."""
    seconds: float
    """How long sessions are begun."""
    turns: int
    groups: int
    """Different system prompts; sessions take them in turn."""
    system_len: int
    """Tokens of a system prompt."""
    first_len: int
    """Tokens of the user's in the first turn."""
    turn_len: int
    """Tokens of the user's in each later turn."""
    output_len: int
    think_s: float
    """Mean of the exponential time between an answer and the next turn."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRequest:
    """One turn as it was served; times in seconds since the run began."""

    session: int
    group: int
    turn: int
    arrival_s: float
    input_len: int
    output_len: int
    cached_tokens: int
    """Tokens of the prompt that the engine says it took from its cache."""
    first_s: float
    last_s: float


async def converse(ask: Ask, profile: SessionProfile, *, vocab_size: int) -> list[SessionRequest]:
    """Hold all conversations of a profile with an engine; the requests in the order of their arrival."""
    starts = poisson(profile.rate, profile.seconds, profile.seed)
    low = min(LOW_IDS, vocab_size - 1)

    def tokens(count: int, *stream: int) -> list[int]:
        ids: list[int] = np.random.default_rng((profile.seed, *stream)).integers(low, vocab_size, count).tolist()
        return ids

    systems = [tokens(profile.system_len, 4, group) for group in range(profile.groups)]
    done: list[SessionRequest] = []
    began = time.perf_counter()

    async def hold(session: int, start_s: float) -> None:
        group = session % profile.groups
        said = list(systems[group])
        thinking = np.random.default_rng((profile.seed, 6, session)).exponential(profile.think_s, profile.turns)
        arrival_s = start_s
        for turn in range(profile.turns):
            said += tokens(profile.turn_len if turn else profile.first_len, 5, session, turn)
            await asyncio.sleep(max(0.0, arrival_s - (time.perf_counter() - began)))
            answer: list[int] = []
            cached, times = 0, []
            async for ids, hit in ask(said, profile.output_len):
                answer += ids
                cached = hit
                times.append(time.perf_counter() - began)
            done.append(
                SessionRequest(
                    session=session,
                    group=group,
                    turn=turn,
                    arrival_s=arrival_s,
                    input_len=len(said),
                    output_len=len(answer),
                    cached_tokens=cached,
                    first_s=times[0],
                    last_s=times[-1],
                )
            )
            said += answer
            arrival_s = times[-1] + float(thinking[turn])

    await asyncio.gather(*(hold(session, start_s) for session, start_s in enumerate(starts.tolist())))
    return sorted(done, key=lambda request: request.arrival_s)
