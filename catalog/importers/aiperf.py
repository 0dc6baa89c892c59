"""AIPerf (0.13.0; the older ``loadgen`` layout too) and GenAI-Perf (0.0.16): their JSON and CSV exports.

time_to_first_token         ms from sending a request to its first message
inter_token_latency         mean over requests of (latency - ttft) / (output tokens - 1): what we call TPOT
inter_chunk_latency         gaps between messages; not used
request_latency             ms from sending to the last message
output_token_throughput     output tokens of all completed requests / the time from the load's start to its end;
                            ``..._per_user`` is 1 / ITL, not used
benchmark_duration          s from the first request's sending to the last one's end; not in GenAI-Perf's
phases (AIPerf)             "concurrency", "poisson", "constant", "gamma"...; ``concurrency`` beside a rate is a ceiling
stimulus (GenAI-Perf)       "concurrency", or "request_rate", whose arrivals are evenly spaced

``sequence_length`` counts by the client's tokenizer, unless AIPerf was set to take the server's numbers. The CSVs have two
decimals and say neither the model nor how requests came. Beside AIPerf's JSON usually lies a JSON Lines file with every
request: it is read with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catalog.errors import InputError
from catalog.importers.benchmark_file import read_document
from catalog.importers.engine_settings import whole
from catalog.importers.errors import SkippedFile, UnusableRun
from catalog.importers.parsed_run import NumberReader, ParsedRun, rounded
from catalog.importers.traffic import LoadGeneratorRun
from catalog.requests import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from catalog.importers.benchmark_file import BenchmarkFile

NAMES = {
    "request_throughput": "Request Throughput",
    "request_latency": "Request Latency",
    "request_count": "Request Count",
    "time_to_first_token": "Time to First Token",
    "inter_token_latency": "Inter Token Latency",
    "output_token_throughput": "Output Token Throughput",
    "output_sequence_length": "Output Sequence Length",
    "input_sequence_length": "Input Sequence Length",
    "request_error_rate": "Request Error Rate",
    "effective_concurrency": "Effective Concurrency",
    "benchmark_duration": "Benchmark Duration",
}
"""Metrics, and their names in a CSV, in AIPerf's spelling and without the unit."""

SUFFIX = "_aiperf.json"


def is_aiperf(document: BenchmarkFile) -> bool:
    return _export(document) is not None or _is_csv(document) or _is_records(document)


def read_aiperf(document: BenchmarkFile) -> Iterator[ParsedRun | SkippedFile]:
    if _is_records(document):
        yield SkippedFile(
            document.name, "it has single requests; the export beside it has the means, and takes these along"
        )
        return
    export = _export(document)
    try:
        yield _of_csv(document) if export is None else _of_json(document, export)
    except UnusableRun as error:
        yield SkippedFile(document.name, str(error))


def _export(document: BenchmarkFile) -> Mapping[str, Any] | None:
    if len(document.lines) != 1:
        return None
    value = document.lines[0][1]
    ours = isinstance(value, dict) and "input_config" in value and "request_latency" in value
    return value if ours else None


def _is_csv(document: BenchmarkFile) -> bool:
    return document.header[:2] == ("Metric", "avg")


def _is_records(document: BenchmarkFile) -> bool:
    """Return whether it is AIPerf's file of requests, or the Perf Analyzer's that GenAI-Perf works from."""
    first = document.objects[0][1] if document.objects else {}
    records = {"metadata", "metrics"} <= first.keys() and "request_start_ns" in (_dict(first["metadata"]))
    return records or {"experiments", "service_kind"} <= first.keys()


def _of_json(document: BenchmarkFile, export: Mapping[str, Any]) -> ParsedRun:
    config = _dict(export["input_config"])
    if export.get("was_cancelled"):
        raise UnusableRun("the run was cancelled")
    figures = {name: _dict(export.get(name)) for name in NAMES}
    if len(phases := [phase for phase in _list(config.get("phases")) if _dict(phase).get("kind") != "warmup"]) > 1:
        raise UnusableRun(f"it has {len(phases)} phases of load; the means are over all of them")
    load = _load(config, _dict(phases[0]) if phases else {})
    genai = "perf_analyzer" in config
    version = export.get("aiperf_version")
    return ParsedRun(
        where=document.name,
        tool="genai-perf" if genai else "aiperf",
        identity=_identity(figures),
        stated={"model": _model(config) or None},
        traffic=_traffic(figures, load),
        seen={
            "requests": whole(figures["request_count"].get("avg")),
            **({"date": export["start_time"]} if isinstance(export.get("start_time"), str) else {}),
            **({"aiperf": version} if isinstance(version, str) else {}),
        },
        requests=() if genai else _requests(document),
    )


def _of_csv(document: BenchmarkFile) -> ParsedRun:
    """Read the means; how the requests came is not in a CSV."""
    figures: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
    names = {title.casefold(): name for name, title in NAMES.items()}
    for row in document.table:
        name = names.get(row[0].partition(" (")[0].casefold()) if len(row) > 1 else None
        if name:
            figures[name]["avg"] = row[1].replace(",", "")
            figures[name]["max"] = row[3] if len(row) > 3 else None
    genai = not any(row and row[0].startswith("Benchmark Duration") for row in document.table)
    return ParsedRun(
        where=document.name,
        tool="genai-perf" if genai else "aiperf",
        identity=_identity(figures),
        stated={},
        traffic=_traffic(figures, {"load_known": False}),
        seen={"requests": whole(figures["request_count"].get("avg"))},
    )


def _traffic(figures: Mapping[str, Mapping[str, Any]], load: Mapping[str, Any]) -> LoadGeneratorRun:
    completed = int(_average(figures, "request_count"))
    errors = _maybe(figures, "request_error_rate") or 0.0
    tokens = _average(figures, "output_sequence_length")
    spread = NumberReader(figures["output_sequence_length"]).maybe("std")
    return LoadGeneratorRun(
        completed=completed,
        failed=round(completed * errors / (100 - errors)) if errors < 100 else completed + 1,
        seconds=_maybe(figures, "benchmark_duration") or completed / _average(figures, "request_throughput"),
        input_len=_average(figures, "input_sequence_length"),
        output_len=tokens,
        output_spread=None if spread is None else spread / tokens,
        ttft_ms=_maybe(figures, "time_to_first_token"),
        tpot_ms=_maybe(figures, "inter_token_latency"),
        e2e_ms=_maybe(figures, "request_latency"),
        output_tok_s=_average(figures, "output_token_throughput"),
        peak=NumberReader(figures["effective_concurrency"]).maybe("max"),
        **load,
    )


def _load(config: Mapping[str, Any], phase: Mapping[str, Any]) -> dict[str, Any]:
    """Return the most requests in flight, the rate, and whether arrivals are Poisson."""
    stimulus = _dict(_dict(config.get("perf_analyzer")).get("stimulus"))
    old = _dict(config.get("loadgen"))
    source = phase or stimulus or old
    if not source:
        raise UnusableRun("input_config does not say how requests came")
    kind = str(phase.get("type") or old.get("request_rate_mode") or old.get("arrival_pattern") or "").casefold()
    if "session_concurrency" in stimulus or kind not in (
        "",
        "concurrency",
        "concurrency_burst",
        "poisson",
        "constant",
        "gamma",
    ):
        raise UnusableRun(
            f"its load is {kind or 'sessions'!r:.40}; requests in flight and Poisson arrivals can be recorded"
        )
    rate = NumberReader(source).maybe("rate" if phase else "request_rate")
    load = {"concurrency": whole(source.get("concurrency")), "rate": rate or None, "poisson": kind == "poisson"}
    if load["rate"] is None and load["concurrency"] is None:
        raise UnusableRun("input_config has neither a concurrency nor a rate")
    return load


def _model(config: Mapping[str, Any]) -> str:
    """Return the one model's name, wherever this version writes it."""
    items = _list(_dict(config.get("models")).get("items"))
    names = [_dict(item).get("name") for item in items]
    names = names or _list(config.get("model_names")) or _list(_dict(config.get("endpoint")).get("model_names"))
    if len(names) > 1:
        raise UnusableRun(f"it has requests to {len(names)} models")
    return names[0] if names and isinstance(names[0], str) else ""


def _requests(document: BenchmarkFile) -> tuple[Request, ...]:
    """Read the requests of the file beside it, if it is there and whole."""
    path = document.path
    beside = path.with_name(path.name.removesuffix(SUFFIX) + ".jsonl")
    if not path.name.endswith(SUFFIX) or not beside.is_file():
        return ()
    timed = []
    try:
        for _, record in read_document(beside).objects:
            about, metrics = _dict(record.get("metadata")), _dict(record.get("metrics"))
            if about.get("benchmark_phase") != "profiling" or about.get("was_cancelled") or record.get("error"):
                continue
            values = NumberReader({name: _dict(metric).get("value") for name, metric in metrics.items()})
            lengths = {f"{kind}_len": int(values.number(f"{kind}_sequence_length")) for kind in ("input", "output")}
            times = {"ttft_ms": values.number("time_to_first_token"), "e2e_ms": values.number("request_latency")}
            timed.append((NumberReader(about).number("request_start_ns"), lengths, times))
    except (InputError, UnusableRun):
        return ()  # the means stand on their own
    began = min((start for start, _, _ in timed), default=0.0)
    return tuple(
        Request(
            run_id="",
            arrival_s=(start - began) / 1e9,
            input_len=lengths["input_len"],
            output_len=lengths["output_len"],
            ttft_ms=times["ttft_ms"],
            e2e_ms=times["e2e_ms"],
        )
        for start, lengths, times in sorted(timed, key=lambda request: request[0])
    )


def _identity(figures: Mapping[str, Mapping[str, Any]]) -> tuple[object, ...]:
    """Return what the CSV has too, to its two decimals."""
    names = ("request_count", "request_throughput", "request_latency", "inter_token_latency", "output_token_throughput")
    return rounded((_maybe(figures, name) for name in names), 2)


def _average(figures: Mapping[str, Mapping[str, Any]], name: str) -> float:
    value = _maybe(figures, name)
    if value is None:
        raise UnusableRun(f"{name} is missing")
    return value


def _maybe(figures: Mapping[str, Mapping[str, Any]], name: str) -> float | None:
    try:
        return NumberReader(figures[name]).maybe("avg") or None
    except UnusableRun as error:
        raise UnusableRun(f"{name} {error}") from error


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
