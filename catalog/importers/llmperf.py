"""LLMPerf (ray-project): the ``..._summary.json`` of ``token_benchmark_ray.py``.

results_ttft_s_mean                              seconds from sending a request to its first token
results_end_to_end_latency_s_mean                seconds from sending to the last token
results_inter_token_latency_s_mean               latency / output tokens, the first one's time among them: not ours. TPOT is
                                                 (latency - time to first token) / (output tokens - 1), of the means
results_mean_output_throughput_token_per_s       output tokens of all requests / duration
results_num_completed_requests_per_minute        from which the duration follows
num_concurrent_requests                          requests kept in flight
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catalog.importers.engine_settings import whole
from catalog.importers.parsed_run import NumberReader, ParsedRun, runs_of, tpot_of_means
from catalog.importers.traffic import LoadGeneratorRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from catalog.importers.benchmark_file import BenchmarkFile
    from catalog.importers.errors import SkippedFile

MARKS = frozenset(("num_concurrent_requests", "results_num_completed_requests", "results_ttft_s_mean"))


def is_llmperf(document: BenchmarkFile) -> bool:
    return document.holds(MARKS)


def read_llmperf(document: BenchmarkFile) -> Iterator[ParsedRun | SkippedFile]:
    return runs_of(document.objects, _reading)


def _reading(where: str, row: Mapping[str, Any]) -> ParsedRun:
    figures = NumberReader(row)
    completed = int(figures.number("results_num_completed_requests"))
    e2e, ttft = (figures.time(f"results_{name}_s_mean", 1e3) for name in ("end_to_end_latency", "ttft"))
    output_len = figures.number("results_number_output_tokens_mean")
    spread = figures.maybe("results_number_output_tokens_stddev")
    traffic = LoadGeneratorRun(
        completed=completed,
        failed=int(figures.maybe("results_number_errors") or 0),
        seconds=60.0 * completed / figures.number("results_num_completed_requests_per_minute", least=1e-9),
        input_len=figures.number("results_number_input_tokens_mean"),
        output_len=output_len,
        output_spread=None if spread is None or not output_len else spread / output_len,
        ttft_ms=ttft,
        tpot_ms=tpot_of_means(e2e, ttft, output_len),
        e2e_ms=e2e,
        output_tok_s=figures.number("results_mean_output_throughput_token_per_s"),
        concurrency=whole(row.get("num_concurrent_requests")),
    )
    return ParsedRun(
        where=where,
        tool="llmperf",
        identity=(row.get("timestamp"), completed, e2e, traffic.output_tok_s),
        stated={"model": figures.text("model") or None},
        traffic=traffic,
        seen={"requests": completed},
    )
