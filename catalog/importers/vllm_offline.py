"""``vllm bench latency`` and ``vllm bench throughput`` (vLLM 0.24.0, ``vllm/benchmarks/latency.py``, ``throughput.py``).

latency     {"avg_latency", "latencies", "percentiles"}: seconds from handing a batch to the engine to its last token, again
            and again: the static regime's ``e2e_ms``. The file has neither the batch nor its lengths.
throughput  {"elapsed_time", "num_requests", "total_num_tokens", "requests_per_second", "tokens_per_second"}: all requests at
            once, to the end of the last. ``tokens_per_second`` counts prompts and outputs together; how many of the tokens
            are which the file does not say.

With ``SAVE_TO_PYTORCH_BENCHMARK_FORMAT`` both also write ``.pytorch.json``: the same with all arguments.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from catalog.importers.engine_settings import settings, whole
from catalog.importers.errors import SkippedFile, UnusableRun
from catalog.importers.parsed_run import NumberReader, ParsedRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from catalog.importers.benchmark_file import BenchmarkFile

LATENCY = frozenset(("avg_latency", "latencies"))
THROUGHPUT = frozenset(("elapsed_time", "num_requests", "total_num_tokens"))


def is_offline(document: BenchmarkFile) -> bool:
    return any(_kind(value) for _, value in document.objects)


def read_offline(document: BenchmarkFile) -> Iterator[ParsedRun | SkippedFile]:
    """Yield one run a file; of the records of a ``.pytorch.json``, which say the same several times over, the first
    one.
    """
    seen = set()
    for where, value in document.objects:
        kind, row, arguments = _parts(value)
        if not kind:
            yield SkippedFile(where, "it is no result of vllm bench latency or throughput")
            continue
        try:
            reading = (_latency if kind is LATENCY else _throughput)(where, row, arguments)
        except UnusableRun as error:
            yield SkippedFile(where, str(error))
            continue
        if reading.identity not in seen:
            seen.add(reading.identity)
            yield reading


def _kind(value: Mapping[str, Any]) -> frozenset[str]:
    return _parts(value)[0]


def _parts(value: Mapping[str, Any]) -> tuple[frozenset[str], Mapping[str, Any], Mapping[str, Any]]:
    """Return which result it is, its quantities, and the arguments where they are known."""
    metric, benchmark = value.get("metric"), value.get("benchmark")
    if isinstance(metric, dict) and isinstance(benchmark, dict):
        extra = metric.get("extra_info")
        row = dict(extra) if isinstance(extra, dict) else {}
        if metric.get("name") == "latency":
            row["latencies"] = metric.get("benchmark_values")
        info = benchmark.get("extra_info")
        arguments = info.get("args") if isinstance(info, dict) else None
    else:
        row, arguments = dict(value), {}
    kind = next((kind for kind in (LATENCY, THROUGHPUT) if kind <= row.keys()), frozenset[str]())
    return kind, row, arguments if isinstance(arguments, dict) else {}


def _latency(where: str, row: Mapping[str, Any], arguments: Mapping[str, Any]) -> ParsedRun:
    times = row["latencies"]
    if not isinstance(times, list) or not times:
        raise UnusableRun("latencies is empty; it must be a list of seconds")
    seconds = [NumberReader({"latencies": latency}).number("latencies", least=1e-9) for latency in times]
    if whole(arguments.get("n")) not in (None, 1) or arguments.get("use_beam_search"):
        raise UnusableRun("several sequences a prompt, which the catalog's runs do not record")
    stated = {
        "regime": "static",
        "engine": "vllm",
        "e2e_ms": 1e3 * statistics.median(seconds),
        "repeats": len(seconds),
        **_named(arguments, batch_size="batch", input_len="input_len", output_len="output_len"),
        **_arguments(arguments),
    }
    if len(seconds) > 1:
        stated["spread"] = statistics.stdev(seconds) / statistics.fmean(seconds)
    return ParsedRun(where=where, tool="vllm bench latency", identity=tuple(seconds), stated=stated)


def _throughput(where: str, row: Mapping[str, Any], arguments: Mapping[str, Any]) -> ParsedRun:
    figures = NumberReader(row)
    seconds = figures.number("elapsed_time", least=1e-9)
    requests, tokens = (whole(row[name]) for name in ("num_requests", "total_num_tokens"))
    if requests is None or tokens is None:
        raise UnusableRun("num_requests and total_num_tokens must be whole numbers above 0")
    if whole(arguments.get("n")) not in (None, 1):
        raise UnusableRun("several sequences a prompt, which the catalog's runs do not record")
    lengths = _named(arguments, input_len="input_len", output_len="output_len")
    if arguments.get("dataset_name") == "random" and not _ranges(arguments.get("random_range_ratio")):
        prefix = whole(arguments.get("random_prefix_len")) or 0
        random = _named(arguments, random_input_len="input_len", random_output_len="output_len")
        if "input_len" in random:
            random["input_len"] += prefix
        lengths = {**random, **lengths}
    stated = {
        "regime": "static",
        "engine": "vllm",
        "concurrency": requests,
        "e2e_ms": 1e3 * seconds,
        "total_len": tokens / requests,
        **lengths,
        **_arguments(arguments),
    }
    return ParsedRun(
        where=where,
        tool="vllm bench throughput",
        identity=(seconds, requests, tokens),
        stated=stated,
        seen={"requests": requests},
    )


def _arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    stated = settings(arguments)
    if arguments:  # the engine's own arguments: what is not in them is its default
        stated = {"tp": 1, "pp": 1, "dp": 1, **stated}
    return stated


def _named(arguments: Mapping[str, Any], **names: str) -> dict[str, int]:
    sizes = {field: whole(arguments.get(name)) for name, field in names.items()}
    return {field: size for field, size in sizes.items() if size is not None}


def _ranges(ratio: Any) -> bool:
    """Return whether ``--random-range-ratio`` makes lengths differ."""
    try:
        return float(ratio or 0) != 0
    except (TypeError, ValueError):  # one for each length, as JSON
        return True
