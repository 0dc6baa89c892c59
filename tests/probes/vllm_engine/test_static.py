"""The measuring program, with a fake engine and fake workers: vLLM itself needs a GPU."""

import json
import sys
import time
from dataclasses import replace

import pytest

from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.runs import append_runs, read_runs
from catalog.schema import Deployment
from probes import static_benchmark as static
from probes.benchmark_plan import SHAPES, BenchmarkJob, config_json, read_plan
from probes.gpu_telemetry import Profile
from probes.static_benchmark import measure
from probes.sweep import Sweep, outcomes
from probes.vllm_engine import static as vllm_static
from probes.vllm_engine.static import engine_args, graph_gib, main

LLAMA = "meta-llama/Llama-2-7b-hf"


def a_load(**changes):
    load = BenchmarkJob(
        name="h200-llama-2-7b-tp2pp1dp1",
        model=find_model(LLAMA).value,
        role="fit",
        deployment=Deployment(tp=2, max_model_len=9216, dtype="bfloat16"),
        shapes=SHAPES,
        gpu="H200-SXM",
        interconnect="NVSwitch",
        source="a test",
        measure_s=100.0,
        point_s=15.0,
        start_s=100.0,
        repeats=3,
    )
    return replace(load, **changes)


class FakeMeter:
    """Of GPUs that draw 500 W, on an engine's clock."""

    def __init__(self, engine):
        self.engine = engine

    def start(self, *, pcie):
        self.pcie, self.began = pcie, self.engine.now
        return self

    def stop(self):
        seconds = self.engine.now - self.began
        return Profile(
            seconds=seconds,
            energy_j=500 * seconds,
            power_w=500.0,
            utilisation=0.75,
            sm_mhz=1980.0,
            nvlink_sent_bytes=1.25 * self.engine.sent[-1],
        )


class FakeEngine:
    """Takes 10 us a prompt token and 5 ms a step, and a little longer each time, on a clock of its own."""

    name = "fake"
    version = "0.0"
    fingerprint = {"driver": "1"}  # noqa: RUF012  the fake is used once a test

    def __init__(self, capacity=10**6, compiling=(), *, tells_firsts=True):
        self.kv_capacity_tokens = capacity
        self.compiling = compiling
        self.tells_firsts = tells_firsts
        self.now = 0.0
        self.calls = []
        self.sent = []
        self.meter = FakeMeter(self)

    def clock(self):
        return self.now

    def prepare(self, batch, input_len):
        self.prepared = (batch, input_len)

    def generate(self, prompts, output_len):
        assert self.prepared == (len(prompts), len(prompts[0]))
        self.sent.append(64.0 * len(prompts) * output_len)
        self.calls.append((len(prompts), len(prompts[0]), output_len))
        first_s = 1e-5 * sum(map(len, prompts))
        self.now += first_s + 0.005 * (output_len - 1) + 1e-5 * len(self.calls)
        self.now += 2.0 * (len(self.calls) in self.compiling)
        return [first_s] * len(prompts) if self.tells_firsts else []

    def used_gib(self):
        return 120.0

    def comm_bytes(self):
        return sum(self.sent)


def measured(load, engine, **rest):
    said = []
    runs = list(measure(engine, load, clock=engine.clock, say=said.append, **rest))
    return runs, said


def test_a_measurement_follows_the_definition_of_the_static_regime():
    engine = FakeEngine()
    (run,), _ = measured(a_load(shapes=((4, 1024, 128),)), engine)
    assert run.prefill_ms == pytest.approx(40.96, rel=0.01)
    assert run.tpot_ms == pytest.approx((run.e2e_ms - run.prefill_ms) / 127, rel=1e-3)
    assert run.tpot_ms == pytest.approx(5.0, rel=0.01)
    assert run.output_tok_s == pytest.approx(4 * 128 / run.e2e_ms * 1e3, rel=1e-3)
    assert run.ttft_ms == 40.96
    assert run.energy_j == pytest.approx(500 * run.e2e_ms / 1e3, abs=0.1)
    assert run.comm_bytes == 64 * 4 * 128
    assert run.engine == "fake"
    assert (run.tp, run.gpus, run.batch, run.input_len, run.output_len) == (2, 2, 4, 1024, 128)
    assert (run.model, run.dtype, run.role, run.peak_memory_gib) == (LLAMA, "bfloat16", "fit", 120.0)
    assert (run.utilisation, run.power_w, run.oom) == (0.75, 500.0, False)
    assert json.loads(run.fingerprint) == {"driver": "1", "run_sm_mhz": 1980.0, "nvlink_ratio": 1.25}


def test_short_shapes_are_warmed_up_and_repeated_and_long_ones_are_timed_once():
    engine = FakeEngine()
    runs, _ = measured(a_load(shapes=((1, 128, 128), (256, 1024, 128))), engine)
    assert engine.calls[0] == (1, 128, 8)
    assert [run.repeats for run in runs] == [3, 1]
    assert runs[0].spread > 0
    assert runs[1].spread is None
    assert engine.calls[-3:] == [(256, 1024, 1), (256, 1024, 1), (256, 1024, 128)]


def test_a_long_first_shape_is_not_timed_while_the_engine_connects():
    """GPUs of a pipeline first connect when they first send: 0.7 s once made a TPOT look a third shorter than it is."""
    settled, _ = measured(a_load(shapes=((256, 1024, 64),)), FakeEngine())
    connecting, _ = measured(a_load(shapes=((256, 1024, 64),)), FakeEngine(compiling=(1,), tells_firsts=False))
    assert connecting[0].tpot_ms == pytest.approx(settled[0].tpot_ms, rel=1e-3)


def test_a_prefill_that_was_held_up_is_taken_from_the_whole_run():
    """The second call is the prefill alone; what it took too long must not be taken off the decode."""
    (run,), _ = measured(a_load(shapes=((256, 1024, 64),)), FakeEngine(compiling=(2,)))
    assert run.prefill_ms == pytest.approx(2621.44, rel=1e-3)
    assert run.tpot_ms == pytest.approx(5.0, rel=0.01)


def test_turns_that_disagree_get_more_turns_and_the_median_is_told():
    steady, _ = measured(a_load(shapes=((4, 1024, 128),)), FakeEngine())
    for turn in (1, 2, 3):
        engine = FakeEngine(compiling=(1 + 2 * turn,))  # a warm-up, then prefill and whole run by turns
        (run,), _ = measured(a_load(shapes=((4, 1024, 128),), repeats=3), engine)
        assert run.repeats == 5
        assert run.e2e_ms == pytest.approx(steady[0].e2e_ms, rel=1e-3)
        assert run.spread > 0.5


def test_models_with_experts_are_warmed_up_in_full():
    engine = FakeEngine()
    measured(a_load(model=find_model("mistralai/Mixtral-8x7B-v0.1").value, shapes=((4, 1024, 128),)), engine)
    assert engine.calls[0] == (4, 1024, 128)


def test_prompts_are_the_same_every_time_and_within_the_vocabulary():
    first, second = (static._prompts(32000, 2, 64) for _ in range(2))
    assert first == second
    assert first[0] != first[1]
    assert all(0 <= each < 32000 for row in first for each in row)
    assert static._prompts(2, 1, 4) == [[1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("changes", "capacity", "why"),
    [
        ({"shapes": ((8, 1024, 128),)}, 9215, "9216 tokens exceed the KV capacity 9215"),
        ({"shapes": ((1, 9216, 1),)}, 10**6, "9217 tokens exceed max_model_len 9216"),
        ({"shapes": ((16, 1024, 128), (256, 1024, 128)), "point_s": 5.0}, 10**6, "it would take 6 s"),
        ({"shapes": ((16, 1024, 128), (1, 128, 128)), "measure_s": 0.5}, 10**6, "were spent on this load"),
    ],
)
def test_what_is_left_out_is_said(changes, capacity, why):
    load = a_load(**changes)
    runs, said = measured(load, FakeEngine(capacity))
    assert load.run_id(load.shapes[-1]) not in {run.run_id for run in runs}
    assert load.run_id(load.shapes[-1]) in said[-1]
    assert why in said[-1]


def test_shapes_that_are_done_are_passed_over():
    load = a_load()
    everything, _ = measured(load, FakeEngine())
    done = frozenset(run.run_id for run in everything[:-1])
    engine = FakeEngine()
    rest, _ = measured(load, engine, done=done)
    assert [run.run_id for run in rest] == [everything[-1].run_id]
    assert {call[:2] for call in engine.calls} == {load.shapes[-1][:2]}


def test_measurements_survive_the_store(tmp_path):
    runs, _ = measured(a_load(), FakeEngine())
    assert len(runs) == len(SHAPES)
    append_runs(tmp_path / "runs.jsonl", runs)
    assert list(read_runs(tmp_path / "runs.jsonl")) == runs


@pytest.mark.parametrize(
    ("name", "architecture", "expected"),
    [
        (LLAMA, "LlamaForCausalLM", {"max_position_embeddings": 9216, "attention_bias": False}),
        ("Qwen/Qwen2.5-32B", "Qwen2ForCausalLM", {"max_position_embeddings": 131072, "num_key_value_heads": 8}),
        ("Qwen/Qwen3-30B-A3B", "Qwen3MoeForCausalLM", {"num_experts": 128, "moe_intermediate_size": 768}),
        ("mistralai/Mixtral-8x7B-v0.1", "MixtralForCausalLM", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    ],
)
def test_dummy_configs_have_the_models_shape(name, architecture, expected):
    model = find_model(name).value
    config = config_json(model, max_model_len=9216)
    assert config["architectures"] == [architecture]
    assert config["hidden_size"] == model.hidden_size
    assert config.items() >= expected.items()
    assert json.loads(json.dumps(config)) == config


@pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-V3", "tiiuae/falcon-7b"])
def test_models_without_a_dummy_config_are_refused(name):
    with pytest.raises(InputError, match=r"no dummy config for .*; there is one for llama, mistral"):
        config_json(find_model(name).value)


def test_engine_arguments_leave_open_what_the_deployment_leaves_open():
    plain = engine_args(a_load(deployment=Deployment()), "folder")
    assert "max_num_seqs" not in plain
    assert "quantization" not in plain
    assert "distributed_executor_backend" not in plain
    assert plain["enforce_eager"] is False
    assert plain["enable_prefix_caching"] is False


def test_engine_arguments_follow_the_deployment():
    wanted = Deployment(tp=2, pp=2, ep=2, dtype="fp8", kv_dtype="fp8", compiled=False, max_num_batched_tokens=2048)
    args = engine_args(a_load(deployment=wanted), "folder")
    assert (args["tensor_parallel_size"], args["pipeline_parallel_size"]) == (2, 2)
    assert (args["dtype"], args["quantization"], args["kv_cache_dtype"]) == ("float16", "fp8", "fp8")
    assert (args["enable_expert_parallel"], args["enforce_eager"]) == (True, True)
    assert (args["max_num_batched_tokens"], args["distributed_executor_backend"]) == (2048, "mp")


def test_the_worker_extension_is_named_as_it_is_found():
    module, _, name = engine_args(a_load(), "folder")["worker_extension_cls"].rpartition(".")
    assert getattr(sys.modules[module], name) is vllm_static.MemoryReport


def test_graph_memory_is_read_from_the_log():
    log = "(Worker_TP0) Graph capturing finished in 9 secs, took 0.61 GiB\nGraph capturing finished in 8 secs, took 0.7 GiB"
    assert graph_gib(log) == 0.7
    assert graph_gib("Graph capturing finished in 1 secs, took -0.02 GiB") == -0.02
    assert graph_gib("enforce_eager: no graphs") is None


def a_plan(**changes):
    return {
        "prefix": "h200",
        "source": "a test",
        "gpu": "H200-SXM",
        "interconnect": "NVSwitch",
        "deployment": {"max_model_len": 9216, "dtype": "bfloat16"},
        "loads": [
            {"model": LLAMA, "role": "fit", "deployment": {"tp": 2}},
            {"model": LLAMA, "role": "validate", "label": "eager", "deployment": {"compiled": False}},
        ],
        **changes,
    }


def written(tmp_path, plan):
    path = tmp_path / "plan.json"
    path.write_text(plan if isinstance(plan, str) else json.dumps(plan))
    return path


def test_a_plan_is_read_in_its_order(tmp_path):
    first, second = read_plan(written(tmp_path, a_plan(shapes=[[1, 2, 3]], point_s=7)))
    assert (first.name, second.name) == ("h200-llama-2-7b-tp2pp1dp1", "h200-llama-2-7b-tp1pp1dp1-eager")
    assert first.deployment == Deployment(tp=2, max_model_len=9216, dtype="bfloat16", gpu_memory_utilization=0.92)
    assert second.deployment.compiled is False
    assert (first.shapes, first.point_s, second.role) == (((1, 2, 3),), 7.0, "validate")
    assert first.run_id((1, 2, 3)) == "h200-llama-2-7b-tp2pp1dp1-b1-i2-o3"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "needs loads, a list"),
        (a_plan(loads=[{"model": LLAMA}]), "role is missing"),
        (a_plan(loads=[{"model": LLAMA, "role": "fitting"}]), "role is 'fitting'; it must be 'fit' or 'validate'"),
        (a_plan(loads=[{"model": "llama-2-7b-xyz", "role": "fit"}]), "llama-2-7b"),
        (a_plan(loads=[{"model": LLAMA, "role": "fit"}] * 2), "twice; give one of them a label"),
        (a_plan(shape=[]), "unknown field 'shape'.*shapes"),
        (a_plan(deployment={"tpp": 2}), "'tpp'"),
        (a_plan(shapes=[[1, 2]]), r"shapes 1 3 is missing; each is \[batch, input_len, output_len\]"),
        (a_plan(shapes=[[0, 2, 3]]), "shapes 1 1 is 0; it must be greater than 0"),
        (a_plan(measure_s=-1), "measure_s is -1; it must be greater than 0"),
        (a_plan(measure_s="long"), "measure_s is 'long'"),
    ],
)
def test_a_bad_plan_is_refused_in_one_line(tmp_path, plan, message, capsys):
    path = written(tmp_path, plan)
    with pytest.raises(InputError, match=message):
        read_plan(path)
    assert main([str(path), str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        ({"dp": 2}, "dp is 2; vLLM is measured here with dp 1 only"),
        ({"offload": 0.5}, "offload is 0.5; vLLM is measured here with offload 0.0 only"),
        ({"tp": 2, "sequence_parallel": True}, "sequence_parallel is True"),
        ({"graphs": False}, "graphs is False; vLLM is measured here with graphs True only"),
    ],
)
def test_what_is_not_handed_on_to_vllm_is_refused(tmp_path, deployment, message, capsys):
    path = written(tmp_path, {**a_plan(), "deployment": deployment})
    assert main([str(path), str(tmp_path / "out"), "--gpus", "0,1,2,3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_missing_plan_and_too_few_or_unreadable_gpus_are_refused(tmp_path, capsys):
    assert main([str(tmp_path / "none.json"), str(tmp_path)]) == 2
    assert "cannot read" in capsys.readouterr().err
    path = str(written(tmp_path, a_plan()))
    assert main([path, str(tmp_path), "--gpus", "0"]) == 2
    assert "needs 2 GPUs; --gpus names 1" in capsys.readouterr().err
    assert main([path, str(tmp_path), "--gpus", "0,one"]) == 2
    assert "--gpus is '0,one'" in capsys.readouterr().err


WORKER = """
import json, os, sys, time
order = json.loads(sys.stdin.readline())
visible = ",".join(map(str, order["gpus"]))
open(order["log"], "a").write(f"{os.getpid()} {visible} {time.time()}\\n")
time.sleep(0.2)
how = {0: BEHAVIOUR}[0][order["load"]]
if how == "crash":
    raise SystemExit(3)
if how == "hang":
    os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")
    time.sleep(600)
"""


def a_sweep(tmp_path, behaviour, *, gpus=(0, 1, 2), seconds=60.0):
    """A sweep of one load a behaviour ("fine", "crash", "hang"), every other one two GPUs wide, with fake workers."""
    loads = [
        {"model": LLAMA, "role": "fit", "label": str(number), "deployment": {"tp": 1 + number % 2}}
        for number in range(len(behaviour))
    ]
    plan = written(tmp_path, a_plan(loads=loads, start_s=2, measure_s=1))
    script = tmp_path / "worker.py"
    script.write_text(WORKER.replace("BEHAVIOUR", repr(behaviour)))

    worker = [sys.executable, str(script)]
    return Sweep(plan, tmp_path / "out", gpus, worker=worker, seconds=seconds)


def test_a_sweep_runs_side_by_side_and_outlives_crashes_and_hangs(tmp_path):
    sweep = a_sweep(tmp_path, ["fine", "hang", "crash", "fine"])
    began = time.monotonic()
    sweep.run()
    assert time.monotonic() - began < 30
    assert [outcomes(tmp_path / "out")[load.name] for load in sweep.loads] == ["done", "failed", "failed", "done"]
    assert sorted(sweep.free) == [0, 1, 2]
    logs = [(tmp_path / "out" / "logs" / f"{load.name}.log").read_text().split() for load in sweep.loads]
    assert [log[1] for log in logs[:2]] == ["0", "1,2"]
    assert float(logs[1][2]) - float(logs[0][2]) < 2
    records = [json.loads(line) for line in (tmp_path / "out" / "loads.jsonl").read_text().splitlines()]
    late = next(record for record in records if record["late"])
    assert late["load"] == sweep.loads[1].name
    assert late["log"]


def test_a_sweep_goes_on_where_it_stood(tmp_path):
    a_sweep(tmp_path, ["fine", "crash"]).run()
    again = a_sweep(tmp_path, ["crash", "fine"])
    again.run()
    assert [outcomes(tmp_path / "out")[load.name] for load in again.loads] == ["done", "done"]
    assert len((tmp_path / "out" / "loads.jsonl").read_text().splitlines()) == 3


def test_a_sweep_stops_at_its_end_and_leaves_no_process(tmp_path):
    sweep = a_sweep(tmp_path, ["hang"] * 3, seconds=1.0)
    sweep.run()
    assert outcomes(tmp_path / "out") == {}
    assert all(each.process.returncode is not None for each in sweep.running)
    assert all(worker.returncode is not None for worker in sweep.workers)


def test_a_run_of_one_token_is_its_prefill_and_timed_once():
    engine = FakeEngine()
    (run,), _ = measured(a_load(shapes=((4, 1024, 1),)), engine)
    assert run.prefill_ms == run.e2e_ms
    assert run.tpot_ms is None
    assert engine.calls == [(4, 1024, 1)] * 4
