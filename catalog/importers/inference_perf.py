"""inference-perf (kubernetes-sigs): the JSON report of one stage, or of all of them.

load_summary            what was asked: ``count``, ``requested_rate``, ``send_duration``
successes               ``latency`` in seconds, ``throughput``, ``prompt_len``, ``output_len``
time_per_output_token   gaps between streamed messages, and those that bring no token count too: not ours. TPOT is
                        (request latency - time to first token) / (output tokens - 1), of the means

The report does not say how requests arrived: those of a stage with a rate are taken for a Poisson process, as the shared
loads of the project are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catalog.importers.errors import SkippedFile, UnusableRun
from catalog.importers.parsed_run import NumberReader, ParsedRun, runs_of, tpot_of_means
from catalog.importers.traffic import LoadGeneratorRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from catalog.importers.benchmark_file import BenchmarkFile

MARKS = frozenset(("load_summary", "successes", "failures"))


def is_inference_perf(document: BenchmarkFile) -> bool:
    return document.holds(MARKS)


def read_inference_perf(document: BenchmarkFile) -> Iterator[ParsedRun | SkippedFile]:
    return runs_of(document.objects, _reading)


def _reading(where: str, report: Mapping[str, Any]) -> ParsedRun:
    load, done = NumberReader(_part(report, "load_summary")), _part(report, "successes")
    latency, speed = _part(done, "latency"), NumberReader(_part(done, "throughput"))
    completed = int(NumberReader(done).number("count", least=1))
    rate = load.maybe("requested_rate")
    if not rate:
        raise UnusableRun("its load_summary has no requested_rate; only stages at a rate can be recorded")
    e2e, ttft = (_mean(latency, name, 1e3) for name in ("request_latency", "time_to_first_token"))
    output_len = NumberReader(_part(done, "output_len")).number("mean")
    traffic = LoadGeneratorRun(
        completed=completed,
        failed=int(NumberReader(_part(report, "failures")).maybe("count") or 0),
        seconds=completed / speed.number("requests_per_sec", least=1e-9),
        input_len=NumberReader(_part(done, "prompt_len")).number("mean"),
        output_len=output_len,
        ttft_ms=ttft,
        tpot_ms=tpot_of_means(e2e, ttft, output_len),
        e2e_ms=e2e,
        output_tok_s=speed.number("output_tokens_per_sec"),
        rate=rate,
    )
    return ParsedRun(
        where=where,
        tool="inference-perf",
        identity=(completed, rate, e2e, traffic.output_tok_s),
        stated={},
        traffic=traffic,
        seen={"requests": completed, "achieved_rate": load.maybe("achieved_rate")},
    )


def _part(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = value.get(name)
    return part if isinstance(part, dict) else {}


def _mean(latency: Mapping[str, Any], name: str, scale: float) -> float | None:
    return NumberReader(_part(latency, name)).time("mean", scale)
