"""CPU time of the command line against importing what it is made of: ``python benchmarks/cli.py``.

Each command is run as a whole process, user and system time together, after one run that warms the disk's cache; the
least of several runs counts, being the one least disturbed. Exits with 1 where a ratio is above its limit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Comparison:
    command: tuple[str, ...]
    baseline: str
    limit: float = 2.0

    @property
    def name(self) -> str:
        return f"advisor {' '.join(self.command)}"


COMPARISONS = (
    Comparison(("--help",), "import typer, rich"),
    Comparison(("recommend", "--model", "llama-13b", "--gpus", "4xA100"), "import optuna, pandas"),
)


def cpu_seconds(arguments: list[str], home: str) -> float:
    """Return user and system time of one whole process."""
    environment = os.environ | {"ADVISOR_HOME": home}
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, cwd=root, env=environment) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} exited with {process.returncode}")
    return used.ru_utime + used.ru_stime


def compare(comparison: Comparison, repeats: int, home: str) -> tuple[float, float]:
    """Return least CPU seconds of the command and of its baseline, measured in turn so that both meet the same machine."""
    commands = ([sys.executable, "-m", "advisor", *comparison.command], [sys.executable, "-c", comparison.baseline])
    times: list[list[float]] = [[], []]
    for _ in range(repeats + 1):
        for arguments, seconds in zip(commands, times, strict=True):
            seconds.append(cpu_seconds(list(arguments), home))
    return min(times[0][1:]), min(times[1][1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    slow = False
    with tempfile.TemporaryDirectory() as home:
        for comparison in COMPARISONS:
            own, baseline = compare(comparison, repeats, home)
            slow |= own / baseline > comparison.limit
            print(
                f"{own / baseline:5.2f} (at most {comparison.limit:g})  {own:.3f} s / {baseline:.3f} s  {comparison.name} / {comparison.baseline}"
            )
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
