"""What the plain-PyTorch engine finds out of a load besides the times of its shapes: how nearly its logits are those of
the reference, where its memory ends, and what takes how much of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from catalog.errors import InputError
from catalog.jsonl_store import append_lines, line_of
from probes import sweep_command
from probes.oom_search import find_threshold
from probes.reference import FORCED, PROMPT, SEQUENCES, compare, sequences
from probes.static_benchmark import OutOfMemory, failure, fitting, measure
from probes.sweep_command import store, stored, tell
from probes.torch_engine.model_settings import memory_share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from catalog.schema import Measurement
    from probes.benchmark_plan import BenchmarkJob
    from probes.sweep_command import Order
    from probes.torch_engine.engine import TorchEngine

MEMORY = "memory.jsonl"
"""One line a GPU of each load, and one for the largest batch of each of its thresholds, which then has ``batch``,
``input_len`` and ``output_len``; the other columns are ``probes.torch_engine.memory.PARTS`` and those of the deployment."""
KNOBS = (
    *("dtype", "kv_dtype", "tp", "pp", "ep", "max_num_batched_tokens", "max_num_seqs", "max_model_len"),
    *("gpu_memory_utilization", "compiled", "offload"),
)


def find_agreement(engine: TorchEngine, load: BenchmarkJob) -> Mapping[str, float]:
    """Compare the engine's logits with the reference's: fields of ``Measurement``; none where it cannot be compared."""
    rows = min(SEQUENCES, load.deployment.max_num_seqs or SEQUENCES, engine.kv_capacity_tokens // (PROMPT + FORCED))
    if not load.agreement or rows < 1 or engine.positions < PROMPT + FORCED:
        return {}
    ids = sequences(load.model.vocab_size, rows)
    try:
        reference = engine.reference(ids, PROMPT)
    except OutOfMemory as error:
        tell(f"no agreement is told: {error}")
        return {}
    agreement = compare(engine.logits(ids, PROMPT), reference, ids[:, PROMPT:]).fields()
    tell("agreement with the reference: " + ", ".join(f"{name} {value:g}" for name, value in agreement.items()))
    return agreement


def record_thresholds(engine: TorchEngine, order: Order, agreement: Mapping[str, float]) -> None:
    """Find the load's thresholds that are not in the store: of each, the smallest batch tried that does not run, with
    ``oom``, and the largest that does, timed if that takes no longer than the load allows.

    They have all the memory there is (``gpu_memory_utilization`` 1). The KV memory that the engine had is gone then.
    """
    load = order.load
    for start, input_len, output_len in load.thresholds:
        before = stored(order)
        name = f"{load.name}-threshold"
        lengths = (input_len, output_len)
        thresholds = {
            run.oom
            for run in before
            if run.run_id.startswith(f"{name}-b") and (run.input_len, run.output_len) == lengths
        }
        if thresholds == {True, False}:
            continue
        if engine.device.type != "cuda":
            tell(f"{name} left out: a CPU's memory has no threshold to be tried, its system would end other programs")
            continue
        if sum(lengths) > engine.positions:
            tell(f"{name} left out: {sum(lengths)} tokens exceed max_model_len {engine.positions}")
            continue
        _record_threshold(engine, order, (start, input_len, output_len), before, agreement)


def _record_threshold(
    engine: TorchEngine,
    order: Order,
    begin: tuple[int, int, int],
    before: Sequence[Measurement],
    agreement: Mapping[str, float],
) -> None:
    load = order.load
    start, input_len, output_len = begin
    failures: dict[int, OutOfMemory] = {}

    def runs(batch: int) -> bool:
        try:
            engine.take(batch, input_len, output_len)
        except OutOfMemory as error:
            failures[batch] = error
            tell(str(error))
            return False
        tell(f"{batch} sequences of {input_len + output_len} tokens run, in {engine.used_gib():.1f} GiB")
        return True

    def of(batch: int) -> tuple[BenchmarkJob, tuple[int, int, int]]:
        shape = (batch, input_len, output_len)
        knobs = replace(load.deployment, gpu_memory_utilization=1.0, max_num_seqs=batch)
        changed = replace(load, name=f"{load.name}-threshold", deployment=knobs, shapes=(shape,), repeats=1)
        return changed, shape

    threshold = find_threshold(runs, start)
    if threshold.smallest is not None:
        error = failures[threshold.smallest]
        store(
            order,
            failure(
                *of(threshold.smallest),
                error,
                engine=engine.name,
                version=engine.version,
                fingerprint=engine.fingerprint,
            ),
        )
    if threshold.largest and runs(threshold.largest):  # the last one tried may have been another
        largest, shape = of(threshold.largest)
        seconds = expected_s(before, load, shape)
        timed = measure(engine, largest, agreement=agreement, say=tell)
        if seconds is None or seconds > load.point_s or not any(store(order, run) for run in timed):
            store(order, fitting(largest, engine, shape, agreement))
        record_memory(engine, replace(order, load=largest), shape)


def expected_s(before: Sequence[Measurement], load: BenchmarkJob, shape: tuple[int, int, int]) -> float | None:
    """Return the seconds that a shape will take to be timed once, by the load's measurement with most sequences of such
    prompts, every part in proportion to them; None without one.
    """
    batch, input_len, output_len = shape
    same_engine = [
        run
        for run in before
        if run.run_id == load.run_id((run.batch, run.input_len, run.output_len)) and run.input_len == input_len
    ]
    timed = [run for run in same_engine if run.prefill_ms is not None and (run.tpot_ms is not None or output_len == 1)]
    if not timed:
        return None
    nearest = max(timed, key=lambda run: run.batch)
    batch_ms = 2 * (nearest.prefill_ms or 0.0) + (output_len - 1) * (nearest.tpot_ms or 0.0)
    return batch_ms * batch / nearest.batch / 1e3


def record_memory(engine: TorchEngine, order: Order, shape: tuple[int, int, int] | None = None) -> None:
    """Add a line for each GPU to ``MEMORY``; ``shape`` is that for which alone the KV memory is, if there is one.

    Raises:
        InputError: they cannot be written; then none was.

    """
    load = order.load
    known = {
        "load": load.name,
        "model": load.model.name,
        **{name: getattr(load.deployment, name) for name in KNOBS},
        **(dict(zip(("batch", "input_len", "output_len"), shape, strict=True)) if shape else {}),
        "kv_tokens": engine.kv_capacity_tokens,
        "startup_s": round(engine.startup_s, 1),
    }
    share = memory_share(load.deployment)  # a threshold's is not the engine's own
    rows = [
        {**known, "rank": rank, **parts, "requested_gib": round(share * parts["total_gib"], 6)}
        for rank, parts in enumerate(engine.memory())
    ]
    try:
        append_lines(order.out / MEMORY, "".join(map(line_of, rows)))
    except OSError as error:
        raise InputError(f"cannot add to {order.out / MEMORY}: {error.strerror}; nothing was added") from error


def record_failure(
    order: Order, error: OutOfMemory, running: tuple[int, int, int] | None = None, engine: TorchEngine | None = None
) -> None:
    """See ``sweep_command.record_failure``."""
    from probes.torch_engine.engine import TorchEngine  # imports torch

    sweep_command.record_failure(
        order,
        error,
        engine=TorchEngine.name,
        version=TorchEngine.version,
        fingerprint=engine.fingerprint if engine else {},
        running=running,
    )
