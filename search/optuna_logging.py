"""Keeping Optuna's log lines and its warnings of experimental functions out of a user's terminal."""

from __future__ import annotations

import contextlib
import threading
import warnings
from typing import TYPE_CHECKING

import optuna

if TYPE_CHECKING:
    from collections.abc import Iterator

_ONE_AT_A_TIME = threading.RLock()
"""Verbosity and warning filters belong to the process; two threads that set and restored them at once would mix up."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Log only Optuna's warnings and errors; what the user has set comes back after."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)
