"""What the model of time leaves, by what it is common to: ``python -m benchmarks.residuals``.

Prints the standard deviations of ``advisor.tuning.beliefs.RESIDUALS`` that make the residuals of the shipped runs with
``role=fit`` (both engines on H200, their parameters fitted) most probable, by Nelder and Mead's search from one start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from advisor.fitting.evidence import METRICS, group_runs
from advisor.fitting.posterior import log_residuals
from advisor.fitting.surrogate import shipped_surrogate
from advisor.tuning.beliefs import OWN_LENGTH, PHASES
from catalog.runs import shipped_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

GPU = "H200-SXM"
PARTS = ("layout", "shape", "both", "own")
FARTHEST = 0.5
"""Log residuals beyond this are of their own kind (one short prompt on several GPUs of the PyTorch engine)."""


def groups(phase: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Residual, layout and place of each run, group by group."""
    for engine in ("torch", "vllm"):
        runs = [
            run
            for run in shipped_runs()
            if (run.engine, run.gpu, run.role, run.regime) == (engine, GPU, "fit", "static")
            and run.compiled and not (run.oom or run.offload) and run.e2e_ms and run.ep == 1
            and run.dtype == "bfloat16" and run.kv_dtype == "auto" and "-early-" not in run.run_id
        ]  # fmt: skip
        for group in group_runs(runs):
            residual = -log_residuals(group, shipped_surrogate().marginal(engine, GPU).mean)[METRICS.index(phase)]
            near = np.abs(residual) < FARTHEST
            layout = np.array([run.tp * 1000 + run.pp for run in group.runs])
            place = np.log(np.stack([group.batch, group.input_len], axis=1))
            yield residual[near], layout[near], place[near]


def fitted(phase: str) -> np.ndarray:
    data = list(groups(phase))

    def cost(logs: np.ndarray) -> float:
        layout_, shape, both, own = np.exp(2.0 * logs[:4])
        total = 0.0
        for residual, layout, place in data:
            same = layout[:, None] == layout[None, :]
            distance = np.sum((place[:, None] - place[None]) ** 2, axis=2)
            near = np.exp(-0.5 * distance / np.exp(2.0 * logs[4]))
            kernel = (
                layout_ * same + (shape + both * same) * near + own * same * np.exp(-0.5 * distance / OWN_LENGTH**2)
            )
            root = np.linalg.cholesky(kernel + 1e-6 * np.eye(len(residual)))
            whitened = np.linalg.solve(root, residual)
            total += 0.5 * float(whitened @ whitened) + float(np.log(np.diag(root)).sum())
        return total

    start = np.log([0.02, 0.02, 0.04, 0.04, 1.5])
    return np.exp(minimize(cost, start, method="Nelder-Mead", options={"maxfev": 1500}).x)


def main() -> None:
    for phase in PHASES:
        *sizes, length = fitted(phase)
        told = ", ".join(f"{name} {size:.3f}" for name, size in zip(PARTS, sizes, strict=True))
        print(f"{phase:10s} {told}; neighbours within a factor of {np.exp(length):.1f} (length {length:.2f})")


if __name__ == "__main__":
    main()
