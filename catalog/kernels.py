"""Times of single kernels, measured alone at the shapes that models' shards have."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DATA = Path(__file__).parent / "data" / "kernels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One matrix product [m, k] x [k, n] on one GPU."""

    gpu: str
    op: str
    m: int
    k: int
    n: int
    dtype: str
    us: float
    """Median over replays of a CUDA graph of calls, per call, microseconds."""


@cache
def shipped_kernels() -> tuple[Kernel, ...]:
    """The matrix products that come with the package; ``data/kernels`` also holds attention, experts and collectives."""
    return tuple(kernel for path in sorted(DATA.glob("*_gemm.csv")) for kernel in _read(path))


def _read(path: Path) -> list[Kernel]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Kernel(
                gpu=row["gpu"], op=row["op"], m=int(row["m"]), k=int(row["k"]), n=int(row["n"]), dtype=row["dtype"],
                us=float(row["us"]),
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip
