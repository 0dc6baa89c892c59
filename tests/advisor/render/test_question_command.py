"""The command beside an answer asks what was asked: read by the command line, it has the same keywords."""

import inspect
import shlex

import pytest
from typer.testing import CliRunner

import advisor
from advisor.cli import app
from advisor.cli.program import BAD_INPUT
from advisor.prediction.demand import PERCENTILE, QuestionFlags, read_demand
from advisor.render.question_command import CLASSES_FILE, question_command
from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.yaml_files import read_yaml

MODEL = "meta-llama/Meta-Llama-3.1-8B"
CLASSES = {
    "classes": [
        {"name": "chat, urgent", "share": 0.8, "input_len": 1200, "priority": -1, "ttft": 1000.0},
        {"name": "it's batch", "share": 0.2, "input_len": 12_000, "spread": 0.4, "e2e": 300_000.0},
    ]
}
DEPLOYMENT = advisor.Deployment(
    engine="sglang",
    dtype="fp8",
    kv_dtype="fp8",
    max_num_seqs=64,
    max_num_batched_tokens=4096,
    max_model_len=20_000,
    gpu_memory_utilization=0.85,
    kv_offload="cpu=200GB,disk=2TB@6GB/s",
    adapters=advisor.Adapters(number=200, rank=32, max_loras=8, max_cpu_loras=64, skew=0.5),
)
PLANS = [
    {"workload": advisor.Workload(rate=20.0), "slo": advisor.Slo(ttft_ms=500.0, percentile=95.0), "price": {"": 2.5}},
    {
        "workload": advisor.Workload(input_len=300, output_len=40, rate=1 / 3),
        "slo": advisor.Slo(tpot_ms=40.0, e2e_ms=1e4, percentile=None),
        "objective": "gpus",
        "confidence": 0.75,
        "headroom": 0.2,
        "spares": 1,
        "spread": 0.1 + 0.2,
        "burstiness": 2.345678901,
        "router": "prefix_aware",
        "shared_prefix": 512,
        "num_prefixes": 4,
        "turns": 5,
        "think_time": 12.5,
        "search_budgets": True,
        "price": {"H100-SXM": 2.0, "RTX 4090": 0.5},
    },
    {
        "deployment": DEPLOYMENT,
        "workload": advisor.Workload(rate=1.0),
        "slo": advisor.Slo(ttft_ms=9.0, percentile=99.0),
    },
    {
        "workload": advisor.Workload(rate=12.0),
        "slo": advisor.Slo(),
        "classes": CLASSES,
        "scheduling_policy": "priority",
        "disaggregate": True,
        "kv_link_gbps": 50.0,
    },
    {
        "workload": advisor.Workload(rate=12.0),
        "slo": advisor.Slo(ttft_ms=500.0, percentile=95.0),
        "speculate": "draft:meta-llama/Llama-3.2-1B",
        "draft_len": 3,
        "acceptance": 0.7,
        "images": 2,
        "image_size": "720x1280",
    },
]
RECOMMENDATIONS = [
    {"workload": advisor.Workload(), "slo": advisor.Slo(), "price": 2.5, "objective": "cost"},
    {
        "workload": advisor.Workload(input_len=77, concurrency=64),
        "slo": advisor.Slo(tpot_ms=30.0, e2e_ms=2e4),
        "engine": "sglang",
        "engine_version": "0.5",
        "dtypes": "any",
        "kv_dtypes": "fp8",
        "max_batch": 128,
        "max_num_batched_tokens": 4096,
        "max_model_len": 9000,
        "gpu_memory_utilization": 0.8,
        "kv_offload": "cpu=100GB",
        "router": "session_sticky",
        "shared_prefix": 100,
        "turns": 3,
        "speculate": "auto",
    },
]


def meaning(function, model, gpus, **keywords):
    """What is asked: keywords that differ from those that nobody states, workload and limits as they are read."""
    usual = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    stated = {name: value for name, value in keywords.items() if value is not None and name != "progress"}
    flags = {name: stated.pop(name) for name in list(stated) if name in QuestionFlags.__annotations__}
    plans = "rate" in usual
    demand = read_demand(
        stated.pop("workload", None),
        stated.pop("slo", None),
        flags,
        percentile=PERCENTILE if plans else None,
        turns=stated.get("turns", 1),
    )
    rate = stated.pop("rate", demand.workload.rate)
    if "deployment" in stated and stated["deployment"] == advisor.Deployment():
        del stated["deployment"]
    for name in ("dtypes", "kv_dtypes", "max_num_batched_tokens"):
        if isinstance(stated.get(name), list):
            (stated[name],) = stated[name]
    rest = {name: value for name, value in stated.items() if value != usual.get(name)}
    limits = demand.slo if demand.slo.limits else None
    names = gpus if isinstance(gpus, str) else ",".join(gpus)
    return (
        find_model(model).value.name,
        names,
        rate,
        demand.workload.input_len,
        demand.workload.output_len,
        (demand.workload.concurrency),
        limits,
        demand.images,
        demand.image_size,
        demand.think_s,
        rest,
    )


def asked_on_the_command_line(name, text, monkeypatch):
    """The meaning of a command, at the place where its function would be called."""
    caught = []

    def catch(*arguments, **keywords):
        caught.append((arguments, keywords))
        raise InputError("caught")

    where = {"plan": "advisor.capacity.capacity_plan", "recommend": "advisor.recommendation.recommendation"}[name]
    function = getattr(advisor, name)
    monkeypatch.setattr(f"{where}.{name}", catch)
    program, *words = shlex.split(text.replace("\\\n", " "), comments=True)
    assert program == "advisor"
    result = CliRunner().invoke(app, words)
    assert result.exit_code == BAD_INPUT, result.output
    assert "caught" in result.stderr
    ((arguments, keywords),) = caught
    return meaning(function, *arguments, **keywords)


@pytest.mark.parametrize("question", PLANS)
def test_a_plan_is_asked_again(question, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    gpus = ("2xH100-SXM", "H200-SXM")
    text = question_command("plan", find_model(MODEL).value, ",".join(gpus), question)
    expected = meaning(advisor.plan, MODEL, gpus, **question)
    if "classes" in question:
        head, _, text = text.partition("\nEOF\n")
        first, _, content = head.partition("\n")
        assert first == f"cat > {CLASSES_FILE} <<'EOF'"
        (tmp_path / CLASSES_FILE).write_text(content)
        assert read_yaml(CLASSES_FILE, "classes") == CLASSES
        expected[-1]["classes"] = CLASSES_FILE
    assert asked_on_the_command_line("plan", text, monkeypatch) == expected


@pytest.mark.parametrize("question", RECOMMENDATIONS)
def test_a_recommendation_is_asked_again(question, monkeypatch):
    text = question_command("recommend", find_model(MODEL).value, "4xH100-SXM", question, comment="and nothing else")
    assert text.endswith("# and nothing else")
    expected = meaning(advisor.recommend, MODEL, "4xH100-SXM", **question)
    assert asked_on_the_command_line("recommend", text, monkeypatch) == expected
