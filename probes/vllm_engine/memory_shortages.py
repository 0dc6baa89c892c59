"""What vLLM logs when a GPU's memory does not suffice (0.24: torch's error, ``v1/worker``, ``v1/core/kv_cache_utils.py``).

The process that runs out is not the one that measures, which learns only that the engine did not start, or died; the
log, into which both write, says why. A GPU that somebody else has filled ("Free memory on device ... is less than
desired") is no shortage of the configuration's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PATTERNS = (
    r"OutOfMemoryError: ",
    r"CUDA error: out of memory",
    r"CUDA out of memory occurred when warming up",
    r"Failed to load model - not enough GPU memory",
    r"No available memory for the cache blocks",
    r"is larger than the available KV cache memory",
)
SHORTAGE = re.compile("|".join(PATTERNS))
ERROR = re.compile(r"[\w.]*(Error|Exception): ")
BEFORE = re.compile(r"^(\(\w+ pid=\d+\) )?(ERROR [\d-]+ [\d:]+ )?(\[[\w./]+:\d+\] )?")
"""What vLLM's logger puts before a line: who, when and where."""


def shortage(log: str) -> str | None:
    """Return the first line that says that memory did not suffice, without what the logger puts before it; None without
    one.
    """
    return next((line for line in _failures(log) if SHORTAGE.search(line)), None)


def first_error(log: str) -> str | None:
    """Return the first error that something ended with, which the later ones follow from; None without one."""
    return next((line for line in _failures(log) if ERROR.match(line)), None)


def _failures(log: str) -> Iterator[str]:
    """Yield the lines that are no mere information or warning."""
    for line in log.splitlines():
        message = BEFORE.sub("", line).strip()
        if not message.startswith(("DEBUG ", "INFO ", "WARNING ")):
            yield message[:500]
