"""What a benchmark file cannot give: runs that are no measurement, and files that are left out."""

from __future__ import annotations

from dataclasses import dataclass


class UnusableRun(ValueError):  # noqa: N818  an outcome that is reported, no fault
    """One run of a file cannot be used; the message says why, without saying where."""


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A row that cannot be used."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"
