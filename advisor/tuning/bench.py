"""What measures for a campaign: this machine's GPUs, or runs that were recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.benchmarking.benchmark_plan import Candidate
    from catalog.schema import Measurement


class MeasurementBench(Protocol):
    """Measure loads within a budget of time."""

    gpus: int

    @property
    def start_s(self) -> float:
        """Return seconds from a load's order to its first batch."""

    @property
    def passed_s(self) -> float:
        """Return seconds since the budget began to count."""

    @property
    def left_s(self) -> float:
        """Return seconds left of the budget."""

    def waiting(self) -> list[Candidate]:
        """Return the layouts with what has not been measured or tried of them, and its seconds."""

    def run(self, loads: Sequence[Candidate]) -> list[Measurement]:
        """Measure side by side; what has been measured."""
