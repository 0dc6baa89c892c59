"""Arguments of the commands that time kernels and collectives, checked."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.schema import require_positive
from probes.gpu_telemetry import obstacles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PCI_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""So that CUDA counts the GPUs as nvidia-smi does."""

SETTLE_S = 5.0
"""A GPU that was in use until now seems so for a little longer."""

CPU_SHARE = 1 / 8
"""Of a machine's memory, that a CPU that stands in for a GPU may use."""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message} (see {self.prog} --help)\n")


def probe_parser(module: str, description: str, *, seconds: float) -> OneLineParser:
    """Make the parser of ``python -m MODULE OUT``; ``--worker`` is for the processes that it starts."""
    parser = OneLineParser(prog=f"python -m {module}", description=description)
    parser.add_argument("out", type=Path, nargs="?", help="folder for what is measured")
    parser.add_argument("--gpus", default="0", help="indices of the GPUs to use, as nvidia-smi counts them: 0,1")
    parser.add_argument("--seconds", type=float, default=seconds, help="stop after this long (default: %(default)g)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what to run on (default: cuda)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def parse_numbers(name: str, text: str, *, least: int) -> tuple[int, ...]:
    """Read different whole numbers with commas between them.

    Raises:
        InputError: they are not.

    """
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least or len(set(numbers)) < len(numbers):
        raise InputError(f"{name} is {text!r:.60}; it must be different whole numbers from {least} on, such as 1,2")
    return numbers


def check_seconds(seconds: float) -> None:
    """Raise ``InputError`` unless it is a number above 0, or infinity."""
    if seconds != math.inf:
        require_positive("--seconds", seconds, whole=False)


def check_device(device: str, gpus: Sequence[int]) -> None:
    """Raise ``InputError`` if torch, or the GPUs, are not there, or if others use them."""
    if find_spec("torch") is None:
        raise InputError("this needs torch: pip install 'advisor[probes]'")
    if device == "cpu":
        return
    os.environ.update(PCI_ORDER)
    import torch  # heavy; the arguments are checked without it

    if not torch.cuda.is_available():
        raise InputError("torch finds no CUDA GPU; --device cpu runs on the CPU")
    count = torch.cuda.device_count()
    if "CUDA_VISIBLE_DEVICES" not in os.environ and max(gpus) >= count:
        raise InputError(f"--gpus names GPU {max(gpus)}; there are {count}, from 0 on")
    last = time.monotonic() + SETTLE_S
    while lines := obstacles(gpus):
        if time.monotonic() > last:
            raise InputError(lines[0])
        time.sleep(0.5)


def gpu_name(device: str) -> str:
    """Return the catalog's name of the GPU that torch sees first, its own name if the catalog has none; or "CPU"."""
    if device == "cpu":
        return "CPU"
    import torch

    name = str(torch.cuda.get_device_name(0))
    try:
        return find_gpu(name).value.name
    except InputError:
        return name


def memory_bytes(device: str) -> float:
    """Return the bytes of one GPU; of a CPU the share that it may use."""
    if device == "cpu":
        return CPU_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    import torch

    return float(torch.cuda.get_device_properties(0).total_memory)


def exit_code(run: Callable[[], int]) -> int:
    """Return ``run``'s exit code; 2 for wrong input, which one line on stderr explains, 130 after Ctrl-C, 143 after
    SIGTERM.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
