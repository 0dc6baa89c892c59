"""What every answer must be: its numbers are numbers, its intervals hold their estimates, and no time is below the hardware's floor.

The floor is counted here from the configuration and the datasheet alone: weights that a token passes, read once at the peak
bandwidth, and their products at the peak of arithmetic. Nothing of the model of time is in it.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError
from catalog.gpus import parse_cluster
from catalog.models.find import active_parameters, find_model
from catalog.models.sizes import embedding_parameters, head_parameters
from catalog.schema import BITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from catalog.schema import Gpu, Model

PASSES = {"full": 6.0, "adapters": 4.0}
"""Operations a trained weight and token: forward and both gradients, or without that of frozen weights (Narayanan et al., 2021)."""
ROUNDING = 1e-5
"""Share by which what is printed with six digits may differ."""


def unsound(answer: Any, argv: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Name numbers that are none, intervals that do not hold their estimate, and times below the floor.

    Args:
        answer: of any command, as JSON.
        argv: what was asked: GPUs that it alters are altered here too.

    """
    yield from _numbers(answer, "")
    yield from _times(answer, "", {}, _overrides(argv))


def _numbers(part: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(part, dict):
        for name, value, low, high in _intervals(part):
            slack = ROUNDING * max(map(abs, (value, low, high)))
            if not low - slack <= value <= high + slack:
                yield f"{place}{name}", f"{value} is outside {low} to {high}"
        for name, inner in part.items():
            yield from _numbers(inner, f"{place}.{name}")
    elif isinstance(part, list):
        for inner in part:
            yield from _numbers(inner, f"{place}[]")
    elif isinstance(part, float) and not math.isfinite(part):
        yield place, f"{part} is no number"


def _intervals(part: Mapping[str, Any]) -> Iterator[tuple[str, float, float, float]]:
    """Yield name, estimate and ends, in the ways in which answers write them."""
    written = [("", part.get("value", part.get("ms")), part.get("low"), part.get("high"))]
    written += [(f".{name}", value, part.get(f"{name}_low"), part.get(f"{name}_high")) for name, value in part.items()]
    written += [(f".{name[:-5]}", part.get(name[:-5], part.get(f"{name[:-5]}_tokens")), *ends)
                for name, ends in part.items() if name.endswith("_ends") and _pair(ends)]  # fmt: skip
    inner = part.get("intervals")
    if isinstance(inner, dict):
        values = {**part, **part.get("latencies", {}), **part.get("metrics", {})}
        written += [(f".{name}", values.get(name), *ends) for name, ends in inner.items() if _pair(ends)]
        for metric, statistics in inner.items():
            if isinstance(statistics, dict):
                written += [(f".{metric}.{name}", values[metric].get(name), *ends)
                            for name, ends in statistics.items() if _pair(ends)]  # fmt: skip
    for name, *numbers in written:
        if all(isinstance(number, (int, float)) for number in numbers):
            yield name, numbers[0], numbers[1], numbers[2]


def _pair(ends: Any) -> bool:
    return isinstance(ends, list) and len(ends) == 2


def _times(
    part: Any, place: str, around: dict[str, Any], overrides: Mapping[str, float | str]
) -> Iterator[tuple[str, str]]:
    """Name times below the floor; ``around``: what the parts say that this one stands in."""
    if isinstance(part, list):
        for inner in part:
            yield from _times(inner, f"{place}[]", around, overrides)
    elif isinstance(part, dict):
        around = around | {name: part[name] for name in ("model", "cluster", "gpu", "gpus", "task") if name in part}
        for what, ms, floor in _floors(part, around, overrides):
            if isinstance(ms, (int, float)) and ms < floor * (1 - ROUNDING):
                yield f"{place}.{what}", f"{ms} ms is below {floor:.6g} ms, what the hardware allows"
        for name, inner in part.items():
            yield from _times(inner, f"{place}.{name}", around, overrides)


def _floors(
    part: Mapping[str, Any], around: Mapping[str, Any], overrides: Mapping[str, float | str]
) -> Iterator[tuple[str, float | None, float]]:
    """Yield what a part says of time, in milliseconds, and its floor."""
    subject = _subject(around, overrides)
    if subject is None:
        return
    model, gpu, gpus = subject
    layout = part.get("deployment") or (part if "tp" in part and "tpot_ms" in part else None)
    if layout is not None:
        yield from _serving(part, layout, model, gpu)
    elif "step_s" in part and "sequence_length" in part:
        work = PASSES["adapters" if part.get("lora_rank") else "full"] * matrix_parameters(model)
        tokens = part["batch"] * part["sequence_length"]
        ms = work * tokens / (most_flops(gpu, part.get("precision", "")) * part["gpus_used"]) * 1e3
        for name, seconds in (("step_s", part["step_s"]), ("intervals.step_s", _low(part, "step_s"))):
            yield name, None if seconds is None else seconds * 1e3, ms
    elif "shares" in part and around.get("task") == "inference" and isinstance(around.get("gpu"), dict):
        bandwidth = around["gpu"]["memory_bandwidth_gbps"]
        for name in ("ms", "low"):
            yield name, part[name], weight_bytes(model, "auto") / (bandwidth * gpus) * 1e-6


def _serving(
    part: Mapping[str, Any], layout: Mapping[str, Any], model: Model, gpu: Gpu
) -> Iterator[tuple[str, float | None, float]]:
    slices = layout["tp"] * (layout["dp"] if layout["ep"] > layout["tp"] else 1)
    token = weight_bytes(model, layout["dtype"]) / (gpu.memory_bandwidth_gbps * slices) * 1e-6
    metrics = part.get("metrics") or part.get("latencies") or {}
    shown = metrics.get("tpot_ms", part.get("tpot_ms"))
    lows = (part.get("intervals") or {}).get("tpot_ms")
    for name in ("mean", "p50") if isinstance(shown, dict) else ("",):
        value, ends = (shown[name], (lows or {}).get(name)) if name else (shown, lows)
        yield f"tpot_ms {name}", value or None, token
        yield f"intervals.tpot_ms {name}", ends[0] or None if ends else part.get("tpot_ms_low"), token
    if part.get("prefill_ms") is not None:
        prompts = min(part["batch"], part.get("running") or part["batch"]) if part.get("regime") == "static" else 1
        work = 2.0 * matrix_parameters(model) * prompts * part["input_len"]
        least = work / (most_flops(gpu, layout["dtype"], model) * slices * layout["pp"]) * 1e3
        yield "prefill_ms", part["prefill_ms"], least
        yield "intervals.prefill_ms", _low(part, "prefill_ms"), least


def _low(part: Mapping[str, Any], metric: str) -> float | None:
    ends = (part.get("intervals") or {}).get(metric)
    return ends[0] if ends else part.get(f"{metric}_low")


def _subject(around: Mapping[str, Any], overrides: Mapping[str, float | str]) -> tuple[Model, Gpu, int] | None:
    """Return model, GPU and number of GPUs; None where a part does not say, or what it says is no name."""
    gpu = around.get("gpu")
    hardware = around.get("cluster") or (gpu if isinstance(gpu, str) else None)
    if not isinstance(around.get("model"), str) or not isinstance(hardware, str):
        return None
    try:
        cluster = parse_cluster(hardware, dict(overrides)).value
        return find_model(around["model"]).value, cluster.gpu, cluster.num_gpus
    except InputError:
        return None


def _overrides(argv: Sequence[str]) -> dict[str, float | str]:
    stated = [after for word, after in itertools.pairwise(argv) if word == "--set-gpu" and "=" in after]
    return dict(statement.split("=", 1) for statement in stated)


def matrix_parameters(model: Model) -> float:
    """Count the weights that a token is multiplied with inside of the layers."""
    return max(
        active_parameters(model) + model.table_parameters - embedding_parameters(model) - head_parameters(model), 0
    )


def weight_bytes(model: Model, dtype: str) -> float:
    """Count the bytes that a decode step reads at the least: as if all were in the narrowest of its formats."""
    bits = min(BITS.get(name, 32.0) for name in _formats(model, dtype))
    return (matrix_parameters(model) + model.vocab_size * model.hidden_size) * bits / 8.0


def _formats(model: Model, dtype: str) -> set[str]:
    return {dtype if dtype in BITS else model.dtype, *filter(None, (model.quantization, *dict(model.formats).values()))}


def most_flops(gpu: Gpu, dtype: str, model: Model | None = None) -> float:
    """Return operations a second that no product exceeds: the 16-bit peak, or of all where a narrower format is at hand."""
    formats = _formats(model, dtype) if model else {dtype}
    half = max(gpu.fp16_tflops, gpu.float16_tflops)
    narrow = formats - {"bfloat16", "float16", "float32", "bf16"}
    return max([half, *([gpu.fp8_tflops, gpu.int8_tops, gpu.fp4_tflops] if narrow else [])]) * 1e12
