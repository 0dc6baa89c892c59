"""How far the fit that ships is from kernels that others timed alone, by kind, GPU and engine.

    python -m benchmarks.kernels [FILE ...] [--by kind,gpu,engine] [--least 5] [--fit FILE]

Kernels are predicted by the operators that add up to whole runs (``advisor.calibration.kernel_predictions``). A ratio above 1 means that the
prediction is slower. Rows that no operator is alone, and rows read from cache or with launching in them, are not judged: ``--all`` has these.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.kernel_predictions import predictions
from advisor.calibration.surrogate import Surrogate, shipped_surrogate
from catalog.errors import InputError
from catalog.kernels import (
    AttentionModuleTime,
    AttentionTime,
    Collective,
    ExpertsTime,
    Kernel,
    LatentAttentionTime,
    read_kernels,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from catalog.kernels import TimedKernel

JUDGED = Path(__file__).with_name("published") / "judged_kernels"
"""A selection of AIConfigurator's kernels; the fit learns nothing from it."""
KEYS = ("kind", "gpu", "engine")


def kind_of(time: TimedKernel) -> str:
    """Return what a row of the table is of."""
    match time:
        case Kernel():
            return f"products, {time.dtype}{' blocks' if time.block_scales else ''}"
        case ExpertsTime():
            return f"experts, {time.dtype}{' blocks' if time.block_scales else ''}{', spread' if time.ep > 1 else ''}"
        case AttentionTime():
            phase = "decode" if time.query == 1 else "prefill"
            narrow = " fp8 cache" if time.kv_dtype == "fp8" else ""
            return f"attention, {phase}{narrow}{' window' if time.window else ''}"
        case LatentAttentionTime() | AttentionModuleTime():
            phase = "decode" if time.query == 1 else "prefill"
            return f"{time.op}, {phase}"
        case Collective():
            return f"{time.op}, {'NCCL' if time.impl == 'nccl' else 'own'}"
        case _:
            return time.op


def is_judged(time: TimedKernel) -> bool:
    """Return whether a kernel was timed as it runs: from memory, without the time to launch it."""
    return time.graph != "eager" and time.cache != "warm"


def ratios(times: Sequence[TimedKernel], fit: Surrogate) -> Iterator[tuple[TimedKernel, float]]:
    """Yield each kernel that is predicted, and its predicted time over the measured one."""
    for engine in dict.fromkeys(time.engine for time in times):
        members = [time for time in times if time.engine == engine]
        for predicted in predictions(members, engine or "vllm"):
            parameters = fit.marginal(engine or "vllm", predicted.cluster.gpu.name).parameters
            found = np.broadcast_to(predicted.run(parameters), (len(predicted.times),))
            yield from zip(predicted.times, (found * 1e3 / [time.us for time in predicted.times]).tolist(), strict=True)


def table(judged: Sequence[tuple[TimedKernel, float]], by: Sequence[str], least: int) -> list[str]:
    """Write a line for each group: how many, the median ratio, where 80% of the ratios lie, and e^a - 1 for a, the mean size of their logarithm."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for time, ratio in judged:
        named = {"kind": kind_of(time), "gpu": time.gpu, "engine": time.engine or "any"}
        groups[tuple(named[key] for key in by)].append(ratio)
    widths = [max([len(key), *(len(group[i]) for group in groups)]) for i, key in enumerate(by)]

    def line(cells: Sequence[str], rest: str) -> str:
        return "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), rest])

    lines = [line(by, "kernels  median  10 to 90%    error")]
    for group in sorted(groups):
        values = np.array(groups[group])
        if len(values) >= least:
            low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
            error = float(np.mean(np.abs(np.log(values))))
            lines.append(
                line(group, f"{len(values):7d}  {middle:6.2f}  {low:4.2f}-{high:5.2f}  {np.expm1(error):6.0%}")
            )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument(
        "files", type=Path, nargs="*", help="tables of kernels; default: benchmarks/published/judged_kernels"
    )
    parser.add_argument(
        "--by", default=",".join(KEYS), help="what a row is of: kind, gpu, engine (default: %(default)s)"
    )
    parser.add_argument("--least", type=int, default=5, help="kernels from which a row is shown (default: %(default)s)")
    parser.add_argument("--fit", type=Path, help="a file of advisor fit -o, rather than what ships")
    parser.add_argument("--all", action="store_true", help="kernels read from cache or timed with their launch, too")
    chosen = parser.parse_args(arguments)
    by = chosen.by.split(",")
    if unknown := [key for key in by if key not in KEYS]:
        parser.error(f"--by {unknown[0]!r:.40}: it must be of {', '.join(KEYS)}")
    try:
        times = [time for path in chosen.files or sorted(JUDGED.glob("*.csv")) for time in read_kernels(path)]
        fit = Surrogate.read(chosen.fit) if chosen.fit else shipped_surrogate()
        judged = list(ratios([time for time in times if chosen.all or is_judged(time)], fit))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(table(judged, by, max(chosen.least, 1))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
