"""Runs that cannot be what they say are named with what speaks against them."""

import json

import pytest

from advisor.calibration.importing import import_runs, read_import
from catalog.errors import InputError
from catalog.importers.consistency import inconsistency, latency_ms
from catalog.requests import Request
from catalog.runs import shipped_runs
from catalog.schema import Measurement


def loop(**changes):
    """32 requests kept in flight of 256 tokens: 8.11 a second of 3.945 s each."""
    given = {
        "run_id": "loop", "role": "fit", "source": "a test", "gpu": "H100-SXM", "gpus": 1, "engine": "vllm",
        "engine_version": "0.24.0", "model": "meta-llama/Meta-Llama-3.1-8B", "dtype": "bfloat16", "regime": "steady",
        "batch": 32, "input_len": 1024, "output_len": 256, "ttft_ms": 120.0, "tpot_ms": 15.0, "output_tok_s": 2076.0,
    }  # fmt: skip
    return Measurement(**{**given, **changes})


def test_a_loop_that_obeys_little_s_law_passes():
    assert latency_ms(loop()) == 120 + 255 * 15
    assert inconsistency(loop()) is None
    assert inconsistency(loop(batch=0)) is None
    assert inconsistency(loop(ttft_ms=None)) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output_tok_s": 853.0}, "3.33 requests a second of 3.94 s each are 13.1 in flight, not 32"),
        ({"output_tok_s": 4000.0}, "more than the 32 that were kept"),
        ({"batch": 16, "dp": 2, "gpus": 2, "output_tok_s": 853.0}, "not 32"),
        ({"e2e_ms": 2800.0, "output_tok_s": 2930.0}, "less than the 3945 ms of their first token and the 255 after it"),
    ],
)
def test_what_contradicts_it_says_how(changes, said):
    assert said in (inconsistency(loop(**changes)) or "")


def test_every_loop_that_ships_obeys_it():
    loops = [run for run in shipped_runs() if run.regime == "steady" and run.batch]
    assert len(loops) > 20
    assert [run.run_id for run in loops if inconsistency(run)] == []


def requests(first, rest):
    """Two turns of 16 in flight, in which a token takes so many milliseconds."""
    return [
        Request(
            run_id="", arrival_s=float(i), input_len=10, output_len=101, ttft_ms=50.0,
            e2e_ms=50.0 + 100.0 * (first if i < 16 else rest),
        )
        for i in range(48)
    ]  # fmt: skip


def test_a_server_that_warms_up_is_told_from_one_that_is_warm():
    run = loop(batch=16, output_tok_s=1038.0)
    assert inconsistency(run, requests(10.0, 10.0)) is None
    assert "its first 16 requests took 4 times as long a token" in (inconsistency(run, requests(40.0, 10.0)) or "")


def test_import_names_the_row(tmp_path):
    """The benchmark of 100 prompts with 32 in flight that a newcomer made."""
    path = tmp_path / "serve.json"
    result = {
        "date": "20261121-100000", "endpoint_type": "vllm", "backend": "vllm", "model_id": "llama-3.1-8b",
        "tokenizer_id": "llama-3.1-8b", "num_prompts": 100, "request_rate": "inf", "burstiness": 1.0, "max_concurrency": 32,
        "duration": 30.0, "completed": 100, "failed": 0, "total_input_tokens": 102400, "total_output_tokens": 25600,
        "request_throughput": 3.33, "output_throughput": 853.0, "total_token_throughput": 4266.0,
        "mean_ttft_ms": 120.0, "median_ttft_ms": 120.0, "mean_tpot_ms": 15.0, "median_tpot_ms": 15.0,
    }  # fmt: skip
    path.write_text(json.dumps(result))
    found = read_import([path], given={"gpu": "H100", "tp": 1})
    assert found.runs == ()
    assert "13.1 in flight, not 32" in str(found.left_out[0])
    assert str(found.left_out[0]).startswith("serve.json")
    with pytest.raises(InputError, match="Little's law"):
        import_runs(path, gpu="H100", tp=1)
    path.write_text(json.dumps({**result, "max_concurrency": 13}))
    assert [run.batch for run in import_runs(path, gpu="H100", tp=1)] == [13]
