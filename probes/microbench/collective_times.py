"""Time what GPUs of one machine say to each other: collectives over sizes and numbers of GPUs, eagerly and in CUDA graphs.

    python -m probes.microbench.collective_times OUT --gpus 0,1,2,3 --seconds 90

One process a GPU. ``OUT/collectives.jsonl`` has one row a case: the fields of ``probes.microbench.collective_cases.CollectiveCase``, ``gpu``,
``us`` (median over the repeats of a call in a row of calls, of the slowest process), ``spread`` (relative standard
deviation), ``fingerprint``; or ``error``, what came instead. Cases that have a row are not run again. When a process
crashes or the processes wait for each other without end, all of them are started anew for the next case.
"""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING

from catalog.errors import InputError
from probes.microbench.arguments import (
    PCI_ORDER,
    check_device,
    check_seconds,
    exit_code,
    gpu_name,
    parse_numbers,
    probe_parser,
)
from probes.microbench.collective_cases import CollectiveCase, collective_cases
from probes.microbench.kernel_times import GPU, TimingSummary, attempt, fingerprint_of
from probes.microbench.store import MicrobenchProgress, Store, make_folders
from probes.microbench.workers import Crew, Team, serve
from probes.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from probes.microbench.workers import Answer

CASE_S = 30.0
"""A case that takes longer hangs."""

GROUP_S = 2 * CASE_S
"""After this long torch itself ends a collective that hangs, if nobody else has."""


def measure_collectives(
    out: Path,
    cases: Sequence[CollectiveCase],
    *,
    gpus: Sequence[int],
    device: str = "cuda",
    seconds: float = math.inf,
    case_s: float = CASE_S,
) -> TimingSummary:
    """Time the cases that ``out/collectives.jsonl`` has not, one process a GPU; on "cpu", one a number in ``gpus``.

    Raises:
        InputError: the store cannot be read or written.

    """
    gpu = gpu_name(device)
    make_folders(out)
    store = Store(out / "collectives.jsonl", ["gpu", *(field.name for field in fields(CollectiveCase))])
    missing = [case for case in cases if not store.has({"gpu": gpu, **case.row()})]
    progress = MicrobenchProgress(len(missing), "collectives", seconds)

    def done(case: CollectiveCase, answers: list[Answer]) -> None:
        times = [answer for answer in answers if "us" in answer]
        slowest = max(times, key=lambda answer: answer["us"])
        row = {**case.row(), **slowest, "fingerprint": times[0]["fingerprint"]}
        store.add({"gpu": gpu, **row})
        progress.step()

    def failed(case: CollectiveCase, why: str) -> None:
        store.add({"gpu": gpu, **case.row(), "error": why})
        progress.step()

    team = Team(lambda: _commands(gpus, device), out / "logs" / "collectives.log")
    crew = Crew([team], [missing] if missing else [], order=CollectiveCase.row, done=done, failed=failed)
    trouble = crew.run(seconds=seconds, task_s=case_s)
    return TimingSummary(
        there=len(cases) - len(missing), measured=store.measured, failed=store.failed, left=crew.left(), trouble=trouble
    )


def _commands(gpus: Sequence[int], device: str) -> list[tuple[list[str], dict[str, str]]]:
    command = [sys.executable, "-m", "probes.microbench.collective_times", "--worker", "--device", device]
    shared = {"MASTER_PORT": str(free_port()), "WORLD_SIZE": str(len(gpus)), "OMP_NUM_THREADS": "1"}
    if device == "cuda":
        shared |= {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)), **PCI_ORDER}
    return [(command, {**shared, "RANK": str(rank), GPU: str(index)}) for rank, index in enumerate(gpus)]


def answer_cases(device: str) -> Callable[[Answer], Answer]:
    """Join the other processes, and return what times one case after another with them."""
    import torch  # cases are listed without it
    from torch import distributed

    from probes.microbench.collective_calls import Groups

    rank = int(os.environ["RANK"])
    place = torch.device(device, rank) if device == "cuda" else torch.device(device)
    if device == "cuda":
        torch.cuda.set_device(place)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        init_method=f"tcp://127.0.0.1:{os.environ['MASTER_PORT']}",
        rank=rank,
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=timedelta(seconds=GROUP_S),
    )
    groups = Groups(rank, place)
    fingerprint = fingerprint_of(device, int(os.environ[GPU]), **_library(device))

    def times(case: CollectiveCase) -> Answer:
        timing = groups.time(case)
        if timing is None:
            return {}
        return {"us": round(timing.us, 3), "spread": round(timing.spread, 4), "fingerprint": fingerprint}

    return lambda task: attempt(lambda: times(CollectiveCase(**task)), place)


def _library(device: str) -> dict[str, str]:
    """Return the version of NCCL, and the setting of NVLink's multicast, which makes sums over many GPUs faster."""
    if device == "cpu":
        return {}
    from torch.cuda import nccl

    return {"nccl": ".".join(map(str, nccl.version())), "nvls": os.environ.get("NCCL_NVLS_ENABLE", "")}


def list_cases(gpus: Sequence[int], device: str) -> tuple[CollectiveCase, ...]:
    """List the cases that suit the GPUs, see ``collective_cases``.

    Raises:
        InputError: fewer than two GPUs.

    """
    if len(gpus) < 2:
        raise InputError(f"--gpus names {len(gpus)} GPU; collectives take two or more, such as 0,1")
    impls = ("nccl", "symm") if device == "cuda" else ("gloo",)
    return collective_cases(len(gpus), impls, graphs=device == "cuda")


def main(argv: Sequence[str] | None = None) -> int:
    began = time.monotonic()
    parser = probe_parser(
        "probes.microbench.collective_times", "Time collectives between GPUs of one machine.", seconds=90
    )
    args = parser.parse_args(argv)
    if args.worker:
        serve(lambda: answer_cases(args.device))
        return 0
    if args.out is None:
        parser.error("a folder is needed")

    def run() -> int:
        check_seconds(args.seconds)
        gpus = parse_numbers("--gpus", args.gpus, least=0)
        cases = list_cases(gpus, args.device)
        check_device(args.device, gpus)
        left = args.seconds - (time.monotonic() - began)
        summary = measure_collectives(args.out, cases, gpus=gpus, device=args.device, seconds=left)
        print(f"{summary} of {len(cases)} collectives; {args.out / 'collectives.jsonl'}")
        if summary.trouble:
            print(summary.trouble, file=sys.stderr)
        return 1 if summary.trouble and summary.left else 0

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
