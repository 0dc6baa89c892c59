"""``trtllm-bench throughput`` and ``latency`` (TensorRT-LLM 1.x, ``tensorrt_llm/bench/dataclasses/reporting.py``).

The JSON of ``--report_json`` and the report on standard output say the same; the latter with four decimals.

total_latency_ms                  from the first request's submission to the last one's end
avg_request_latency_ms            mean from a request's submission to its end
avg_ttft_ms, avg_tpot_ms          only with ``--streaming``; TPOT is (end - first token) / (output tokens - 1), averaged over
                                  requests: ours
system_output_throughput_tok_s    all output tokens / total latency; ``system_total_...`` counts prompts too
avg_num_concurrent_requests       sum of request latencies / total latency
issue_rate                        labelled requests a second, but it is the time from the first submission to the last,
                                  in nanoseconds, / requests x 1e9
kv_cache_percentage               a share of what weights leave free: not ``gpu_memory_utilization``

Without ``--concurrency`` all requests are submitted at once, with it the next when one has ended; the report does not say
which, but it does say over what time they were submitted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from catalog.importers.engine_settings import number_format, whole
from catalog.importers.errors import SkippedFile, UnusableRun
from catalog.importers.parsed_run import NumberReader, ParsedRun, rounded, runs_of
from catalog.importers.traffic import FEWEST_TURNS, LoadGeneratorRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from catalog.importers.benchmark_file import BenchmarkFile

MARKS = frozenset(("engine", "world_info", "request_info", "performance"))
LOG = "= PERFORMANCE OVERVIEW"

AT_ONCE = 0.3
"""Submitted within this share of the whole run, requests count as submitted at once: a closed loop of three turns takes two
thirds of its run to submit the last one."""

LINES = {
    "Model": "model",
    "TensorRT LLM Version": "version",
    "TensorRT-LLM Version": "version",
    "Dtype": "dtype",
    "KV Cache Dtype": "kv_cache_dtype",
    "Quantization": "quantization",
    "TP Size": "tp_size",
    "PP Size": "pp_size",
    "EP Size": "ep_size",
    "Max Runtime Batch Size": "max_batch_size",
    "Max Runtime Tokens": "max_num_tokens",
    "Issue Rate (req/sec)": "issue_rate",
    "Number of requests": "num_requests",
    "Number of concurrent requests": "avg_num_concurrent_requests",
    "Average Input Length (tokens)": "avg_input_length",
    "Average Output Length (tokens)": "avg_output_length",
    "Request Throughput (req/sec)": "request_throughput_req_s",
    "Total Output Throughput (tokens/sec)": "system_output_throughput_tok_s",
    "Token Throughput (tokens/sec)": "system_output_throughput_tok_s",
    "Total Latency (ms)": "total_latency_ms",
    "Average request latency (ms)": "avg_request_latency_ms",
    "Average time-to-first-token [TTFT] (ms)": "avg_ttft_ms",
    "Average time-per-output-token [TPOT] (ms)": "avg_tpot_ms",
}
"""Lines of the report on standard output, by what stands before the colon, and what the JSON calls them."""

LINE = re.compile(r"([^:=]+):\s+(\S.*?)\s*$")
HEADING = re.compile(r"= (PYTORCH BACKEND|ENGINE DETAILS)\s*$")
"""What each report begins with; the program's other messages stand before and between."""

MACHINE = re.compile(r"^(.+), memory [\d.]+ GB")


def is_trtllm(document: BenchmarkFile) -> bool:
    return LOG in document.text or document.holds(MARKS)


def read_trtllm(document: BenchmarkFile) -> Iterator[ParsedRun | SkippedFile]:
    reports = [(where, _of_json(value)) for where, value in document.objects if value.keys() >= MARKS]
    if not document.objects:
        reports = _of_log(document)
    return runs_of(reports, _reading)


def _of_json(report: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for part in ("engine", "world_info", "request_info", "performance", "streaming_metrics"):
        section = report.get(part)
        row |= section if isinstance(section, dict) else {}
    machine, data = report.get("machine"), report.get("dataset")
    row["gpu"] = machine.get("name") if isinstance(machine, dict) else None
    row["speculative"] = "decoding_stats" in report
    if isinstance(data, dict):
        row["osl_stats"] = data.get("osl_stats")
    return row


def _of_log(document: BenchmarkFile) -> list[tuple[str, dict[str, Any]]]:
    """Return one row a report: a log may hold several."""
    rows: list[tuple[str, dict[str, Any]]] = []
    for number, line in enumerate(document.text.splitlines(), 1):
        if HEADING.search(line) or not rows:
            rows.append((f"{document.name} line {number}", {}))
        row = rows[-1][1]
        matched, machine = LINE.match(line), MACHINE.match(line)
        name = LINES.get(matched[1].strip()) if matched else None
        if matched and name:
            row[name] = None if matched[2] in ("None", "N/A") else matched[2]
        if machine:
            row["gpu"] = machine[1]
        if "= DECODING STATISTICS" in line:
            row["speculative"] = True
    return [(where, row) for where, row in rows if "total_latency_ms" in row]


def _reading(where: str, row: Mapping[str, Any]) -> ParsedRun:
    if row.get("speculative"):
        raise UnusableRun("speculative decoding, which the catalog's runs do not record")
    figures = NumberReader(row)
    requests = int(figures.number("num_requests", least=1))
    seconds = figures.number("total_latency_ms", least=1e-9) / 1e3
    in_flight = figures.maybe("avg_num_concurrent_requests")
    rate = NumberReader({"issue_rate": row.get("issue_rate")})
    submitted = rate.number("issue_rate") * requests / 1e18 if rate.has("issue_rate") else None
    traffic = LoadGeneratorRun(
        completed=requests,
        seconds=seconds,
        input_len=figures.number("avg_input_length", least=1),
        output_len=figures.number("avg_output_length", least=1),
        output_spread=_spread(row.get("osl_stats")),
        ttft_ms=figures.time("avg_ttft_ms"),
        tpot_ms=figures.time("avg_tpot_ms"),
        e2e_ms=figures.time("avg_request_latency_ms"),
        output_tok_s=figures.number("system_output_throughput_tok_s", least=1e-9),
        concurrency=_limit(submitted, seconds, in_flight, requests),
    )
    stated: dict[str, Any] = {"engine": "tensorrt-llm", "dp": 1, **_settings(row)}
    for name, field in (("gpu", "gpu"), ("model", "model"), ("version", "engine_version")):
        if figures.text(name) and figures.text(name) != "Unknown":
            stated[field] = figures.text(name)
    return ParsedRun(
        where=where,
        tool="trtllm-bench",
        identity=rounded((requests, 1e3 * seconds, figures.time("avg_request_latency_ms"), traffic.output_tok_s), 4),
        stated=stated,
        traffic=traffic,
        seen={"requests": requests, "in_flight": in_flight},
    )


def _limit(submitted: float | None, seconds: float, in_flight: float | None, requests: int) -> int | None:
    """Return most requests in flight, to the nearest; None: all were submitted at once."""
    if submitted is None:
        raise UnusableRun("issue_rate is missing: whether requests came at once or one after the other is not known")
    if submitted <= AT_ONCE * seconds:
        return None
    if in_flight is None:
        raise UnusableRun("how many requests were in flight is missing")
    # the mean is a little below the limit, for the last requests end one by one
    limit = max(1, round(in_flight))
    if limit * FEWEST_TURNS > requests:
        raise UnusableRun(f"{requests} requests with about {limit} in flight are no steady state")
    return limit


def _settings(row: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {
        "tp": "tp_size",
        "pp": "pp_size",
        "gpus": "world_size",
        "max_num_seqs": "max_batch_size",
        "max_num_batched_tokens": "max_num_tokens",
        "max_model_len": "max_sequence_length",
    }
    stated: dict[str, Any] = {field: whole(row.get(name)) for field, name in sizes.items()}
    stated["ep"] = whole(row.get("ep_size"))  # "null" where the engine chose
    quantization = str(row.get("quantization") or "")
    if quantization and quantization != "None":
        stated["dtype"] = number_format(quantization) or ("int8" if quantization.startswith("W8A8") else "")
    stated["compute_dtype"] = number_format(row.get("dtype")) or None
    stated["kv_dtype"] = number_format(row.get("kv_cache_dtype")) or None
    return {name: value for name, value in stated.items() if value}


def _spread(statistics: Any) -> float | None:
    """Estimate the spread from a data set's shortest and longest: a quarter of their distance stands for the deviation."""
    figures = NumberReader(statistics if isinstance(statistics, dict) else {})
    least, most, average = (figures.maybe(name) for name in ("minimum", "maximum", "average"))
    return None if least is None or most is None or not average else (most - least) / average / 4
