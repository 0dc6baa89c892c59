"""Starting vLLM by exported commands, with a stand-in for ``vllm serve``; and what is read of its log and counters."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import InputError
from catalog.jsonl_store import json_rows
from probes.benchmark_plan import jobs_of
from probes.vllm_engine.exported import (
    ExportedCommand,
    adapted,
    adapted_environment,
    cache_labels,
    logged_tokens,
    read_commands,
    seen_tokens,
)
from probes.vllm_engine.versions import check_version
from tests.probes.test_adapters import Adapter, until, vllm_path

pytestmark = pytest.mark.process

# Not installed with the package: read from beside the tests.
_SPEC = importlib.util.spec_from_file_location("exports", Path(__file__).parents[3] / "benchmarks" / "exports.py")
_EXPORTS = importlib.util.module_from_spec(_SPEC)
sys.modules["exports"] = _EXPORTS  # its dataclasses look themselves up
_SPEC.loader.exec_module(_EXPORTS)
table = _EXPORTS.table

LLAMA = "meta-llama/Llama-2-7b-hf"
MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"
OPTIONS = "--tensor-parallel-size 1 --max-num-seqs {seqs} --max-model-len 4096"
TWO = f"""# several servers
CUDA_VISIBLE_DEVICES=0 vllm serve {MIXTRAL} {OPTIONS.format(seqs=9)} --port 8000 &
CUDA_VISIBLE_DEVICES=1 vllm serve {MIXTRAL} {OPTIONS.format(seqs=9)} --port 8001 &
wait
"""


def one(seqs, *rest):
    return " ".join(("vllm serve", LLAMA, OPTIONS.format(seqs=seqs), *rest, "--port 8000"))


def a_plan(*loads):
    return {"source": "a test", "gpu": "CPU", "role": "validate", "shapes": [], "loads": list(loads)}


def a_load(**changes):
    (load,) = jobs_of(a_plan({"model": LLAMA, "exported": one(7), "foretold_kv_tokens": 16_000}), "the plan")
    return replace(load, **changes)


def test_a_command_is_run_as_it_was_written_but_for_model_and_port():
    (command,) = read_commands(a_load())
    argv = adapted(command, "/folder", 30_001)
    expected = one(7).replace("vllm serve", "").replace(LLAMA, "/folder").replace("8000", "30001").split()
    assert argv[argv.index("serve") + 1 :] == [*expected, "--load-format", "dummy", "--skip-tokenizer-init"]


def test_servers_side_by_side_have_their_own_gpus_and_ports():
    first, second = read_commands(a_load(model=replace(a_load().model, name=MIXTRAL), exported=TWO))
    assert adapted_environment(first, (2, 3), 100)["CUDA_VISIBLE_DEVICES"] == "2"
    assert adapted_environment(second, (2, 3), 125) == {
        "CUDA_VISIBLE_DEVICES": "3",
        "MASTER_PORT": "125",
        "VLLM_PORT": "127",
    }
    alone = ExportedCommand(argv=(), environment={})
    assert adapted_environment(alone, (2, 3), 100)["CUDA_VISIBLE_DEVICES"] == "2,3"


@pytest.mark.parametrize(
    ("exported", "message"),
    [
        ("", "exported is empty; it must be what advisor export"),
        ("# nothing", "exported is empty"),
        ("rm -rf folder --port 1", "exported has rm -rf folder --port 1; it must be vllm serve MODEL"),
        (f"vllm serve {LLAMA}", "it must be vllm serve MODEL ... --port N"),
        ("vllm serve other --port 1", f"exported serves other; the load's model is {LLAMA}"),
        (f"vllm serve '{LLAMA} --port 1", "exported cannot be read: No closing quotation"),
    ],
)
def test_other_text_is_not_run(exported, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        read_commands(a_load(exported=exported))


def test_the_cache_is_read_from_log_and_counters():
    line = "(EngineCore_DP{} pid=9) INFO 11-21 12:00:00 [kv_cache_utils.py:2146] GPU KV cache size: 1,234,560 tokens"
    assert logged_tokens("\n".join((line.format(0), "else", line.format(1)))) == [1_234_560] * 2
    counters = (
        "# TYPE vllm:cache_config_info gauge\n"
        'vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="200"} 1.0\n'
        'vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="1",num_gpu_blocks="200"} 1.0\n'
        'vllm:num_requests_running{engine="0"} 0.0\n'
    )
    assert [labels["engine"] for labels in cache_labels(counters)] == ["0", "1"]
    assert seen_tokens(counters, 2) == [1600, 1600]
    assert seen_tokens('vllm:cache_config_info{block_size="None",num_gpu_blocks="None"} 1.0\n', 1) == []


@pytest.fixture
def program(tmp_path):
    """The program, with loads that start and one that does not."""
    loads = [
        {"model": LLAMA, "label": "fine", "exported": one(7), "foretold_kv_tokens": 16_080},
        {"model": LLAMA, "label": "starved", "exported": one(8), "foretold_kv_tokens": 16_000},
        {"model": MIXTRAL, "label": "two", "deployment": {"dp": 2}, "exported": TWO, "foretold_kv_tokens": 16_000},
        {
            "model": LLAMA,
            "label": "wide",
            "deployment": {"dp": 2},
            "exported": one(7, "--data-parallel-size 2"),
            "foretold_kv_tokens": 16_000,
        },
    ]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(a_plan(*loads)))
    argv = [sys.executable, "-m", "probes.vllm_engine.exported", str(plan), str(tmp_path / "out"), "--gpus", "0,1"]
    return Adapter(
        folder=tmp_path,
        argv=argv,
        runs=0,
        bad=[],
        faulty=[],
        fingerprint=(),
        environment={"PYTHONPATH": vllm_path(tmp_path), "FAKE_FAILS": "8"},
    )


def rows(program):
    path = program.folder / "out" / "started.jsonl"
    return {row["load"].rpartition("-")[2]: row for _, row in json_rows(path)} if path.exists() else {}


def test_what_starts_and_what_does_not_is_told_one_by_one(program, capsys):
    code, _, errors = program.run(program.argv)
    assert (code, errors) == (0, "")
    found = rows(program)
    assert {name: row["outcome"] for name, row in found.items()} == {
        "fine": "started",
        "starved": "failed",
        "two": "started",
        "wide": "started",
    }
    assert found["starved"]["oom"] is True
    assert "No available memory for the cache blocks" in found["starved"]["why"]
    assert [found[name]["kv_tokens"] for name in ("fine", "two", "wide")] == [[16_000], [16_000] * 2, [16_000] * 2]
    assert all(row["kv_tokens"] == row["logged_kv_tokens"] for row in found.values() if row["outcome"] == "started")
    assert found["two"]["answered"] == [8, 8]
    assert found["fine"]["vllm"] == "0.24.0"
    assert found["fine"]["exported"] == [one(7)]
    until(lambda: not program.alive(), 60, lambda: f"still there: {program.alive()}")
    # half a percent off what was found is near enough; what did not start is not
    assert table(program.folder / "plan.json", program.folder / "out") is False
    (fine,) = (line for line in capsys.readouterr().out.splitlines() if "-fine" in line)
    assert fine.split()[1:] == ["started", str(found["fine"]["startup_s"]), "16080", "16000", "+0.50%"]
    # a second run tries only what failed
    code, out, _ = program.run(program.argv, FAKE_FAILS="")
    assert code == 0
    assert [line.split()[0].rpartition("-")[2] for line in out.splitlines()] == ["starved", "starved"]
    assert table(program.folder / "plan.json", program.folder / "out") is True


def test_killed_it_leaves_no_server(program):
    process = program.start(program.argv, FAKE_START_S="600", FAKE_FAILS="")
    logs = program.folder / "out" / "logs"
    until(lambda: [log for log in logs.glob("*fine*") if "on GPUs" in log.read_text()], 30, lambda: "nothing began")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: not program.alive(), 10, lambda: f"{program.alive()} live on")
    assert rows(program) == {}


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.20.0", "vllm 0.20.0 was never measured with these programs (0.24.0 and 0.33.0 were); it is tried"),
        (
            "0.25.1rc1.dev3+g1",
            "vllm 0.25.1rc1.dev3+g1 was never measured with these programs (0.24.0 and 0.33.0 were); it is tried",
        ),
        ("dev", "vllm dev was never measured with these programs (0.24.0 and 0.33.0 were); it is tried"),
        ("0.24.0", ""),
        ("0.24.0+cu130", ""),
    ],
)
def test_what_is_said_of_a_version(version, words):
    assert check_version(version) == words


def test_versions_are_looked_at_before_anything_starts(tmp_path):
    with pytest.raises(InputError, match=r"vllm is not installed for .*; install it there"):
        check_version(None)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(a_plan()))
    ended = subprocess.run(
        [sys.executable, "-m", "probes.vllm_engine.static", str(plan), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": vllm_path(tmp_path, "0.19.1")},
        timeout=60,
        check=False,
    )
    told = "vllm 0.19.1 is too old to be measured here; install 0.20 or later"
    assert (ended.returncode, ended.stderr.strip()) == (2, told)
    assert not (tmp_path / "out" / "runs.jsonl").exists()
