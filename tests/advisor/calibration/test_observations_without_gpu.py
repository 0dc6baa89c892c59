"""Runs of a machine without a GPU are kept and read, and say nothing of any GPU."""

from dataclasses import replace

import advisor
from advisor.calibration.observations import group_runs, impossible
from catalog.runs import append_runs, shipped_runs

GPU_RUN = next(run for run in shipped_runs() if run.gpu == "H200-SXM" and run.regime == "static" and not run.oom)
CPU_RUN = replace(GPU_RUN, run_id="cpu", gpu="CPU", engine="torch", dtype="float32", tp=1, gpus=1)


def test_every_reader_passes_over_runs_without_a_gpu(home):
    assert impossible([CPU_RUN, GPU_RUN]) == {}
    assert [group.runs for group in group_runs([CPU_RUN, GPU_RUN])] == [(GPU_RUN,)]
    append_runs(home / "runs" / "own.jsonl", [CPU_RUN])
    assert advisor.estimate("llama-13b", "H200", batch=4, input_len=128, output_len=32).tpot_ms > 0
    assert [run.run_id for run in advisor.import_runs(home / "runs" / "own.jsonl")] == ["cpu"]
