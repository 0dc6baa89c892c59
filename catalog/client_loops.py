"""What benchmark clients published of closed loops beside the steady state: the first-token time over a burst and the loop behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.closed_loops import loop_measurement, unusable
from catalog.errors import InputError
from catalog.published_folder import read_folder
from catalog.runs import check_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from catalog.schema import Measurement

WARMED_UP_SINCE = "2026-01-21"
"""Day from which InferenceX's recipes send 2 C requests before what they measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLoop:
    """One row that a benchmark client measured: ``concurrency`` requests at once, then one in for each that is answered."""

    run: Measurement
    """The same row as a run of the steady state."""
    concurrency: int
    """Requests in flight over all replicas."""
    input_len: int
    """Longest; lengths are uniform between ``length_ratio`` of it and all of it."""
    output_len: int
    length_ratio: float
    ttft_ms: float
    """Mean over all requests, the first ones included."""
    measured: str
    """Day, ISO; empty where it is not stated, as of NVIDIA's rows, whose client is not published."""

    @property
    def pitfall(self) -> str:
        """Return why the row's first-token time says little of a client's loop; empty if nothing is known against it."""
        if self.run.dp > 1:
            return "attention data parallel: ranks step together"
        if "DeepSeek" in self.run.model and self.measured and self.measured < WARMED_UP_SINCE:
            return "no warm-up: the first prompts wait for kernels to be compiled"
        if self.run.engine == "sglang" and self.run.gpu.startswith("B300"):
            return "prompts of perhaps 3 to 5 times the stated tokens"
        return ""


def read_client_loops(folder: Path) -> tuple[ClientLoop, ...]:
    """Return the rows of ``*_loops.csv`` in ``folder`` that state a first-token time, each once.

    Raises:
        InputError: a file cannot be read.

    """
    return tuple(_loops((f"{name} line {number}", row) for name, number, row in read_folder(folder, "*_loops.csv")))


def _loops(rows: Iterable[tuple[str, Mapping[str, str]]]) -> Iterable[ClientLoop]:
    seen: set[str] = set()
    for where, row in rows:
        if unusable(row) or row.get("regime") == "static" or not row.get("ttft_ms"):
            continue
        try:
            run = check_run(loop_measurement(row), where)
        except (InputError, ValueError, KeyError):
            continue  # ``read_published`` says which and why
        if run.run_id not in seen:
            seen.add(run.run_id)
            yield ClientLoop(
                run=run,
                concurrency=int(row["concurrency"]),
                input_len=int(row["isl"]),
                output_len=int(row["osl"]),
                length_ratio=float(row.get("length_ratio") or 1.0),
                ttft_ms=float(row["ttft_ms"]),
                measured=row.get("measured", ""),
            )
