"""Kernels timed alone: predicted by the functions that make up a step, and a fit learns from them what they can tell."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.calibration.kernel_observations import (
    SHORT_BYTES,
    SHORT_SUMS,
    evidence_of,
    evidence_with,
    shipped_evidence,
)
from advisor.calibration.observations import group_runs
from advisor.calibration.posterior import WIDTHS, fit_posterior, log_residuals, sensitivities, update
from advisor.calibration.surrogate import analytic_marginal, shipped_surrogate
from advisor.perf_model.collectives import collective_ms
from advisor.perf_model.parameters import NAMES, SPREADS, Parameters
from catalog.gpus import find_gpu
from catalog.kernels import AttentionTime, Collective, CopyTime, ExpertsTime, Kernel
from catalog.runs import shipped_runs
from catalog.schema import Cluster
from tests.advisor.strategies import gpus, parameters

H200 = find_gpu("H200").value
TYPICAL = Parameters.typical()


def ms(evidence, with_parameters=TYPICAL):
    (found,) = evidence
    return found.predict(with_parameters)[0]


def kernel(kind, **fields):
    return kind(gpu="H200-SXM", us=1.0, dtype="bfloat16", **fields)


def test_decode_attention_reads_the_cache_and_a_tile_more():
    one = kernel(AttentionTime, op="attention", batch=64, query=1, context=4096, heads=32, kv_heads=8)
    read = 64 * (4096 + TYPICAL.kv_tile) * 2 * 8 * 128 * 2
    assert ms(evidence_of([one], "vllm"))[0] == pytest.approx(
        read / (H200.memory_bandwidth_gbps * 1e6 * TYPICAL.kv_memory) + TYPICAL.attention_us * 1e-3, rel=0.02
    )


def test_prefill_attention_computes_causal_pairs_and_a_tile_more():
    one = kernel(AttentionTime, op="attention", batch=2, query=2048, context=8192, heads=32, kv_heads=8)
    pairs = 2 * sum(range(8192 - 2048 + 1, 8192 + 1)) + 2 * 2048 * TYPICAL.attention_tile
    flops = pairs * 4 * 32 * 128
    assert ms(evidence_of([one], "vllm"))[0] == pytest.approx(
        flops / (H200.fp16_tflops * 1e9 * TYPICAL.attention_compute) + TYPICAL.attention_us * 1e-3, rel=0.01
    )


def test_experts_read_those_that_are_touched():
    """One token to 2 of 8: a quarter of the weights of three matrices, in two products."""
    one = kernel(ExpertsTime, op="experts", m=1, n=7168, k=4096, experts=8, top=2)
    read = 2 * 3 * 7168 * 4096 * 2 / (H200.memory_bandwidth_gbps * 1e6 * TYPICAL.expert_memory)
    assert ms(evidence_of([one], "vllm"))[0] == pytest.approx(read + 2 * TYPICAL.expert_us * 1e-3, rel=0.02)


def test_what_an_engine_does_not_use_says_nothing_of_it():
    short = [kernel_of_sum(impl, 65536) for impl in ("nccl", "gloo", *SHORT_SUMS.values())]
    long = [kernel_of_sum("nccl", 2**26), kernel_of_sum("vllm-custom", 2**26)]
    for engine, impl in SHORT_SUMS.items():
        assert sum(each.measured.size for each in evidence_of([*short, *long], engine)) == 2, impl
    eager = kernel_of_sum("nccl", 2**26, graph="eager")
    plain = kernel(AttentionTime, op="attention", batch=8, query=1, context=64, heads=8, kv_heads=8, fused=False)
    copied = CopyTime(gpu="H200-SXM", op="h2d", us=1.0, bytes=2**20)
    assert evidence_of([eager, plain, copied], "torch") == ()


def kernel_of_sum(impl, size, *, graph="graph"):
    return Collective(gpu="H200-SXM", op="allreduce", us=1.0, group=4, bytes=size, impl=impl, graph=graph)


def test_parameters_are_learned_from_kernels_alone():
    """Exact times of a world that is unlike what is believed lead there."""
    values = {
        "gemm_memory": 0.9, "gemm_us": 2.5, "kv_memory": 0.93, "kv_tile": 40.0, "attention_us": 4.0, "expert_us": 12.0,
        "expert_memory": 0.8, "collective_us": 4.0, "link": 0.5, "ring_us": 22.0, "ring_link": 0.85,
    }  # fmt: skip
    truth = replace(TYPICAL, **values)
    times = [
        *(kernel(Kernel, op="gemm", m=m, k=k, n=k) for m in (1, 64, 4096) for k in (512, 2048, 8192)),
        *(
            kernel(AttentionTime, op="attention", batch=batch, query=1, context=context, heads=32, kv_heads=8)
            for batch in (1, 16, 256)
            for context in (64, 512, 8192)
        ),
        *(
            kernel(ExpertsTime, op="experts", m=m, n=n, k=2048, experts=64, top=8)
            for m in (1, 16, 256)
            for n in (96, 768)
        ),
        *(kernel_of_sum("vllm-custom", size) for size in [2048, 2**18, 2**20, 2**22] * 8),
        *(kernel_of_sum("nccl", size) for size in [2**24, 2**25, 2**26, 2**28] * 8),
    ]
    world = [replace(each, measured=each.predict(truth)) for each in evidence_of(times, "vllm")]
    learned = update(analytic_marginal(), world).parameters
    for name, value in values.items():
        if name == "ring_us":  # a small part of all long sums, which are believed the least
            continue
        assert getattr(learned, name) == pytest.approx(value, rel=0.12), name


def test_shipped_kernels_are_as_the_fit_says():
    """By kind, the model of time is within the noise that the fit expects of single kernels, and without a lean."""
    shipped = shipped_surrogate()
    for engine in ("vllm", "torch"):
        x = shipped.marginal(engine, "H200-SXM").mean
        found = np.concatenate([log_residuals(each, x)[0] for each in shipped_evidence() if each.engine == engine])
        assert abs(np.median(found)) < 0.03
        assert np.mean(np.abs(found)) < 0.1


def test_sensitivities_are_those_of_what_the_kernel_has():
    x = Parameters.typical().unbounded()
    for each in shipped_evidence():
        moved = np.abs(sensitivities(each, x)[0]).max(axis=1)
        assert moved.any()
        assert not moved[[NAMES.index(name) for name in ("step_ms", "stage_ms", "layer_host_us", "kernel_us")]].any()


@given(gpus, parameters(), st.lists(st.floats(1.0, 2.0**31), min_size=2, max_size=16), st.sampled_from([2, 4, 8]))
def test_a_longer_message_takes_no_less_time(gpu, drawn, sizes, group):
    cluster = Cluster(gpu=gpu, gpus_per_node=8)
    ordered = np.sort(np.array([*sizes, SHORT_BYTES, SHORT_BYTES + 1.0]))
    time = collective_ms("all_reduce", ordered, np.full(len(ordered), float(group)), cluster, drawn)
    assert (np.diff(time) >= -1e-12 * time[1:]).all()
    assert (np.diff(time / ordered) <= 1e-12 * time[1:] / ordered[1:]).all()  # and no more for each byte


# -- kernels that others timed ---------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path):
    """A folder as ``benchmarks/published``, with products of an A100 that reach 90% of its bandwidth, and one of an H200."""
    (tmp_path / "kernels").mkdir()
    a100 = find_gpu("A100-SXM-80GB").value
    rows = ["gpu,op,m,k,n,dtype,us,source,licence"]
    rows += [
        f"{a100.name},gemm,1,{k},{n},bfloat16,{2e-3 * k * n / a100.memory_bandwidth_gbps / 0.9 + 3.0:.3f},someone,Apache-2.0"
        for k in (4096, 8192, 16384)
        for n in (4096, 8192, 28672)
    ]
    (tmp_path / "kernels" / "a100.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "kernels" / "h200.csv").write_text(f"{rows[0]}\nH200-SXM,gemm,1,4096,4096,bfloat16,9.0,,\n", "utf-8")
    return tmp_path


def test_only_gpus_that_were_not_timed_here_learn_from_others(published):
    theirs = [group for group in evidence_with(published) if group.alike]
    assert [group.cluster.gpu.name for group in theirs] == ["A100-SXM-80GB"]
    assert len(evidence_with(None)) == len(shipped_evidence()) == len(evidence_with(published)) - 1


def test_many_kernels_of_one_session_say_less_than_as_many_that_are_independent(published):
    (alike,) = (group for group in evidence_with(published) if group.alike)
    widths = [
        np.sqrt(fit_posterior([group]).marginal("vllm", "A100-SXM-80GB").covariance[0, 0])
        for group in (alike, replace(alike, alike=False))
    ]
    assert NAMES[0] == "gemm_memory"
    assert widths[1] < widths[0] < WIDTHS[0] * SPREADS[0]


def test_a_gpu_with_kernels_alone_is_not_called_calibrated(published):
    runs = [run for run in shipped_runs() if run.engine == "vllm" and run.batch and "Qwen2.5-1.5B" in run.model]
    posterior = fit_posterior([*group_runs(runs, by_release=True), *evidence_with(published)[-1:]])
    assert posterior.marginal("vllm", "A100-SXM-80GB").provenance == "transferred"
    assert posterior.marginal("vllm", "H200-SXM").provenance == "calibrated"
    fewer = fit_posterior(list(group_runs(runs, by_release=True))).marginal("vllm", "A100-SXM-80GB")
    with_kernels = posterior.marginal("vllm", "A100-SXM-80GB")
    assert with_kernels.covariance[0, 0] < fewer.covariance[0, 0]
