"""The formats that can be read, and which one a file has: by what is in it, not by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.errors import InputError
from catalog.importers.aiperf import is_aiperf, read_aiperf
from catalog.importers.closed_loops import is_closed_loops, read_closed_loops
from catalog.importers.errors import SkippedFile
from catalog.importers.guidellm import is_guidellm, read_guidellm
from catalog.importers.inference_perf import is_inference_perf, read_inference_perf
from catalog.importers.llmperf import is_llmperf, read_llmperf
from catalog.importers.long_form import is_long_form, read_long_form
from catalog.importers.own_runs import is_own, read_own
from catalog.importers.sglang import is_sglang, read_sglang
from catalog.importers.trtllm_bench import is_trtllm, read_trtllm
from catalog.importers.vllm_offline import is_offline, read_offline
from catalog.importers.vllm_serving import is_serving, read_serving
from catalog.names import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from catalog.importers.benchmark_file import BenchmarkFile
    from catalog.importers.parsed_run import ParsedRun


@dataclass(frozen=True, slots=True)
class Format:
    """One format."""

    name: str
    title: str
    recognises: Callable[[BenchmarkFile], bool]
    read: Callable[[BenchmarkFile], Iterable[ParsedRun | SkippedFile]]


FORMATS = (
    Format("runs", "runs of this program, JSON Lines or CSV", is_own, read_own),
    Format("published", "published benchmarks, one quantity a row", is_long_form, read_long_form),
    Format("closed-loops", "published closed loops, one run a row", is_closed_loops, read_closed_loops),
    Format("vllm-serve", "vllm bench serve, vllm bench sweep serve", is_serving, read_serving),
    Format("vllm-offline", "vllm bench latency, vllm bench throughput", is_offline, read_offline),
    Format("sglang", "sglang.bench_serving", is_sglang, read_sglang),
    Format("guidellm", "GuideLLM, JSON or CSV", is_guidellm, read_guidellm),
    Format("aiperf", "AIPerf and GenAI-Perf, JSON or CSV", is_aiperf, read_aiperf),
    Format("inference-perf", "inference-perf, the report of a stage", is_inference_perf, read_inference_perf),
    Format("llmperf", "LLMPerf, its summary", is_llmperf, read_llmperf),
    Format("trtllm-bench", "trtllm-bench, its JSON report or its log", is_trtllm, read_trtllm),
)


def read_benchmarks(document: BenchmarkFile, chosen: str = "auto") -> tuple[ParsedRun | SkippedFile, ...]:
    """Yield every run of a file, as far as the file tells it, and the rows that cannot be used.

    Raises:
        InputError: its format is none that is known, or not the ``chosen`` one.

    """
    file_format = _format(document, chosen)
    readings = tuple(file_format.read(document))
    if not readings:
        raise InputError(f"{document.name} holds no runs of the format {file_format.name} ({file_format.title})")
    return (*readings, SkippedFile(document.unfinished, "it was cut off")) if document.unfinished else readings


def recognised(document: BenchmarkFile) -> Format | None:
    """Return the format that a file has.

    Raises:
        InputError: it begins like JSON and is not.

    """
    return next((known for known in FORMATS if known.recognises(document)), None)


def find_format(name: str) -> Format:
    """Find the format of that name.

    Raises:
        InputError: there is none; the message has all of them.

    """
    by_name = {known.name: known for known in FORMATS}
    wanted = name.strip().casefold()
    if wanted not in by_name:
        hint = suggestion(name, by_name)
        raise InputError(
            f"unknown format {name!r:.40}; {hint + '; ' if hint else ''}formats: auto, {', '.join(by_name)}"
        )
    return by_name[wanted]


def _format(document: BenchmarkFile, chosen: str) -> Format:
    if chosen.strip().casefold() == "auto":
        if actual := recognised(document):
            return actual
        titles = "; ".join(known.title for known in FORMATS)
        raise InputError(f"{document.name} is no benchmark that is known; these are: {titles}")
    wanted = find_format(chosen)
    if not wanted.recognises(document):
        actual = recognised(document)
        rest = f"; it is {actual.name}" if actual else ""
        raise InputError(f"{document.name} is not of the format {wanted.name} ({wanted.title}){rest}")
    return wanted
