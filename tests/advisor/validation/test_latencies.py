"""Published latencies that nothing was fitted to, beside their predictions."""

import numpy as np

from advisor.validation.latencies import errors_of, published_latencies


def test_published_latencies_are_within_15_percent():
    published = published_latencies()
    assert len(published) == 24
    assert {(run.gpu, run.role) for run in published} == {("A100-SXM-80GB", "validate"), ("H100-SXM", "validate")}
    runs = [run for run in published if run.input_len <= 5000]
    errors = [errors_of(run) for run in runs]
    for metric in ("tpot_ms", "output_tok_s"):
        off = [abs(error[metric][0]) for error in errors]
        assert max(off) < 0.15
        assert np.mean(off) < 0.05
        assert all(error[metric][1] for error in errors)
    alone = [error["ttft_ms"][0] for run, error in zip(runs, errors, strict=True) if run.batch == 1]
    assert np.mean(np.abs(alone)) < 0.15
