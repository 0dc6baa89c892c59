"""GuideLLM (0.2 to 0.8): its JSON report, and its CSV with three header rows.

request_latency            seconds from sending a request to the end of the answer
time_to_first_token_ms     from sending a request
inter_token_latency_ms     (last token - first) / (output tokens - 1): what we call TPOT. The report's mean weights requests
                           by their tokens; where the report has the requests, ours is taken over them
time_per_output_token_ms   (last token - sent) / output tokens, the first token among them: not ours, not used
output_tokens_per_second   output tokens of the completed requests / duration
strategy                   synchronous and concurrent keep requests in flight, and so does throughput, up to its limit; poisson
                           is an open loop, constant sends at even intervals

Requests that the time limit cut off are "incomplete" and in no mean; warm-up and cool-down are left out by the tool.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from catalog.importers.engine_settings import whole
from catalog.importers.errors import SkippedFile, UnusableRun
from catalog.importers.parsed_run import NumberReader, ParsedRun, mean, runs_of
from catalog.importers.traffic import LoadGeneratorRun
from catalog.requests import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from catalog.importers.benchmark_file import BenchmarkFile

STRATEGY = re.compile(r"(\w+)(?:@([\d.]+))?")
"""As the CSV writes it: "concurrent@3", "poisson@10.00"."""

COLUMNS = {
    "requests": ("Request Counts", "Successful", ""),
    "errored": ("Request Counts", "Errored", ""),
    "seconds": ("Timings", "Duration", "Sec"),
    "latency": ("Request Latency", "Successful Sec", "Mean"),
    "ttft": ("Time to First Token", "Successful ms", "Mean"),
    "itl": ("Inter Token Latency", "Successful ms", "Mean"),
    "inputs": ("Token Metrics", "Successful Input Tokens", "Mean"),
    "outputs": ("Token Metrics", "Successful Output Tokens", "Mean"),
    "output_spread": ("Token Metrics", "Successful Output Tokens", "Std Dev"),
    "output_tok_s": ("Token Throughput", "Successful Output Tokens/Sec", "Mean"),
}
METRICS = {
    "latency": "request_latency",
    "ttft": "time_to_first_token_ms",
    "itl": "inter_token_latency_ms",
    "inputs": "prompt_token_count",
    "outputs": "output_token_count",
    "output_tok_s": "output_tokens_per_second",
}


def is_guidellm(document: BenchmarkFile) -> bool:
    return _report(document) is not None or _is_csv(document)


def read_guidellm(document: BenchmarkFile) -> Iterator[ParsedRun | SkippedFile]:
    report = _report(document)
    rows = _csv_rows(document) if report is None else _json_rows(document.name, report)
    return runs_of(rows, _reading)


def _report(document: BenchmarkFile) -> Mapping[str, Any] | None:
    if len(document.lines) != 1:
        return None
    value = document.lines[0][1]
    runs = value.get("benchmarks") if isinstance(value, dict) else None
    ours = isinstance(runs, list) and all(isinstance(run, dict) and "metrics" in run for run in runs)
    return value if ours and runs else None


def _is_csv(document: BenchmarkFile) -> bool:
    return {"Run Info", "Benchmark", "Timings"} <= set(document.header)


def _json_rows(name: str, report: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    version = _at(report, "metadata", "guidellm_version")
    for number, run in enumerate(report["benchmarks"], 1):
        row = {short: _at(run, "metrics", name, "successful", "mean") for short, name in METRICS.items()}
        strategy = _first(run, ("config", "strategy"), ("args", "strategy"))
        yield (
            f"{name} benchmark {number}",
            row
            | {
                "requests": _first(run, ("metrics", "request_totals", "successful"), ("request_totals", "successful")),
                "errored": _first(run, ("metrics", "request_totals", "errored"), ("request_totals", "errored")),
                "seconds": run.get("duration"),
                "output_spread": _at(run, "metrics", "output_token_count", "successful", "std_dev"),
                "strategy": strategy if isinstance(strategy, dict) else {},
                "peak": _at(run, "metrics", "request_concurrency", "successful", "max"),
                "model": _first(run, ("config", "backend", "model"), ("worker", "backend_model")),
                "id": _first(run, ("config", "id_"), ("id_",)),
                "single": _at(run, "requests", "successful"),
                "failure": _failure(_at(run, "requests", "errored")),
                "version": version,
            },
        )


def _failure(errored: Any) -> str:
    """Return what the first of the requests that failed says of it, in one line."""
    first = errored[0] if isinstance(errored, list) and errored else {}
    message = _at(first, "info", "error") if isinstance(first, dict) else None
    return " ".join(message.split()) if isinstance(message, str) else ""


def _csv_rows(document: BenchmarkFile) -> Iterator[tuple[str, dict[str, Any]]]:
    titles = list(zip(*document.table[:3], strict=False))
    for number, cells in enumerate(document.table[3:], 4):
        values = dict(zip(titles, cells, strict=False))
        if not any(values.values()):
            continue
        backend, profile = (_json(values.get(("Run Info", name, ""))) for name in ("Backend", "Profile"))
        yield (
            f"{document.name} line {number}",
            {
                **{short: values.get(title) for short, title in COLUMNS.items()},
                "strategy": _written(values.get(("Benchmark", "Strategy", ""), ""), profile.get("max_concurrency")),
                "model": backend.get("model"),
                "id": values.get(("Benchmark", "ID", "")),
            },
        )


def _written(text: str, most: Any) -> dict[str, Any]:
    """Read a strategy as the CSV writes it, and the limit that its profile sets."""
    matched = STRATEGY.fullmatch(text)
    kind, number = (matched[1], matched[2]) if matched else (text, None)
    if kind == "concurrent":
        return {"type_": kind, "streams": number}
    if kind == "throughput":
        return {"type_": kind, "max_concurrency": number or most}
    return {"type_": kind, "rate": number, "max_concurrency": most}


def _json(cell: str | None) -> dict[str, Any]:
    try:
        value = json.loads(cell or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _reading(where: str, row: Mapping[str, Any]) -> ParsedRun:
    figures = NumberReader(row)
    concurrency, rate, poisson = _strategy(row["strategy"])
    completed = int(figures.number("requests"))
    single = row.get("single")
    single = single if isinstance(single, list) and len(single) == completed else []
    output_len = figures.number("outputs")
    spread = figures.maybe("output_spread")
    latency = figures.time("latency", 1e3)
    traffic = LoadGeneratorRun(
        completed=completed,
        failed=int(figures.maybe("errored") or 0),
        failure=row.get("failure", ""),
        seconds=figures.number("seconds", least=1e-9),
        input_len=figures.number("inputs"),
        output_len=output_len,
        output_spread=None if spread is None or not output_len else spread / output_len,
        ttft_ms=figures.time("ttft"),
        tpot_ms=_per_request(single) or figures.time("itl"),
        e2e_ms=latency,
        output_tok_s=figures.number("output_tok_s"),
        concurrency=concurrency,
        rate=rate,
        poisson=poisson,
        peak=figures.maybe("peak"),
    )
    return ParsedRun(
        where=where,
        tool="guidellm",
        identity=(row["id"],) if row.get("id") else (traffic.seconds, completed, latency),
        stated={"model": figures.text("model") or None},
        traffic=traffic,
        seen={"requests": completed, **({"guidellm": row["version"]} if figures.text("version") else {})},
        requests=_requests(single),
    )


def _strategy(strategy: Mapping[str, Any]) -> tuple[int | None, float | None, bool]:
    """Return the most requests in flight, the rate, and whether arrivals are Poisson."""
    kind = strategy.get("type_")
    if kind == "synchronous":
        return 1, None, True
    if kind == "concurrent":
        streams = whole(strategy.get("streams"))
        if streams is None:
            raise UnusableRun("its strategy has no streams")
        return streams, None, True
    if kind == "throughput":
        return whole(strategy.get("max_concurrency")), None, True
    if kind in ("constant", "poisson", "async"):
        return (
            whole(strategy.get("max_concurrency")),
            NumberReader(strategy).number("rate", least=1e-9),
            kind == "poisson",
        )
    raise UnusableRun(f"its strategy is {kind!r:.40}; synchronous, concurrent, throughput and poisson can be recorded")


def _requests(single: list[Any]) -> tuple[Request, ...]:
    """Return the completed requests, where the report has all that is needed of each."""
    requests = []
    for number, request in enumerate(single, 1):
        figures = NumberReader(request if isinstance(request, dict) else {})
        try:
            start = figures.maybe("request_start_time")
            latency, ttft = figures.time("request_latency", 1e3), figures.time("time_to_first_token_ms")
        except UnusableRun as error:
            raise UnusableRun(f"request {number}: {error}") from error
        inputs, outputs = (whole(_at(request, name)) for name in ("prompt_tokens", "output_tokens"))
        if start is None or latency is None or ttft is None or inputs is None or outputs is None:
            return ()
        requests.append(
            Request(run_id="", arrival_s=start, input_len=inputs, output_len=outputs, ttft_ms=ttft, e2e_ms=latency)
        )
    began = min((request.arrival_s for request in requests), default=0.0)
    return tuple(
        replace(request, arrival_s=request.arrival_s - began)
        for request in sorted(requests, key=lambda request: request.arrival_s)
    )


def _per_request(single: list[Any]) -> float | None:
    """Return the mean of what the report has of each request."""
    known = (
        NumberReader(request if isinstance(request, dict) else {}).time("inter_token_latency_ms") for request in single
    )
    return mean(value for value in known if value is not None)


def _first(value: Any, *paths: tuple[str, ...]) -> Any:
    """Return what stands at the first of some places, which differ among versions."""
    return next((member for path in paths if (member := _at(value, *path)) is not None), None)


def _at(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
