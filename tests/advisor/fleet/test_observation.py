"""``advisor.observe``: an engine's own metrics, parsed as Prometheus has them, beside what was predicted."""

import http.server
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

import advisor
from advisor.fleet.metric_samples import Counted, read_page
from advisor.render.formats import as_json
from catalog.engines import find_engine
from catalog.errors import InputError
from catalog.schema import Deployment, Slo, Workload

prometheus_client = pytest.importorskip("prometheus_client")
jsonschema = pytest.importorskip("jsonschema")
SCHEMAS = Path(__file__).parents[3] / "docs" / "reference" / "schemas"

RATE, SECONDS = 10.0, 600.0
NAMES = {
    "vllm": ("vllm:", "vllm:request_success", "vllm:request_time_per_output_token_seconds"),
    "sglang": ("sglang:", "sglang:num_requests", "sglang:inter_token_latency_seconds"),
    "tensorrt-llm": ("trtllm_", "trtllm_request_success", "trtllm_time_per_output_token_seconds"),
}


@pytest.fixture(scope="module")
def predicted():
    workload = Workload(input_len=512, output_len=128, rate=RATE)
    return advisor.simulate(
        "llama-3.1-8b", "H100", workload=workload, spread=1.0, runs=None, duration_s=SECONDS, draws=0
    ).served


def page(served, *, factor=1.0, engine="vllm", model="m", started=1_000_000.0):
    """What an engine shows that served these requests, so many times as slowly."""
    prefix, finished, tpot = NAMES[engine]
    registry = prometheus_client.CollectorRegistry()
    label = find_engine(engine).metrics.label
    ends = [*np.geomspace(1e-3, 100.0, 120)]

    def histogram(name, values):
        made = prometheus_client.Histogram(name, name, [label], registry=registry, buckets=ends).labels(model)
        for value in values:
            made.observe(value)

    def counter(name, value):
        prometheus_client.Counter(name, name, [label], registry=registry).labels(model).inc(value)

    histogram(f"{prefix}time_to_first_token_seconds", factor * 1e-3 * served.ttft_ms)
    histogram(tpot, factor * 1e-3 * served.tpot_ms[~np.isnan(served.tpot_ms)])
    histogram(f"{prefix}e2e_request_latency_seconds", factor * 1e-3 * served.e2e_ms)
    counter(finished, len(served))
    counter(f"{prefix}prompt_tokens", float(served.input_len.sum()))
    counter(f"{prefix}generation_tokens", float(served.output_len.sum()))
    prometheus_client.Gauge("process_start_time_seconds", "", registry=registry).set(started)
    return prometheus_client.generate_latest(registry).decode()


def observed(path, **options):
    given = {"deployment": Deployment(engine="vllm"), "runs": None} | options
    return advisor.observe(str(path), "llama-3.1-8b", "H100", **given)


def written(folder, text, at_s=1_000_000.0 + SECONDS, name="now.txt"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    os.utime(path, (at_s, at_s))
    return path


def test_what_runs_as_predicted_has_not_drifted(predicted, tmp_path):
    answer = observed(written(tmp_path, page(predicted)))
    assert answer.rate == pytest.approx(len(predicted) / SECONDS)
    assert answer.input_len == pytest.approx(predicted.input_len.mean())
    assert not answer.drifted
    assert all(comparison.factor == pytest.approx(1.0, abs=0.12) for comparison in answer.comparisons)
    assert answer.advice == ()
    assert answer.run.regime == "open"
    assert answer.run.tpot_ms == pytest.approx(predicted.mean("tpot_ms"), rel=1e-6)
    schema = json.loads((SCHEMAS / "observation-1.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(as_json(answer.to_dict())), schema)


def test_what_is_slower_has_drifted_and_is_told_to_be_taken_over(predicted, tmp_path):
    answer = observed(written(tmp_path, page(predicted, factor=2.5)), slo=Slo(tpot_ms=1.5 * predicted.mean("tpot_ms")))
    assert answer.drifted
    assert any("drifted" in line for line in answer.advice)
    assert set(answer.missed) == {"tpot_ms"}
    assert any("advisor plan" in line for line in answer.advice)


def test_only_what_came_between_two_looks_counts(predicted, tmp_path):
    text = page(predicted)
    before = written(tmp_path, text, at_s=2_000_000.0, name="before.txt")
    with pytest.raises(InputError, match="0 requests were answered"):
        observed(written(tmp_path, text, at_s=2_000_100.0), before=str(before))


def test_files_that_were_copied_do_not_say_how_long_requests_were_counted(predicted, tmp_path):
    before = written(tmp_path, "", at_s=2_000_000.0, name="before.txt")
    with pytest.raises(InputError, match=r"written 0\.005 s apart.*cp -p"):
        observed(written(tmp_path, page(predicted, started=0.0), at_s=2_000_000.005), before=str(before))


def test_a_server_is_read_over_http_and_prometheus_by_a_query(predicted):
    texts = {"now": page(predicted)}
    scrape = read_page(texts["now"], 0.0)
    empty = {"status": "success", "data": {"result": []}}
    rows = [
        {"metric": {"__name__": name, **dict(labels)}, "value": [0, str(value)]}
        for name, values in scrape.samples.items()
        for labels, value in values.items()
    ]
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = texts["now"]
            if self.path.startswith("/api"):
                first = sum(path.startswith("/api") for path in asked) == 1
                body = json.dumps(empty if first else {"status": "success", "data": {"result": rows}})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        answer = observed(address, seconds=SECONDS)
        assert answer.rate == pytest.approx(len(predicted) / SECONDS, rel=0.01)
        with pytest.raises(InputError, match="0 requests were answered"):
            observed(f"{address}/metrics", seconds=0.1, wait=lambda _: None)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("engine", sorted(NAMES))
def test_every_engine_s_names_are_read(predicted, engine):
    metrics = find_engine(engine).metrics
    counted = Counted(
        begin=None, end=read_page(page(predicted, engine=engine), 1_000_600.0), label=metrics.label, model="m"
    )
    assert counted.increase(metrics.finished) == len(predicted)
    assert counted.mean(metrics.ttft) == pytest.approx(1e-3 * predicted.mean("ttft_ms"), rel=1e-6)
    assert counted.percentile(metrics.e2e, 95.0) == pytest.approx(1e-3 * predicted.percentile("e2e_ms", 95.0), rel=0.06)
    assert counted.seconds == pytest.approx(600.0)
    other = Counted(begin=None, end=counted.end, label=metrics.label, model="another")
    assert other.increase(metrics.finished) == 0


def test_a_counter_that_began_anew_counts_from_nothing():
    pages = ["# TYPE a counter\na_total 7\n", "# TYPE a counter\na_total 3\n"]
    first, second = (read_page(text, float(at)) for at, text in enumerate(pages))
    assert Counted(begin=first, end=second, label="", model="").increase("a_total") == 3.0


@pytest.mark.parametrize("text", ["a{", "<html>", "x y z", "vllm:a{le=} 1"])
def test_what_are_no_metrics_is_refused_in_a_line(tmp_path, text):
    path = tmp_path / "metrics.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        observed(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://127.0.0.1:9/metrics", "nobody answers"),
        ("http://127.0.0.1:9", "nobody answers"),
        ("nowhere.txt", "cannot be read"),
        ("http://user:secret@host/metrics", "user or password"),
    ],
)
def test_sources_that_are_none_are_refused_in_a_line(source, message):
    with pytest.raises(InputError, match=message) as refused:
        observed(source)
    assert "secret" not in str(refused.value)
