"""Measuring from a command: how a sweep is shown while it runs, and how a signal ends it."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from advisor.benchmarking.session import ProbeSession
    from probes.sweep import Sweep


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the body as an exception does, so that what it started is cleared up."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def watched(ready: ProbeSession) -> Iterator[tuple[Callable[[Sweep], None] | None, Callable[[str], None]]]:
    """Return something that shows how a sweep goes on and something that tells what happens: on stderr, if it is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None, lambda _: None
        return
    from rich.console import Console  # only on a terminal
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None, left="")

        def watch(sweep: Sweep) -> None:
            passed = time.monotonic() - ready.config.began
            left = min(ready.left_s(sweep, passed), sweep.seconds_left)
            under_way = ", ".join(
                f"TP{running.load.deployment.tp} PP{running.load.deployment.pp}" for running in sweep.running
            )
            over = len(sweep.loads) - len(sweep.waiting) - len(sweep.running)
            text = f"{over} of {len(sweep.loads)} loads over; {under_way or 'waiting for another process'}"
            progress.update(
                task, description=text, completed=passed, total=passed + left, left=f"about {left:.0f} s left"
            )

        yield watch, console.print
