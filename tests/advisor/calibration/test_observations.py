"""No measured time is believed that is shorter than the GPUs allow."""

from dataclasses import replace

import pytest

from advisor.calibration.observations import METRICS, group_runs, impossible
from catalog.runs import shipped_runs
from catalog.schema import Measurement

GOOD = Measurement(
    run_id="pipeline", role="fit", source="test", gpu="H200-SXM", gpus=2, engine="torch", engine_version="2.11.0",
    model="meta-llama/Llama-2-13b-hf", dtype="float16", tp=1, pp=2, max_num_batched_tokens=8192, max_num_seqs=256,
    max_model_len=1280, batch=226, input_len=1024, output_len=64, prefill_ms=5100.0, tpot_ms=31.1, e2e_ms=7060.0,
    output_tok_s=2048.6,
)  # fmt: skip


def used(run):
    (group,) = group_runs([run])
    return {name for name, taken in zip(METRICS, group.used[:, 0], strict=True) if taken}


def test_a_decode_step_that_reads_faster_than_the_memory_is_not_believed():
    """Its prefill was timed while the GPUs still connected, and taken off the whole: 195 GB of keys and values and two
    times the weights, on two GPUs of 4.8 TB/s, are not read in 20 ms."""
    slip = replace(GOOD, prefill_ms=5803.0, tpot_ms=19.957)
    assert used(GOOD) == {"prefill_ms", "tpot_ms"}
    assert "tpot_ms" not in used(slip)
    assert impossible([GOOD]) == {}
    ((name, why),) = impossible([slip]).items()
    assert name == "pipeline"
    assert why == "tpot_ms is 20, H200-SXM's bandwidth and peak allow 25.7 at best"


@pytest.mark.parametrize("change", [{"output_tok_s": 9000.0}, {"e2e_ms": 1500.0}, {"prefill_ms": 900.0}])
def test_other_quantities_have_their_limits_too(change):
    assert impossible([replace(GOOD, **change)])


def test_what_waits_for_memory_or_for_others_is_not_judged():
    assert impossible([replace(GOOD, batch=4000, tpot_ms=20.0)]) == {}  # how many run at once is not known that well
    assert impossible([replace(GOOD, regime="steady", tpot_ms=20.0)]) == {}
    assert impossible([replace(GOOD, oom=True, prefill_ms=None, tpot_ms=None, e2e_ms=None, output_tok_s=None)]) == {}


def test_all_that_ships_is_possible():
    assert impossible(shipped_runs()) == {}


def test_a_loop_faster_than_one_sequence_can_be_is_impossible():
    run = Measurement(
        run_id="loop", role="fit", source="a test", gpu="H100-SXM", gpus=1, engine="vllm", engine_version="0.24.0",
        model="meta-llama/Meta-Llama-3.1-8B", dtype="bfloat16", regime="steady", batch=32, input_len=1024, output_len=256,
        ttft_ms=120.0, tpot_ms=9.0, output_tok_s=3400.0,
    )  # fmt: skip
    assert impossible([run]) == {}
    (why,) = impossible([replace(run, tpot_ms=3.0)]).values()  # 16 GB at 3.35 TB/s take 4.8 ms
    assert why.startswith("tpot_ms is 3, H100-SXM's bandwidth and peak allow 4.")
