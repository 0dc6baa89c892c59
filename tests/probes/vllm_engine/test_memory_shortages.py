"""vLLM that runs out of memory: how its log says so, and what is stored of it. The lines are of vLLM 0.24 and torch 2.11."""

import json

import pytest

from catalog.runs import read_runs
from probes.sweep import outcomes
from probes.vllm_engine.memory_shortages import first_error, shortage
from tests.probes.test_adapters import LLAMA, sweeping, vllm_path

pytestmark = pytest.mark.process

TORCH = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 139.80 GiB of "
    "which 1.02 GiB is free."
)
LENGTH = (
    "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is needed, which "
    "is larger than the available KV cache memory (3.2 GiB). Based on the available memory, the estimated maximum model "
    "length is 26208."
)
CLIENT = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
OTHERS = (
    "ValueError: Free memory on device cuda:0 (12.1/139.8 GiB) on startup is less than desired GPU memory utilization "
    "(0.9, 125.8 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
FAILED = """\
(APIServer pid=2133) WARNING 11-21 12:51:57 [system_utils.py:299] Found ulimit of 20000 and failed to automatically increase \
with error current limit exceeds maximum limit. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`.
(APIServer pid=905) WARNING 11-21 12:51:52 [base.py:245] ValueError: Tokenizer not available when `skip_tokenizer_init=True`
(EngineCore pid=2424) ERROR 11-21 12:52:32 [core.py:1231] EngineCore failed to start.
(EngineCore pid=2424) ERROR 11-21 12:52:32 [core.py:1231] Traceback (most recent call last):
(EngineCore pid=2424) ERROR 11-21 12:52:32 [core.py:1231]     return self._op(*args, **kwargs)
(EngineCore pid=2424) ERROR 11-21 12:52:32 [core.py:1231] RuntimeError: For FP16/BF16 input, output must have the same dtype as \
inputs. For FP8 input, output must have dtype BF16
(EngineCore pid=2424) Process EngineCore:
(APIServer pid=2133) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
"""Of a real start, on an H200: Llama-2-13B in float16 with an fp8 cache."""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"(Worker_TP0 pid=41) ERROR 11-21 12:00:00 [multiproc_executor.py:770] {TORCH}", TORCH),
        (f"(EngineCore pid=41) ERROR 11-21 12:00:00 [core.py:1100] {LENGTH}", LENGTH),
        (f"(EngineCore_DP1 pid=41) {LENGTH}", LENGTH),
        ("torch.AcceleratorError: CUDA error: out of memory", "torch.AcceleratorError: CUDA error: out of memory"),
        ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", None),
        ("RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests.", None),
    ],
)
def test_the_log_tells_that_memory_did_not_suffice(line, told):
    found = shortage(f"INFO loading\n{line}\n{CLIENT}")
    assert found == (told or line)


@pytest.mark.parametrize("line", [OTHERS, CLIENT, "ValueError: unknown model", "KV cache size: 3 tokens", ""])
def test_other_failures_are_no_shortage(line):
    assert shortage(f"INFO loading\n{line}\n") is None


def test_the_first_error_is_the_one_that_others_follow_from():
    told = "RuntimeError: For FP16/BF16 input, output must have the same dtype as inputs. For FP8 input, output must have dtype BF16"
    assert first_error(FAILED) == told
    assert shortage(FAILED) is None
    assert first_error(f"INFO fine\n(EngineCore pid=1) {OTHERS}\n{CLIENT}") == OTHERS
    assert first_error("INFO fine") is None


def program(folder, module, load):
    return sweeping(
        folder,
        module,
        {},
        {"model": LLAMA, "deployment": {"max_num_seqs": 64}, **load},
        bad={},
        faulty=[],
        environment={"PYTHONPATH": vllm_path(folder)},
        runs=1,
        fingerprint=(),
    )


@pytest.mark.parametrize(
    ("lacking", "module", "load", "batch"),
    [
        ("weights", "static", {"shapes": [[8, 64, 4], [2, 32, 4]]}, 2),
        (
            "cache",
            "serving",
            {"shapes": [], "offers": [{"input_len": 32, "output_len": 4, "concurrency": 2, "seconds": 0.2}]},
            1,
        ),
    ],
)
def test_that_it_does_not_start_is_a_measurement(tmp_path, lacking, module, load, batch):
    adapter = program(tmp_path, f"probes.vllm_engine.{module}", load)
    code, _, errors = adapter.run(adapter.argv, FAKE_VLLM=json.dumps({"starve": lacking}))
    assert (code, errors) == (0, "")
    (run,) = read_runs(adapter.store)
    assert run.oom
    assert (run.batch, run.input_len, run.max_num_seqs, run.tp) == (batch, 32, 64, 1)
    assert (run.engine, run.engine_version, run.e2e_ms) == ("vllm", "0.24.0", None)
    assert ("out of memory" if lacking == "weights" else "No available memory") in json.loads(run.fingerprint)["oom"]
    assert set(outcomes(tmp_path / "out").values()) == {"done"}


def test_an_engine_that_dies_of_a_batch_is_started_again_for_the_others(tmp_path):
    adapter = program(tmp_path, "probes.vllm_engine.static", {"shapes": [[2, 32, 4], [8, 32, 4], [4, 32, 4]]})
    dies = {"FAKE_VLLM": json.dumps({"dies": 8})}
    adapter.run(adapter.argv, **dies)
    assert set(outcomes(tmp_path / "out").values()) == {"failed"}
    assert [(run.batch, run.oom) for run in read_runs(adapter.store)] == [(2, False), (8, True)]
    adapter.run(adapter.argv, **dies)
    assert set(outcomes(tmp_path / "out").values()) == {"done"}
    assert [(run.batch, run.oom) for run in read_runs(adapter.store)] == [(2, False), (8, True), (4, False)]
