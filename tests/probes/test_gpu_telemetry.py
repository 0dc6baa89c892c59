"""The meter, with an NVML that is made up."""

import math
import sys
import time
from types import SimpleNamespace

import pytest

from probes import gpu_telemetry as meter
from probes.gpu_telemetry import Meter, describe_gpus, load_nvml, obstacles

GIB = 2**30
UNSUPPORTED = 3


class NVMLError(Exception):
    pass


class FakeNvml:
    """Two idle GPUs: power, clocks and counters are attributes that a test may change, or remove."""

    NVMLError = NVMLError
    NVML_SUCCESS = 0
    NVML_CLOCK_SM, NVML_CLOCK_MEM = "SM", "MEM"
    NVML_PCIE_UTIL_TX_BYTES, NVML_PCIE_UTIL_RX_BYTES = "tx", "rx"
    NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX = 138, 139
    NVML_NVLINK_MAX_LINKS = 4

    def __init__(self):
        self.used = {0: 0.6 * GIB, 1: 0.7 * GIB}
        self.busy = {0: 0, 1: 0}
        self.mig = {0: [0, 0], 1: [0, 0]}
        self.watts = {0: 300.0, 1: 100.0}
        self.joules_mj = {0: 1000, 1: 5000}
        self.kib = {(gpu, field): 0 for gpu in (0, 1) for field in (138, 139)}
        self.sums_links = True

    def nvmlInit(self):  # noqa: N802  NVML's names
        pass

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.used)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        if index not in self.used:
            raise NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return f"Fake {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return SimpleNamespace(total=140 * GIB, used=self.used[handle])

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        return SimpleNamespace(gpu=self.busy[handle])

    def nvmlDeviceGetMigMode(self, handle):  # noqa: N802
        if self.mig[handle] is None:
            raise NVMLError("Not Supported")
        return self.mig[handle]

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        return [object()] * (self.used[handle] > GIB)

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        return 1e3 * self.watts[handle]

    def nvmlDeviceGetClockInfo(self, handle, which):  # noqa: N802
        return {"SM": 1500 + 100 * handle, "MEM": 3201}[which]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        if self.joules_mj is None:
            raise NVMLError("Not Supported")
        return self.joules_mj[handle]

    def nvmlDeviceGetPcieThroughput(self, _, way):  # noqa: N802
        return {"tx": 2_000_000, "rx": 4_000_000}[way]

    def nvmlDeviceGetFieldValues(self, handle, fields):  # noqa: N802
        values = []
        for field, scope in fields:
            whole = scope == meter.ALL_LINKS
            fine = self.sums_links if whole else scope < 2  # two of the links are there
            count = self.kib[handle, field] // (1 if whole else 2)
            values.append(SimpleNamespace(nvmlReturn=0 if fine else UNSUPPORTED, value=SimpleNamespace(ullVal=count)))
        return values


@pytest.fixture
def nvml(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    load_nvml.cache_clear()
    yield fake
    load_nvml.cache_clear()


def test_a_recording_tells_means_of_samples_and_differences_of_counters(nvml):
    nvml.busy = {0: 90, 1: 70}
    recording = Meter([0, 1]).start()
    nvml.joules_mj = {0: 61_000, 1: 25_000}
    nvml.kib = {(0, 138): 3000, (1, 138): 1000, (0, 139): 10, (1, 139): 30}
    profile = recording.stop()
    assert profile.energy_j == pytest.approx(80)
    assert profile.nvlink_sent_bytes == 2000 * 1024
    assert profile.nvlink_received_bytes == 20 * 1024
    assert (profile.utilisation, profile.sm_mhz, profile.memory_mhz) == (pytest.approx(0.8), 1550, 3201)
    assert profile.power_w == pytest.approx(400)
    assert profile.pcie_sent_gbps is None


@pytest.mark.usefixtures("nvml")
def test_pcie_is_sampled_when_asked_for():
    profile = Meter([0, 1]).start(pcie=True).stop()
    assert (profile.pcie_sent_gbps, profile.pcie_received_gbps) == (2.0, 4.0)


def test_samples_are_taken_all_the_while_and_none_afterwards(nvml):
    recording = meter.Recording(Meter([0]), every_s=0.005)
    time.sleep(0.1)
    nvml.watts[0] = 900.0
    time.sleep(0.1)
    profile = recording.stop()
    assert 350 < profile.power_w < 850
    taken = len(recording._samples)
    assert taken > 5
    time.sleep(0.03)
    assert len(recording._samples) == taken


def test_without_an_energy_counter_power_is_integrated(nvml):
    nvml.joules_mj = None
    recording = meter.Recording(Meter([0, 1]), every_s=0.01)
    time.sleep(0.15)
    profile = recording.stop()
    assert profile.energy_j == pytest.approx(400 * profile.seconds, rel=1e-6)


def test_links_are_added_up_where_the_driver_does_not(nvml):
    nvml.sums_links = False
    nvml.kib = {(0, 138): 3000, (1, 138): 1000, (0, 139): 0, (1, 139): 0}
    assert Meter([0, 1]).nvlink_bytes("TX") == 2000 * 1024


def test_a_counter_that_was_reset_tells_nothing(nvml):
    nvml.kib[0, 138] = 5000
    recording = Meter([0]).start()
    nvml.kib[0, 138] = 10
    assert recording.stop().nvlink_sent_bytes is None


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize("missing", ["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetClockInfo"])
def test_what_a_version_lacks_is_not_told(missing, monkeypatch):
    monkeypatch.delattr(FakeNvml, missing)
    profile = Meter([0]).start().stop()
    assert (profile.utilisation is None) == (missing == "nvmlDeviceGetUtilizationRates")
    assert (profile.sm_mhz is None) == (missing == "nvmlDeviceGetClockInfo")
    assert profile.power_w == pytest.approx(300)


def test_without_nvml_nothing_is_known_and_it_is_said_once(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    load_nvml.cache_clear()
    for _ in range(2):
        profile = Meter([0]).start().stop()
    assert {getattr(profile, name) for name in profile.__slots__ if name != "seconds"} == {None}
    assert (describe_gpus(), obstacles([0, 7])) == ([], [])
    assert (Meter([0]).used_gib(), Meter([0]).identity()) == (0.0, {})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("no NVML, so no power, clocks, utilisation or NVLink counters: ")
    load_nvml.cache_clear()


def test_of_no_gpus_nothing_is_asked(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    load_nvml.cache_clear()
    assert Meter(()).start().stop().power_w is None
    assert capsys.readouterr().out == ""


def test_idle_gpus_are_no_obstacle(nvml):
    assert obstacles([0, 1]) == []
    assert [state.index for state in describe_gpus()] == [0, 1]
    nvml.mig[1] = None  # a GPU that knows no MIG
    assert obstacles([0, 1]) == []


def test_obstacles_are_a_line_each(nvml):
    nvml.used[0], nvml.busy[0] = 31 * GIB, 87
    nvml.mig[1] = [1, 1]
    used, mig, none = obstacles([0, 1, 5])
    assert used.startswith("GPU 0 (Fake 0) is in use by others: 31.0 GiB, 87% busy; ")
    assert mig.startswith("GPU 1 (Fake 1) is in MIG mode")
    assert mig.endswith("nvidia-smi -i 1 -mig 0")
    assert none == "there is no GPU 5; there are 0 to 1"


def test_a_busy_gpu_with_little_memory_in_use_is_an_obstacle(nvml):
    nvml.busy[1] = 50
    (line,) = obstacles([0, 1])
    assert line.startswith("GPU 1 (Fake 1) is in use by others: 0.7 GiB, 50% busy")


def test_power_of_a_long_run_is_its_energy_over_its_time(nvml, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(meter.time, "perf_counter", lambda: now[0])
    recording = Meter([0]).start()
    now[0] += 4.0
    nvml.joules_mj[0] += 2_000_000
    profile = recording.stop()
    assert math.isclose(profile.power_w, 500.0)
    assert profile.seconds == 4.0
