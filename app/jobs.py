"""Work that takes more than a moment: in a thread of its own, so that the page stays alive and can stop it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import streamlit as st

from app.frame import PAINTED
from app.plain_text import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advisor import Progress

T = TypeVar("T")

POLL_S = 0.5
KEPT = 4
"""Answers of one kind that a session keeps."""


class Cancelled(BaseException):
    """Ends the work of a cancelled job when it next tells its progress."""


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """One piece of work and how it stands."""

    work: Callable[[Callable[[Progress], None]], T]
    started: float = field(default_factory=time.monotonic)
    result: T | None = None
    error: Exception | None = None
    cancelled: bool = False
    """Its result is wanted no more; work that tells no progress runs to its end unseen."""
    done: bool = False
    progress: Progress | None = None
    """Its latest progress."""
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True, name="advisor-job")
        self.thread.start()

    def _run(self) -> None:
        try:
            result = self.work(self._tell)
            self.result = None if self.cancelled else result
        except Cancelled:
            pass
        except Exception as error:  # noqa: BLE001  it is raised again where the result is asked for
            self.error = None if self.cancelled else error
        finally:
            self.done = True

    def _tell(self, progress: Progress) -> None:
        if self.cancelled:
            raise Cancelled
        self.progress = progress

    @property
    def answers(self) -> Sequence[Any]:
        """Return the answers that its progress has had so far."""
        return () if self.progress is None else self.progress.answers

    @property
    def cancellation(self) -> str:
        """Say that it was cancelled, and what of it is there."""
        if self.progress is None or not self.progress.best:
            return "Cancelled."
        return f"Cancelled at {self.progress.share:.0%}. The best of what was tried: {plain(self.progress.best)}."

    def end(self) -> None:
        """Cancel it if it still runs."""
        if not self.done:
            self.cancel()

    def cancel(self) -> None:
        """Want the result no more: the page goes on at once, the work ends when it next tells its progress."""
        self.cancelled = self.done = True


def answered(
    key: str,
    question: Any,
    work: Callable[[Callable[[Progress], None]], T],
    *,
    doing: str,
    so_far: Callable[[Sequence[Any]], object] | None = None,
) -> T:
    """Return the result of ``work`` for ``question``; until there is one, progress with a button that cancels, and no more page.

    Args:
        key: name of the job in this session; a new question takes the place of one that still runs, and the answers of the
            last ones are kept for who goes back.
        question: what the answer depends on, compared with ``==``.
        work: called in a thread with a function that it may tell how far it is; it must not call Streamlit.
        doing: what the reader sees meanwhile.
        so_far: shows the ``answers`` of its progress, also where it was cancelled.

    Raises:
        Exception: what ``work`` raised.

    """
    kept: list[tuple[Any, Job[Any]]] = st.session_state.setdefault("jobs", {}).setdefault(key, [])
    job = next((job for known, job in kept if known == question), None)
    if job is None:
        for _, other in kept:
            other.end()
        job = Job(work)
        kept[:] = [*((known, other) for known, other in kept if other.result is not None), (question, job)][-KEPT:]
        job.start()
    if job.thread is not None and not job.done:
        job.thread.join(POLL_S)  # what is quick shows no progress at all
    if not job.done:
        _wait(key, job, doing, so_far)
        st.stop()
    if job.error is not None:
        raise job.error
    if job.result is None:
        st.info(job.cancellation, icon=":material/cancel:")
        if so_far is not None and job.answers:
            so_far(job.answers)
        if st.button("Start again", key=f"{key} again"):
            kept[:] = [(known, other) for known, other in kept if other is not job]
            st.rerun()
        st.stop()
    return job.result  # type: ignore[no-any-return, return-value]


@st.fragment(run_every=POLL_S)
def _wait(key: str, job: Job[Any], doing: str, so_far: Callable[[Sequence[Any]], object] | None) -> None:
    if job.done:
        st.session_state[PAINTED] = True  # it has long been: this much came by its timer
        st.rerun()
    left, right = st.columns([4, 1], vertical_alignment="center")
    with left:
        now, passed = job.progress, f"{time.monotonic() - job.started:.0f} s"
        if now is None:
            st.markdown(f":material/hourglass_top: {doing} … {passed}")
        else:
            st.progress(now.share, text=f"**{now.share:.0%}** {plain(now.doing)} … {passed}")
            if now.best:
                st.caption(f"Best so far: {plain(now.best)}")
    if right.button("Cancel", key=f"{key} cancel", icon=":material/stop_circle:"):
        job.cancel()
    if so_far is not None and job.answers:
        so_far(job.answers)
