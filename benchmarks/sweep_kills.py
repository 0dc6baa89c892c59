"""Real sweeps on the CPU, killed in the middle and resumed: no measured batch is lost, and none stands twice.

    python -m benchmarks.sweep_kills --kills 100 --seed 1

Sweeps of ``advisor probe --device cpu`` over a model of two layers, one alone or three at once into one folder, are killed at random
moments, half of them just after a run was stored; or their worker is. Between kills they meet a full disk (``RLIMIT_FSIZE``) and a
folder that may not be written. Each is given again until all of it is measured. Needs torch. Exits with 1 where a run is lost, changed
or doubled, or a traceback is shown.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from catalog.jsonl_store import json_rows

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 512, "num_attention_heads": 4,
    "num_hidden_layers": 2, "num_key_value_heads": 4, "tie_word_embeddings": False, "torch_dtype": "float32", "vocab_size": 256,
}  # fmt: skip
MAIN = "from advisor.cli import main; main()"
SHAPES = {"--batch": "1,2,3,4", "--input-len": "8,12", "--output-len": "2,3"}
NUMBER = 16
"""Batches of a sweep."""
TOGETHER = (1, 1, 3)
"""Sweeps at once, one of these."""
LONGEST_S, AFTER_S = 12.0, 0.4
"""Seconds after which a sweep is killed at the latest, from its start and from when it has stored a run."""
PATIENCE_S = 300.0
"""Seconds in which a sweep of this size ends, however busy the machine."""
ROOM_BYTES = 1500
"""Left on a full disk: less than a run or two."""
DROP, OVERRIDE = 24, 1
"""``PR_CAPBSET_DROP`` and ``CAP_DAC_OVERRIDE`` (linux/prctl.h, linux/capability.h): root too may then write only where modes allow it."""


@dataclass(slots=True, kw_only=True)
class Account:
    """What was seen stored, and what became of it."""

    folder: Path
    seen: dict[str, str] = field(default_factory=dict)
    """Runs by their id, as they stood when first seen."""
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def store(self) -> Path:
        return self.folder / "out" / "runs.jsonl"

    def look(self) -> None:
        """Count what was lost, changed or doubled since the last look."""
        rows = [row for _, row in json_rows(self.store)] if self.store.exists() else []
        names = [row["run_id"] for row in rows]
        now = {row["run_id"]: json.dumps(row, sort_keys=True) for row in rows}
        self.counts["lost"] += len(self.seen.keys() - now.keys())
        self.counts["changed"] += sum(now.get(name, text) != text for name, text in self.seen.items())
        self.counts["doubled"] += len(names) - len(now)
        self.seen |= now


def started(folder: Path, before: Callable[[], object] | None = None) -> subprocess.Popen[str]:
    """Start a sweep, in a session of its own."""
    shapes = [word for pair in SHAPES.items() for word in pair]
    argv = ["probe", "--model", "./config.json", "--device", "cpu", "--gpus", "1", "--out", "out", *shapes]
    alone = {
        "ADVISOR_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *argv], cwd=folder, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=os.environ | alone, start_new_session=True, preexec_fn=before,  # noqa: PLW1509  no threads here
    )  # fmt: skip


def workers(sweep: subprocess.Popen[str]) -> list[int]:
    """Return the processes that a sweep has started."""
    children = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def ended(sweeps: list[subprocess.Popen[str]], account: Account) -> list[int]:
    """Wait for sweeps, and return their exit codes."""
    for sweep in sweeps:
        _, said = sweep.communicate(timeout=PATIENCE_S)
        account.counts["tracebacks"] += "Traceback" in said
    return [sweep.returncode for sweep in sweeps]


def kill(sweeps: list[subprocess.Popen[str]], account: Account, chance: random.Random) -> None:
    """Kill sweeps, or a worker of theirs, at a random moment."""
    size = account.store.stat().st_size if account.store.exists() else 0
    ends = time.monotonic() + (chance.uniform(0.0, LONGEST_S) if chance.random() < 0.5 else PATIENCE_S)
    while time.monotonic() < ends and any(sweep.poll() is None for sweep in sweeps):
        if ends - time.monotonic() > LONGEST_S and account.store.exists() and account.store.stat().st_size > size:
            ends = time.monotonic() + chance.uniform(0.0, AFTER_S)
        time.sleep(0.005)
    for sweep in sweeps:
        if sweep.poll() is not None:
            continue
        below = workers(sweep)
        if below and chance.random() < 0.25:
            os.killpg(chance.choice(below), signal.SIGKILL)
            account.counts["workers killed"] += 1
        else:
            sweep.kill()
            account.counts["sweeps killed"] += 1


def without_room(account: Account) -> None:
    """Run a sweep on a disk that is full but for a run or two."""
    most = max((path.stat().st_size for path in (account.folder / "out").rglob("*") if path.is_file()), default=0)

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most + ROOM_BYTES, most + ROOM_BYTES))

    ended([started(account.folder, before=limited)], account)
    account.counts["full disks"] += 1


def without_leave(account: Account) -> None:
    """Run a sweep into a folder that may not be written."""
    out = account.folder / "out"
    if not account.store.exists():
        return
    modes = {path: path.stat().st_mode for path in (out, *out.rglob("*"))}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    (code,) = ended([started(account.folder, before=lambda: ctypes.CDLL(None).prctl(DROP, OVERRIDE, 0, 0, 0))], account)
    for path, mode in modes.items():
        path.chmod(mode)
    account.counts["read-only folders"] += 1
    account.counts["not refused"] += code != 2


def trial(folder: Path, chance: random.Random, kills: int) -> Counter[str]:
    """Kill a sweep until it is done, at most so often, and return what was counted."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    account = Account(folder=folder)
    while len(account.seen) < NUMBER:
        count = account.counts
        if count["sweeps killed"] + count["workers killed"] < kills:
            sweeps = [started(folder) for _ in range(chance.choice(TOGETHER))]
            kill(sweeps, account, chance)
            ended(sweeps, account)
        else:
            ended([started(folder)], account)
        account.look()
        match chance.randrange(10):
            case 0:
                without_room(account)
            case 1:
                without_leave(account)
        account.look()
    ended([started(folder)], account)  # all is measured: nothing may be added
    account.look()
    account.counts["runs"] = len(account.seen)
    account.counts["too many"] = len(account.seen) - NUMBER
    account.counts["sweeps done"] = 1
    return account.counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance, counts = random.Random(arguments.seed), Counter[str]()
    while (left := arguments.kills - counts["sweeps killed"] - counts["workers killed"]) > 0:
        with tempfile.TemporaryDirectory() as folder:
            counts += trial(Path(folder), chance, left)
        print(", ".join(f"{number} {what}" for what, number in counts.items()), flush=True)
    bad = sum(counts[what] for what in ("lost", "changed", "doubled", "too many", "tracebacks", "not refused"))
    print("nothing lost, nothing doubled" if not bad else f"{bad} faults")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
