"""The GPUs of this machine: by NVML, or where that is missing by torch in a process of its own.

    python -m probes.devices

prints, as a JSON list, what torch finds. (A process that has asked CUDA keeps a part of every GPU's memory.)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from io import StringIO

from catalog.errors import InputError
from catalog.units import GIB
from probes.gpu_telemetry import GpuState, describe_gpus, obstacles

PATIENCE_S = 60.0
"""How long torch may take to start CUDA."""


def local_gpus() -> list[GpuState]:
    """List the GPUs as nvidia-smi counts them, or without NVML as CUDA does; only those that ``CUDA_VISIBLE_DEVICES``
    names, where it is set.

    Raises:
        InputError: there are none, or none can be found because torch is missing.

    """
    with redirect_stdout(StringIO()):  # that there is no NVML is no answer; what follows from it is said
        states = describe_gpus()
    if not states:
        return _by_torch()
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return states
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if not all(name.isdigit() for name in names):
        raise InputError(
            f"CUDA_VISIBLE_DEVICES is {wanted!r:.80}; set it to indices, as nvidia-smi counts, or name the GPUs: --gpus 0,1"
        )
    visible = [state for state in states if str(state.index) in names]
    if not visible:
        raise InputError(f"CUDA_VISIBLE_DEVICES is {wanted!r:.80}; none of the {len(states)} GPUs here is in it")
    return visible


def in_the_way(gpus: list[int]) -> list[str]:
    """Say what stands in the way of measuring on these GPUs, a line each; see ``probes.gpu_telemetry.obstacles``."""
    with redirect_stdout(StringIO()):
        return obstacles(gpus)


def _by_torch() -> list[GpuState]:
    if find_spec("torch") is None:
        raise InputError("no GPU was found: there is no NVML, and no torch to ask; pip install 'advisor[probes]'")
    command = [sys.executable, "-m", "probes.devices"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout
        states = [GpuState(**state) for state in json.loads(output)]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise InputError(f"no GPU was found: there is no NVML, and torch fails ({type(error).__name__})") from error
    if not states:
        raise InputError("no GPU was found, neither by NVML nor by torch; --device cpu tries things out without one")
    return states


def torch_gpus() -> list[GpuState]:
    """List the GPUs as torch sees them."""
    cuda = import_module("torch").cuda
    states = []
    for index in range(cuda.device_count() if cuda.is_available() else 0):
        free, total = cuda.mem_get_info(index)
        name = cuda.get_device_name(index)
        used = (total - free) / GIB
        states.append(
            GpuState(
                index=index,
                name=name,
                total_gib=total / GIB,
                used_gib=used,
                utilisation=None,
                mig="MIG" in name,
                processes=0,
            )
        )
    return states


if __name__ == "__main__":
    print(json.dumps([asdict(state) for state in torch_gpus()]))
