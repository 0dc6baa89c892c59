"""Alert rules and dashboards: what Prometheus and Grafana read, with the numbers of the answer."""

import json
from pathlib import Path

import pytest
import yaml

import advisor
from advisor.recommendation.launch_command import EXPORT_FORMATS
from catalog.engines import find_engine

SCHEMAS = json.loads(
    (Path(__file__).parents[2] / "catalog" / "platform_schemas" / "noted.json").read_text(encoding="utf-8")
)["$defs"]
QUESTIONS = (
    ("llama-2-13b", "4xA100", {"tpot": "50ms"}),
    ("llama-3.1-8b", "1xH100", {}),
    ("llama-3.1-8b", "1xL4", {"ttft": "2s", "tpot": "100ms"}),
    ("llama-3.1-8b", "1xH100", {"engine": "sglang"}),
    ("llama-3.1-8b", "1xH100", {"engine": "tensorrt-llm", "tpot": "40ms"}),
    ("qwen3-30b-a3b", "2xH100", {"use": "chat"}),
    ("llama-3.3-70b", "8xH200", {"use": "rag"}),
    ("mixtral-8x7b", "4xMI300X", {}),
    ("gpt-oss-120b", "2xB200", {"e2e": "20s"}),
    ("qwen2.5-14b", "1xH100", {"dtypes": "fp8"}),
)
"""Ten recommendations."""


@pytest.fixture(scope="module")
def answers():
    kept = {}

    def answer(index):
        if index not in kept:
            model, gpus, asked = QUESTIONS[index]
            kept[index] = advisor.recommend(model, gpus, runs=[], **asked)
        return kept[index]

    return answer


def check(body, kind):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(SCHEMAS[kind]).validate(body)


def parsed(query):
    return pytest.importorskip("promql_parser").parse(query)


@pytest.mark.parametrize("index", range(len(QUESTIONS)))
def test_prometheus_and_grafana_read_them(answers, index):
    answer = answers(index)
    rules = yaml.safe_load(advisor.export(answer, "prometheus"))
    check(rules, "PrometheusRules")
    board = json.loads(advisor.export(answer, "grafana"))
    check(board, "GrafanaDashboard")
    queries = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    queries += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for query in queries:
        parsed(query)
    names = [rule["alert"] for rule in rules["groups"][0]["rules"] if "alert" in rule]
    assert len(names) == len(set(names)) >= 3
    limited = {f"{name}LimitMissed" for name in _limited(answer.slo)}
    assert {name for name in names if name.endswith("LimitMissed")} == limited


def _limited(slo):
    if slo.ttft_ms is not None:
        yield "TimeToFirstToken"
    if slo.tpot_ms is not None:
        yield "TimePerOutputToken"


def test_the_numbers_are_those_of_the_answer(answers):
    best = answers(0).best
    rules = yaml.safe_load(advisor.export(answers(0), "prometheus"))["groups"][0]["rules"]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    _, high = best.interval("ttft_ms")
    above = alerts["TimeToFirstTokenAbovePrediction"]["expr"]
    assert f"> {high / 1e3:.3g} and" in above
    assert above.endswith(f"<= {best.running}")
    assert "> 0.05" in alerts["TimePerOutputTokenLimitMissed"]["expr"]
    board = json.loads(advisor.export(answers(0), "grafana"))
    lines = [target["expr"] for target in board["panels"][1]["targets"]]
    low, high = best.interval("tpot_ms")
    assert lines[1:] == [f"vector({value / 1e3:.3g})" for value in (best.tpot_ms, low, high)] + ["vector(0.05)"]


@pytest.mark.parametrize("index", [0, 3, 4])
def test_metrics_are_the_engines_own(answers, index):
    answer = answers(index)
    metrics = find_engine(answer.engine).metrics
    text = advisor.export(answer, "prometheus")
    for name in (metrics.ttft, metrics.tpot, metrics.kv_cache):
        assert name in text
    assert metrics.enabled_by in text
    assert (metrics.running in text) if metrics.running else "MoreRequests" not in text


def test_a_load_is_needed():
    with pytest.raises(advisor.InputError, match="a bare Deployment does not"):
        advisor.export(advisor.Deployment(), "grafana", model="llama-13b", gpus="1xH100")
    estimate = advisor.estimate("llama-3.1-8b", "1xH100", engine="lmdeploy", batch=8, input_len=512, output_len=64)
    with pytest.raises(advisor.InputError, match="no Prometheus metrics of lmdeploy are known"):
        advisor.export(estimate, "prometheus")


def test_formats_are_those_that_are_documented():
    text = advisor.export.__doc__ + (Path(__file__).parents[3] / "docs" / "guides" / "export.md").read_text(
        encoding="utf-8"
    )
    assert [name for name in EXPORT_FORMATS if f'"{name}"' not in text or f"`{name}`" not in text] == []
