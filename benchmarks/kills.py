"""Writers of the store of runs, killed in the middle of a write: nothing that was acknowledged is lost, and nothing stands twice.

    python -m benchmarks.kills --kills 1000 --seed 1

Three writers at once append runs to one file and acknowledge what is written; each is killed after up to 30 ms. Then the same with a
disk that is full (``RLIMIT_FSIZE``) and with a folder that may not be written. Exits with 1 where a run is lost or doubled.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from catalog.errors import InputError
from catalog.runs import append_runs, read_runs, shipped_runs

if TYPE_CHECKING:
    from catalog.schema import Measurement

WRITERS = 3
LONGEST_S = 0.03
"""That a writer lives."""
AT_ONCE = (1, 1, 1, 5, 60)
"""Runs of one append, one of these."""
FULL_BYTES = 200_000
"""At which the disk is full."""


def write(store: Path, run: Measurement, name: str, acknowledge: int, most_bytes: int | None) -> None:
    """Append runs until killed, and acknowledge each append once it has returned."""
    if most_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    chance, number = random.Random(name), 0
    while True:
        names = [f"{name}-{number + i}" for i in range(chance.choice(AT_ONCE))]
        number += len(names)
        padding = "x" * chance.choice((0, chance.randrange(20_000)))
        with contextlib.suppress(InputError, OSError):
            append_runs(store, [replace(run, run_id=name, fingerprint=run.fingerprint + padding) for name in names])
            os.write(acknowledge, "".join(f"{name}\n" for name in names).encode())


def killed(store: Path, run: Measurement, chance: random.Random, turn: int, most_bytes: int | None) -> set[str]:
    """Start writers, kill them, and return the runs that they acknowledged."""
    children = []
    for writer in range(WRITERS):
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reading)
            write(store, run, f"w{turn}-{writer}", writing, most_bytes)
        os.close(writing)
        children.append((process, reading))
    for process, _ in children:
        time.sleep(chance.random() * LONGEST_S)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    acknowledged: set[str] = set()
    for _, reading in children:
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        acknowledged.update(text[: text.rfind("\n") + 1].split())  # an acknowledgement that was cut off is none
    return acknowledged


def stored(store: Path) -> list[str]:
    return [run.run_id for run in read_runs(store)] if store.exists() else []


def trial(folder: Path, run: Measurement, kills: int, seed: int, most_bytes: int | None = None) -> tuple[int, int, int]:
    """Kill so many writers; return how many runs were acknowledged, lost and doubled."""
    store, chance = folder / "runs" / "probe.jsonl", random.Random(seed)
    acknowledged: set[str] = set()
    for turn in range(-(-kills // WRITERS)):
        acknowledged |= killed(store, run, chance, turn, most_bytes)
    names = stored(store)
    return len(acknowledged), len(acknowledged - set(names)), len(names) - len(set(names))


def read_only(folder: Path, run: Measurement) -> tuple[int, int, int]:
    """Append to a store that may not be written: it says so, and what stood in it stands."""
    store = folder / "runs" / "probe.jsonl"
    append_runs(store, [replace(run, run_id="before")])
    store.chmod(0o444)
    store.parent.chmod(0o555)
    try:
        append_runs(store, [replace(run, run_id="after")])
    except (InputError, OSError) as error:
        print(f"  said: {error}")
    finally:
        store.parent.chmod(0o755)
        store.chmod(0o644)
    names = stored(store)
    return 1, int("before" not in names), len(names) - len(set(names))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    run, bad = shipped_runs()[0], 0
    for what in ("killed", "full disk", "read-only home"):
        with tempfile.TemporaryDirectory() as folder:
            if what == "read-only home":
                counts = read_only(Path(folder), run)
            else:
                full = FULL_BYTES if what == "full disk" else None
                counts = trial(Path(folder), run, arguments.kills, arguments.seed, full)
        acknowledged, lost, doubled = counts
        print(f"{what}: {acknowledged} acknowledged, {lost} lost, {doubled} twice")
        bad += lost + doubled
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
