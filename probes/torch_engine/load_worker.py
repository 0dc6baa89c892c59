"""One load on the PyTorch engine: the body that a sweep's worker and torchrun's processes share."""

from __future__ import annotations

import math
import os
from datetime import timedelta
from typing import TYPE_CHECKING

from catalog.errors import InputError
from probes.static_benchmark import OutOfMemory
from probes.sweep_command import record
from probes.torch_engine.load_findings import find_agreement, record_failure, record_memory, record_thresholds
from probes.torch_engine.model_settings import check_runs, read_settings

if TYPE_CHECKING:
    from probes.benchmark_plan import BenchmarkJob
    from probes.gpu_telemetry import Meter
    from probes.sweep_command import Order
    from probes.torch_engine.engine import TorchEngine


RANK = "RANK"
"""Environment variable, as torchrun's, that tells a worker which of a load's processes it is."""


ENVIRONMENT = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # so that NVML and CUDA count the GPUs alike
    "PYTHONUNBUFFERED": "1",
    RANK: "0",  # whatever the sweep itself was started by
}


def run_load(
    order: Order, rank: int, device: str, *, meeting: str, meter: Meter, local_rank: int | None = None
) -> None:
    """Do one process's part of a load; ``meeting`` is where the processes find each other (``init_method``), ``meter`` that
    of all their GPUs on rank 0, ``local_rank`` the GPU of this machine if it is not that of the rank's number.
    """
    import torch  # plans are read without it
    from torch import distributed

    from catalog.units import GIB
    from probes.torch_engine.engine import TorchEngine
    from probes.torch_engine.memory import needed_bytes, ran_out

    load, count = order.load, order.load.deployment.num_gpus
    place = torch.device("cpu")
    if device == "cuda":
        place = torch.device("cuda", rank if local_rank is None else local_rank)
        torch.cuda.set_device(place)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    if count > 1:
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            init_method=meeting,
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=load.start_s + load.measure_s),
        )
    try:
        engine = TorchEngine(load.model, load.deployment, rank=rank, device=place, meter=meter)
    except OutOfMemory as error:
        if rank == 0:
            print(error, flush=True)
            record_failure(order, error)
        return
    try:
        _measure(engine, order, rank)
    except RuntimeError as error:
        if not ran_out(error, place):
            raise
        # the other processes wait for this one, and will be ended; what is known is kept
        needed = needed_bytes(str(error), place) / GIB
        failed = OutOfMemory(f"out of GPU memory: {error}", needed_gib=needed if needed < math.inf else None)
        record_failure(order, failed, engine.running, engine)
        raise


def _measure(engine: TorchEngine, order: Order, rank: int) -> None:
    if rank:
        engine.follow()
        return
    print(f"started in {engine.startup_s:.1f} s, KV for {engine.kv_capacity_tokens} tokens", flush=True)
    agreement = find_agreement(engine, order.load)
    record(engine, order, agreement=agreement)
    record_memory(engine, order)
    record_thresholds(engine, order, agreement)
    engine.stop()


def check_load(load: BenchmarkJob, device: str) -> None:
    """Raise ``InputError``, one line, for a load that this engine cannot run."""
    try:
        check_runs(load.model, load.deployment, device=device)
        read_settings(load.model)
    except InputError as error:
        raise InputError(f"{load.name}: {error}") from error
