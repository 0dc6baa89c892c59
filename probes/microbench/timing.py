"""Timing of one kernel: in a CUDA graph of calls on operands that are not in the cache, by CUDA events."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Call = Callable[[int], object]
    """Runs a kernel on the n-th of some sets of operands."""

PAST_CACHE = 7
"""Operands of all sets together, in sizes of the L2 cache: the first is long gone when its turn comes again (400 MiB on
an H200, as for the tables in ``catalog/data/kernels``)."""

REPEATS = 7
LEAST_REPEATS = 3
MOST_S = 0.3
"""A kernel is timed ``REPEATS`` times, or as often as this allows but ``LEAST_REPEATS`` times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long one call took."""

    us: float
    """Median over the repeats."""
    spread: float
    """Relative standard deviation over the repeats."""
    graph: bool
    """Whether the calls were recorded in a CUDA graph; if not, the time to launch them may be in it."""


def operand_sets(nbytes: int, device: torch.device, *, least: int, most: int) -> int:
    """Return how many sets of operands of ``nbytes`` pass the L2 cache, as far as half of the free memory allows; 1 on
    a CPU.
    """
    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    wanted = -(-PAST_CACHE * torch.cuda.get_device_properties(device).L2_cache_size // nbytes)
    return max(1, min(max(least, wanted), most, (free + reserved) // 2 // nbytes))


def time_calls(call: Call, calls: int, device: torch.device, *, graph: bool = True) -> Timing:
    """Time ``calls`` calls in a row, ``call(0)`` to ``call(calls - 1)``: with ``graph`` in a CUDA graph where they can
    be recorded.

    Raises:
        torch.OutOfMemoryError: and whatever else a call raises.

    """
    if device.type != "cuda":
        return time_on_cpu(call, calls)
    call(0)
    torch.cuda.synchronize(device)
    if graph:
        try:
            return _timing(_event_times(record(call, calls).replay, calls, device), graph=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            print(f"not recorded, so timed eagerly: {str(error).splitlines()[0]}", flush=True)
    return _timing(_event_times(lambda: _all(call, calls), calls, device), graph=False)


def time_together(call: Call, calls: int, device: torch.device, *, graph: bool, repeats: int) -> Timing:
    """Time calls that several processes make together, each as often as all others.

    Raises:
        RuntimeError: whatever a call raises, or it cannot be recorded.

    """
    if device.type != "cuda":
        return time_on_cpu(call, calls, repeats=repeats)
    for _ in range(3):
        call(0)
    torch.cuda.synchronize(device)
    run = record(call, calls).replay if graph else lambda: _all(call, calls)
    return _timing(_event_times(run, calls, device, repeats=repeats), graph=graph)


def time_on_cpu(call: Call, calls: int, *, repeats: int | None = None) -> Timing:
    """Time calls by the clock; as often as ``MOST_S`` allows unless ``repeats`` says how often."""
    call(0)
    times: list[float] = []
    while len(times) < (repeats or _repeats(times, calls)):
        began = time.perf_counter()
        _all(call, calls)
        times.append((time.perf_counter() - began) * 1e6 / calls)
    return _timing(times, graph=False)


def record(call: Call, calls: int) -> torch.cuda.CUDAGraph:
    """Record the calls as a CUDA graph; what they compile or set up must have been done before."""
    graph = torch.cuda.CUDAGraph()
    # the outer one: a recording that fails leaves its own stream behind as the current one; the mode: other threads
    # (NCCL's watchdog) may use CUDA meanwhile
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        _all(call, calls)
    return graph


def _all(call: Call, calls: int) -> None:
    for number in range(calls):
        call(number)


def _event_times(
    run: Callable[[], object], calls: int, device: torch.device, *, repeats: int | None = None
) -> list[float]:
    """Return microseconds a call, each time that all are run, after two that warm up."""
    for _ in range(2):
        run()
    torch.cuda.synchronize(device)
    times: list[float] = []
    while len(times) < (repeats or _repeats(times, calls)):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / calls)
    return times


def _repeats(times: Sequence[float], calls: int) -> int:
    if not times:
        return LEAST_REPEATS
    return max(LEAST_REPEATS, min(REPEATS, int(MOST_S * 1e6 / (times[0] * calls))))


def _timing(times: Sequence[float], *, graph: bool) -> Timing:
    return Timing(us=statistics.median(times), spread=statistics.stdev(times) / statistics.fmean(times), graph=graph)
