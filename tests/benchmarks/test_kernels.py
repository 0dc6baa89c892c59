"""The table of kernels: what is judged, by what rows are named, and files that are none."""

from dataclasses import replace

import pytest

from advisor.calibration.surrogate import shipped_surrogate
from benchmarks import kernels
from catalog.kernels import AttentionTime, Kernel, PartTime, read_kernels

PRODUCT = Kernel(gpu="H100-SXM", op="gemm", us=25.0, engine="vllm", m=1, k=4096, n=8192, dtype="bfloat16", cache="cold")
ATTENTION = AttentionTime(
    gpu="H100-SXM", op="attention", us=10.0, engine="sglang", batch=8, query=1, context=4096, heads=32, kv_heads=8,
    dtype="bfloat16", kv_dtype="fp8", window=1024,
)  # fmt: skip


def test_kernels_are_judged_as_they_run():
    assert kernels.is_judged(PRODUCT)
    assert not kernels.is_judged(replace(PRODUCT, cache="warm"))
    assert not kernels.is_judged(replace(PRODUCT, graph="eager"))


def test_rows_are_named_by_what_they_are_of_and_parts_are_left_out():
    part = PartTime(gpu="H100-SXM", op="gdn", us=1.0, engine="vllm")
    judged = list(kernels.ratios([PRODUCT, ATTENTION, part, PRODUCT], shipped_surrogate()))
    assert [time for time, _ in judged] == [PRODUCT, PRODUCT, ATTENTION]
    head, *rows = kernels.table(judged, ("kind", "engine"), 1)
    assert head.split() == ["kind", "engine", "kernels", "median", "10", "to", "90%", "error"]
    assert [row.split("  ")[0] for row in rows] == ["attention, decode fp8 cache window", "products, bfloat16"]
    assert len(kernels.table(judged, ("kind", "engine"), 2)) == 2
    ratio = judged[0][1]
    assert 0.7 < ratio < 1.6
    doubled = list(kernels.ratios([replace(PRODUCT, us=50.0)], shipped_surrogate()))
    assert doubled[0][1] == pytest.approx(ratio / 2)


def test_judging_kernels_are_none_that_the_fit_learned_from():
    """By shape, kind and GPU: what is learned lies in another folder."""

    def shapes(folder, *, known):
        times = [time for path in sorted(folder.glob(known)) for time in read_kernels(path)]
        return {(time.gpu, time.m, time.k, time.n) for time in times if isinstance(time, Kernel) and time.engine in ("", "vllm")
                and time.dtype == "bfloat16"}  # fmt: skip

    judged = shapes(kernels.JUDGED, known="l40s.csv")
    assert not judged & shapes(kernels.JUDGED.with_name("kernels"), known="l40s.csv")


def test_what_cannot_be_read_is_one_line(tmp_path, capsys):
    bad = tmp_path / "bad.csv"
    bad.write_text("op,gpu,m,k,n,dtype,us\ngemm,CPU,1,1,1,fp6,1\n")
    assert kernels.main([str(bad)]) == 2
    assert "line 2: dtype is 'fp6'" in capsys.readouterr().err
