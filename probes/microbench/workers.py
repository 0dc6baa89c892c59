"""Teams of processes that measure: all of a team take the same tasks, one at a time, and answer with a line.

What one task does to them (a crash, memory that runs out, a wait without end) is what became of that task, and no other
one's concern. The processes' own words go to a log.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    Command = tuple[Sequence[str], Mapping[str, str]]
    """What starts a process, and what its environment has beside ours."""

T = TypeVar("T")
Answer = dict[str, Any]

START_S = 180.0
"""Importing torch from a slow disk and meeting the other processes may take so long."""

OTHERS_S = 5.0
"""When one process of a team failed, the others may wait for it in vain; they get so long to answer."""

GRACE_S = 5.0
"""What is under way when time is up may take so much longer."""


@dataclass(slots=True, kw_only=True)
class _Process:
    popen: subprocess.Popen[str]
    listener: threading.Thread | None = None
    answers: deque[Answer] = field(default_factory=deque)
    ended: bool = False


class Team:
    """Processes that do each task together. They must answer ``{"ready": true}`` once they have started."""

    def __init__(self, commands: Callable[[], Sequence[Command]], log: Path) -> None:
        """Take ``commands``, which says, each time the team is started, what starts its processes."""
        self.commands, self.log = commands, log
        self.processes: list[_Process] = []
        self.since = 0.0
        """When what it does now began, by ``time.monotonic``."""

    def start(self, heard: Callable[[], None]) -> None:
        """Start the processes; ``heard`` is called, from threads, whenever there may be something new."""
        self.since = time.monotonic()
        with self.log.open("ab") as log:
            for command, environment in self.commands():
                popen = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                    env={**os.environ, **environment},
                )
                process = _Process(popen=popen)
                self.processes.append(process)
                process.listener = threading.Thread(target=_listen, args=(process, heard), daemon=True)
                process.listener.start()

    def tell(self, task: Mapping[str, Any]) -> None:
        self.since = time.monotonic()
        for process in self.processes:
            assert process.popen.stdin is not None
            with suppress(BrokenPipeError):  # its end is seen anyway
                process.popen.stdin.write(json.dumps(task) + "\n")
                process.popen.stdin.flush()

    def answered(self) -> list[Answer] | None:
        """Return each process's answer, once all have answered."""
        if not all(process.answers for process in self.processes):
            return None
        return [process.answers.popleft() for process in self.processes]

    def trouble(self, *, seconds: float) -> str:
        """Say why no answer is to be expected any more, or nothing; a task, or the start, may take ``seconds``."""
        passed = time.monotonic() - self.since
        for process in self.processes:
            if process.ended and not process.answers:
                with suppress(subprocess.TimeoutExpired):
                    process.popen.wait(OTHERS_S)
                return f"a process ended with {process.popen.returncode}"
        failed = [
            worker.answers[0]["error"] for worker in self.processes if worker.answers and "error" in worker.answers[0]
        ]
        if failed and passed > OTHERS_S:
            return str(failed[0])
        return f"no answer after {seconds:.0f} s" if passed > seconds else ""

    def end(self) -> None:
        """Kill the processes and what they started, which is in their sessions."""
        for process in self.processes:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.popen.pid, signal.SIGKILL)
        for process in self.processes:
            if process.listener:
                process.listener.join(OTHERS_S)  # a pipe must not be closed while it is read
            with suppress(BrokenPipeError), process.popen:  # closes its pipes and waits for it
                pass
        self.processes = []


class Crew(Generic[T]):
    """Some teams that do tasks: each takes a group of them from the front when it has none left."""

    def __init__(
        self,
        teams: Sequence[Team],
        groups: Iterable[Sequence[T]],
        *,
        order: Callable[[T], Mapping[str, Any]],
        done: Callable[[T, list[Answer]], None],
        failed: Callable[[T, str], None],
    ) -> None:
        """Take ``order``, which writes what a team is to do of a task, ``done``, which gets each process's answer, and
        ``failed``, which gets one line.
        """
        self._teams, self._order, self._done, self._failed = tuple(teams), order, done, failed
        self._groups = deque(deque(group) for group in groups)
        self._own: dict[Team, deque[T]] = {team: deque() for team in teams}
        self._under_way: dict[Team, T | None] = {}
        """What each team does; None while it starts. Those that are idle or gone are not in it."""
        self._heard: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run(self, *, seconds: float, task_s: float) -> str:
        """Work until all is done or ``seconds`` are over; a task may take ``task_s``. Return why teams could not start,
        or nothing.
        """
        ends = time.monotonic() + seconds
        why = ""
        try:
            for team in self._teams[: len(self._groups)]:
                self._start(team)
            while self._under_way and time.monotonic() < ends + GRACE_S:
                with suppress(queue.Empty):
                    self._heard.get(timeout=0.2)
                for team, task in tuple(self._under_way.items()):
                    why = self._look(team, task, task_s=task_s, going_on=time.monotonic() < ends) or why
                if time.monotonic() >= ends and not any(self._under_way.values()):
                    break
        finally:
            for team in self._teams:
                team.end()
        return why

    def left(self) -> int:
        """Count the tasks that were not done."""
        return (
            sum(map(len, self._groups))
            + sum(map(len, self._own.values()))
            + len([*filter(None, self._under_way.values())])
        )

    def _look(self, team: Team, task: T | None, *, task_s: float, going_on: bool) -> str:
        answers = team.answered()
        errors = [answer for answer in answers or () if "error" in answer]
        broken = bool(errors) if task is None else any(answer.get("fatal") for answer in errors)
        if answers is not None and not broken:
            if task is not None and errors:
                self._failed(task, errors[0]["error"])
            elif task is not None:
                self._done(task, answers)
            self._go_on(team, going_on=going_on)
            return ""
        limit = START_S if task is None else task_s
        trouble = errors[0]["error"] if errors else team.trouble(seconds=limit)
        if not trouble:
            return ""
        team.end()
        del self._under_way[team]
        if task is None:
            return f"{trouble} before it was ready; see {team.log}"
        self._failed(task, trouble)
        if going_on and self._next(team, peek=True):
            self._start(team)
        return ""

    def _go_on(self, team: Team, *, going_on: bool) -> None:
        del self._under_way[team]
        task = self._next(team) if going_on else None
        if task is not None:
            self._under_way[team] = task
            team.tell(self._order(task))

    def _next(self, team: Team, *, peek: bool = False) -> T | None:
        own = self._own[team]
        if not own and self._groups:
            own.extend(self._groups.popleft())
        if not own:
            return None
        return own[0] if peek else own.popleft()

    def _start(self, team: Team) -> None:
        team.start(lambda: self._heard.put(None))
        self._under_way[team] = None


def _listen(process: _Process, heard: Callable[[], None]) -> None:
    assert process.popen.stdout is not None
    with suppress(ValueError):  # closed, or the end of a line that was not finished
        for line in process.popen.stdout:
            process.answers.append(json.loads(line))
            heard()
    process.ended = True
    heard()


def serve(make: Callable[[], Callable[[Answer], Answer]]) -> None:
    """Answer, in a process of a team, tasks from standard input until it ends, then end at once.

    ``make`` sets up what does them. An answer with "error" is what became of a task; with "fatal" beside it the process
    is of no more use. What they print goes to standard error, the log.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    answers: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(row: Answer) -> None:
        answers.write(json.dumps(row) + "\n")
        answers.flush()

    try:
        do = make()
    except Exception as error:
        answer({"error": one_line(error)})
        raise
    answer({"ready": True})
    for line in sys.stdin:
        answer(do(json.loads(line)))
    sys.stdout.flush()
    os._exit(0)  # an orderly end of NCCL and CUDA takes seconds; nothing is left to be done


def _end_with(parent: int) -> None:
    """End this process and what it started once its parent is gone: killed, it could not do so itself."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)


def one_line(error: BaseException) -> str:
    """Write an error as one line."""
    text = " ".join(str(error).strip().partition("\n")[0].split())
    return f"{type(error).__name__}: {text}"[:300]
