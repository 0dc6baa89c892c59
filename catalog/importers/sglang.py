"""``python -m sglang.bench_serving`` (SGLang 0.5.6, ``sglang/bench_serving.py``): one object a line, a run each.

mean_ttft_ms          from sending a request to its first message with text; what waits for ``max_concurrency`` is not sent
mean_tpot_ms          mean over requests of (latency - ttft) / (output tokens - 1): ours
mean_itl_ms           gaps between messages over all requests; not used
mean_e2e_latency_ms   from sending to the end of the answer
output_throughput     output tokens of all completed requests / duration; ``total_throughput`` counts prompts too
request_rate          ``Infinity``: at once, or as ``max_concurrency`` allows; else a Poisson process; "trace": a trace's times
concurrency           mean number in flight
server_info           SGLang's own settings, if it was an SGLang server that answered
accept_length         tokens a step of speculative decoding

``--output-details`` adds one entry a request, but not when it was sent, so that no requests can be kept.
"""

from __future__ import annotations

from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from catalog.importers.engine_settings import settings, whole
from catalog.importers.errors import SkippedFile, UnusableRun
from catalog.importers.parsed_run import NumberReader, ParsedRun, runs_of
from catalog.importers.traffic import LoadGeneratorRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from catalog.importers.benchmark_file import BenchmarkFile

MARKS = frozenset(("backend", "request_rate", "completed", "input_throughput", "mean_e2e_latency_ms"))
ENGINES = {
    **dict.fromkeys(("sglang", "sglang-native", "sglang-oai", "sglang-oai-chat"), "sglang"),
    **dict.fromkeys(("vllm", "vllm-chat"), "vllm"),
    **dict.fromkeys(("lmdeploy", "lmdeploy-chat"), "lmdeploy"),
    "trt": "tensorrt-llm",
}


def is_sglang(document: BenchmarkFile) -> bool:
    return document.holds(MARKS)


def read_sglang(document: BenchmarkFile) -> Iterator[ParsedRun | SkippedFile]:
    return runs_of(document.objects, _reading, marks=MARKS, program="sglang.bench_serving")


def _reading(where: str, row: Mapping[str, Any]) -> ParsedRun:
    figures = NumberReader(row)
    if row["request_rate"] == "trace":
        raise UnusableRun("its requests arrived as a trace says; only Poisson arrivals can be recorded")
    if figures.has("accept_length"):
        raise UnusableRun("speculative decoding, which the catalog's runs do not record")
    if figures.maybe("total_input_vision_tokens"):
        raise UnusableRun("its prompts have images")
    completed = int(figures.number("completed"))
    outputs = row.get("output_lens")
    known = [tokens for tokens in outputs if isinstance(tokens, int)] if isinstance(outputs, list) else []
    given = [tokens for tokens in known if tokens > 0]
    traffic = LoadGeneratorRun(
        completed=completed,
        failed=max(0, len(known) - completed),
        seconds=figures.number("duration", least=1e-9),
        input_len=figures.number("total_input_tokens") / max(completed, 1),
        output_len=figures.number("total_output_tokens") / max(completed, 1),
        output_spread=pstdev(given) / fmean(given) if given else _random_spread(row),
        ttft_ms=figures.time("mean_ttft_ms"),
        tpot_ms=figures.time("mean_tpot_ms"),
        e2e_ms=figures.time("mean_e2e_latency_ms"),
        output_tok_s=figures.number("output_throughput"),
        concurrency=whole(row.get("max_concurrency")),
        rate=figures.limit("request_rate"),
        peak=figures.maybe("max_concurrent_requests"),
    )
    stated: dict[str, Any] = {}
    engine = ENGINES.get(figures.text("backend"))
    info = row.get("server_info")
    if isinstance(info, dict) and "model_path" in info:
        engine = "sglang"
        stated |= {"tp": 1, "pp": 1, "dp": 1, "model": str(info["model_path"]), **settings(info)}
        stated |= {"engine_version": str(info["version"])} if info.get("version") else {}
    if engine:
        stated["engine"] = engine
    return ParsedRun(
        where=where,
        tool="sglang.bench_serving",
        identity=(traffic.seconds, completed, traffic.output_tok_s, traffic.e2e_ms),
        stated=stated,
        traffic=traffic,
        seen={"requests": completed, **({"tag": row["tag"]} if figures.text("tag") else {})},
    )


def _random_spread(row: Mapping[str, Any]) -> float | None:
    """Return the spread of the lengths that the random data set draws: uniform from ``random_range_ratio`` of the
    longest up to it.
    """
    ratio = row.get("random_range_ratio")
    if not str(row.get("dataset_name")).startswith("random") or not isinstance(ratio, (int, float)):
        return None
    return float((1 - ratio) / (1 + ratio) / 3**0.5) if 0 <= ratio <= 1 else None
