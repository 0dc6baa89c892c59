"""Other programs' results as measurements: every number recomputed from what the recorded files hold."""

import csv
import json
import math
import shutil
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from random import Random
from statistics import fmean, median, stdev

import pytest

from catalog.errors import InputError
from catalog.importers import benchmark_file as documents
from catalog.importers.benchmark_file import read_document
from catalog.importers.completion import FIELDS, Incomplete, complete, run_id
from catalog.importers.engine_settings import settings
from catalog.importers.errors import SkippedFile, UnusableRun
from catalog.importers.parsed_run import ParsedRun
from catalog.importers.registry import FORMATS, find_format, read_benchmarks, recognised
from catalog.importers.traffic import LoadGeneratorRun
from catalog.published_folder import read_published
from catalog.runs import check_run, to_frame
from catalog.schema import Measurement

FOLDER = Path(__file__).parents[1] / "benchmarks"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix != ".md")
FORMAT_OF = {
    "vllm-serve": "vllm-serve",
    "vllm-sweep": "vllm-serve",
    "vllm-latency": "vllm-offline",
    "vllm-throughput": "vllm-offline",
    "sglang": "sglang",
    "guidellm": "guidellm",
    "aiperf": "aiperf",
    "genai-perf": "aiperf",
    "trtllm-bench": "trtllm-bench",
}
LLAMA = "meta-llama/Meta-Llama-3.1-8B"
KNOWN = {"gpu": "H100-SXM", "tp": 2, "engine": "vllm", "model": "llama-3.1-8b"}
SILENT = {
    "vllm-latency.json": {"batch": 4, "input_len": 32, "output_len": 16},
    "vllm-throughput.json": {"input_len": 32},
    "aiperf-closed_aiperf.csv": {"concurrency": 4},
    "genai-perf.csv": {"concurrency": 4},
}
"""What else the files do not say."""


def raw(name):
    return json.loads((FOLDER / name).read_text())


def rows(name):
    return read_benchmarks(read_document(FOLDER / name))


def given_for(reading, name):
    """What the file does not say."""
    return {key: value for key, value in {**KNOWN, **SILENT.get(name, {})}.items() if key not in reading.stated}


def measured(name, *, number=0, **given):
    """The measurement of the file's reading of that number, completed with what it does not say."""
    reading = [row for row in rows(name) if isinstance(row, ParsedRun)][number]
    return complete(reading, {**given_for(reading, name), **given})


def refused(name, number=0):
    """Why one of a file's runs cannot be used."""
    row = rows(name)[number]
    if isinstance(row, SkippedFile):
        return row.reason
    with pytest.raises(UnusableRun) as found:
        complete(row, given_for(row, name))
    return str(found.value)


def times(run):
    return run.ttft_ms, run.tpot_ms, run.e2e_ms, run.output_tok_s


# -- all formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_format_is_recognised_by_what_is_in_a_file(name, tmp_path):
    """By one format only, and under any name."""
    renamed = tmp_path / "results.dat"
    shutil.copy(FOLDER / name, renamed)
    document = read_document(renamed)
    expected = next(format_ for prefix, format_ in FORMAT_OF.items() if name.startswith(prefix))
    assert [each.name for each in FORMATS if each.recognises(document)] == [expected]


@pytest.mark.parametrize("name", FILES)
def test_what_is_kept_can_be_kept_and_what_is_not_says_why(name):
    kept = 0
    for row in rows(name):
        if isinstance(row, SkippedFile):
            assert row.reason
            assert "\n" not in str(row)
            continue
        try:
            run = complete(row, given_for(row, name))
        except UnusableRun:
            continue
        assert check_run(run, name) == run
        assert run.model == LLAMA
        assert run.gpu == "H100-SXM"
        assert run.gpus == run.tp * run.pp * run.dp
        assert json.loads(run.fingerprint)["imported"] == run.source
        assert run.output_tok_s is not None
        kept += 1
    unusable = ("capped", "bursty", "constant", "aiperf-closed.jsonl")
    assert bool(kept) != any(word in name for word in unusable)


@pytest.mark.parametrize("name", FILES)
def test_a_run_has_the_same_id_whatever_is_said_of_it(name):
    for row in rows(name):
        if isinstance(row, ParsedRun):
            again = next(each for each in rows(name) if isinstance(each, ParsedRun) and each.where == row.where)
            assert run_id(row) == run_id(again)
            assert run_id(replace(row, stated={**row.stated, "gpu": "A100"})) == run_id(row)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("vllm-latency.json", "vllm-latency.pytorch.json"),
        ("vllm-throughput.json", "vllm-throughput.pytorch.json"),
        ("guidellm-closed.json", "guidellm-closed.csv"),
        ("guidellm-sweep.json", "guidellm-sweep.csv"),
        ("aiperf-closed_aiperf.json", "aiperf-closed_aiperf.csv"),
        ("genai-perf.json", "genai-perf.csv"),
        ("trtllm-bench-closed.json", "trtllm-bench-closed.log"),
    ],
)
def test_two_accounts_of_one_run_are_one_run(one, other):
    assert [run_id(row) for row in rows(one)] == [run_id(row) for row in rows(other)]
    first, second = measured(one), measured(other)
    assert first.run_id == second.run_id
    for name in ("regime", "batch", "input_len", "output_len", "rate"):
        assert getattr(first, name) == getattr(second, name)
    for mine, its in zip(times(first), times(second), strict=True):
        assert mine == pytest.approx(its, abs=0.006)  # AIPerf's CSV has two decimals


def test_different_runs_have_different_ids():
    ids = [run_id(row) for name in FILES for row in rows(name) if isinstance(row, ParsedRun)]
    accounts = 6 + 3 + 2  # six second accounts of one run, three of a sweep's, and two runs of vllm-sweep.json
    assert len(ids) - len(set(ids)) == accounts


# -- vLLM ------------------------------------------------------------------------------------------------------------


def test_vllm_latency_is_the_median_makespan_of_a_batch():
    seconds = raw("vllm-latency.json")["latencies"]
    run = measured("vllm-latency.json")
    assert (run.regime, run.batch, run.input_len, run.output_len, run.repeats) == ("static", 4, 32, 16, 5)
    assert run.e2e_ms == 1e3 * median(seconds)
    assert run.spread == pytest.approx(stdev(seconds) / fmean(seconds))
    assert run.output_tok_s == pytest.approx(4 * 16 / median(seconds))
    assert (run.engine, run.prefill_ms, run.tpot_ms) == ("vllm", None, None)


def test_vllm_latency_of_one_token_is_the_prefill():
    run = measured("vllm-latency.json", output_len=1)
    assert run.prefill_ms == run.e2e_ms == 1e3 * median(raw("vllm-latency.json")["latencies"])


def test_vllm_latency_with_its_arguments_says_everything_but_the_gpu():
    run = complete(rows("vllm-latency.pytorch.json")[0], {"gpu": "H100-SXM"})
    assert (run.batch, run.input_len, run.output_len, run.tp, run.dtype) == (4, 32, 16, 2, "bfloat16")
    assert (run.max_model_len, run.gpu_memory_utilization, run.compiled) == (2048, 0.9, True)


def test_vllm_throughput_counts_prompts_and_outputs_together():
    """480 tokens of 10 requests: told that 32 of a request's 48 are the prompt, 16 are the output."""
    result = raw("vllm-throughput.json")
    run = measured("vllm-throughput.json")
    assert (run.regime, run.batch, run.input_len, run.output_len) == ("static", 10, 32, 16)
    assert run.e2e_ms == 1e3 * result["elapsed_time"]
    assert run.output_tok_s == pytest.approx(160 / result["elapsed_time"])
    assert run.output_tok_s == pytest.approx(result["tokens_per_second"] / 3)
    reading = rows("vllm-throughput.json")[0]
    assert complete(reading, {**KNOWN, "output_len": 16}) == run
    with pytest.raises(Incomplete) as asked:
        complete(reading, KNOWN)
    assert asked.value.names == ("output_len",)
    with pytest.raises(InputError, match=r"--input-len is 48, but vllm-throughput\.json says 48 tokens a request"):
        complete(reading, {**KNOWN, "input_len": 48})
    with pytest.raises(InputError, match="--output-len is 32, but"):
        complete(reading, {**KNOWN, "input_len": 32, "output_len": 32})


def test_vllm_serve_keeps_requests_in_flight():
    result = raw("vllm-serve-closed.json")
    run = measured("vllm-serve-closed.json", engine_version="0.24.0")
    assert (run.regime, run.rate, run.batch) == ("steady", None, result["max_concurrency"])
    assert (run.input_len, run.output_len) == (384 / 12, 192 / 12)
    assert run.ttft_ms == result["mean_ttft_ms"]
    assert run.tpot_ms == result["mean_tpot_ms"]
    assert run.e2e_ms is None  # without --percentile-metrics e2el
    assert run.output_tok_s == pytest.approx(192 / result["duration"])
    assert (run.tp, run.gpus, run.engine_version) == (2, 2, "0.24.0")


def test_vllm_serve_in_detail_is_its_requests():
    result = raw("vllm-serve-detailed.json")
    reading = rows("vllm-serve-detailed.json")[0]
    run = complete(reading, {"gpu": "H100-SXM", "engine": "vllm"})  # --metadata tells tp
    latency = [ttft + sum(gaps) for ttft, gaps in zip(result["ttfts"], result["itls"], strict=True)]
    assert (run.tp, run.batch, run.regime) == (2, 2, "steady")
    assert run.ttft_ms == pytest.approx(1e3 * fmean(result["ttfts"]))
    assert run.e2e_ms == pytest.approx(1e3 * fmean(latency), rel=1e-5)  # it looks at the clock twice for a first token
    assert run.tpot_ms == pytest.approx(1e3 * fmean(sum(gaps) / 15 for gaps in result["itls"]), rel=1e-4)
    assert run.output_tok_s == pytest.approx(8 * 16 / result["duration"])
    assert len(reading.requests) == 8
    first = reading.requests[0]
    number = result["start_times"].index(min(result["start_times"]))
    gaps = sorted(1e3 * each for each in result["itls"][number])
    assert (first.arrival_s, first.input_len, first.output_len) == (0.0, 32, 16)
    assert first.ttft_ms == 1e3 * result["ttfts"][number]
    assert first.e2e_ms == pytest.approx(1e3 * latency[number])
    assert (first.itl_p50_ms, first.itl_max_ms) == (pytest.approx(gaps[7]), pytest.approx(gaps[-1]))
    assert [each.arrival_s for each in reading.requests] == sorted(each.arrival_s for each in reading.requests)


def test_vllm_serve_in_detail_tells_latency_even_if_its_mean_was_not_asked_for(tmp_path):
    result = raw("vllm-serve-detailed.json")
    short = {name: value for name, value in result.items() if "e2el" not in name}
    (tmp_path / "r.json").write_text(json.dumps(short))
    reading = read_benchmarks(read_document(tmp_path / "r.json"))[0]
    run = complete(reading, {"gpu": "H100-SXM", "engine": "vllm"})
    assert run.e2e_ms == pytest.approx(result["mean_e2el_ms"], rel=1e-5)


def test_vllm_serve_open_loop_is_a_rate_and_littles_law():
    result = raw("vllm-serve-open.json")
    run = measured("vllm-serve-open.json")
    assert (run.regime, run.rate) == ("open", 20.0)
    assert run.batch == round(20 / result["duration"] * result["mean_e2el_ms"] / 1e3)
    assert times(run) == (
        result["mean_ttft_ms"],
        result["mean_tpot_ms"],
        result["mean_e2el_ms"],
        pytest.approx(320 / result["duration"]),
    )


def test_vllm_serve_at_once_is_static_its_latency_the_makespan():
    result = raw("vllm-serve-at-once.json")
    run = measured("vllm-serve-at-once.json")
    assert (run.regime, run.batch, run.rate) == ("static", 6, None)
    assert run.e2e_ms == 1e3 * result["duration"] > result["mean_e2el_ms"]
    assert run.ttft_ms == result["mean_ttft_ms"]
    assert run.tpot_ms is None  # the mean over requests is not (makespan - prefill) / 15


def test_vllm_serve_appended_is_a_run_a_line():
    runs = [measured("vllm-serve-appended.json", number=number) for number in range(3)]
    assert [run.batch for run in runs] == [1, 2, 4]
    assert [run.engine for run in runs] == ["vllm"] * 3  # its backend was vllm, no interface that others have


def test_vllm_serve_loads_that_are_neither_open_nor_closed():
    assert refused("vllm-serve-capped.json") == (
        "20 requests a second with at most 2 in flight are neither an open nor a closed loop"
    )
    assert refused("vllm-serve-bursty.json") == "its requests did not arrive as a Poisson process"


def test_vllm_sweep_tells_what_it_set():
    with (FOLDER / "vllm-sweep.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows("vllm-sweep.csv")) == 8
    for number, row in enumerate(table):
        run = measured("vllm-sweep.csv", number=number)
        assert (run.tp, run.max_num_seqs, run.batch) == tuple(
            int(row[name]) for name in ("tensor_parallel_size", "max_num_seqs", "max_concurrency")
        )
        assert times(run) == tuple(
            float(row[name]) for name in ("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "output_throughput")
        )
        assert run.regime == "steady"
    both = [measured("vllm-sweep.json", number=number) for number in range(2)]
    assert both == [measured("vllm-sweep.csv", number=number) for number in (6, 7)]


def test_vllm_serve_records_of_pytorch_are_one_run(tmp_path):
    result = raw("vllm-serve-open.json")
    metrics = [name for name in result if name.endswith(("ttft_ms", "tpot_ms", "itl_ms"))]
    extra = {name: value for name, value in result.items() if name not in metrics}
    records = [
        {
            "benchmark": {"name": "vLLM benchmark", "extra_info": {"args": {}}},
            "model": {"name": "m"},
            "metric": {"name": name, "benchmark_values": [result[name]], "extra_info": extra},
        }
        for name in metrics
    ]
    (tmp_path / "r.pytorch.json").write_text(json.dumps(records))
    (reading,) = read_benchmarks(read_document(tmp_path / "r.pytorch.json"))
    assert complete(reading, KNOWN) == measured("vllm-serve-open.json")


# -- SGLang ----------------------------------------------------------------------------------------------------------


def test_sglang_closed_open_and_at_once():
    lines = [json.loads(line) for line in (FOLDER / "sglang.jsonl").read_text().splitlines()]
    closed, opened, at_once = (measured("sglang.jsonl", number=number) for number in range(3))
    for run, result in ((closed, lines[0]), (opened, lines[1])):
        assert times(run) == (
            result["mean_ttft_ms"],
            result["mean_tpot_ms"],
            result["mean_e2e_latency_ms"],
            result["output_throughput"],
        )
    assert (closed.regime, closed.batch) == ("steady", 3)
    assert (opened.regime, opened.rate, opened.batch) == ("open", 20.0, round(lines[1]["concurrency"]))
    assert (at_once.regime, at_once.batch, at_once.e2e_ms) == ("static", 6, 1e3 * lines[2]["duration"])
    assert (at_once.ttft_ms, at_once.tpot_ms) == (lines[2]["mean_ttft_ms"], None)


def test_sglang_servers_say_their_settings():
    run = complete(rows("sglang.jsonl")[0], {"gpu": "H100-SXM"})
    assert (run.engine, run.engine_version, run.tp, run.gpus, run.model) == ("sglang", "0.5.6", 2, 2, LLAMA)
    assert (run.max_num_batched_tokens, run.gpu_memory_utilization, run.dtype) == (8192, 0.85, "bfloat16")


def test_sglang_details_have_no_arrivals_so_that_no_requests_are_kept():
    (reading,) = rows("sglang-details.jsonl")
    assert reading.requests == ()
    assert complete(reading, {"gpu": "H100-SXM"}).batch == 3


# -- GuideLLM --------------------------------------------------------------------------------------------------------


def test_guidellm_calls_our_tpot_inter_token_latency():
    """What it calls time per output token has the first token in it, and is not ours."""
    (benchmark,) = raw("guidellm-closed.json")["benchmarks"]
    requests = benchmark["requests"]["successful"]
    run = measured("guidellm-closed.json")
    ours = fmean(
        (each["request_latency"] * 1e3 - each["time_to_first_token_ms"]) / (each["output_tokens"] - 1)
        for each in requests
    )
    assert run.tpot_ms == pytest.approx(fmean(each["inter_token_latency_ms"] for each in requests))
    assert run.tpot_ms == pytest.approx(ours, rel=0.01)  # the end of an answer comes a little after its last token
    assert benchmark["metrics"]["time_per_output_token_ms"]["successful"]["mean"] > 1.05 * run.tpot_ms
    assert (run.regime, run.batch, run.input_len, run.output_len) == ("steady", 3, 29, 16)
    assert run.e2e_ms == pytest.approx(1e3 * fmean(each["request_latency"] for each in requests))
    assert run.ttft_ms == pytest.approx(fmean(each["time_to_first_token_ms"] for each in requests))
    assert run.output_tok_s == pytest.approx(sum(each["output_tokens"] for each in requests) / benchmark["duration"])


def test_guidellm_requests_are_kept_in_the_order_of_their_arrival():
    requests = raw("guidellm-open.json")["benchmarks"][0]["requests"]["successful"]
    starts = sorted(each["request_start_time"] for each in requests)
    kept = rows("guidellm-open.json")[0].requests
    assert [each.arrival_s for each in kept] == [start - starts[0] for start in starts]
    assert {each.e2e_ms for each in kept} == {1e3 * each["request_latency"] for each in requests}


def test_guidellm_says_why_requests_failed(tmp_path):
    report = raw("guidellm-closed.json")
    (benchmark,) = report["benchmarks"]
    benchmark["metrics"]["request_totals"]["errored"] = 5
    benchmark["requests"]["errored"] = [{"info": {"error": "ValueError('Cannot build\n /v1/completions prompt')"}}]
    (tmp_path / "report.json").write_text(json.dumps(report))
    (reading,) = read_benchmarks(read_document(tmp_path / "report.json"))
    with pytest.raises(UnusableRun, match=r"requests failed: ValueError\('Cannot build /v1/completions prompt'\)"):
        complete(reading, given_for(reading, "guidellm-closed.json"))


def test_guidellm_poisson_is_open():
    (benchmark,) = raw("guidellm-open.json")["benchmarks"]
    run = measured("guidellm-open.json")
    latency = benchmark["metrics"]["request_latency"]["successful"]["mean"]
    assert (run.regime, run.rate, run.batch) == ("open", 10.0, round(12 / benchmark["duration"] * latency))


@pytest.mark.parametrize("name", ["guidellm-sweep.json", "guidellm-sweep.csv"])
def test_guidellm_sweeps_have_regimes_of_their_own(name):
    durations = [benchmark["duration"] for benchmark in raw("guidellm-sweep.json")["benchmarks"]]
    one, most = measured(name, number=0), measured(name, number=1)
    assert (one.regime, one.batch) == ("steady", 1)
    assert (most.regime, most.batch, most.tpot_ms) == ("static", 12, None)  # 12 requests, up to 512 at once
    assert most.e2e_ms == pytest.approx(1e3 * durations[1])
    assert refused(name, 2) == "its requests did not arrive as a Poisson process"


# -- AIPerf and GenAI-Perf -------------------------------------------------------------------------------------------


def test_aiperf_closed_loop_with_the_requests_beside_it():
    export = raw("aiperf-closed_aiperf.json")
    records = [json.loads(line) for line in (FOLDER / "aiperf-closed.jsonl").read_text().splitlines()]
    values = [{name: each["value"] for name, each in record["metrics"].items()} for record in records]
    run = measured("aiperf-closed_aiperf.json")
    assert (run.regime, run.batch, run.input_len, run.output_len) == ("steady", 4, 32, 16)
    assert run.ttft_ms == pytest.approx(fmean(each["time_to_first_token"] for each in values))
    assert run.e2e_ms == pytest.approx(fmean(each["request_latency"] for each in values))
    assert run.tpot_ms == pytest.approx(
        fmean((each["request_latency"] - each["time_to_first_token"]) / 15 for each in values)
    )
    began, ended = (datetime.fromisoformat(export[name]) for name in ("start_time", "end_time"))
    assert run.output_tok_s == pytest.approx(24 * 16 / (ended - began).total_seconds(), rel=1e-5)
    requests = rows("aiperf-closed_aiperf.json")[0].requests
    assert len(requests) == 24
    begins = sorted(record["metadata"]["request_start_ns"] for record in records)
    assert [each.arrival_s for each in requests] == pytest.approx([(at - begins[0]) / 1e9 for at in begins], abs=1e-6)
    assert sum(each.ttft_ms for each in requests) == pytest.approx(24 * run.ttft_ms)


def test_aiperf_without_the_requests_beside_it(tmp_path):
    shutil.copy(FOLDER / "aiperf-closed_aiperf.json", tmp_path)
    (reading,) = read_benchmarks(read_document(tmp_path / "aiperf-closed_aiperf.json"))
    assert reading.requests == ()
    assert complete(reading, KNOWN) == measured("aiperf-closed_aiperf.json")


def test_aiperf_requests_alone_are_told_where_the_means_are():
    assert "the export beside it has the means" in refused("aiperf-closed.jsonl")


def test_aiperf_rates():
    export = raw("aiperf-open_aiperf.json")
    run = measured("aiperf-open_aiperf.json")
    assert (run.regime, run.rate) == ("open", 20.0)
    assert run.batch == round(export["request_throughput"]["avg"] * export["request_latency"]["avg"] / 1e3)
    assert "Poisson" in refused("aiperf-constant_aiperf.json")
    assert "50 requests a second with at most 3 in flight" in refused("aiperf-capped_aiperf.json")


def test_aiperf_before_phases(tmp_path):
    """Until 0.10 a load was ``loadgen``; its arrivals were Poisson unless it says otherwise."""
    export = raw("aiperf-open_aiperf.json")
    path = tmp_path / "r.json"

    def read(**load):
        path.write_text(
            json.dumps({**export, "input_config": {"endpoint": {"model_names": ["llama-3.1-8b"]}, "loadgen": load}})
        )
        return complete(
            read_benchmarks(read_document(path))[0], {name: KNOWN[name] for name in ("gpu", "tp", "engine")}
        )

    assert replace(read(request_rate=20.0, request_rate_mode="poisson"), fingerprint="") == replace(
        measured("aiperf-open_aiperf.json"), fingerprint=""
    )
    assert read(concurrency=3).batch == 3
    with pytest.raises(UnusableRun, match="Poisson"):
        read(request_rate=20.0, request_rate_mode="constant")
    path.write_text(json.dumps({**export, "input_config": {"loadgen": {"request_count": 30}}}))
    assert read_benchmarks(read_document(path)) == (
        SkippedFile("r.json", "input_config has neither a concurrency nor a rate"),
    )


def test_genai_perf_inter_token_latency_is_our_tpot():
    export = raw("genai-perf.json")
    run = measured("genai-perf.json")
    assert (run.regime, run.batch, run.source) == ("steady", 4, "genai-perf")
    assert times(run) == tuple(
        export[name]["avg"]
        for name in ("time_to_first_token", "inter_token_latency", "request_latency", "output_token_throughput")
    )
    assert run.tpot_ms == pytest.approx((run.e2e_ms - run.ttft_ms) / 15)
    assert run.input_len == round(export["input_sequence_length"]["avg"]) == 19


def test_genai_perf_rates_are_evenly_spaced(tmp_path):
    export = raw("genai-perf.json")
    export["input_config"]["perf_analyzer"]["stimulus"] = {"request_rate": 5.0}
    (tmp_path / "r.json").write_text(json.dumps(export))
    (reading,) = read_benchmarks(read_document(tmp_path / "r.json"))
    with pytest.raises(UnusableRun, match="Poisson"):
        complete(reading, KNOWN)


def test_a_csv_without_its_load_is_told_it():
    (reading,) = rows("aiperf-closed_aiperf.csv")
    with pytest.raises(Incomplete) as asked:
        complete(reading, KNOWN)
    assert asked.value.names == ("load",)
    run = complete(reading, {**KNOWN, "rate": 19.0})
    assert (run.regime, run.rate, run.batch) == ("open", 19.0, round(24 / 1.21 * 0.1861))
    assert times(run) == (23.95, 10.81, 186.10, 313.76)


# -- trtllm-bench ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trtllm-bench-closed.json", "trtllm-bench-closed.log"])
def test_trtllm_bench_closed_loop_is_seen_by_when_requests_were_submitted(name):
    report = raw("trtllm-bench-closed.json")
    run = complete(rows(name)[0], {})
    assert (run.regime, run.batch, run.input_len, run.output_len) == ("steady", 8, 512, 64)
    assert run.batch == math.ceil(report["request_info"]["avg_num_concurrent_requests"])
    assert run.ttft_ms == pytest.approx(report["streaming_metrics"]["avg_ttft_ms"], abs=1e-4)
    assert run.tpot_ms == pytest.approx(report["streaming_metrics"]["avg_tpot_ms"], abs=1e-4)
    assert run.e2e_ms == pytest.approx(report["performance"]["avg_request_latency_ms"], abs=1e-4)
    assert run.output_tok_s == pytest.approx(48 * 64 / report["performance"]["total_latency_ms"] * 1e3)
    assert (run.engine, run.engine_version, run.gpu, run.model) == ("tensorrt-llm", "1.1.0", "H100-SXM", LLAMA)
    assert (run.tp, run.pp, run.gpus, run.dtype, run.kv_dtype) == (2, 1, 2, "fp8", "fp8")
    assert (run.max_num_seqs, run.max_num_batched_tokens, run.gpu_memory_utilization) == (2048, 8192, None)


def test_trtllm_bench_at_once_beyond_its_batch_is_saturated():
    """3000 requests at once, of which 2048 run: the batch is the engine's, only the throughput says something."""
    text = (FOLDER / "trtllm-bench-at-once.log").read_text()
    run = complete(rows("trtllm-bench-at-once.log")[0], {})
    throughput = next(line.split()[-1] for line in text.splitlines() if line.startswith("Total Output Throughput"))
    assert (run.regime, run.batch, run.output_tok_s) == ("static", 0, float(throughput))
    assert times(run)[:3] == (None, None, None)


def test_trtllm_bench_without_machine_and_model(tmp_path):
    report = raw("trtllm-bench-closed.json")
    report["machine"] = None
    (tmp_path / "r.json").write_text(json.dumps(report))
    with pytest.raises(Incomplete) as asked:
        complete(read_benchmarks(read_document(tmp_path / "r.json"))[0], {})
    assert asked.value.names == ("gpu",)


# -- our own, and published ------------------------------------------------------------------------------------------

RUN = Measurement(
    run_id="mine/1",
    role="validate",
    source="me",
    gpu="H100-SXM",
    gpus=2,
    engine="vllm",
    model=LLAMA,
    dtype="bfloat16",
    tp=2,
    batch=8,
    input_len=100,
    output_len=10,
    e2e_ms=200.0,
)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_own_runs_are_taken_as_they_are_row_by_row(suffix, tmp_path):
    path = tmp_path / f"r{suffix}"
    good, bad = {name: value for name, value in asdict(RUN).items() if value is not None}, {}
    bad = {**good, "run_id": "mine/2", "e2e_ms": -1.0}
    if suffix == ".jsonl":
        path.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
    else:
        to_frame([RUN, replace(RUN, run_id="mine/2", e2e_ms=-1.0)]).to_csv(path, index=False)
    kept, left = read_benchmarks(read_document(path))
    assert complete(kept, {}) == RUN
    assert left.reason == "e2e_ms is -1.0; it must be from 1e-09 to 1e+12"
    assert left.where.startswith(f"r{suffix} line ")
    assert complete(kept, {"gpu": "H100", "tp": 2, "role": "validate"}) == RUN
    for wrong in ({"gpu": "A100"}, {"tp": 4}, {"role": "fit"}, {"model": "llama-13b"}):
        with pytest.raises(InputError, match=f"--{next(iter(wrong))} is"):
            complete(kept, wrong)


LONG = (
    "source,row_id,gpu,gpus,engine,engine_version,model,precision,tp,pp,batch,input_len,output_len,metric,value,"
    "throughput_scope,notes\n"
    f"docs,1,H100-SXM,2,TensorRT-LLM,0.9,{LLAMA},fp16,2,1,8,100,10,e2e_latency_s,0.2,,\n"
    f"docs,2,H100-SXM,2,TensorRT-LLM,0.9,{LLAMA},fp16,2,1,8,100,10,throughput_tok_s,4400,INPUT+OUTPUT,\n"
    f"docs,3,H100-SXM,2,TensorRT-LLM,0.9,{LLAMA},fp16,2,1,saturated,100,10,throughput_tok_s,900,output only,\n"
    f"docs,4,H100-SXM,2,Another,0.9,{LLAMA},fp16,2,1,8,100,10,e2e_latency_s,0.2,,\n"
    f"docs,5,H100-SXM,2,TensorRT-LLM,0.9,{LLAMA},fp16,2,1,9,100,10,e2e_latency_s,soon,,\n"
)


def test_published_benchmarks_row_by_row_and_by_the_folder(tmp_path):
    path = tmp_path / "docs_static.csv"
    path.write_text(LONG)
    found = read_benchmarks(read_document(path))
    runs = [complete(row, {}) for row in found if isinstance(row, ParsedRun)]
    assert runs == list(read_published(tmp_path).runs)
    assert [(run.batch, run.e2e_ms, run.output_tok_s) for run in runs] == [(8, 200.0, 400.0), (0, None, 900.0)]
    reasons = [row.reason for row in found if isinstance(row, SkippedFile)]
    assert reasons[0] == "engine Another is not known"
    assert "docs_static.csv line 6: could not convert string to float: 'soon'" in reasons[1]
    assert complete(found[0], {"role": "validate"}).role == "validate"  # the form has no roles


# -- loads -----------------------------------------------------------------------------------------------------------

LOAD = LoadGeneratorRun(
    completed=300,
    seconds=60.0,
    input_len=1000.4,
    output_len=100.0,
    ttft_ms=50.0,
    tpot_ms=10.0,
    e2e_ms=1040.0,
    output_tok_s=500.0,
    concurrency=5,
)


def test_a_load_is_one_of_three_regimes():
    assert LOAD.stated()["regime"] == "steady"
    assert LOAD.stated()["input_len"] == 1000
    opened = replace(LOAD, concurrency=None, rate=5.0).stated()
    assert (opened["regime"], opened["concurrency"]) == ("open", pytest.approx(300 / 60 * 1.04))
    assert replace(LOAD, concurrency=None, rate=5.0, e2e_ms=None).stated()["concurrency"] == pytest.approx(5 * 1.04)
    at_once = replace(LOAD, concurrency=None).stated()
    assert (at_once["regime"], at_once["e2e_ms"], "tpot_ms" in at_once) == ("static", 60_000.0, False)
    assert replace(LOAD, concurrency=300).stated() == at_once
    assert replace(LOAD, concurrency=16, rate=5.0, peak=9).stated()["regime"] == "open"  # the limit was never met


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"completed": 0}, "no request was completed"),
        ({"failed": 4}, "4 of its 304 requests failed$"),
        ({"failed": 4, "failure": "it was full"}, "4 of its 304 requests failed: it was full$"),
        ({"concurrency": 101}, "300 requests with 101 in flight are no steady state; at least 303 are needed"),
        ({"rate": 5.0}, "neither an open nor a closed loop"),
        ({"rate": 5.0, "peak": 8}, "neither an open nor a closed loop"),
        ({"rate": 5.0, "concurrency": None, "poisson": False}, "Poisson"),
        ({"rate": 5.0, "concurrency": None, "ttft_ms": None, "e2e_ms": None}, "no latency was measured"),
        ({"concurrency": None, "peak": 20}, "at most 20 of its 300 requests were in flight together"),
        ({"concurrency": None, "output_spread": 0.5}, "their lengths differ"),
    ],
)
def test_loads_that_are_none_say_why(change, said):
    with pytest.raises(UnusableRun, match=said):
        replace(LOAD, **change).stated()
    assert replace(LOAD, failed=3).stated() == LOAD.stated()  # one in a hundred may


def test_a_batch_is_of_one_replica_and_throughput_of_all():
    reading = rows("vllm-serve-closed.json")[0]
    run = complete(reading, {**KNOWN, "gpus": 4, "dp": 2})
    assert (run.batch, run.dp, run.gpus, run.output_tok_s) == (
        2,
        2,
        4,
        raw("vllm-serve-closed.json")["output_throughput"],
    )


def test_more_at_once_than_an_engine_surely_runs_is_saturated():
    reading = rows("vllm-serve-at-once.json")[0]
    assert complete(reading, {**KNOWN, "max_num_seqs": 6}).batch == 6
    full = complete(reading, {**KNOWN, "max_num_seqs": 5})
    assert (full.batch, full.e2e_ms, full.ttft_ms) == (0, None, None)
    assert full.output_tok_s == raw("vllm-serve-at-once.json")["output_throughput"]
    many = replace(reading, traffic=replace(reading.traffic, completed=257, peak=257))
    assert complete(many, KNOWN).batch == 0
    assert complete(many, {**KNOWN, "max_num_seqs": 512}).batch == 257


# -- what the user says ----------------------------------------------------------------------------------------------


def test_what_nobody_says_is_asked_for():
    with pytest.raises(Incomplete) as asked:
        complete(rows("vllm-serve-closed.json")[0], {})
    assert asked.value.names == ("engine", "gpu", "tp")
    with pytest.raises(Incomplete) as asked:
        complete(rows("vllm-latency.json")[0], {"model": "llama-3.1-8b", "gpu": "H100", "gpus": 1})
    assert asked.value.names == ("batch", "input_len", "output_len")


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("trtllm-bench-closed.json", {"tp": 4}, "--tp is 4, but trtllm-bench-closed.json says 2"),
        ("trtllm-bench-closed.json", {"gpu": "A100"}, "--gpu is A100, but .* says NVIDIA H100 80GB HBM3"),
        ("trtllm-bench-closed.json", {"dtype": "bfloat16"}, "--dtype is bfloat16, but .* says fp8"),
        ("trtllm-bench-closed.json", {"engine": "vllm"}, "--engine is vllm, but .* says tensorrt-llm"),
        ("trtllm-bench-closed.json", {"max_num_seqs": 64}, "--max-num-seqs is 64, but .* says 2048"),
        ("vllm-serve-closed.json", {**KNOWN, "model": "llama-13b"}, "--model is llama-13b, but .* says meta-llama"),
        ("vllm-serve-closed.json", {**KNOWN, "batch": 8}, "--batch is 8, but .* says 4"),
        ("vllm-serve-closed.json", {**KNOWN, "concurrency": 8}, "--concurrency is 8, but .* says 4"),
        ("vllm-serve-closed.json", {**KNOWN, "rate": 8.0}, "--rate is 8.0, but .* says none"),
        ("vllm-serve-open.json", {**KNOWN, "rate": 8.0}, "--rate is 8.0, but .* says 20"),
        ("vllm-serve-closed.json", {**KNOWN, "input_len": 64}, "--input-len is 64, but .* says 32"),
        ("vllm-serve-closed.json", {**KNOWN, "gpus": 4}, "tp x pp x dp is 2 x 1 x 1 = 2, but it ran on 4 GPUs"),
        ("vllm-serve-closed.json", {**KNOWN, "gpu": "H1000"}, 'unknown GPU "H1000"'),
    ],
)
def test_contradictions_are_refused(name, given, said):
    with pytest.raises(InputError, match=said):
        complete(rows(name)[0], given)


def test_what_agrees_may_be_said_twice():
    run = measured("trtllm-bench-closed.json")
    same = {
        "tp": 2,
        "gpus": 2,
        "gpu": "H100-SXM",
        "model": "llama-3.1-8b",
        "engine": "trtllm",
        "dtype": "fp8",
        "batch": 8,
        "concurrency": 8,
        "input_len": 520,
        "output_len": 64,
    }
    assert complete(rows("trtllm-bench-closed.json")[0], same) == run


def test_a_server_may_call_its_model_anything(tmp_path):
    result = {**raw("vllm-serve-closed.json"), "model_id": "prod"}
    (tmp_path / "r.json").write_text(json.dumps(result))
    (reading,) = read_benchmarks(read_document(tmp_path / "r.json"))
    assert complete(reading, KNOWN).model == LLAMA
    with pytest.raises(InputError, match=r'r\.json: unknown model "prod".* such as --model'):
        complete(reading, {name: KNOWN[name] for name in ("gpu", "tp", "engine")})


def test_settings_by_the_engines_names():
    assert settings({"--tensor-parallel-size": "4", "data_parallel_size": 2, "enable-expert-parallel": True}) == {
        "tp": 4,
        "dp": 2,
        "ep": 8,
    }
    assert settings({"quantization": "fp8", "dtype": "torch.bfloat16", "kv_cache_dtype": "fp8_e4m3"}) == {
        "dtype": "fp8",
        "compute_dtype": "bfloat16",
        "kv_dtype": "fp8",
    }
    assert settings({"enforce_eager": "True", "max_model_len": "auto", "max_num_seqs": None}) == {"compiled": False}
    for wrong in ({"speculative_config": "{}"}, {"enable_dp_attention": True}, {"gpu_memory_utilization": "most"}):
        with pytest.raises(UnusableRun):
            settings(wrong)
    for wrong in (
        {"decode_context_parallel_size": "8"},
        {"attn-cp-size": 2},
        {"all2all_backend": "deepep_low_latency"},
    ):
        with pytest.raises(UnusableRun, match="which the catalog's runs do not record"):
            settings(wrong)
    as_usual = {
        "decode_context_parallel_size": 1,
        "all2all_backend": "allgather_reducescatter",
        "moe_a2a_backend": "none",
    }
    assert settings(as_usual) == {}


def test_quantised_checkpoints_are_of_their_own_format(tmp_path):
    result = {**raw("vllm-serve-closed.json"), "model_id": "openai/gpt-oss-20b"}
    (tmp_path / "r.json").write_text(json.dumps(result))
    (reading,) = read_benchmarks(read_document(tmp_path / "r.json"))
    given = {name: KNOWN[name] for name in ("gpu", "tp", "engine")}
    assert complete(reading, given).dtype == "mxfp4"
    assert complete(reading, {**given, "dtype": "bfloat16"}).dtype == "bfloat16"


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean_ttft_ms": math.nan}, "mean_ttft_ms is nan; it must be a number from 0"),
        ({"mean_tpot_ms": -3.0}, "mean_tpot_ms is -3.0; it must be a number from 0"),
        ({"output_throughput": math.inf}, "output_throughput is inf"),
        ({"duration": 0}, "duration is 0"),
        ({"duration": "long"}, "duration is 'long'; it must be a number"),
        ({"completed": True}, "completed is True; it must be a number"),
        ({"total_input_tokens": None}, "total_input_tokens is missing"),
        ({"completed": 0}, "no request was completed"),
        ({"failed": 6}, "6 of its 18 requests failed"),
        ({"max_concurrency": 5}, "no steady state"),
        ({"spec_decode_acceptance_rate": 70.0}, "speculative decoding"),
        ({"ramp_up_strategy": "linear"}, "ramped up"),
        ({"mean_e2el_ms": 5.0}, "ttft_ms 21.1876 is longer than the whole run"),
    ],
)
def test_runs_that_cannot_be_used_say_why_and_leave_the_others(change, said, tmp_path):
    result = raw("vllm-serve-closed.json")
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(result) + "\n" + json.dumps({**result, **change}) + "\n")
    good, bad = read_benchmarks(read_document(path))
    assert complete(good, KNOWN).batch == 4
    if isinstance(bad, ParsedRun):
        with pytest.raises(UnusableRun, match=said):
            complete(bad, KNOWN)
    else:
        assert said in bad.reason
        assert bad.where == "r.jsonl line 2"


@pytest.mark.parametrize("name", ["start_times", "itls", "ttfts"])
@pytest.mark.parametrize("value", ["soon", None, math.nan, [[0.1]]])
def test_malformed_requests(name, value, tmp_path):
    result = raw("vllm-serve-detailed.json")
    result[name][3] = value
    (tmp_path / "r.json").write_text(json.dumps(result))
    (row,) = read_benchmarks(read_document(tmp_path / "r.json"))
    assert isinstance(row, SkippedFile)
    assert row.reason.startswith("request 4: ")


WRONG = (None, -1, 0, 1e308, math.nan, math.inf, "x", "", [], {}, [1], {"a": 1}, True, 10**400, "1e5", [None])


def places(value, path=()):
    """The way to everything in a JSON value; of long lists the first two."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value[:2]):
        yield (*path, key)
        if isinstance(each, (dict, list)):
            yield from places(each, (*path, key))


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json") and "appended" not in name])
def test_whatever_stands_in_a_file_has_one_of_the_answers(name):
    text = (FOLDER / name).read_text()
    random = Random(name)
    everywhere = list(places(json.loads(text)))
    for _ in range(25):
        value = json.loads(text)
        *path, last = random.choice(everywhere)
        part = value
        for key in path:
            part = part[key]
        part[last] = random.choice(WRONG)
        document = documents.BenchmarkFile(FOLDER / name, name, json.dumps(value))
        found = ()
        with suppress(InputError):
            found = read_benchmarks(document)
        for row in found:
            if isinstance(row, ParsedRun):
                with suppress(Incomplete, UnusableRun, InputError):
                    check_run(complete(row, given_for(row, name)), name)


def refusal(path, data, **options):
    path.write_bytes(data)
    with pytest.raises(InputError) as found:
        read_benchmarks(read_document(path), **options)
    message = str(found.value)
    assert "\n" not in message
    return message


def test_files_that_are_no_benchmarks(tmp_path, monkeypatch):
    whole = (FOLDER / "vllm-serve-closed.json").read_bytes()
    path = tmp_path / "r.json"
    assert refusal(path, whole[:300]).startswith("r.json is not JSON: ")
    assert refusal(path, whole[:300]).endswith("was it cut off?")
    assert refusal(path, b"") == "r.json is empty"
    assert refusal(path, b" \n") == "r.json is empty"
    assert refusal(path, whole.decode().encode("utf-16")) == "r.json is not UTF-8 text"
    assert refusal(path, b"\x80\x04\x95").endswith("is not UTF-8 text")
    assert "is not JSON: maximum recursion depth exceeded" in refusal(path, b"[" * 100_000)
    for other in (b"{}", b"[]", b"[1, 2]", b"7", b"hello", b"a,b\n1,2\n", b'{"latencies": []}', b'"x'):
        assert "r.json is no benchmark that is known; these are: " in refusal(path, other)
    assert refusal(path, whole, chosen="guidellm") == (
        "r.json is not of the format guidellm (GuideLLM, JSON or CSV); it is vllm-serve"
    )
    with pytest.raises(InputError, match="unknown format 'guidelm'; closest: guidellm; formats: auto, runs"):
        find_format("guidelm")
    monkeypatch.setattr(documents, "MOST_BYTES", 100)
    assert refusal(path, whole).startswith("r.json has 0 MiB, more than")
    with pytest.raises(InputError, match=r"cannot read .*none\.json: No such file"):
        read_document(tmp_path / "none.json")


def test_a_last_line_that_was_cut_off_leaves_the_others(tmp_path):
    path = tmp_path / "r.jsonl"
    text = (FOLDER / "sglang.jsonl").read_text()
    path.write_text(text[:-200])
    *kept, cut = read_benchmarks(read_document(path))
    assert [row.where for row in kept] == ["r.jsonl line 1", "r.jsonl line 2"]
    assert cut == SkippedFile("r.jsonl line 3", "it was cut off")
    path.write_text(text.replace('"tag"', "tag", 2).replace("tag", '"tag"', 1))
    with pytest.raises(InputError, match="is not JSON"):
        read_benchmarks(read_document(path))


def test_a_byte_order_mark_and_a_csv_of_a_spreadsheet(tmp_path):
    path = tmp_path / "r.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (FOLDER / "vllm-sweep.csv").read_bytes().replace(b"\n", b"\r\n"))
    assert len(read_benchmarks(read_document(path))) == 8
    path.write_text((FOLDER / "vllm-sweep.csv").read_text() + '"open')
    with pytest.raises(InputError, match="is not CSV"):
        read_benchmarks(read_document(path))


def test_chosen_formats_and_all_that_are_recognised():
    document = read_document(FOLDER / "sglang.jsonl")
    assert recognised(document).name == "sglang"
    assert [run_id(row) for row in read_benchmarks(document, " SGLang ")] == [
        run_id(row) for row in read_benchmarks(document)
    ]
    elsewhere = {"runs", "published", "closed-loops", "inference-perf", "llmperf"}  # without a file in the folder
    assert set(FORMAT_OF.values()) | elsewhere == {each.name for each in FORMATS}


def test_readings_state_fields_of_measurements():
    extra = {"concurrency", "total_len", "compute_dtype"}
    for name in FILES:
        for row in rows(name):
            if isinstance(row, ParsedRun):
                assert row.stated.keys() <= FIELDS | extra


# -- files of other versions and programs ----------------------------------------------------------------------------

GIVEN = {"gpu": "H100-SXM", "gpus": 1, "tp": 1, "model": "llama-3.1-8b", "engine": "vllm", "engine_version": "0.11.0"}


def imported(value, folder):
    path = folder / "results.json"
    path.write_text(json.dumps(value))
    (reading,) = read_benchmarks(read_document(path))
    return complete(reading, GIVEN)


def test_an_older_guidellm_report_is_read(tmp_path):
    """GuideLLM 0.2: no metadata, totals and arguments beside the metrics, the model in the worker."""

    def of(mean):
        return {"successful": {"mean": mean, "std_dev": 0.0}}

    run = {
        "id_": "a", "args": {"strategy": {"type_": "synchronous"}}, "worker": {"backend_model": "m"}, "duration": 29.7,
        "request_totals": {"successful": 46, "errored": 0, "incomplete": 1, "total": 47},
        "metrics": {
            "request_latency": of(0.6445), "prompt_token_count": of(257.1), "output_token_count": of(128.0),
            "time_to_first_token_ms": of(16.79), "inter_token_latency_ms": of(4.94), "output_tokens_per_second": of(198.1),
        },
    }  # fmt: skip
    found = imported({"benchmarks": [run]}, tmp_path)
    assert (found.regime, found.batch, found.input_len, found.output_len) == ("steady", 1, 257, 128)
    assert times(found) == pytest.approx((16.79, 4.94, 644.5, 198.1))


INFERENCE_PERF = {
    "load_summary": {"count": 5531, "send_duration": 59.97, "requested_rate": 92.19, "achieved_rate": 92.22},
    "successes": {
        "count": 5531,
        "latency": {
            "request_latency": {"mean": 1.02127}, "time_per_output_token": {"mean": 0.0075},
            "time_to_first_token": {"mean": 0.05055}, "inter_token_latency": {"mean": 0.0075},
        },
        "throughput": {"output_tokens_per_sec": 5693.9, "requests_per_sec": 91.36},
        "prompt_len": {"mean": 204.1}, "output_len": {"mean": 62.325},
    },
    "failures": {"count": 0, "request_latency": None},
}  # fmt: skip


def test_an_inference_perf_stage_is_an_open_loop(tmp_path):
    found = imported(INFERENCE_PERF, tmp_path)
    assert (found.regime, found.rate, found.input_len, found.output_len) == ("open", 92.19, 204, 62)
    assert times(found) == pytest.approx((50.55, 15.83, 1021.27, 5693.9), rel=1e-3)
    assert found.batch == round(91.36 * 1.02127)


def test_an_llmperf_summary_is_a_closed_loop(tmp_path):
    summary = {
        "version": "2023-08-31", "name": "llama_550_150_summary", "model": "meta-llama/Meta-Llama-3.1-8B",
        "num_concurrent_requests": 8, "results_num_completed_requests": 160, "results_number_errors": 0,
        "results_num_completed_requests_per_minute": 96.0, "results_ttft_s_mean": 0.2,
        "results_end_to_end_latency_s_mean": 4.7, "results_inter_token_latency_s_mean": 0.031,
        "results_number_input_tokens_mean": 550.4, "results_number_output_tokens_mean": 151.0,
        "results_number_output_tokens_stddev": 5.0, "results_mean_output_throughput_token_per_s": 241.6,
    }  # fmt: skip
    found = imported(summary, tmp_path)
    assert (found.regime, found.batch, found.input_len, found.output_len) == ("steady", 8, 550, 151)
    assert times(found) == pytest.approx((200.0, 30.0, 4700.0, 241.6))


@pytest.mark.parametrize(
    ("stated", "refused"),
    [
        ("zai-org/GLM-5-FP8", True),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", True),
        ("RedHatAI/Meta-Llama-3.1-8B-FP8-dynamic", False),
        ("my-own-finetune-3", False),
        ("m", False),
    ],
)
def test_a_file_of_another_model_s_form_is_refused(stated, refused, tmp_path):
    path = tmp_path / "results.json"
    served = json.loads((FOLDER / "vllm-serve-closed.json").read_text())
    path.write_text(json.dumps(served | {"model_id": stated}))
    (reading,) = read_benchmarks(read_document(path))
    if refused:
        with pytest.raises(InputError, match=f"--model is llama-3.1-8b, but results.json says {stated}"):
            complete(reading, GIVEN)
    else:
        assert complete(reading, GIVEN).model == LLAMA
