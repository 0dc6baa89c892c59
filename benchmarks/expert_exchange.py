"""Fit what is fixed in DeepEP's kernels and the share of NVLink they reach, and say how far both are off elsewhere.

    python -m benchmarks.expert_exchange

Fitted to eight H200s by the least absolute logarithms of errors (``advisor.perf_model.expert_exchange`` has the outcome); eight H100s, and
DeepEP's own figures of H800s over networks of 400 Gb/s, judge.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from advisor.perf_model.expert_exchange import FIXED_US, NVLINK_SHARE, SCALED_BYTES
from advisor.perf_model.parameters import Parameters

FILE = Path(__file__).parent / "published" / "expert_exchange.csv"
NVLINK_GBPS = {"H200-SXM": 450.0, "H100-SXM": 450.0, "H800": 200.0}
"""Of one direction; the H800's is 400 GB/s in both."""
NETWORK_GBPS = 50.0
KERNELS = ("high_throughput", "low_latency")
"""In the order of ``FIXED_US``."""


def sent_bytes(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the bytes that one GPU sends inside its node and across nodes, as ``exchanges_of`` counts them."""
    number = np.where(rows.bits == 8, SCALED_BYTES, rows.bits / 8.0)
    local = np.minimum(rows.ep, rows.gpus_per_node)
    low = rows.kernels == "low_latency"
    gpus = rows.ep * (1.0 - (1.0 - 1.0 / rows.ep) ** rows.top)
    one = rows.tokens * rows.hidden * number
    inside = np.where(low, rows.top * (local - 1) / rows.ep, gpus * (local - 1) / local)
    return one * inside, one * np.where(low, rows.top * (1.0 - local / rows.ep), 0.0)


def predicted_us(rows: pd.DataFrame, fixed: float, share: float) -> pd.Series:
    """Return microseconds of rows of one kind of kernels and one phase."""
    inside, across = sent_bytes(rows)
    network = NETWORK_GBPS * Parameters.typical().ring_link * 1e3
    links = rows.gpu.map(NVLINK_GBPS) * share * 1e3
    return fixed + np.maximum(inside / links, across / network)


def fitted(rows: pd.DataFrame) -> tuple[float, float]:
    """Return microseconds that are fixed and the share of NVLink, of rows of one kind of kernels and one phase."""

    def error(at: np.ndarray) -> float:
        return float(np.abs(np.log(predicted_us(rows, *np.exp(at)) / rows.time_us)).sum())

    fixed, share = np.exp(minimize(error, [4.0, -0.5], method="Nelder-Mead").x)
    return float(fixed), float(share)


def main() -> None:
    """Print the fit, and the errors with the constants that ship."""
    table = pd.read_csv(FILE)
    for place, kernels in enumerate(KERNELS):
        for phase in FIXED_US:
            rows = table[(table.kernels == kernels) & (table.phase == phase)]
            fixed, share = fitted(rows[rows.gpu == "H200-SXM"])
            print(f"{kernels} {phase}: {fixed:.1f} us fixed, {share:.3f} of NVLink")
            for gpu, own in rows.groupby("gpu"):
                expected = predicted_us(own, FIXED_US[phase][place], NVLINK_SHARE[phase][place])
                errors = np.abs(np.log(expected / own.time_us))
                print(
                    f"  {gpu}: {len(own)} times, median error {np.median(errors):.0%}, 90% within {np.quantile(errors, 0.9):.0%}"
                )


if __name__ == "__main__":
    main()
