"""The static regime: all requests of a batch at t=0, each to a fixed number of output tokens, timed on any engine.

``prefill_ms`` is the makespan of the batch with one output token, ``e2e_ms`` that of the whole run, ``tpot_ms`` their
difference over the other tokens, ``ttft_ms`` the mean over the requests of the whole run. Batches above the KV capacity
are left out: the engine would queue. A batch that runs out of memory is a measurement too, with ``oom`` and no times.

Utilisation, power, energy, clocks and NVLink traffic are those of the whole runs, without the prefill-only ones. The
NVLink counters are checked against the bytes that the engine counted: ``nvlink_ratio`` in the fingerprint.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from catalog.errors import InputError
from catalog.schema import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from probes.benchmark_plan import BenchmarkJob
    from probes.gpu_telemetry import Meter, Profile

REPEAT_S = 4.0
"""A shape is timed again until it has had ``BenchmarkJob.repeats`` turns or this many seconds."""

WARM_UP_TOKENS = 8
WARM_UP_MOST_PROMPT = 65_536
"""Each shape is run once untimed, with this many output tokens (all of them for models with experts, whose kernels are
compiled when a number of tokens is first met); batches with more prompt tokens than that with one: GPUs that have not yet
sent each other anything connect then, and a last chunk of another size is compiled."""

SETTLED = 1.1
MORE_REPEATS = 2
"""Turns that differ by this factor get so many more, for the median to leave out the one in which the engine compiled a
kernel or its host was busy. A prefill alone that took so much longer than the same in the whole run just after it is not
counted: the time to the whole run's last first token is, where the engine tells it."""


KNOBS = (
    *("tp", "pp", "dp", "ep", "kv_dtype", "max_num_batched_tokens", "max_num_seqs", "max_model_len"),
    *("gpu_memory_utilization", "compiled", "graphs", "offload"),
)
"""Fields of a ``Deployment`` that a ``Measurement`` has, too, as they are."""


class OutOfMemory(InputError):  # noqa: N818  an outcome that is measured, no fault
    """What was asked for needs more memory than a GPU has; the engine can go on with less, unless it never started."""

    def __init__(self, message: str, *, needed_gib: float | None = None) -> None:
        """Note ``needed_gib``, what the GPU would have had in use, at the least, when it ran out."""
        super().__init__(message)
        self.needed_gib = needed_gib


class BenchmarkEngine(Protocol):
    """What ``measure`` asks of an engine."""

    name: str
    version: str
    kv_capacity_tokens: int
    fingerprint: Mapping[str, Any]
    meter: Meter
    """That of all its GPUs."""

    def prepare(self, batch: int, input_len: int) -> None:
        """Do what a batch needs once, so that it is not timed: try its memory, record its graphs.

        Raises:
            OutOfMemory: it does not run.

        """
        ...

    def generate(self, prompts: Sequence[Sequence[int]], output_len: int) -> list[float]:
        """Run all prompts to exactly ``output_len`` tokens; seconds to the first token of each, or nothing.

        Raises:
            OutOfMemory: it does not run.

        """
        ...

    def used_gib(self) -> float:
        """Return GiB in use on the fullest GPU."""
        ...

    def comm_bytes(self) -> float | None:
        """Return a running count of the bytes that its GPUs have sent one another, per GPU."""
        ...


def measure(
    engine: BenchmarkEngine,
    load: BenchmarkJob,
    *,
    done: frozenset[str] = frozenset(),
    agreement: Mapping[str, float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    say: Callable[[str], None] = print,
    late: Callable[[tuple[int, int, int]], None] = lambda _: None,
) -> Iterator[Measurement]:
    """Yield one measurement a shape of the load, as soon as it is taken; times are medians over the repeats.

    ``done`` holds run_ids to pass over, ``agreement`` fields of ``Measurement`` that are the same for every shape. What
    is left out, and why, goes to ``say``; ``late`` is handed the shapes for which no time was left.
    """
    began = clock()
    prefill_s_per_token = decode_s = 0.0
    failed: list[tuple[int, int, int]] = []
    for shape in load.shapes:
        batch, input_len, output_len = shape
        run_id = load.run_id(shape)
        expected = 2 * prefill_s_per_token * batch * input_len + decode_s * (output_len - 1)
        if run_id in done:
            continue
        if why := _left_out(load, engine, shape, failed, expected=expected):
            say(f"{run_id} left out: {why}")
            continue
        if (elapsed := clock() - began) > load.measure_s:
            say(f"{run_id} left out: {elapsed:.0f} s were spent on this load")
            late(shape)
            continue
        try:
            turns = _turns(engine, load, shape, clock)
        except OutOfMemory as error:
            say(f"{run_id}: {error}")
            failed.append(shape)
            yield failure(
                load, shape, error, engine=engine.name, version=engine.version, fingerprint=engine.fingerprint
            )
            continue
        prefill, whole = (statistics.median(getattr(turn, name) for turn in turns) for name in ("prefill_s", "whole_s"))
        tpot = (whole - prefill) / (output_len - 1) if output_len > 1 else None
        prefill_s_per_token = prefill / (batch * input_len)
        decode_s = max(decode_s, tpot or 0.0)
        say(f"{run_id}: prefill {1e3 * prefill:.1f} ms, e2e {1e3 * whole:.1f} ms, {len(turns)} times")
        yield measurement(
            load,
            shape,
            engine=engine.name,
            engine_version=engine.version,
            prefill_ms=round(1e3 * prefill, 3),
            tpot_ms=None if tpot is None else round(1e3 * tpot, 4),
            e2e_ms=round(1e3 * whole, 3),
            output_tok_s=round(batch * output_len / whole, 2),
            peak_memory_gib=round(engine.used_gib(), 3),
            kv_capacity_tokens=engine.kv_capacity_tokens,
            **_of_turns(turns),
            **(agreement or {}),
            fingerprint=_text({**engine.fingerprint, **_seen(turns)}),
        )


def _of_turns(turns: Sequence[_BatchTurn]) -> dict[str, Any]:
    """Return the fields of ``Measurement`` that are taken over all repeats of a shape."""
    wholes = [turn.whole_s for turn in turns]
    firsts = [turn.first_s for turn in turns if turn.first_s is not None]
    sent = [turn.comm_bytes for turn in turns if turn.comm_bytes is not None]
    return {
        "ttft_ms": round(1e3 * statistics.median(firsts), 3) if firsts else None,
        "repeats": len(wholes),
        "spread": round(statistics.stdev(wholes) / statistics.fmean(wholes), 5) if len(wholes) > 1 else None,
        "utilisation": _mean(turns, "utilisation", 4),
        "power_w": _mean(turns, "power_w", 1),
        "energy_j": _median(turns, "energy_j", 1),
        "comm_bytes": statistics.median(sent) if sent else None,
    }


def failure(
    load: BenchmarkJob,
    shape: tuple[int, int, int],
    error: OutOfMemory,
    *,
    engine: str,
    version: str,
    fingerprint: Mapping[str, Any],
) -> Measurement:
    """Record a shape for which there was not enough memory; what it needed is in the fingerprint."""
    needed = None if error.needed_gib is None else round(error.needed_gib, 3)
    return measurement(
        load,
        shape,
        engine=engine,
        engine_version=version,
        oom=True,
        fingerprint=_text({**fingerprint, "needed_gib": needed, "oom": str(error)}),
    )


def fitting(
    load: BenchmarkJob,
    engine: BenchmarkEngine,
    shape: tuple[int, int, int],
    agreement: Mapping[str, float] | None = None,
) -> Measurement:
    """Record a shape of which it is known that it runs, and in how much memory, but not in what time."""
    return measurement(
        load,
        shape,
        engine=engine.name,
        engine_version=engine.version,
        peak_memory_gib=round(engine.used_gib(), 3),
        kv_capacity_tokens=engine.kv_capacity_tokens,
        **(agreement or {}),
        fingerprint=_text({**engine.fingerprint, "timed": False}),
    )


@dataclass(frozen=True, slots=True)
class _BatchTurn:
    """One timing of a shape: prefill alone, then the whole run."""

    prefill_s: float
    whole_s: float
    first_s: float | None
    comm_bytes: float | None
    profile: Profile
    """Of the whole run."""


def _turns(
    engine: BenchmarkEngine, load: BenchmarkJob, shape: tuple[int, int, int], clock: Callable[[], float]
) -> list[_BatchTurn]:
    batch, input_len, output_len = shape
    prompts = _prompts(load.model.vocab_size, batch, input_len)
    engine.prepare(batch, input_len)
    experts = bool(load.model.num_experts)
    engine.generate(prompts, warm_up_tokens(shape, experts=experts))
    turns: list[_BatchTurn] = []
    start = clock()
    while _wants_another(turns, load.repeats, seconds=clock() - start):
        turns.append(_turn(engine, prompts, output_len, clock, pcie=load.deployment.offload > 0))
    return turns


def warm_up_tokens(shape: tuple[int, int, int], *, experts: bool = False) -> int:
    """Return output tokens of the untimed run of a shape (batch, input_len, output_len); ``experts``: of a model that
    has some.
    """
    batch, input_len, output_len = shape
    if batch * input_len > WARM_UP_MOST_PROMPT:
        return 1
    return output_len if experts else min(WARM_UP_TOKENS, output_len)


def _wants_another(turns: Sequence[_BatchTurn], repeats: int, *, seconds: float) -> bool:
    if not turns:
        return True
    wholes = [turn.whole_s for turn in turns]
    unsettled = max(wholes) > SETTLED * min(wholes)
    return len(turns) < repeats + MORE_REPEATS * unsettled and seconds < REPEAT_S * (1 + unsettled)


def _turn(
    engine: BenchmarkEngine,
    prompts: Sequence[Sequence[int]],
    output_len: int,
    clock: Callable[[], float],
    *,
    pcie: bool,
) -> _BatchTurn:
    prefill_s = 0.0
    if output_len > 1:
        before = clock()
        engine.generate(prompts, 1)
        prefill_s = clock() - before
    sent = engine.comm_bytes()
    recording = engine.meter.start(pcie=pcie)
    try:
        before = clock()
        firsts = engine.generate(prompts, output_len)
        whole_s = clock() - before
    finally:
        profile = recording.stop()
    sent_after = engine.comm_bytes()
    if firsts and prefill_s > SETTLED * max(firsts):
        prefill_s = max(firsts)
    return _BatchTurn(
        prefill_s=prefill_s if output_len > 1 else whole_s,  # the same run
        whole_s=whole_s,
        first_s=statistics.fmean(firsts) if firsts else None,
        comm_bytes=None if sent is None or sent_after is None else sent_after - sent,
        profile=profile,
    )


def _known(turns: Sequence[_BatchTurn], name: str) -> list[float]:
    return [value for turn in turns if (value := getattr(turn.profile, name)) is not None]


def _mean(turns: Sequence[_BatchTurn], name: str, digits: int) -> float | None:
    values = _known(turns, name)
    return round(statistics.fmean(values), digits) if values else None


def _median(turns: Sequence[_BatchTurn], name: str, digits: int) -> float | None:
    values = _known(turns, name)
    return round(statistics.median(values), digits) if values else None


def _seen(turns: Sequence[_BatchTurn]) -> dict[str, float]:
    """Return what NVML saw that ``Measurement`` has no field for: clocks in MHz, NVLink's count over the engine's,
    PCIe.
    """
    sent = [turn.comm_bytes for turn in turns if turn.comm_bytes]
    nvlink = _known(turns, "nvlink_sent_bytes")
    seen = {
        "run_sm_mhz": _mean(turns, "sm_mhz", 0),
        "run_memory_mhz": _mean(turns, "memory_mhz", 0),
        "nvlink_ratio": round(math.fsum(nvlink) / math.fsum(sent), 4) if sent and len(sent) == len(nvlink) else None,
        "pcie_sent_gbps": _mean(turns, "pcie_sent_gbps", 2),
        "pcie_received_gbps": _mean(turns, "pcie_received_gbps", 2),
    }
    return {name: value for name, value in seen.items() if value is not None}


def _left_out(
    load: BenchmarkJob,
    engine: BenchmarkEngine,
    shape: tuple[int, int, int],
    failed: Sequence[tuple[int, int, int]],
    *,
    expected: float,
) -> str:
    batch, input_len, output_len = shape
    if any(all(mine >= its for mine, its in zip(shape, other, strict=True)) for other in failed):
        return "a smaller one ran out of memory"
    longest = load.deployment.max_model_len
    if longest is not None and input_len + output_len > longest:
        return f"{input_len + output_len} tokens exceed max_model_len {longest}"
    if batch * (input_len + output_len) > engine.kv_capacity_tokens:
        return f"{batch * (input_len + output_len)} tokens exceed the KV capacity {engine.kv_capacity_tokens}"
    if expected > load.point_s:
        return f"it would take {expected:.0f} s"
    return ""


def _prompts(vocab_size: int, batch: int, input_len: int) -> list[list[int]]:
    import numpy as np  # the program is also imported to read plans

    # low ids are special tokens; a model may treat them in its own way
    ids = np.random.default_rng(0).integers(min(1000, vocab_size - 1), vocab_size, (batch, input_len))
    return [[int(token) for token in row] for row in ids]


def measurement(load: BenchmarkJob, shape: tuple[int, int, int], **measured: Any) -> Measurement:
    """Return what is known of a run before it is made, and what was ``measured``."""
    knobs = load.deployment
    batch, input_len, output_len = shape
    known: dict[str, Any] = {
        "run_id": load.run_id(shape),
        "role": load.role,
        "source": load.source,
        "gpu": load.gpu,
        "gpus": knobs.num_gpus,
        "interconnect": load.interconnect,
        "model": load.model.name,
        "dtype": load.model.dtype if knobs.dtype == "auto" else knobs.dtype,
        **{name: getattr(knobs, name) for name in KNOBS},
        "batch": batch,
        "input_len": input_len,
        "output_len": output_len,
    }
    return Measurement(**{**known, **measured})


def _text(fingerprint: Mapping[str, Any]) -> str:
    return json.dumps(dict(fingerprint), separators=(",", ":"))
