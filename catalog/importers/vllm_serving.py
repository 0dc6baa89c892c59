"""``vllm bench serve`` and ``vllm bench sweep serve`` (vLLM 0.24.0, ``vllm/benchmarks/serve.py``, ``sweep/serve.py``).

One object a run: a file of ``--save-result``, one a line with ``--append-result``, a list in a sweep's ``summary.json``, a
row in its ``summary.csv``. A sweep adds what it set of the server and the client under their options' names; ``--metadata``
adds what the user wrote.

mean_ttft_ms        from sending a request to its first message; what waits for ``max_concurrency`` is not sent yet
mean_tpot_ms        mean over requests of (last message - first) / (output tokens - 1): ours
mean_itl_ms         gaps between messages over all requests: not ours, a message may bring several tokens; not used
mean_e2el_ms        from sending to the last message; written if ``--percentile-metrics`` has e2el
output_throughput   output tokens of all completed requests / duration; ``total_token_throughput`` counts prompts too
request_rate        "inf": at once, or as ``max_concurrency`` allows. ``burstiness`` 1 is a Poisson process
max_concurrent_requests   requests that were in flight at any time within one second: at least the peak

``--save-detailed`` adds lists with one entry a request, from which the requests are kept.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from catalog.importers.engine_settings import settings, whole
from catalog.importers.errors import SkippedFile, UnusableRun
from catalog.importers.parsed_run import NumberReader, ParsedRun, mean, runs_of
from catalog.importers.traffic import LoadGeneratorRun
from catalog.requests import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from catalog.importers.benchmark_file import BenchmarkFile

MARKS = frozenset(("model_id", "num_prompts", "request_throughput", "completed", "duration"))
ENGINES = {"vllm": "vllm", "tensorrt-llm": "tensorrt-llm", "lmdeploy": "lmdeploy", "sglang": "sglang"}
"""Backends that name an engine; "openai" and its kin name an interface that all of them have."""

MOST_S = 1e9
"""No gap between messages comes near."""

LISTS = ("start_times", "ttfts", "itls", "input_lens", "output_lens")


def is_serving(document: BenchmarkFile) -> bool:
    return set(document.header) >= MARKS or any(
        value.keys() >= MARKS or _is_record(value) for _, value in document.objects
    )


def read_serving(document: BenchmarkFile) -> Iterator[ParsedRun | SkippedFile]:
    rows: list[tuple[str, dict[str, Any]]] = list(document.objects)
    if set(document.header) >= MARKS:
        rows = [(where, dict(cells)) for where, cells in document.cells()]
    elif rows and all(_is_record(row) for _, row in rows):
        rows = [_merged(rows)]
    return runs_of(rows, _reading, marks=MARKS, program="vllm bench serve")


def _reading(where: str, row: Mapping[str, Any]) -> ParsedRun:
    if "total_output_tokens" not in row:
        raise UnusableRun("no tokens were generated: embeddings or rankings")
    if any(name.startswith("spec_decode") for name in row):
        raise UnusableRun("speculative decoding, which the catalog's runs do not record")
    if row.get("ramp_up_strategy"):
        raise UnusableRun("its rate was ramped up; only a constant one can be recorded")
    figures = NumberReader(row)
    prompts, completed = (int(figures.number(name)) for name in ("num_prompts", "completed"))
    failed = figures.maybe("failed")
    requests, spread = _requests(row)
    complete = len(requests) == completed
    traffic = LoadGeneratorRun(
        completed=completed,
        failed=int(failed) if failed is not None else max(0, prompts - completed),
        seconds=figures.number("duration", least=1e-9),
        input_len=figures.number("total_input_tokens") / max(completed, 1),
        output_len=figures.number("total_output_tokens") / max(completed, 1),
        output_spread=spread,
        ttft_ms=figures.time("mean_ttft_ms"),
        tpot_ms=figures.time("mean_tpot_ms"),
        e2e_ms=figures.time("mean_e2el_ms") or (mean(request.e2e_ms for request in requests) if complete else None),
        output_tok_s=figures.number("output_throughput"),
        concurrency=whole(row.get("max_concurrency")),
        rate=figures.limit("request_rate"),
        poisson=figures.maybe("burstiness") in (None, 1.0),
        peak=figures.maybe("max_concurrent_requests"),
    )
    stated = {"model": figures.text("model_id"), **settings(row)}
    engine = ENGINES.get(figures.text("backend"))
    if engine:
        stated.setdefault("engine", engine)
    return ParsedRun(
        where=where,
        tool="vllm bench serve",
        identity=(figures.text("date"), traffic.seconds, completed, traffic.output_tok_s),
        stated=stated,
        traffic=traffic,
        seen={"date": figures.text("date"), "requests": completed},
        requests=requests,
    )


def _requests(row: Mapping[str, Any]) -> tuple[tuple[Request, ...], float | None]:
    """Return the completed requests, where the file has them, and the coefficient of variation of their output lengths."""
    lists = [row.get(name) for name in LISTS]
    if not all(isinstance(item, list) and len(item) == len(lists[0] or ()) for item in lists) or not lists[0]:
        return (), None
    errors = row.get("errors")
    timed = []
    for number, (start, ttft, gaps, inputs, outputs) in enumerate(zip(*lists, strict=True)):
        if (isinstance(errors, list) and number < len(errors) and errors[number]) or not outputs:
            continue
        values = NumberReader({"start_time": start, "ttft": ttft, "input_len": inputs, "output_len": outputs})
        try:
            timed.append((values.number("start_time"), _request(values, gaps)))
        except UnusableRun as error:
            raise UnusableRun(f"request {number + 1}: {error}") from error
    began = min((start for start, _ in timed), default=0.0)
    ordered = sorted(timed, key=lambda item: item[0])
    return tuple(replace(item, arrival_s=start - began) for start, item in ordered), _spread(
        [item for _, item in timed]
    )


def _request(values: NumberReader, gaps: Any) -> Request:
    """Return one request, its arrival still open."""
    import numpy as np  # only for files with single requests

    try:
        times = np.asarray(gaps, dtype=float)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnusableRun("itls must be a list of seconds") from error
    if times.ndim != 1 or not np.all((times >= 0) & (times < MOST_S)):
        raise UnusableRun("itls must be a list of seconds")
    times = 1e3 * times
    ttft = 1e3 * values.number("ttft")
    p50, p95, most = np.percentile(times, (50, 95, 100)).tolist() if len(times) else (None,) * 3
    return Request(
        run_id="",
        arrival_s=0.0,
        input_len=int(values.number("input_len")),
        output_len=int(values.number("output_len")),
        ttft_ms=ttft,
        e2e_ms=ttft + float(times.sum()),
        itl_p50_ms=p50,
        itl_p95_ms=p95,
        itl_max_ms=most,
    )


def _spread(requests: list[Request]) -> float | None:
    lengths = [request.output_len for request in requests]
    return pstdev(lengths) / fmean(lengths) if lengths else None


def _is_record(value: Mapping[str, Any]) -> bool:
    """Return whether it is a record of ``.pytorch.json``: one metric, beside it all the others and the client's
    arguments.
    """
    metric = value.get("metric")
    extra = metric.get("extra_info") if isinstance(metric, dict) else None
    return isinstance(extra, dict) and extra.keys() >= MARKS


def _merged(records: list[tuple[str, dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
    """Join the records of one run to the row they were made of."""
    row: dict[str, Any] = {}
    for _, record in records:
        metric = record["metric"]
        values = metric.get("benchmark_values")
        row |= metric["extra_info"]
        if isinstance(values, list) and len(values) == 1:
            row[str(metric.get("name"))] = values[0]
    return records[0][0].removesuffix(" entry 1"), row
