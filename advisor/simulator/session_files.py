"""Sessions of a file: conversations, and agents whose contexts grow, wait for tools and branch; JSON Lines, one session a line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.simulator.arrivals import MOST_REQUESTS, Arrivals
from advisor.simulator.prompt_sharing import NONE, PromptSharing
from advisor.simulator.trace_files import MOST_TOKENS
from catalog.errors import InputError
from catalog.names import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEYS = ("session", "start_s", "prefix", "prefix_len", "parent", "parent_turns", "turns")
TURN_KEYS = ("input_len", "output_len", "wait_s")


def read_sessions(path: str | Path, *, duration_s: float | None = None, rate: float | None = None) -> Arrivals:
    """Read the sessions of a file.

    Each line is an object with ``turns``, a list of objects with ``input_len`` (new tokens of the user or the tool),
    ``output_len`` and, between the answer before it and itself, ``wait_s``. A session begins at ``start_s`` with the
    ``prefix_len`` tokens of the system prompt named ``prefix``; or it is a branch of the session ``parent``, of a line
    before it: it goes on from the answer of that one's turn number ``parent_turns`` (by default the last), once that has
    come.

    Args:
        path: of the file.
        duration_s: only the sessions that begin by then, and their branches.
        rate: stretch or squeeze the beginnings so that so many requests come a second.

    Raises:
        InputError: it cannot be read, or a line is no session: the message names it.

    """
    source, rows = Path(path), _Rows()
    for place, line in _lines(source):
        rows.add(_Line(place, line), duration_s)
    if not rows.arrival:
        raise InputError(f"{source} has no session" + (f" that begins within {duration_s:g} s" if duration_s else ""))
    arrivals = rows.arrivals(duration_s)
    return arrivals if rate is None else arrivals.at_rate(rate)


def _lines(source: Path) -> Iterator[tuple[str, Any]]:
    try:
        with source.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                if not text.strip():
                    continue
                place = f"{source} line {number}"
                try:
                    yield place, json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{place} is no JSON: {str(error)[:80]}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"cannot read the sessions {source}: {reason}") from error


@dataclass(frozen=True, slots=True)
class _Line:
    """One session as the file has it, checked where it is asked."""

    place: str
    body: Any

    def check(self) -> None:
        if not isinstance(self.body, dict) or not isinstance(self.body.get("turns"), list) or not self.body["turns"]:
            raise InputError(
                f'{self.place}: a session is an object with turns, such as {{"turns": [{{"input_len": 512, "output_len": 128}}]}}'
            )
        self._check_keys(self.body, KEYS)
        for turn in self.body["turns"]:
            if not isinstance(turn, dict):
                raise InputError(
                    f"{self.place}: a turn is {turn!r:.40}; it must be an object with input_len and output_len"
                )
            self._check_keys(turn, TURN_KEYS)

    def _check_keys(self, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in given:
            if key not in known:
                hint = suggestion(str(key), known, otherwise=f"known are {', '.join(known)}")
                raise InputError(f"{self.place}: there is no {key!r:.40}; {hint}")

    def seconds(self, given: Mapping[str, Any], name: str) -> float:
        value = given.get(name, 0.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1e9:
            raise InputError(f"{self.place}: {name} is {value!r:.40}; it must be a number of seconds, at least 0")
        return float(value)

    def tokens(self, given: Mapping[str, Any], name: str, least: int, default: int | None = None) -> int:
        value = given.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_TOKENS:
            raise InputError(
                f"{self.place}: {name} is {value!r:.40}; it must be a whole number from {least} to {MOST_TOKENS}"
            )
        return value


class _Rows:
    """Requests of the sessions read so far, a list each."""

    def __init__(self) -> None:
        self.arrival: list[float] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.stream: list[int] = []
        self.session: list[int] = []
        self.after: list[int] = []
        self.wait_s: list[float] = []
        self.parent: list[int] = []
        self.branch: list[int] = []
        self._prefixes: dict[str, tuple[int, int]] = {}
        self._sessions: dict[str, tuple[int, list[int]]] = {}
        """Stream of each session by its name, and its requests."""
        self._left_out: set[str] = set()
        self._count = 0

    def _new_stream(self, parent: int = NONE, branch: int = 0) -> int:
        self.parent.append(parent)
        self.branch.append(branch)
        return len(self.parent) - 1

    def add(self, line: _Line, duration_s: float | None) -> None:
        line.check()
        body = line.body
        name = str(body.get("session", ""))
        if name and name in self._sessions:
            raise InputError(f"{line.place}: there is a session {name!r:.40} before it; name it otherwise")
        if "parent" in body:
            if str(body["parent"]) in self._left_out:
                self._left_out.add(name)
                return
            stream, said, before = self._branched(line)
            start = 0.0
        else:
            start = line.seconds(body, "start_s")
            if duration_s is not None and start >= duration_s:
                self._left_out.add(name)
                return
            stream, said, before = self._begun(line)
        requests = []
        for turn in body["turns"]:
            said += line.tokens(turn, "input_len", 1)
            wait = line.seconds(turn, "wait_s")
            start += wait
            self.arrival.append(start)
            self.inputs.append(said)
            self.outputs.append(line.tokens(turn, "output_len", 1))
            self.stream.append(stream)
            self.session.append(self._count)
            self.after.append(before)
            self.wait_s.append(wait)
            before = len(self.arrival) - 1
            requests.append(before)
            said += self.outputs[-1]
        if len(self.arrival) > MOST_REQUESTS:
            raise InputError(
                f"{line.place}: there are more than {MOST_REQUESTS} requests; take a part of the file by its duration"
            )
        self._count += 1
        if name:
            self._sessions[name] = stream, requests

    def _begun(self, line: _Line) -> tuple[int, int, int]:
        """Return the stream of a session that begins, the tokens it begins with, and what it waits for."""
        body = line.body
        length = line.tokens(body, "prefix_len", 0, 0)
        name = str(body.get("prefix", ""))
        if not name or not length:
            return self._new_stream(), length, NONE
        if name not in self._prefixes:
            self._prefixes[name] = self._new_stream(), length
        prefix, longest = self._prefixes[name]
        if length != longest:
            raise InputError(
                f"{line.place}: prefix_len is {length}, and {longest} for the same prefix {name!r:.40} before it"
            )
        return self._new_stream(prefix, length), length, NONE

    def _branched(self, line: _Line) -> tuple[int, int, int]:
        """Return the same of a session that goes on from another."""
        body = line.body
        parent = str(body["parent"])
        if parent not in self._sessions:
            raise InputError(f"{line.place}: there is no session {parent!r:.40} before it")
        for key in ("start_s", "prefix", "prefix_len"):
            if key in body:
                raise InputError(f"{line.place}: {key} is of its parent; leave it out")
        stream, requests = self._sessions[parent]
        turns = line.tokens(body, "parent_turns", 1, len(requests))
        if turns > len(requests):
            raise InputError(f"{line.place}: parent_turns is {turns}; session {parent!r:.40} has {len(requests)} turns")
        before = requests[turns - 1]
        said = self.inputs[before] + self.outputs[before]
        return self._new_stream(stream, said), said, before

    def arrivals(self, duration_s: float | None) -> Arrivals:
        """Return them in the order in which they would come if answers took no time."""
        after = np.array(self.after)
        arrival = np.array(self.arrival)
        for number in np.flatnonzero(after >= 0).tolist():  # branches begin after their parents
            arrival[number] = arrival[after[number]] + self.wait_s[number]
        order = np.lexsort((np.arange(len(arrival)), arrival))
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        arrival = arrival[order]
        after = after[order]
        first = arrival[0]
        last = float(arrival[-1] - first)
        return Arrivals(
            arrival_s=arrival - first,
            input_len=np.array(self.inputs, np.int64)[order],
            output_len=np.array(self.outputs, np.int64)[order],
            duration_s=duration_s or (last * len(arrival) / max(len(arrival) - 1, 1)) or 1.0,
            sharing=PromptSharing(
                stream=np.array(self.stream)[order],
                parent=np.array(self.parent),
                branch=np.array(self.branch),
                session=np.array(self.session)[order],
                after=np.where(after >= 0, place[after], NONE),
                wait_s=np.array(self.wait_s)[order],
            ),
        )
