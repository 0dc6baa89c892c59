"""What NVML tells of some GPUs: who they are, what memory is in use, what energy they have used."""

from __future__ import annotations

import hashlib
import math
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

GIB = 2**30


class Meter:
    """Energy counters and identity of some GPUs, by NVML; without NVML it knows nothing."""

    def __init__(self, gpus: Sequence[int]) -> None:
        self._handles: list[Any] = []
        try:
            self._nvml = import_module("pynvml")
            self._nvml.nvmlInit()
            self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(gpu) for gpu in gpus]
        except Exception as error:  # noqa: BLE001  pynvml's errors derive from Exception alone; it may be missing too
            print(f"no NVML: {error}")

    def energy_j(self) -> float | None:
        """Joules all the GPUs have used since their driver was loaded."""
        if not self._handles:
            return None
        with suppress(self._nvml.NVMLError):
            return math.fsum(self._nvml.nvmlDeviceGetTotalEnergyConsumption(each) for each in self._handles) / 1e3
        return None

    def used_gib(self) -> float:
        """Memory in use on the fullest GPU."""
        return max((self._nvml.nvmlDeviceGetMemoryInfo(each).used / GIB for each in self._handles), default=0.0)

    def identity(self) -> dict[str, Any]:
        """Driver, GPU name and a hash that tells one GPU from another without giving its serial number away."""
        if not self._handles:
            return {}
        nvml, handle = self._nvml, self._handles[0]
        return {
            "driver": nvml.nvmlSystemGetDriverVersion(),
            "gpu": nvml.nvmlDeviceGetName(handle),
            "uuid": hashlib.sha256(str(nvml.nvmlDeviceGetUUID(handle)).encode()).hexdigest()[:12],
            "sm_mhz": nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        }


def wait_until_free(meter: Meter, *, seconds: float = 60.0) -> None:
    """Wait for the memory of the load before to come back; the engine's own profiling fails if it grows meanwhile."""
    last = time.monotonic() + seconds
    while meter.used_gib() > 2.0:
        if time.monotonic() > last:
            raise RuntimeError(f"{meter.used_gib():.1f} GiB are still in use on a GPU of this load")
        time.sleep(0.25)
