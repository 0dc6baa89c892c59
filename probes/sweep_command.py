"""The command line that programs which measure an engine share, and the arguments of one of their workers."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError
from catalog.runs import check_run, keep_runs, read_runs
from probes.benchmark_plan import read_plan
from probes.static_benchmark import failure, measure
from probes.supervised import end_with_starter
from probes.sweep import LEFT_OUT, Sweep, add_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from catalog.schema import Measurement
    from probes.benchmark_plan import BenchmarkJob
    from probes.serving_benchmark import TrafficProfile
    from probes.static_benchmark import BenchmarkEngine, OutOfMemory


def sweep_parser(module: str, description: str) -> argparse.ArgumentParser:
    """Make the parser of ``python -m MODULE PLAN.json OUT``; ``--worker`` is for the processes that a sweep starts."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("plan", type=Path, nargs="?", help="JSON file, see probes.benchmark_plan.read_plan")
    parser.add_argument("out", type=Path, nargs="?", help="folder for what is measured")
    parser.add_argument("--gpus", default="0", help="indices of the GPUs to use, as nvidia-smi counts them: 0,1")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this long")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def run_sweep(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    *,
    worker: Sequence[str],
    environment: Mapping[str, str],
    check: Callable[[BenchmarkJob], None] | None = None,
    ready: Callable[[], str] = str,
) -> int:
    """Run the plan that ``args`` name; the exit code, 2 if it cannot be run, which one line on stderr explains.

    ``worker`` is the command that starts a worker, ``check`` refuses loads that the engine cannot run (``InputError``),
    ``ready`` an engine that cannot run at all, or returns what is to be said about it.
    """
    if args.plan is None or args.out is None:
        parser.error("a plan and a folder are needed")
    try:
        gpus = [int(index) for index in args.gpus.split(",")]
    except ValueError:
        print(f"--gpus is {args.gpus!r}; it must be indices such as 0,1", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sweep = Sweep(args.plan, args.out, gpus, worker=worker, environment=environment, seconds=60 * args.minutes)
        for load in sweep.loads:
            if check:
                check(load)
        if warning := ready():
            print(warning, file=sys.stderr)
        sweep.run()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One load for a worker, see ``Sweep``."""

    text: str
    """The order as it was given."""
    load: BenchmarkJob
    out: Path
    store: Path
    """Where measurements go, see ``catalog.runs``."""
    log: Path
    gpus: tuple[int, ...]
    port: int


def take_order() -> Order | None:
    """Wait on standard input for an order; None if there is none to come.

    From then on the worker's output goes to the load's log, the load's GPUs are the only ones it sees, and it ends, with
    the processes it started, when the sweep does.
    """
    text = sys.stdin.readline()
    if not text:
        return None
    if os.getsid(0) == os.getpid():  # the first process of a load; the others' standard input has ended
        threading.Thread(target=end_with_starter, daemon=True).start()
    order = json.loads(text)
    log = Path(order["log"])
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    gpus = tuple(order["gpus"])
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    load = read_plan(Path(order["plan"]))[order["load"]]
    out, store = Path(order["out"]), Path(order["store"])
    return Order(text=text, load=load, out=out, store=store, log=log, gpus=gpus, port=order["port"])


def record(engine: BenchmarkEngine, order: Order, *, agreement: Mapping[str, float] | None = None) -> None:
    """Measure the load's shapes that are not in the store yet; each is in it as soon as it is taken.

    ``agreement`` is what all of them have in common, see ``measure``. Shapes for which no time was left are noted as left
    out, so that the next run takes them up.
    """
    done = frozenset(run.run_id for run in stored(order))
    left: list[tuple[int, int, int]] = []
    for run in measure(engine, order.load, done=done, agreement=agreement, say=tell, late=left.append):
        store(order, run)
    record_left_out(order, shapes=left)


def record_left_out(
    order: Order, *, shapes: Sequence[tuple[int, int, int]] = (), offers: Sequence[TrafficProfile] = ()
) -> None:
    """Note for which shapes and offers of the load no time was left, if any, before it is noted as done."""
    if shapes or offers:
        add_record(order.out, replace(order.load, shapes=tuple(shapes), offers=tuple(offers)), LEFT_OUT, 0.0)


def record_failure(
    order: Order,
    error: OutOfMemory,
    *,
    engine: str,
    version: str,
    fingerprint: Mapping[str, Any],
    running: tuple[int, int, int] | None = None,
) -> None:
    """Store that there was not enough memory for a batch, or, where none was running, for the load: its smallest shape."""
    shapes = order.load.shapes or tuple((1, offer.input_len, offer.output_len) for offer in order.load.offers)
    if running is None:
        shape = min(shapes, key=lambda candidate: candidate[0] * (candidate[1] + candidate[2]))
    else:  # a part of a shape: its prefill, or its warm-up
        shape = next((candidate for candidate in shapes if candidate[:2] == running[:2]), running)
    run = failure(order.load, shape, error, engine=engine, version=version, fingerprint=fingerprint)
    if run.run_id not in {other.run_id for other in stored(order)}:
        store(order, run)


def stored(order: Order) -> tuple[Measurement, ...]:
    """Read the runs in the order's store."""
    return read_runs(order.store) if order.store.exists() else ()


def store(order: Order, run: Measurement) -> bool:
    """Add a run to the order's store, and say whether it was.

    Times that contradict each other (a prefill longer than the whole run, on a busy machine) are not stored.
    """
    try:
        check_run(run, run.run_id)
    except InputError as error:
        tell(f"not stored: {error}")
        return False
    return bool(keep_runs(order.store, [run]))


def tell(text: str) -> None:
    """Say it in the load's log, at once."""
    print(text, flush=True)
