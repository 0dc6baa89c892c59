"""What NVML tells of some GPUs: who they are, what stands in the way of measuring on them, what a run makes them do."""

from __future__ import annotations

import hashlib
import math
import statistics
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SAMPLE_S = 0.1
"""Time between samples. NVML's own averages are over a sixth of a second or more; asking takes well under a millisecond."""

IDLE_GIB = 2.0
"""Memory in use above which a GPU is somebody's: the driver alone takes less than one GiB."""

FREED_S = 60.0
"""Until which the memory of an ended load has to be free again."""
IDLE_SHARE = 0.05
"""Share of the time above which a GPU is busy."""

ALL_LINKS = 2**32 - 1
"""``scopeId`` of a field value for the sum over all NVLinks (nvml.h: UINT_MAX)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What some GPUs did while something ran; None where NVML does not tell."""

    seconds: float
    utilisation: float | None = None
    """Share of the time in which a kernel ran, 0 to 1, mean over GPUs and time."""
    sm_mhz: float | None = None
    memory_mhz: float | None = None
    power_w: float | None = None
    """Of all the GPUs together."""
    energy_j: float | None = None
    """Of all the GPUs together: by their counters, else the integral of their power."""
    nvlink_sent_bytes: float | None = None
    """Payload sent over NVLink, mean over the GPUs."""
    nvlink_received_bytes: float | None = None
    pcie_sent_gbps: float | None = None
    """GB/s over PCIe, mean over GPUs and time."""
    pcie_received_gbps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """One GPU of this machine as it stands."""

    index: int
    """As nvidia-smi counts."""
    name: str
    total_gib: float
    used_gib: float
    utilisation: float | None
    mig: bool
    processes: int
    """Processes computing on it; 0 where they cannot be seen, as in a container."""


@cache
def load_nvml() -> Any:
    """Return the pynvml module, initialised; None without NVML, which is said once."""
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except Exception as error:  # noqa: BLE001  pynvml's errors derive from Exception alone; it may be missing too
        print(f"no NVML, so no power, clocks, utilisation or NVLink counters: {error}", flush=True)
        return None
    return nvml


class Meter:
    """Counters, samples and identity of some GPUs, by NVML; without NVML, or of no GPUs, it knows nothing."""

    def __init__(self, gpus: Sequence[int]) -> None:
        """Take ``gpus`` as nvidia-smi counts them."""
        self._nvml: Any = load_nvml() if gpus else None
        self._handles: list[Any] = []
        if self._nvml is None:
            return
        try:
            self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(gpu) for gpu in gpus]
        except self._nvml.NVMLError as error:
            print(f"NVML does not know GPUs {', '.join(map(str, gpus))}: {error}", flush=True)

    def __len__(self) -> int:
        return len(self._handles)

    def start(self, *, pcie: bool = False) -> Recording:
        """Begin to watch; ``Recording.stop`` tells what was seen. PCIe only if asked for: it makes samples slow."""
        return Recording(self, pcie=pcie)

    def energy_j(self) -> float | None:
        """Return the joules that all the GPUs have used since their driver was loaded."""
        return _scaled(self.each("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)

    def power_w(self) -> float | None:
        """Return the watts that all the GPUs draw now."""
        return _scaled(self.each("nvmlDeviceGetPowerUsage"), 1e-3)

    def used_gib(self) -> float:
        """Return GiB in use on the fullest GPU."""
        return max((memory.used / GIB for memory in self.each("nvmlDeviceGetMemoryInfo") or ()), default=0.0)

    def utilisation(self) -> float | None:
        """Return share of NVML's last sampling period in which a kernel ran, mean over the GPUs."""
        rates = self.each("nvmlDeviceGetUtilizationRates")
        return statistics.fmean(rate.gpu / 100 for rate in rates) if rates else None

    def clock_mhz(self, which: str) -> float | None:
        """Return the clock that is called "SM" or "MEM" now, in MHz, mean over the GPUs."""
        clocks = self.each("nvmlDeviceGetClockInfo", f"NVML_CLOCK_{which}")
        return statistics.fmean(clocks) if clocks else None

    def pcie_gbps(self, way: str) -> float | None:
        """Return GB/s that are sent ("TX") or received ("RX") over PCIe now, mean over the GPUs; takes 20 ms a GPU."""
        rates = self.each("nvmlDeviceGetPcieThroughput", f"NVML_PCIE_UTIL_{way}_BYTES")
        return statistics.fmean(rates) * 1e3 / 1e9 if rates else None

    def nvlink_bytes(self, way: str) -> float | None:
        """Return a running count of the payload bytes sent ("TX") or received ("RX") over NVLink, mean over the GPUs."""
        field = getattr(self._nvml, f"NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_{way}", None)
        if field is None or not self._handles:
            return None
        counts = [self._nvlink_kib(handle, field) for handle in self._handles]
        known = [count for count in counts if count is not None]
        return statistics.fmean(known) * 1024 if known and len(known) == len(counts) else None

    def _nvlink_kib(self, handle: Any, field: int) -> float | None:
        """Return KiB over all links of a GPU: by their sum where the driver gives one, else link by link."""
        nvml = self._nvml
        links = range(getattr(nvml, "NVML_NVLINK_MAX_LINKS", 18))
        for scopes in ((ALL_LINKS,), links):
            with suppress(nvml.NVMLError):
                values = nvml.nvmlDeviceGetFieldValues(handle, [(field, scope) for scope in scopes])
                counted = [value.value.ullVal for value in values if value.nvmlReturn == nvml.NVML_SUCCESS]
                if counted:
                    return float(sum(counted))
        return None

    def identity(self) -> dict[str, Any]:
        """Return driver, GPU name and a hash that tells one GPU from another without giving its serial number away."""
        if not self._handles:
            return {}
        nvml, handle = self._nvml, self._handles[0]
        return {
            "driver": nvml.nvmlSystemGetDriverVersion(),
            "gpu": nvml.nvmlDeviceGetName(handle),
            "uuid": hashlib.sha256(str(nvml.nvmlDeviceGetUUID(handle)).encode()).hexdigest()[:12],
            "sm_mhz": nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        }

    def each(self, function: str, *constants: str) -> list[Any] | None:
        """Return what an NVML function, handed the constants of these names, says of each GPU; None where it does not."""
        if not self._handles:
            return None
        # older versions of pynvml lack some of them, and some GPUs of a kind do not support them
        with suppress(self._nvml.NVMLError, AttributeError):
            handed = [getattr(self._nvml, name) for name in constants]
            return [getattr(self._nvml, function)(handle, *handed) for handle in self._handles]
        return None


SAMPLED: dict[str, Callable[[Meter], float | None]] = {
    "power_w": Meter.power_w,
    "utilisation": Meter.utilisation,
    "sm_mhz": lambda meter: meter.clock_mhz("SM"),
    "memory_mhz": lambda meter: meter.clock_mhz("MEM"),
}
COUNTED: dict[str, Callable[[Meter], float | None]] = {
    "energy_j": Meter.energy_j,
    "nvlink_sent_bytes": lambda meter: meter.nvlink_bytes("TX"),
    "nvlink_received_bytes": lambda meter: meter.nvlink_bytes("RX"),
}


class Recording:
    """Samples of some GPUs, taken in a thread from when it is made until it is stopped."""

    def __init__(self, meter: Meter, *, pcie: bool = False, every_s: float = SAMPLE_S) -> None:
        """Begin without samples; with ``pcie`` PCIe is sampled too, which makes every sample last as long as NVML
        counts for it.
        """
        self._meter, self._every_s = meter, every_s
        self._sampled = dict(SAMPLED)
        if pcie:
            self._sampled["pcie_sent_gbps"] = lambda meter: meter.pcie_gbps("TX")
            self._sampled["pcie_received_gbps"] = lambda meter: meter.pcie_gbps("RX")
        self._samples: list[dict[str, float | None]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True) if len(meter) else None
        self._counts = {name: read(meter) for name, read in COUNTED.items()}
        self._began = time.perf_counter()
        if self._thread:
            self._thread.start()

    def stop(self) -> Profile:
        """End it: means over the samples, differences of the counters."""
        seconds = time.perf_counter() - self._began
        counts = {name: read(self._meter) for name, read in COUNTED.items()}
        self._ended.set()
        if self._thread:
            self._thread.join()
            self._sample(seconds)  # the only one of a short run
        passed: dict[str, float | None] = {}
        for name, after in counts.items():
            before = self._counts[name]
            # a counter that was reset meanwhile tells nothing
            passed[name] = None if before is None or after is None or after < before else after - before
        means = {name: self._mean(name) for name in self._sampled}
        passed["energy_j"] = self._integral(seconds) if passed["energy_j"] is None else passed["energy_j"]
        if passed["energy_j"] and seconds > 1.0:  # counters go on in steps of up to a tenth of a second
            means["power_w"] = passed["energy_j"] / seconds
        return Profile(seconds=seconds, **passed, **means)

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            self._sample(time.perf_counter() - self._began)

    def _sample(self, at: float) -> None:
        self._samples.append({"at": at, **{name: read(self._meter) for name, read in self._sampled.items()}})

    def _mean(self, name: str) -> float | None:
        values = [value for sample in self._samples if (value := sample[name]) is not None]
        return statistics.fmean(values) if values else None

    def _integral(self, seconds: float) -> float | None:
        """Integrate to joules by the trapezoidal rule, the first and the last sample standing for what is before and
        after them.
        """
        seen = [
            (at, watts) for s in self._samples if (at := s["at"]) is not None and (watts := s["power_w"]) is not None
        ]
        if not seen:
            return None
        points = [(0.0, seen[0][1]), *seen, (seconds, seen[-1][1])]
        return math.fsum((later - at) * (watts + after) / 2 for (at, watts), (later, after) in pairwise(points))


def describe_gpus() -> list[GpuState]:
    """Describe the GPUs of this machine as they stand; none without NVML."""
    nvml = load_nvml()
    if nvml is None:
        return []
    states = []
    for index in range(nvml.nvmlDeviceGetCount()):
        meter = Meter([index])
        (memory,) = meter.each("nvmlDeviceGetMemoryInfo") or (None,)
        (name,) = meter.each("nvmlDeviceGetName") or ("unknown",)
        (mig,) = meter.each("nvmlDeviceGetMigMode") or ((0, 0),)
        (processes,) = meter.each("nvmlDeviceGetComputeRunningProcesses") or ([],)
        states.append(
            GpuState(
                index=index,
                name=name,
                total_gib=memory.total / GIB if memory else 0.0,
                used_gib=memory.used / GIB if memory else 0.0,
                utilisation=meter.utilisation(),
                mig=mig[0] == 1,
                processes=len(processes),
            )
        )
    return states


def obstacles(gpus: Sequence[int]) -> list[str]:
    """Say what stands in the way of measuring on these GPUs, as nvidia-smi counts them: a line each, none if all is
    well.

    Without NVML nothing is known, so nothing is in the way.
    """
    if load_nvml() is None:
        return []
    states = {state.index: state for state in describe_gpus()}
    lines = []
    for gpu in gpus:
        state = states.get(gpu)
        if state is None:
            known = f"there are 0 to {len(states) - 1}" if states else "there is none"
            lines.append(f"there is no GPU {gpu}; {known}")
        elif state.mig:
            lines.append(
                f"GPU {gpu} ({state.name}) is in MIG mode, whose slices are not measured here; "
                f"name another one or end it: nvidia-smi -i {gpu} -mig 0"
            )
        elif state.used_gib > IDLE_GIB or (state.utilisation or 0.0) > IDLE_SHARE:
            busy = "" if state.utilisation is None else f", {100 * state.utilisation:.0f}% busy"
            lines.append(
                f"GPU {gpu} ({state.name}) is in use by others: {state.used_gib:.1f} GiB{busy}; "
                "name another one or wait: times and memory would not be those of the model"
            )
    return lines


def wait_until_free(meter: Meter) -> None:
    """Wait for the memory of the load before to come back; the engine's own profiling fails if it grows meanwhile."""
    last = time.monotonic() + FREED_S
    while meter.used_gib() > IDLE_GIB:
        if time.monotonic() > last:
            raise RuntimeError(f"{meter.used_gib():.1f} GiB are still in use on a GPU of this load")
        time.sleep(0.25)


def _scaled(values: list[Any] | None, unit: float) -> float | None:
    return None if values is None else math.fsum(values) * unit
