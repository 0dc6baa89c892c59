"""Measure a transformer in plain PyTorch in the static regime: no engine but torch is needed, and no weights.

    python -m probes.torch_engine.static PLAN.json OUT --gpus 0,1,2,3 --minutes 20
    python -m probes.torch_engine.static PLAN.json OUT --gpus 0,1 --device cpu
    torchrun --nnodes 2 --nproc-per-node 4 ... -m probes.torch_engine.static PLAN.json OUT --load NAME

The plan, and what OUT then holds, are those of ``probes.vllm_engine.static`` (``runs.jsonl``, ``loads.jsonl`` and ``logs/``), so
that one plan can be measured on both engines, and ``memory.jsonl`` (see ``probes.torch_engine.load_findings``). What runs out of
memory is a row too; the ``thresholds`` of a plan are looked for by trying, and unless its ``agreement`` is false logits
are compared with those of the plainest run. A model that is named by a folder with a ``config.json`` and safetensors
has their weights; any other one has random weights. Each load is a process session of its own, with one process a GPU;
the tensor-parallel ones of a pipeline stage have neighbouring GPUs. ``compiled`` is kernels fused by
``torch.compile``, ``graphs``, on with it unless given, CUDA graphs for decode steps; ``offload`` keeps layers in the host's
memory (``probes.torch_engine.offload``). On a CPU, for trying things out, ``--gpus`` numbers processes, ``graphs`` is off.

What is timed is ``TorchEngine.generate`` from its call to its return: the prompts' way to the GPUs, prefill in
micro-batches of at most ``max_num_batched_tokens`` (but whole prompts), greedy decoding to the last token.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn

from catalog.errors import InputError
from probes.gpu_telemetry import Meter, wait_until_free
from probes.sweep_command import run_sweep, sweep_parser, take_order
from probes.torch_engine.load_worker import ENVIRONMENT, RANK, check_load, run_load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from probes.sweep_command import Order


def worker_command(device: str) -> list[str]:
    return [sys.executable, "-m", "probes.torch_engine.static", "--worker", "--device", device]


def work(device: str) -> None:
    """Be a worker: import torch, wait on standard input for the order of one load, run it, end.

    It is the load's first process and starts the others. When one of them fails, it fails; the sweep then ends whatever
    is left in their session.
    """
    import probes.torch_engine.engine  # noqa: F401  while there is time: the order comes when GPUs are free

    order = take_order()
    if order is None:
        return
    rank = int(os.environ[RANK])
    try:
        if rank == 0 and device == "cuda":
            wait_until_free(Meter(order.gpus))
        others = _start_others(order, device) if rank == 0 else []
        meeting = f"tcp://127.0.0.1:{order.port}"
        run_load(
            order, rank, device, meeting=meeting, meter=Meter(order.gpus if device == "cuda" and rank == 0 else ())
        )
        for other in others:  # they read what this process told them last; it must not be gone before
            other.wait()
    except InputError as error:  # says it all in one line
        _fail(str(error))
    except BaseException:  # noqa: BLE001  whatever it was: told in the log, and an end with 1
        _fail(traceback.format_exc())
    sys.stdout.flush()
    os._exit(0)  # an orderly end of NCCL and CUDA takes seconds; nothing is left to be done


def _fail(why: str) -> NoReturn:
    """End with 1, and say why, if the disk has room for that."""
    with suppress(OSError):
        print(why, file=sys.stderr, flush=True)
    os._exit(1)


def _start_others(order: Order, device: str) -> list[subprocess.Popen[str]]:
    others = []
    for rank in range(1, order.load.deployment.num_gpus):
        other = subprocess.Popen(
            worker_command(device), stdin=subprocess.PIPE, text=True, env={**os.environ, RANK: str(rank)}
        )
        assert other.stdin is not None
        other.stdin.write(order.text)
        other.stdin.close()
        print(f"rank {rank} is process {other.pid}", flush=True)
        others.append(other)

    def watch() -> None:
        while True:
            for rank, other in enumerate(others, 1):
                if other.poll():
                    _fail(f"rank {rank} ended with {other.returncode}")
            time.sleep(0.2)

    if others:
        threading.Thread(target=watch, daemon=True).start()
    return others


def main(argv: Sequence[str] | None = None) -> int:
    parser = sweep_parser("probes.torch_engine.static", "Measure a transformer in plain PyTorch, static batches.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what to run on (default: cuda)")
    parser.add_argument("--load", metavar="NAME", help="under torchrun: be one process of this load of the plan")
    args = parser.parse_args(argv)
    if args.worker:
        work(args.device)
        return 0
    if find_spec("torch") is None or find_spec("safetensors") is None:
        print("this needs torch and safetensors: pip install 'advisor[probes]'", file=sys.stderr)
        return 2
    if args.device == "cuda":
        import torch  # bad plans are refused without it

        if not torch.cuda.is_available():
            print("torch finds no CUDA GPU; --device cpu runs on the CPU", file=sys.stderr)
            return 2
    if args.load:
        from probes.torch_engine.torchrun_load import run_launched  # it imports this module

        return run_launched(parser, args)
    return run_sweep(
        parser,
        args,
        worker=worker_command(args.device),
        environment=ENVIRONMENT,
        check=lambda load: check_load(load, args.device),
    )


if __name__ == "__main__":
    sys.exit(main())
