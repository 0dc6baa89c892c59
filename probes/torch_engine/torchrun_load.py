r"""One load of a plan whose processes torchrun has started, on one machine or on several.

    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
        -m probes.torch_engine.static PLAN.json OUT --load NAME

Every machine runs this command; tp x pp of the load is the number of processes. OUT is that of a sweep and may be in use
by others at the same time; only the first process writes there.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, NoReturn

from catalog.errors import InputError
from catalog.names import suggestion
from probes.benchmark_plan import read_plan
from probes.file_lock import take_lock
from probes.gpu_telemetry import Meter
from probes.sweep import add_record, undone
from probes.sweep_command import Order, tell
from probes.torch_engine.load_worker import ENVIRONMENT, check_load, run_load

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from probes.benchmark_plan import BenchmarkJob
    from probes.file_lock import FileLock

SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def run_launched(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Be one process of the load that ``args`` name; return the exit code, 2 if it cannot be run, which the first
    process says.
    """
    if args.plan is None or args.out is None:
        parser.error("a plan and a folder are needed")
    rank = int(os.environ.get("RANK", "0"))
    try:
        load = _find(args.plan, args.load)
        check_load(load, args.device)
        if not undone(load, args.out):
            _first(rank, f"{load.name} is done")
            return 0
        claim = _claim(load, args.out) if rank == 0 else None
    except InputError as error:
        _first(rank, str(error))
        return 2
    return _run(load, args.out.resolve(), rank, args.device, claim)


def _find(path: Path, name: str) -> BenchmarkJob:
    """Find the load of that name, which must be as wide as torchrun's world."""
    if missing := [variable for variable in SET_BY_TORCHRUN if variable not in os.environ]:
        raise InputError(
            f"--load is for processes that torchrun starts (there is no {missing[0]}); without it all loads are run"
        )
    loads = {load.name: load for load in read_plan(path)}
    if name not in loads:
        raise InputError(f"{path} has no load {name!r:.100}; {suggestion(name, loads, otherwise=', '.join(loads))}")
    load, size = loads[name], int(os.environ["WORLD_SIZE"])
    if load.deployment.num_gpus != size:
        raise InputError(
            f"{name} is tp {load.deployment.tp} x pp {load.deployment.pp}: it takes {load.deployment.num_gpus} "
            f"processes, torchrun has started {size}"
        )
    return load


def _claim(load: BenchmarkJob, out: Path) -> FileLock:
    claim = take_lock(out / "claims" / f"{load.name}.lock")
    if claim is None:
        raise InputError(f"{load.name} is being run by another process")
    return claim


def _first(rank: int, text: str) -> None:
    if rank == 0:
        print(text, file=sys.stderr, flush=True)


def _run(load: BenchmarkJob, out: Path, rank: int, device: str, claim: FileLock | None) -> NoReturn:
    """Run it and end the process: with 0, or with 1 if it failed or took too long, which torchrun tells the others."""
    began = time.monotonic()

    def end(outcome: str, *, late: bool = False, log: str = "") -> NoReturn:
        if rank == 0:
            add_record(out, load, outcome, time.monotonic() - began, late=late, log=log.splitlines()[-40:])
            tell(f"{load.name} {outcome} after {time.monotonic() - began:.0f} s")
        if claim:
            claim.release()
        sys.stdout.flush()
        os._exit(int(outcome != "done"))  # an orderly end of NCCL and CUDA takes seconds; nothing is left to be done

    # whatever hangs, this does not
    threading.Timer(load.start_s + load.measure_s, lambda: end("failed", late=True)).start()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    order = Order(
        text="",
        load=load,
        out=out,
        store=out / "runs.jsonl",
        log=out / "logs" / f"{load.name}.log",
        gpus=_gpus(),
        port=0,
    )
    try:
        run_load(
            order,
            rank,
            device,
            meeting="env://",
            local_rank=int(os.environ["LOCAL_RANK"]),
            meter=Meter(order.gpus if device == "cuda" and rank == 0 else ()),
        )
        if load.deployment.num_gpus > 1:
            import torch  # plans are read without it

            # the others read what the first told them last; it must not be gone before
            torch.distributed.all_reduce(torch.zeros(1))
    except BaseException:  # noqa: BLE001  whatever it was: told, and an end with 1
        traceback.print_exc()
        end("failed", log=traceback.format_exc())
    end("done")


def _gpus() -> tuple[int, ...]:
    """Return the load's GPUs as nvidia-smi counts them; none if some are in another machine, whose counters cannot be
    read.
    """
    count = int(os.environ["WORLD_SIZE"])
    if int(os.environ["LOCAL_WORLD_SIZE"]) < count:
        return ()
    visible = [index for index in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if index.isdigit()]
    return tuple(map(int, visible[:count])) if len(visible) >= count else tuple(range(count))
