"""What ``advisor probe`` would run, and for how long; nothing is measured here."""

import csv
import io
import json
import subprocess
import types
from dataclasses import asdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import advisor
from advisor.benchmarking import devices as targets
from advisor.benchmarking.benchmark_plan import (
    Candidate,
    ProbeQuestion,
    by_interest,
    candidates,
    chosen,
    completion_times,
    makespan,
    measuring_s,
    packed,
    plan_of,
    start_up,
)
from advisor.benchmarking.probe_api import prepare_probe
from advisor.benchmarking.session import _claimed
from advisor.cli import app
from advisor.cli.options.values import numbers, seconds
from advisor.prediction.evidence import Evidence
from catalog.errors import InputError
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.runs import append_runs
from catalog.schema import Deployment, Measurement
from probes import devices
from probes.benchmark_plan import jobs_of, read_plan
from probes.gpu_telemetry import GpuState
from probes.sweep import add_record

pytestmark = pytest.mark.process

GPUS = "4xH200"


def found(model="llama-13b", gpus=GPUS, question=None):
    cluster = parse_cluster(gpus).value
    parameters = Evidence.of([], engine="torch", gpu=cluster.gpu).marginal("torch", cluster.gpu).parameters
    return candidates(find_model(model).value, cluster, question or ProbeQuestion(), parameters)


# -- which layouts and batches ---------------------------------------------------------------------------------------


def test_every_layout_that_fits_is_covered_when_there_is_time():
    able, left_out = found()
    assert left_out == []
    assert {each.layout for each in able} == {(1, 1), (2, 1), (4, 1), (1, 2), (1, 3), (1, 4), (2, 2)}
    loads, late = chosen(able, budget_s=3600, start_s=30, gpus=4)
    assert late == []
    assert {each.layout: set(each.seconds) for each in loads} == {each.layout: set(each.seconds) for each in able}


def test_the_most_telling_layouts_come_first():
    able, _ = found()
    assert [each.layout for each in able[:4]] == [(1, 1), (4, 1), (1, 4), (2, 2)]
    assert able[-1].layout == (1, 3)
    assert by_interest(list(reversed(able))) == able


def test_a_model_too_large_for_one_gpu_is_begun_on_as_few_as_hold_it():
    able, left_out = found("llama-70b", "4xA100-SXM-80GB")
    assert able[0].layout == (2, 1)
    assert left_out == ["TP1 PP1: out of memory, not even one sequence fits beside the weights"]


def test_batches_that_do_not_fit_or_take_too_long_are_not_tried():
    able, _ = found("llama-13b", "1xA100-40GB")
    assert (256, 1024, 128) not in able[0].seconds
    assert (1, 1024, 128) in able[0].seconds
    assert all(shape[1] + shape[2] <= 4096 for shape in able[0].seconds)


def test_a_question_is_answered_as_asked():
    able, _ = found(question=ProbeQuestion(tp=(4, 2), pp=(1,), batch=(8,), input_len=(512, 64), output_len=(32,)))
    assert {each.layout for each in able} == {(2, 1), (4, 1)}
    assert list(able[0].seconds) == [(8, 512, 32), (8, 64, 32)]
    assert all(each.deployment.max_model_len == 768 for each in able)


def test_what_cannot_be_sliced_is_said():
    able, left_out = found(question=ProbeQuestion(tp=(3, 4), pp=(1, 2)))
    assert [each.layout for each in able] == [(4, 1)]
    assert left_out[0].startswith("TP3 PP1: tp is 3, which does not divide")
    assert "TP4 PP2: takes 8 GPUs, 4 are named" in left_out
    with pytest.raises(InputError, match="tp is 3"):
        found(question=ProbeQuestion(tp=(3,)))
    assert found(question=ProbeQuestion(tp=(8,))) == ([], ["TP8 PP1: takes 8 GPUs, 4 are named"])
    with pytest.raises(InputError, match=r"5001 tokens in and out are above the positions of .*: at most 4096"):
        found(question=ProbeQuestion(input_len=(5000,), output_len=(1,)))
    with pytest.raises(InputError, match="batch is 0; it must be a whole number above 0"):
        ProbeQuestion(batch=(0,))


# -- in which order and how long -------------------------------------------------------------------------------------


def a_candidate(tp, pp, times):
    shapes = {(n + 1, 8, 8): seconds for n, seconds in enumerate(times)}
    return Candidate(deployment=Deployment(tp=tp, pp=pp), seconds=shapes)


@st.composite
def worlds(draw):
    gpus = draw(st.integers(1, 8))
    layouts = [(tp, pp) for tp in range(1, gpus + 1) for pp in range(1, gpus + 1) if tp * pp <= gpus]
    some = draw(st.lists(st.sampled_from(layouts), min_size=1, max_size=8, unique=True))
    times = st.lists(st.floats(0.1, 30), min_size=1, max_size=8)
    return gpus, [a_candidate(tp, pp, draw(times)) for tp, pp in some]


@settings(max_examples=100)
@given(worlds(), st.floats(1, 600), st.floats(0.5, 60))
def test_the_budget_is_never_exceeded_by_what_is_foretold(world, budget_s, start_s):
    gpus, able = world
    loads, late = chosen(able, budget_s=budget_s, start_s=start_s, gpus=gpus)
    assert makespan(loads, start_s=start_s, gpus=gpus) <= budget_s
    assert len(loads) + len(late) == len(able)
    assert chosen(able, budget_s=budget_s, start_s=start_s, gpus=gpus) == (loads, late)
    for each in loads:
        whole = next(other for other in able if other.layout == each.layout)
        assert each.seconds
        assert set(each.seconds) <= set(whole.seconds)
    first = able[0]
    if start_s + min(list(first.seconds.values())[:1]) <= budget_s:
        assert first.layout in {each.layout for each in loads}


@settings(max_examples=100)
@given(worlds(), st.floats(0.5, 60))
def test_loads_side_by_side_never_take_more_gpus_than_there_are(world, start_s):
    gpus, able = world
    ordered = packed(able, gpus)
    assert sorted(each.layout for each in ordered) == sorted(each.layout for each in able)
    stops = completion_times(ordered, start_s=start_s, gpus=gpus)
    spans = [(end - start_s - sum(each.seconds.values()), end) for each, end in zip(ordered, stops, strict=True)]
    for begin, _ in spans:
        under_way = [each.gpus for each, (b, e) in zip(ordered, spans, strict=True) if b <= begin + 1e-9 < e - 1e-9]
        assert sum(under_way) <= gpus
    assert all(later >= earlier - 1e-9 for (earlier, _), (later, _) in pairwise(spans))
    serial = sum(start_s + sum(each.seconds.values()) for each in able)
    assert makespan(ordered, start_s=start_s, gpus=gpus) <= serial + 1e-6


def test_every_layout_comes_before_more_of_any():
    able = [a_candidate(1, 1, [1.0] * 8), a_candidate(2, 1, [1.0] * 8)]
    for budget_s, counts in ((10.5, []), (15, [5]), (21.5, [8]), (22, [1, 1]), (25, [2, 3]), (36, [8, 8])):
        loads, late = chosen(able, budget_s=budget_s, start_s=10, gpus=2)
        assert sorted(len(each.seconds) for each in loads) == counts
        assert len(late) == 2 - len(counts)


def test_the_time_of_a_shape_is_what_measuring_it_takes():
    # three turns of 10 + 110 ms, and a warm-up of the prompt and seven steps of 10 ms
    assert measuring_s((4, 8, 11), 10.0, 110.0) == pytest.approx(3 * 0.12 + 0.01 + 7 * 0.01)
    assert measuring_s((4, 8, 1), 10.0, 10.0) == pytest.approx(3 * 0.01 + 0.01)
    assert measuring_s((256, 1024, 128), 6000.0, 9000.0) == pytest.approx(15.0 + 6.0)  # once, after a prefill
    assert measuring_s((4, 8, 11), 10.0, 110.0, repeats=5) == pytest.approx(5 * 0.12 + 0.08)


def a_run(load, shape, **changes):
    batch, input_len, output_len = shape
    deployment = load.deployment
    fields = {"prefill_ms": 100.0, "tpot_ms": 10.0, "e2e_ms": 1370.0, "repeats": 3, **changes}
    return Measurement(
        run_id=load.run_id(shape),
        role=load.role,
        source="a test",
        gpu=load.gpu,
        gpus=deployment.num_gpus,
        engine="torch",
        model=load.model.name,
        dtype="float16",
        tp=deployment.tp,
        pp=deployment.pp,
        batch=batch,
        input_len=input_len,
        output_len=output_len,
        **fields,
    )


def test_start_up_is_learned_from_earlier_loads(tmp_path):
    ready = prepare_probe("llama-13b", GPUS, out=tmp_path)
    assert ready.start_s == 15.0
    load = ready.loads[0]
    shape = load.shapes[0]
    add_record(tmp_path, load, "done", 21.0)
    append_runs(tmp_path / "runs.jsonl", [a_run(load, shape)])
    again = prepare_probe("llama-13b", GPUS, out=tmp_path)
    assert again.start_s == pytest.approx(21.0 - measuring_s(shape, 100.0, 1370.0, 3))
    assert again.expected_s <= 0.9 * 180
    assert start_up({"other-b": 3.0}, [], prefix="h200", otherwise=7.0) == 7.0


# -- plans ----------------------------------------------------------------------------------------------------------


def test_a_plan_is_one_that_the_programs_read(tmp_path):
    ready = prepare_probe("llama-13b", GPUS, role="validate", out=tmp_path)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(ready.to_dict()))
    assert read_plan(path) == ready.loads
    assert [load.role for load in ready.loads] == ["validate"] * len(ready.loads)
    for load in ready.loads:
        assert load.name.startswith("h200-sxm-torch-llama-2-13b-tp")
        assert load.deployment.engine == "torch"
        assert load.expected_s is not None
        assert load.measure_s > load.expected_s - ready.start_s
        assert load.gpu == "H200-SXM"
    assert ready.expected_s == max(ready.ends_s.values()) <= 0.9 * 180


def test_loads_of_another_format_have_names_of_their_own():
    plain, other = (
        prepare_probe("llama-3.1-8b", "1xH200", question=ProbeQuestion(dtype=dtype)) for dtype in ("auto", "float16")
    )
    assert plain.loads[0].name == "h200-sxm-torch-llama-3.1-8b-tp1pp1dp1"
    assert other.loads[0].name == "h200-sxm-torch-llama-3.1-8b-tp1pp1dp1-float16"


def test_what_has_been_done_is_not_planned_again(tmp_path):
    ready = prepare_probe("llama-13b", GPUS, out=tmp_path, budget_s=None)
    first = ready.loads[0]
    add_record(tmp_path, first, "done", 60.0)
    append_runs(tmp_path / "runs.jsonl", [a_run(first, first.shapes[0])])
    again = prepare_probe("llama-13b", GPUS, out=tmp_path, budget_s=None)
    assert first.name not in {load.name for load in again.loads}
    assert first.name in {load.name for load in again.all_loads}
    assert [run.run_id for run in again.runs()] == [first.run_id(first.shapes[0])]
    for load in again.loads:
        add_record(tmp_path, load, "done", 60.0)
    assert prepare_probe("llama-13b", GPUS, out=tmp_path).loads == ()


def test_a_budget_for_nothing_is_refused_with_what_would_do(tmp_path):
    with pytest.raises(
        InputError, match=r"budget is 5 s; starting and measuring one batch takes about \d+ s, give more"
    ):
        prepare_probe("llama-13b", GPUS, budget_s=5, out=tmp_path)
    with pytest.raises(InputError, match="budget_s is 0"):
        prepare_probe("llama-13b", GPUS, budget_s=0, out=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": None}, "no model named"),
        ({"question": ProbeQuestion(engine="sglang")}, "engine is 'sglang'; torch and vllm can be measured"),
        ({"question": ProbeQuestion(engine="vllm"), "device": "cpu", "gpus": "1"}, "vllm is measured on GPUs only"),
        ({"role": "fitting"}, "role is 'fitting'; it must be fit or validate"),
        ({"device": "tpu"}, "device is 'tpu'; it must be cuda or cpu"),
        ({"model": "tiiuae/falcon-7b"}, "model type 'falcon' is not run"),
        ({"gpus": "4xH20O"}, 'unknown GPU "H20O"'),
        ({"gpus": "0,0", "device": "cpu"}, "gpus is '0,0'; it must be local"),
        ({"question": ProbeQuestion(dtype="fp8")}, "fp8"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message):
    given = {"model": "llama-13b", "gpus": GPUS, **arguments}
    with pytest.raises(InputError, match=message):
        prepare_probe(given.pop("model"), given.pop("gpus"), **given)


def test_a_plan_file_is_run_as_it_is(tmp_path):
    entries = [
        {
            "model": "meta-llama/Llama-2-7b-hf",
            "role": "fit",
            "deployment": {"tp": 2},
            "shapes": [[1, 128, 8], [512, 8192, 32]],
        },
        {"model": "meta-llama/Llama-2-7b-hf", "role": "fit", "deployment": {"pp": 2}},
    ]
    plan = {"source": "a test", "gpu": "H200-SXM", "deployment": {"max_model_len": 9216}, "loads": entries}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    ready = prepare_probe(None, "2xH200", plan=path, budget_s=None, out=tmp_path)
    assert ready.loads == read_plan(path) == jobs_of(plan, "here")
    assert list(ready.seconds[ready.loads[0].name]) == [(1, 128, 8)]  # the other one will be left out
    with pytest.raises(InputError, match="needs 2 GPUs; 1 are named"):
        prepare_probe(None, "1xH200", plan=path, out=tmp_path)


def test_planning_for_gpus_elsewhere_does_not_measure_on_them(tmp_path):
    with pytest.raises(InputError, match=r"4xH200-SXM is not looked for here; .*--gpus local or 0,1"):
        advisor.probe("llama-13b", GPUS, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_plan_has_no_loads():
    cluster = parse_cluster(GPUS).value
    plan = plan_of([], find_model("llama-13b").value, cluster, role="fit", source="s", label="", start_s=1)
    assert jobs_of(plan, "here") == ()


# -- GPUs of this machine --------------------------------------------------------------------------------------------


def a_gpu(index, name="NVIDIA H200", **changes):
    known = {"total_gib": 140.0, "used_gib": 0.5, "utilisation": 0.0, "mig": False, "processes": 0}
    return GpuState(index=index, name=name, **{**known, **changes})


@pytest.fixture
def machine(monkeypatch):
    """A machine with these GPUs, and what stands in the way of using them."""

    def has(*states, lines=()):
        monkeypatch.setattr(devices, "describe_gpus", lambda: list(states))
        monkeypatch.setattr(devices, "obstacles", lambda gpus: [line for line in lines if str(gpus[0]) in line])
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return has


@pytest.mark.parametrize(
    ("gpus", "indices"), [("local", (0, 1, 2)), ("2", (0, 1)), ("0,2", (0, 2)), ("2,", (2,)), (" Local ", (0, 1, 2))]
)
def test_gpus_of_this_machine_are_named_in_three_ways(machine, gpus, indices):
    machine(*map(a_gpu, range(3)))
    target = targets.read_target(gpus, device="cuda")
    assert target.indices == indices
    assert str(target.cluster) == f"{len(indices)}xH200-SXM"


def test_only_gpus_that_are_visible_are_used(machine, monkeypatch):
    machine(*map(a_gpu, range(4)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert targets.read_target("local", device="cuda").indices == (1, 3)
    with pytest.raises(InputError, match=r"there is no GPU 0 here; there are 1, 3 \(NVIDIA H200\)"):
        targets.read_target("0,", device="cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5ea1")
    with pytest.raises(InputError, match="set it to indices"):
        targets.read_target("local", device="cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(InputError, match="none of the 4 GPUs here is in it"):
        targets.read_target("local", device="cuda")


def test_gpus_that_cannot_be_measured_together_or_are_unknown_are_refused(machine):
    machine(a_gpu(0), a_gpu(1, "NVIDIA A100-SXM4-80GB"))
    with pytest.raises(
        InputError, match=r"GPUs of several kinds are named: GPU 0 is NVIDIA H200, GPU 1 is NVIDIA A100"
    ):
        targets.read_target("local", device="cuda")
    with pytest.raises(InputError, match="gpus is 3; there are 2 here"):
        targets.read_target("3", device="cuda")
    machine(a_gpu(0, "NVIDIA X9000"))
    with pytest.raises(InputError, match=r'unknown GPU ".*X9000".*gpus\.toml of \$ADVISOR_HOME'):
        targets.read_target("local", device="cuda")


def test_gpus_in_use_are_refused_before_anything_is_started(machine, monkeypatch, tmp_path):
    machine(a_gpu(0), lines=["GPU 0 (NVIDIA H200) is in use by others: 80.0 GiB; name another one or wait"])
    monkeypatch.setattr("advisor.benchmarking.engines.find_spec", lambda _: object())
    with pytest.raises(InputError, match=r"^GPU 0 \(NVIDIA H200\) is in use by others"):
        advisor.probe("llama-13b", "local", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_command_at_a_time_measures_on_a_gpu(machine, monkeypatch, tmp_path):
    machine(a_gpu(0), a_gpu(1))
    monkeypatch.setattr("advisor.benchmarking.engines.find_spec", lambda _: object())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    held = _claimed(1)
    with pytest.raises(InputError, match="GPU 1 is being measured on by another advisor probe; name others"):
        advisor.probe("llama-13b", "local", out=tmp_path / "out")
    held.release()
    _claimed(0).release()  # it was given back


def test_without_torch_it_is_said_what_to_install(machine, monkeypatch, tmp_path):
    machine(a_gpu(0))
    monkeypatch.setattr("advisor.benchmarking.engines.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"measuring needs torch and safetensors: pip install 'advisor\[probes\]'"):
        advisor.probe("llama-13b", "local", out=tmp_path)
    with pytest.raises(
        InputError, match=r"vllm is not installed for .*; install it there, or measure with --engine torch"
    ):
        advisor.probe("llama-13b", "local", out=tmp_path, engine="vllm")


def test_without_nvml_torch_is_asked_in_a_process_of_its_own(machine, monkeypatch):
    machine()
    monkeypatch.setattr(devices, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="no GPU was found: there is no NVML, and no torch to ask"):
        devices.local_gpus()
    monkeypatch.setattr(devices, "find_spec", lambda _: object())

    def asked(command, **_):
        assert command[1:] == ["-m", "probes.devices"]
        if isinstance(told, Exception):
            raise told
        return types.SimpleNamespace(stdout=told)

    monkeypatch.setattr(devices.subprocess, "run", asked)
    told = json.dumps([asdict(a_gpu(0))])
    assert devices.local_gpus() == [a_gpu(0)]
    told = "[]"
    with pytest.raises(InputError, match="neither by NVML nor by torch; --device cpu tries things out"):
        devices.local_gpus()
    for told in (subprocess.CalledProcessError(1, "python"), subprocess.TimeoutExpired("python", 60), "no JSON"):  # noqa: B007  asked reads it
        with pytest.raises(InputError, match="there is no NVML, and torch fails"):
            devices.local_gpus()


def test_torch_s_gpus_are_told_as_nvml_s_are(monkeypatch):
    cuda = types.SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        mem_get_info=lambda _: (100 * 2**30, 140 * 2**30),
        get_device_name=lambda index: f"GPU {index}",
    )
    monkeypatch.setattr(devices, "import_module", lambda _: types.SimpleNamespace(cuda=cuda))
    first, second = devices.torch_gpus()
    assert (first.index, first.name, first.total_gib, first.used_gib) == (0, "GPU 0", 140.0, 40.0)
    assert second.utilisation is None


# -- the command -----------------------------------------------------------------------------------------------------


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["probe", *arguments])
    assert result.exit_code == code, result.output
    return result


DRY = ("--model", "llama-13b", "--gpus", GPUS, "--dry-run")


def test_a_dry_run_lists_what_would_run_and_how_long():
    text = run(*DRY, "--tp", "1,2", "--pp", "1", "--batch", "1,8").stdout
    assert "meta-llama/Llama-2-13b-hf  |  float16  |  4 x H200-SXM  NVLink  |  torch" in text
    assert "TP1 PP1" in text
    assert "1, 8 at 1024/128" in text
    assert "2 loads, 4 batches: about" in text
    assert "of a budget of 180 s" in text


def test_a_dry_run_s_json_is_a_plan_that_is_run_as_it_is(tmp_path):
    plan = json.loads(run(*DRY, "--format", "json").stdout)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    loads = read_plan(path)
    rows = list(csv.DictReader(io.StringIO(run(*DRY, "--format", "csv").stdout)))
    assert [row["load"] for row in rows] == [load.name for load in loads]
    assert rows[0]["shapes"].startswith("1x128+128 32x128+128")
    again = run("--plan", str(path), "--gpus", GPUS, "--dry-run", "--format", "csv").stdout
    assert [row["load"] for row in csv.DictReader(io.StringIO(again))] == [load.name for load in loads]
    assert run(*DRY, "--format", "markdown").stdout.startswith("| layout |")


def test_a_dry_run_writes_nothing(home, tmp_path):
    run(*DRY, "--out", str(tmp_path / "out"))
    assert not home.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "missing --model; for example: --model llama-13b"),
        ((*DRY, "--budget", "soon"), "--budget is 'soon'; it must be a time such as 90s, 3m or 1h30m"),
        ((*DRY, "--budget", "0s"), "--budget is '0s'"),
        ((*DRY, "--tp", "two"), "--tp has 'two'; it must be whole numbers above 0, such as 1,2,4"),
        ((*DRY, "--batch", "1,0"), "--batch has '0'"),
        ((*DRY, "--plan", "plan.json"), "--model and --plan are both given"),
        (("--plan", "none.json", "--gpus", GPUS), "cannot read none.json"),
        (("--model", "llama-13b", "--gpus", GPUS), "is not looked for here"),
        ((*DRY, "--budget", "5s"), "budget is 5 s; starting and measuring one batch takes about"),
        (("--report",), "cannot read"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, message):
    (line,) = run(*arguments, code=2).stderr.splitlines()
    assert message in line


def test_a_model_that_fits_nowhere_is_an_exit_of_its_own():
    line = run("--model", "llama-70b", "--gpus", "1xA100-40GB", "--dry-run", code=1).stderr
    assert "nothing can be measured: TP1 PP1: out of memory" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("3m", 180), ("1h30m", 5400), ("1h", 3600), ("45", 45), ("1.5m", 90), (" 2M ", 120), ("1m30s", 90)],
)
def test_budgets_are_times(text, expected):
    assert seconds(text) == expected


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=8, unique=True))
def test_numbers_come_with_commas_or_repeated(values):
    assert numbers("--tp", [",".join(map(str, values))]) == tuple(values)
    assert numbers("--tp", [str(value) for value in values]) == tuple(values)
    assert numbers("--tp", None) == ()
