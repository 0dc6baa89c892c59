"""Measuring a running server: a stand-in for the server, and a script that writes GuideLLM's recorded report for GuideLLM.

The script's figures are a server's that does 50 requests a second at most, and takes 0.1 s for one alone.
"""

import json
import re
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import advisor
from advisor.benchmarking import endpoint_session
from advisor.benchmarking.benchmark_plan import ProbeQuestion
from advisor.benchmarking.endpoint_session import LADDER, prepare_endpoint
from advisor.cli import app
from catalog.errors import InputError
from catalog.runs import check_run, read_runs
from tests.standin_server import Pace, serving

pytestmark = pytest.mark.process

RECORDED = Path(__file__).parents[2] / "catalog" / "benchmarks" / "guidellm-closed.json"
MODEL = "meta-llama/Llama-3.1-8B"
FACTS = {"gpus": "2xH100", "tp": [1], "engine": "vllm", "input_len": [32], "output_len": [16]}


def prepared(url, *, batch=(), **session):
    """A session with the server, of what ``FACTS`` say."""
    question = ProbeQuestion(tp=(1,), input_len=(32,), output_len=(16,), batch=batch)
    return prepare_endpoint(url, "llama-3.1-8b", FACTS["gpus"], question=question, engine=FACTS["engine"], **session)


SCRIPT = """
import json, os, sys, uuid
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
def settings(name):
    return dict(part.split("=", 1) for part in options[name].split(","))
profile, report = settings("--profile"), json.load(open(RECORDED))
with open(os.environ["CALLS"], "a") as calls:
    calls.write(options["--profile"] + "\\n")
if options["--profile"] in os.environ.get("FAILING", "").split(";"):
    sys.exit("the server went away")
seconds = float(settings("--constraint")["seconds"])
streams = int(profile.get("streams", 0))
rate = float(profile["rate"]) if "rate" in profile else min(10.0 * streams, 50.0)
latency = max(0.1, streams / rate)
benchmark = report["benchmarks"][0]
config, metrics = benchmark["config"], benchmark["metrics"]
config["id_"] = str(uuid.uuid4())
config["backend"]["model"] = settings("--backend")["model"]
config["strategy"] = {"type_": "concurrent", "streams": streams} if streams else {"type_": "poisson", "rate": rate}
benchmark["duration"], benchmark["requests"]["successful"] = seconds, []
metrics["request_concurrency"]["successful"]["max"] = streams or 50
metrics["request_totals"] |= {"successful": int(rate * seconds), "errored": 0}
for name, value in (("request_latency", latency), ("time_to_first_token_ms", 200 * latency),
                    ("inter_token_latency_ms", 800 * latency / 15), ("output_token_count", 16),
                    ("prompt_token_count", 32), ("output_tokens_per_second", 16 * rate)):
    metrics[name]["successful"]["mean"] = value
json.dump(report, open(settings("--output")["path"], "w"))
"""


@pytest.fixture(scope="module")
def server():
    """The address of a server that serves ``MODEL``."""
    with serving(Pace(), model=MODEL) as url:
        yield url


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The profiles that GuideLLM was run with, as a function."""
    path = tmp_path / "bin" / "guidellm"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nRECORDED = {str(RECORDED)!r}\n{SCRIPT}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(path.parent))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return lambda: (tmp_path / "calls").read_text().split()


def measured(server, **changes):
    return advisor.probe("llama-3.1-8b", endpoint=server, **FACTS | {"budget_s": None} | changes)


def test_closed_loops_until_no_more_comes_out_then_poisson(server, calls, home):
    runs = measured(server)
    # 2 replicas: 2 and 8 in flight give 20 and 50 requests a second, 32 no more
    assert calls() == [
        *(f"kind=concurrent,streams={count}" for count in (2, 8, 32)),
        "kind=poisson,rate=25.0",
        "kind=poisson,rate=40.0",
    ]
    assert [(run.regime, run.batch, run.rate) for run in runs[:3]] == [
        ("steady", 1, None),
        ("steady", 4, None),
        ("steady", 16, None),
    ]
    assert [(run.regime, run.rate) for run in runs[3:]] == [("open", 25.0), ("open", 40.0)]
    assert runs[1].output_tok_s == 800.0
    for run in runs:
        check_run(run, run.run_id)
        assert (run.gpu, run.gpus, run.tp, run.dp, run.engine) == ("H100-SXM", 2, 1, 2, "vllm")
        assert (run.model, run.input_len, run.output_len) == ("meta-llama/Meta-Llama-3.1-8B", 32, 16)
    assert list(read_runs(home / "runs" / "probe.jsonl")) == runs


def test_what_was_measured_before_is_not_again(server, calls):
    before = measured(server)
    count = len(calls())
    assert measured(server) == before
    assert len(calls()) == count
    measured(server, output_len=[17])  # something else
    assert len(calls()) == 2 * count


def test_a_load_that_fails_ends_the_rise_and_keeps_the_rest(server, calls, home, monkeypatch):
    monkeypatch.setenv("FAILING", "kind=concurrent,streams=8")
    runs = measured(server)
    assert [run.regime for run in runs] == ["steady", "open", "open"]
    assert len(read_runs(home / "runs" / "probe.jsonl")) == 3
    monkeypatch.setenv("FAILING", "")
    assert [run.rate for run in measured(server)] == [None, None, None, 25.0, 40.0]
    assert calls().count("kind=concurrent,streams=2") == 1


def test_nothing_measured_is_said_with_the_reason(server, calls, monkeypatch):
    monkeypatch.setenv("FAILING", "kind=concurrent,streams=2")
    with pytest.raises(InputError, match="nothing was measured: closed-2: GuideLLM failed: the server went away"):
        measured(server)
    assert len(calls()) == 1


def test_batches_that_are_named_are_all_measured(server, calls):
    assert [run.batch for run in measured(server, batch=[8, 32])[:2]] == [8, 32]
    assert calls()[:2] == ["kind=concurrent,streams=16", "kind=concurrent,streams=64"]


def test_a_budget_that_is_too_short_runs_nothing(server, calls, tmp_path):
    with pytest.raises(InputError, match="closed-2: the budget leaves it no time"):
        measured(server, budget_s=20)
    assert not (tmp_path / "calls").exists()
    assert calls


def test_a_short_budget_keeps_room_for_poisson_arrivals(server, calls):
    ready = prepared(server, budget_s=160)
    outcome = ready.run()
    # what the script takes shows that start-up is short: then there is time for everything
    assert [run.regime for run in outcome.runs] == ["steady"] * 3 + ["open"] * 2
    assert not outcome.left_out
    assert len(calls()) == 5


def test_loads_for_which_no_time_is_left_are_named_and_taken_up_by_the_next_run(server, calls, monkeypatch):
    passed = [0.0]
    monkeypatch.setattr(endpoint_session, "time", SimpleNamespace(monotonic=lambda: passed[0]))
    made = endpoint_session.make_traffic

    def slow(*given, seconds, **limits):
        passed[0] += seconds + 25
        return made(*given, seconds=seconds, **limits)

    monkeypatch.setattr(endpoint_session, "make_traffic", slow)
    outcome = prepared(server, budget_s=60).run()
    assert [run.batch for run in outcome.runs] == [1]
    late = [f"closed-{count}" for count in (8, 32, 128, 512)] + ["poisson-10", "poisson-16"]
    assert outcome.left_out == [f"{name}: the budget leaves it no time" for name in late]
    again = prepared(server, budget_s=None).run()
    assert again.left_out == []
    assert (again.runs[0], again.new) == (outcome.runs[0], len(again.runs) - 1)
    assert calls().count("kind=concurrent,streams=2") == 1


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (1000, "3000 requests with 2000 in flight are no steady state"),
        (2000, "too few of its requests were completed"),  # they look as if they had all come at once
    ],
)
def test_too_few_requests_are_no_run_and_leave_no_report(server, calls, batch, said):
    ready = prepared(server, batch=(batch,), budget_s=None)
    outcome = ready.run()  # 50 requests a second for 60 s
    assert outcome.runs == []
    assert said in outcome.left_out[0]
    assert len(calls()) == 1
    assert not list(ready.folder.glob("*.json"))
    assert not ready.store.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tp": []}, "does not say its tensor parallel size; add for example --tp 2"),
        ({"engine": None}, "does not say which engine it is; add for example --engine vllm"),
        ({"gpus": "local"}, "a server does not tell what it runs on, name it: --gpus 4xH100"),
        ({"tp": [4]}, "take 4 GPUs, but --gpus names 2"),
        ({"tp": [1, 2]}, "--tp has 2 values; a server that runs has one"),
        ({"model": "llama-13b"}, f"serves {MODEL}, not meta-llama/Llama-2-13b-hf"),
        ({"model": None}, "missing --model"),
        ({"plan": "plan.json"}, "endpoint and plan are both given"),
        ({"input_len": [10**6]}, "1000000 tokens in"),
        ({"engine": "vlm"}, "unknown engine 'vlm'; did you mean vllm"),
    ],
)
def test_what_cannot_be(server, calls, changes, said):
    with pytest.raises(InputError, match=re.escape(said)):
        advisor.probe(**{"model": "llama-3.1-8b", "endpoint": server, **FACTS} | changes)
    assert calls


def test_without_guidellm(server, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"pip install guidellm$"):
        measured(server)


def test_a_model_of_any_name_is_taken_for_the_one_that_is_named():
    with serving(Pace(), model="prod") as url:
        ready = prepared(url)
    assert ready.target.model == "prod"
    assert ready.target.tokenizer == ready.model.name
    assert any("prod" in note.text for note in ready.notes)


def test_the_command_lists_measures_and_tells(server, calls, tmp_path):
    asked = [
        "probe",
        "--endpoint",
        f"{server}/v1",
        "--model",
        "llama-3.1-8b",
        "--gpus",
        "2xH100",
        "--tp",
        "1",
        "--engine",
        "vllm",
        "--isl",
        "32",
        "--osl",
        "16",
        "--budget",
        "10m",
    ]
    listed = CliRunner().invoke(app, [*asked, "--dry-run", "--format", "json"])
    assert listed.exit_code == 0
    assert [row["in_flight"] for row in json.loads(listed.stdout)["loads"][:-2]] == [2 * each for each in LADDER]
    assert not (tmp_path / "calls").exists()
    done = CliRunner().invoke(app, [*asked, "--format", "json"])
    assert done.exit_code == 0
    body = json.loads(done.stdout)
    assert body["measured_now"] == len(body["runs"]) == len(calls()) == 5
    told = CliRunner().invoke(app, asked)
    assert "0 measured now, 5 before" in told.stdout
    assert "before" in CliRunner().invoke(app, [*asked, "--dry-run"]).stdout
