"""The words that every rendering shares: metrics, goals, sources, layouts. Each stands here once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advisor.calibration.intervals import Regime as Regime  # noqa: PLC0414  handed on
    from catalog.schema import Deployment

GOALS = {
    "throughput_per_gpu": "most tok/s per GPU",
    "throughput": "most tok/s",
    "latency": "shortest request (E2E)",
    "ttft": "shortest TTFT",
    "tpot": "shortest TPOT",
    "cost": "least cost per token",
}


METRIC_NAMES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "itl_ms": "ITL", "e2e_ms": "E2E"}


def layout_name(deployment: Deployment) -> str:
    """Replicas and parallelism: "2 x TP2 PP1"."""
    parts = [f"{deployment.dp} x" if deployment.dp > 1 else "", f"TP{deployment.tp}", f"PP{deployment.pp}"]
    parts += [f"EP{deployment.ep}"] if deployment.ep > 1 else []
    return " ".join(filter(None, parts))


PROVENANCE = {
    "measured": "measured: a run of exactly this configuration",
    "calibrated": "calibrated: runs of this engine on this GPU were fitted; intervals are from models left out",
    "transferred": "transferred: nothing measured on this GPU; this engine's runs on other GPUs were fitted",
    "analytic": "analytic: nothing measured of this engine; physics with the efficiencies other engines reach",
}

PLAN_GOALS = {"cost": "least money", "gpus": "fewest GPUs", "energy": "energy"}
"""What a capacity plan optimises."""

LIMITED_METRICS = ("ttft_ms", "tpot_ms", "e2e_ms")
"""The metrics that limits are of."""
