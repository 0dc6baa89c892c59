"""Traffic for vLLM: what is planned, and that a plan becomes runs and requests (with a stand-in for vLLM)."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import advisor
from advisor.benchmarking.benchmark_plan import ProbeQuestion, chosen, makespan, start_up
from advisor.benchmarking.probe_api import prepare_probe
from advisor.benchmarking.traffic_plan import CLOSED_FIRST, LEAST_S, MOST_S, SHARES, offer_seconds
from advisor.cli import app
from advisor.prediction.evidence import Evidence
from advisor.simulator.arrivals import Arrivals
from catalog.engines import resolve
from catalog.errors import InputError
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.requests import read_requests
from catalog.runs import read_runs
from catalog.schema import Deployment, Measurement
from probes import devices
from probes.benchmark_plan import jobs_of
from probes.gpu_telemetry import GpuState
from probes.serving_benchmark import read_offer
from tests.probes.test_adapters import LLAMA, vllm_path

pytestmark = pytest.mark.process

CLUSTER = parse_cluster("4xH200").value


def offers(*shapes, model="llama-13b", trace=None, **deployment):
    found = find_model(model).value
    wanted = resolve(Deployment(max_model_len=4096, **deployment), found, CLUSTER).value
    parameters = Evidence.of([], engine="vllm", gpu=CLUSTER.gpu).marginal("vllm", CLUSTER.gpu).parameters
    return offer_seconds(found, CLUSTER, wanted, shapes, parameters, trace)


def ready(tmp_path, budget_s=3600.0, **question):
    asked = ProbeQuestion(engine="vllm", serving=True, **question)
    return prepare_probe("llama-13b", "4xH200", budget_s=budget_s, question=asked, out=tmp_path / "out")


# -- what is offered -------------------------------------------------------------------------------------------------


def test_good_closed_loops_come_first_then_open_ones_then_the_rest():
    found = list(offers(*((count, 1024, 256) for count in (64, 32, 16, 1))))
    assert [offer.concurrency for offer in found[:CLOSED_FIRST]] == [64, 32]
    assert [offer.share for offer in found[CLOSED_FIRST:][: len(SHARES)]] == list(SHARES)
    assert [offer.concurrency for offer in found[CLOSED_FIRST + len(SHARES) :]] == [16, 1]


def test_more_than_memory_holds_or_the_engine_runs_is_not_kept_in_flight():
    assert {each.concurrency for each in offers((64, 3000, 1000), (1, 3000, 1000))} >= {1}
    assert 64 not in {each.concurrency for each in offers((64, 3000, 1000), (1, 3000, 1000))}
    assert 64 not in {each.concurrency for each in offers((64, 100, 100), (4, 100, 100), max_num_seqs=32)}
    assert offers((64, 3000, 1000), model="llama-70b") == {}


@given(st.integers(1, 256), st.integers(16, 3000), st.integers(2, 1000))
@settings(max_examples=25, deadline=None)
def test_loops_last_within_bounds_and_take_no_less_than_they_last(count, input_len, output_len):
    for offer, seconds in offers((count, input_len, output_len)).items():
        assert LEAST_S <= offer.seconds <= MOST_S
        assert offer.seconds < seconds
        assert (offer.input_len, offer.output_len) == (input_len, output_len)


def a_trace(*lengths):
    inputs, outputs = np.array(lengths).T
    return Arrivals(
        arrival_s=np.arange(len(lengths)) * 1.5, input_len=inputs, output_len=outputs, duration_s=1.5 * len(lengths)
    )


def test_a_trace_takes_the_place_of_poisson_arrivals_and_stands_in_the_plan(tmp_path):
    trace = a_trace((100, 20), (300, 41), (4000, 30), (200, 5000))
    plan = ready(tmp_path, trace=trace, tp=(1,), pp=(1,))
    (load,) = plan.loads
    assert any("1 of 4 requests are longer than 4096 tokens" in note.text for note in plan.notes)
    assert load.deployment.max_model_len == 4096  # for 4030 tokens; the last request is longer than the model allows
    assert [offer.share for offer in load.offers if offer.share] == []
    (traced,) = (offer for offer in load.offers if offer.requests)
    assert traced.requests == ((0.0, 100, 20), (1.5, 300, 41), (3.0, 4000, 30))
    assert (traced.seconds, traced.input_len, traced.output_len) == (3.0, 1467, 30)
    assert jobs_of(json.loads(json.dumps(plan.to_dict())), "here") == plan.loads


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0, 5]], r"requests 1 3 is missing; each is \[arrival_s, input_len, output_len\]"),
        ([[1, 5, 5], [0.5, 5, 5]], "request 2: arrival_s is 0.5; it must be at least 1"),
        ([[float("nan"), 5, 5]], "requests 1 1 is nan; it must be a finite number"),
        ([[0, 5, 0]], "requests 1 3 is 0; it must be greater than 0"),
        ("all", "requests is 'all'; it must be a list"),
        ([[10**400, 5, 5]], "requests 1 1 is 1000"),
    ],
)
def test_requests_that_cannot_be_are_refused(rows, words):
    with pytest.raises(InputError, match=words):
        read_offer({"input_len": 5, "output_len": 5, "seconds": 1, "requests": rows}, "here")


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_a_layout_has_its_open_loops_before_another_is_begun(tmp_path):
    plan = ready(tmp_path, 600.0, tp=(4, 2), pp=(1,))
    first, *_ = plan.loads
    assert {offer.share for offer in first.offers} >= set(SHARES)
    assert plan.expected_s <= 600
    assert all(load.name.endswith("-serving") for load in plan.loads)  # static batches are other loads
    assert all(load.shapes == () for load in plan.loads)


@given(st.floats(30, 2000), st.floats(1, 120))
@settings(max_examples=30, deadline=None)
def test_the_budget_holds_for_traffic_too(budget_s, start_s):
    from advisor.benchmarking.benchmark_plan import Candidate

    able = [
        Candidate(deployment=Deployment(tp=tp), seconds=offers(*((count, 512, 64) for count in (64, 16, 1)), tp=tp))
        for tp in (1, 2, 4)
    ]
    loads, late = chosen(able, budget_s=budget_s, start_s=start_s, gpus=4, at_once=4)
    assert makespan(loads, start_s=start_s, gpus=4) <= budget_s
    assert len(loads) + len(late) == 3
    for each in loads:  # of each the most telling ones
        whole = next(other for other in able if other.layout == each.layout)
        assert list(each.seconds)[:1] == list(whole.seconds)[:1]


def test_start_up_is_learned_from_traffic_too():
    run = Measurement(
        run_id="h200-vllm-m-serving-c4-i8-o8",
        role="fit",
        source="s",
        gpu="H200-SXM",
        gpus=1,
        engine="vllm",
        model="m",
        dtype="bfloat16",
        regime="steady",
        batch=4,
        input_len=8,
        output_len=8,
        e2e_ms=500.0,
        fingerprint='{"seconds":20.0,"startup_s":61.0}',
    )
    assert start_up({"h200-vllm-m-serving": 90.0}, [run], prefix="h200-vllm", otherwise=1) == pytest.approx(69.5)
    assert start_up({"h200-vllm-other": 90.0}, [run], prefix="h200-vllm", otherwise=1) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "torch", "--serving"], "plain PyTorch is no server"),
        (["--trace", "none.csv"], "a trace is given without serving"),
        (["--serving", "--trace", "none.csv"], "cannot read the trace none.csv"),
        (["--serving", "--endpoint", "http://localhost:1"], "--serving and --trace are for --engine vllm"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, words):
    done = CliRunner().invoke(app, ["probe", "--model", "llama-13b", "--gpus", "4xH200", "--dry-run", *arguments])
    assert done.exit_code == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_dry_run_lists_the_traffic():
    words = ["--model", "llama-13b", "--gpus", "1xH200", "--serving", "--budget", "10m", "--dry-run", "--wide"]
    done = CliRunner().invoke(app, ["probe", *words])
    assert done.exit_code == 0, done.stderr
    assert "64, 16, 1 in flight, Poisson at 50%, 80% at 1024/256" in done.stdout
    assert "1 loads, 5 loops: about" in done.stdout


# -- from a plan to runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def version():
    return "0.21.0"


@pytest.fixture
def machine(tmp_path, monkeypatch, version):
    """An H200 with vLLM of that version, as far as can be told."""
    gpu = GpuState(index=0, name="NVIDIA H200", total_gib=140.0, used_gib=0.5, utilisation=0.0, mig=False, processes=0)
    monkeypatch.setattr(devices, "describe_gpus", lambda: [gpu])
    monkeypatch.setattr(devices, "obstacles", lambda _: [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("advisor.benchmarking.engines.find_spec", lambda _: object())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = vllm_path(tmp_path, version)
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(path.split(os.pathsep)[1])


@pytest.mark.usefixtures("machine")
def test_a_plan_becomes_runs_and_requests(tmp_path):
    lengths = {"input_len": 32, "output_len": 8, "seconds": 0.5}
    load = {
        "model": LLAMA,
        "role": "fit",
        "label": "serving",
        "shapes": [],
        "offers": [{**lengths, "concurrency": 4}, {**lengths, "share": 0.5}],
    }
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"source": "a test", "gpu": "H200-SXM", "loads": [load]}))
    out = tmp_path / "out"
    closed, opened = advisor.probe(plan=plan, engine="vllm", budget_s=None, out=out)
    assert (closed.regime, closed.batch, opened.regime) == ("steady", 4, "open")
    assert list(read_runs(out / "runs.jsonl")) == [closed, opened]
    assert {each.run_id for each in read_requests(out / "requests.jsonl")} == {closed.run_id, opened.run_id}
    words = ["probe", "--plan", str(plan), "--engine", "vllm", "--out", str(out)]
    told = " ".join(CliRunner().invoke(app, words).stdout.split())
    assert "0 measured now, 2 before" in told
    assert "vllm 0.21.0 was never measured with these programs (0.24.0 and 0.33.0 were); it is tried" in told
    assert "traffic request by request in" in told
    assert "startup 0 s of each load" in told


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("version", ["0.19.2"])
def test_a_version_that_is_too_old_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"vllm 0\.19\.2 is too old to be measured here; install 0\.20 or later"):
        advisor.probe("llama-13b", engine="vllm", serving=True, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
