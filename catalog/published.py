"""Benchmarks that others published, as measurements: the long form ``metric, value`` with one row a quantity, and closed loops.

Sources in the layout of LLM-Inference-Bench, LMDeploy's and TensorRT-LLM's documentation, and Splitwise's traces:
``*_static.csv`` and ``*_saturated.csv`` in one folder; ``*_loops.csv`` beside them as ``catalog.closed_loops`` has them. Names are
mapped to the catalog's; rows that cannot be used are left out and say why.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from catalog.schema import Measurement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

REQUIRED = frozenset(
    (
        *("row_id", "source", "gpu", "gpus", "engine", "engine_version", "model", "precision", "tp", "pp"),
        *("batch", "input_len", "output_len", "metric", "value", "notes"),
    )
)

ENGINES = {
    "TensorRT-LLM": ("tensorrt-llm", ""),  # those without a version are of 2024
    "vLLM": ("vllm", "0.5 "),
    "vLLM (Splitwise fork)": ("vllm", "0.2 "),
    "LMDeploy-TurboMind": ("lmdeploy", ""),
}
"""Engine and the version that a date in ``engine_version`` stands for."""

PRECISIONS = {
    "fp16": ("float16", "float16"),
    "fp8 (weights+KV fp8)": ("fp8", "fp8"),
    "Weight = fp16, KV Cache = fp16": ("float16", "float16"),
    "Weight = fp16, KV Cache = fp8": ("float16", "fp8"),
    "Weight = fp16, KV Cache = int8": ("float16", "int8"),
    "Weight = fp8, KV Cache = fp8": ("fp8", "fp8"),
    "Weight = int8, KV Cache = int8": ("int8", "int8"),
    "Weight = int8, KV Cache = fp8": ("int8", "fp8"),
}

MODELS = {
    "meta-llama/Llama-3.1-8B": "meta-llama/Meta-Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-405B": "meta-llama/Meta-Llama-3.1-405B",
}

SATURATED = "saturated"
"""What stands for a batch that was the engine's own choice."""

UNUSABLE = {
    "POWER-CAPPED": "measured under a power cap",
    "CONFLICTS": "contradicts another row of the same source",
    "hardware not in file": "the source does not state the GPU",
    "ShareGPT": "mixed request lengths",
}


@dataclass(frozen=True, slots=True)
class Published:
    """Measurements of one folder, and how many rows were left out for which reason."""

    runs: tuple[Measurement, ...]
    left_out: dict[str, int]


def read_rows(rows: Iterable[tuple[str, Mapping[str, str]]]) -> Published:
    """Return the measurements that rows make up, each with where it stands; empty cells may be absent."""
    runs: dict[str, Measurement] = {}
    left_out: Counter[str] = Counter()
    for where, cells in rows:
        row = {name: cells.get(name, "") for name in (*REQUIRED, "throughput_scope")}
        reason = _unusable(row)
        if reason:
            left_out[reason] += 1
            continue
        try:
            run = _measurement(row)
            values = _quantity(row)
        except ValueError as error:
            left_out[f"{where}: {error}"] += 1
            continue
        if not values:
            left_out[f"metric {row['metric']} is not one that is predicted"] += 1
            continue
        known = runs.get(run.run_id, run)
        # A source that states a quantity twice (a table and a figure) is read once; the first row stands.
        fresh = {name: value for name, value in values.items() if getattr(known, name) is None}
        runs[run.run_id] = replace(known, **fresh)
    return Published(tuple(runs.values()), dict(left_out))


def _unusable(row: Mapping[str, str]) -> str:
    for mark, reason in UNUSABLE.items():
        if mark in row["notes"]:
            return reason
    if row["engine"] not in ENGINES:
        return f"engine {row['engine']} is not known"
    if row["precision"] not in PRECISIONS:
        return f"precision {row['precision']} is not known"
    return ""


def _measurement(row: Mapping[str, str]) -> Measurement:
    engine, era = ENGINES[row["engine"]]
    dtype, kv_dtype = PRECISIONS[row["precision"]]
    batch = 0 if row["batch"] == SATURATED else int(row["batch"])
    # First-token latencies of an otherwise unstated run are those of a run of one token.
    lengths = int(float(row["input_len"])), int(float(row["output_len"]))
    model = MODELS.get(row["model"], row["model"])
    version = (era + row["engine_version"]).strip() or ("0.0 (2024, not stated)" if engine == "tensorrt-llm" else "")
    layout = (int(row["tp"]), int(row["pp"]))
    parts = (row["source"], row["gpu"], engine, version, model, dtype, kv_dtype, *layout, batch, *lengths)
    return Measurement(
        run_id="/".join(str(part) for part in parts),
        role="fit",
        source=row["source"],
        gpu=row["gpu"],
        gpus=int(row["gpus"]),
        engine=engine,
        engine_version=version,
        model=model,
        dtype=dtype,
        kv_dtype=kv_dtype,
        tp=layout[0],
        pp=layout[1],
        batch=batch,
        input_len=lengths[0],
        output_len=lengths[1],
    )


def _quantity(row: Mapping[str, str]) -> dict[str, Any]:
    """Return what the row says in our units; empty if it is none of our quantities."""
    value, metric = float(row["value"]), row["metric"]
    output = float(row["output_len"])
    if metric == "e2e_latency_s":
        return {"e2e_ms": value * 1e3}
    if metric == "throughput_tok_s":
        both = row["throughput_scope"].startswith("INPUT+OUTPUT")
        return {"output_tok_s": value * output / (output + float(row["input_len"])) if both else value}
    if metric == "tpot_ms":
        return {"tpot_ms": value}
    if metric == "ttft_ms":
        # Splitwise and LLM-Inference-Bench state the prompt phase of the whole batch, TensorRT-LLM batch 1: the makespan.
        whole = row["source"] != "lmdeploy_docs" or row["batch"] == "1"
        return {"prefill_ms": value} if whole else {"ttft_ms": value}
    # LMDeploy's itl_ms is a median rounded to whole milliseconds; prefills between tokens, which the mean counts, are
    # not in it.
    return {}
