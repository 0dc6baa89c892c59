"""Time the kernels that one GPU runs for some models, at their own shapes: minutes, no weights, nothing but torch.

    python -m probes.microbench.kernel_times OUT --model llama-3.1-8b --tp 1,2,4 --gpus 0,1 --seconds 120

One process a GPU; they share the shapes (``probes.microbench.kernel_shapes``), the most telling first, so that when the time is up
it is the least telling ones that are missing. ``OUT/kernels.jsonl`` has one row a shape: the fields of ``Shape``, ``gpu``, ``engine`` ("torch") and its version,
``kv_dtype`` of attention, ``routing`` of experts, ``us`` (median over replays), ``spread`` (relative standard deviation), ``graph`` ("graph", or "eager" where launching is
in it), ``fingerprint``; or ``error``, what came instead: memory that ran out, a crash, no answer. Shapes that have a row
are not run again. A model that is read from a quantised checkpoint or has another architecture than the engine's is
refused.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import time
from dataclasses import dataclass, fields
from functools import partial
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, Any

from catalog.models.find import find_model
from probes.gpu_telemetry import Meter
from probes.microbench.arguments import (
    PCI_ORDER,
    check_device,
    check_seconds,
    exit_code,
    gpu_name,
    memory_bytes,
    parse_numbers,
    probe_parser,
)
from probes.microbench.kernel_shapes import Shape, kernel_shapes
from probes.microbench.store import MicrobenchProgress, Store, make_folders
from probes.microbench.workers import Crew, Team, one_line, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import torch

    from catalog.schema import Model
    from probes.microbench.workers import Answer

SHAPE_S = 60.0
"""A shape that takes longer, its compilation included, is given up."""

GPU = "ADVISOR_PROBE_GPU"
"""Environment variable of a worker: the GPU it has, as nvidia-smi counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingSummary:
    """What became of the shapes, or collectives, that a command was to time."""

    there: int
    """Were in the store before."""
    measured: int
    failed: int
    left: int
    """The time was up before."""
    trouble: str
    """Why a process could not start, in one line, or nothing."""

    def __str__(self) -> str:
        parts = {"there before": self.there, "failed": self.failed, "not reached": self.left}
        return ", ".join([f"{self.measured} measured", *(f"{count} {what}" for what, count in parts.items() if count)])


def measure_kernels(
    out: Path,
    groups: Iterable[Sequence[Shape]],
    *,
    gpus: Sequence[int] = (0,),
    device: str = "cuda",
    seconds: float = math.inf,
) -> TimingSummary:
    """Time the shapes that ``out/kernels.jsonl`` has not, one process a GPU; on "cpu", one a number in ``gpus``.

    Raises:
        InputError: the store cannot be read or written.

    """
    gpu = gpu_name(device)
    make_folders(out)
    store = Store(out / "kernels.jsonl", ["gpu", *(field.name for field in fields(Shape))])
    wanted = [tuple(group) for group in groups]
    missing = [group for shapes in wanted if (group := tuple(s for s in shapes if not store.has(_row(gpu, s))))]
    count = sum(map(len, missing))
    progress = MicrobenchProgress(count, "kernels", seconds)

    def done(shape: Shape, answers: list[Answer]) -> None:
        store.add({**_row(gpu, shape), **answers[0]})
        progress.step()

    def failed(shape: Shape, why: str) -> None:
        store.add({**_row(gpu, shape), "error": why})
        progress.step()

    teams = [Team(partial(_commands, device, index, len(gpus)), out / "logs" / f"kernels{index}.log") for index in gpus]
    crew = Crew(teams, missing, order=lambda shape: shape.row(), done=done, failed=failed)
    trouble = crew.run(seconds=seconds, task_s=SHAPE_S)
    return TimingSummary(
        there=sum(map(len, wanted)) - count,
        measured=store.measured,
        failed=store.failed,
        left=crew.left(),
        trouble=trouble,
    )


def _row(gpu: str, shape: Shape) -> dict[str, Any]:
    return {"gpu": gpu, **shape.row()}


def _commands(device: str, index: int, count: int) -> list[tuple[list[str], dict[str, str]]]:
    """Return the command of the one process that has GPU ``index``, of ``count`` on this machine."""
    command = [sys.executable, "-m", "probes.microbench.kernel_times", "--worker", "--device", device]
    threads = str(max(1, (os.cpu_count() or 1) // count))
    visible = {"CUDA_VISIBLE_DEVICES": str(index), **PCI_ORDER} if device == "cuda" else {}
    return [(command, {GPU: str(index), "OMP_NUM_THREADS": threads, **visible})]


def answer_shapes(device: str) -> Callable[[Answer], Answer]:
    """Return what times, in a worker, one shape, given and answered as rows."""
    import torch  # shapes are listed without it

    from probes.microbench.kernel_calls import KernelBench
    from probes.microbench.timing import time_calls

    place = torch.device(device, 0) if device == "cuda" else torch.device(device)
    if device == "cuda":
        torch.cuda.set_device(place)
    bench = KernelBench(place)
    gc.freeze()  # recording a graph may collect garbage: not that of all the imports each time
    fingerprint = fingerprint_of(device, int(os.environ[GPU]))

    def times(shape: Shape) -> Answer:
        prepared = bench.prepare(shape)
        timing = time_calls(prepared.call, prepared.calls, place, graph=prepared.recordable)
        return {
            **_stated(shape, torch.__version__.partition("+")[0]),
            "graph": "graph" if timing.graph else "eager",
            "us": round(timing.us, 3),
            "spread": round(timing.spread, 4),
            "fingerprint": fingerprint,
        }

    def answer(task: Answer) -> Answer:
        with torch.inference_mode():
            return attempt(lambda: times(Shape(**task)), place)

    return answer


def _stated(shape: Shape, version: str) -> Answer:
    """Return what a row says beside its shape: whose kernel it is, and what ``catalog.kernels`` has fields for that this engine has one of."""
    stated: Answer = {"engine": "torch", "engine_version": version}
    if shape.op == "attention":
        stated["kv_dtype"] = shape.dtype
    if shape.op == "experts":
        stated["routing"] = "uniform"
    return stated


def attempt(run: Callable[[], Answer], device: torch.device) -> Answer:
    """Return what ``run`` answers, or the error it met; "fatal" beside it if the process can use the device no more."""
    import torch

    try:
        return run()
    except (torch.OutOfMemoryError, MemoryError):
        return {"error": "out of memory"}
    except Exception as error:  # noqa: BLE001  whatever it was, it is what became of this task
        answer: Answer = {"error": one_line(error)}
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError:
        answer["fatal"] = True
    return answer


def fingerprint_of(device: str, index: int, **more: str) -> str:
    """Return what the times depend on besides the shape, as JSON."""
    import torch

    facts = {
        **(Meter([index]).identity() if device == "cuda" else {}),
        "cuda": torch.version.cuda,
        "torch": str(torch.__version__),
        **more,
        "time": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }
    return json.dumps(facts, separators=(",", ":"))


def main(argv: Sequence[str] | None = None) -> int:
    began = time.monotonic()
    parser = probe_parser("probes.microbench.kernel_times", "Time the kernels of some models on GPUs.", seconds=120)
    parser.add_argument(
        "--model", action="append", default=[], help="name, or folder with a config.json; several times"
    )
    parser.add_argument(
        "--tp", default="1", help="over how many GPUs matrices are sliced: 1,2,4 (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.worker:
        serve(lambda: answer_shapes(args.device))
        return 0
    if args.out is None or not args.model:
        parser.error("a folder and --model are needed")

    def run() -> int:
        check_seconds(args.seconds)
        gpus, tps = parse_numbers("--gpus", args.gpus, least=0), parse_numbers("--tp", args.tp, least=1)
        models: list[Model] = [find_model(name).value for name in args.model]
        list_shapes(models, tps, device="cpu")  # models that cannot be run are refused before torch is loaded
        check_device(args.device, gpus)
        groups = list_shapes(models, tps, device=args.device)
        left = args.seconds - (time.monotonic() - began)
        summary = measure_kernels(args.out, groups, gpus=gpus, device=args.device, seconds=left)
        print(f"{summary} of {len([*chain(*groups)])} kernels; {args.out / 'kernels.jsonl'}")
        if summary.trouble:
            print(summary.trouble, file=sys.stderr)
        return 1 if summary.trouble and summary.left else 0

    return exit_code(run)


def list_shapes(models: Sequence[Model], tps: Sequence[int], *, device: str) -> tuple[tuple[Shape, ...], ...]:
    """List the shapes that suit the GPU, see ``kernel_shapes``.

    Raises:
        InputError: a model, or the slicing of one, is not run.

    """
    return kernel_shapes(
        models, tps, memory_bytes=memory_bytes(device), fusible=device == "cuda" and find_spec("triton") is not None
    )


if __name__ == "__main__":
    sys.exit(main())
