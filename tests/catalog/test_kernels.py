"""Kernel times: those shipped, those a probe wrote, and files that are neither."""

import json

import pytest

from catalog import kernels
from catalog.errors import InputError
from catalog.kernels import (
    KINDS,
    AttentionTime,
    Collective,
    CopyTime,
    ElementTime,
    ExpertsTime,
    Kernel,
    RopeTime,
    of_kind,
    read_kernels,
)

GEMM = {"gpu": "CPU", "op": "gemm", "m": 2, "k": 3, "n": 4, "dtype": "float32", "us": 1.5}


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_shipped_times_are_of_their_kinds():
    shipped = {
        Kernel: kernels.shipped_kernels(),
        AttentionTime: kernels.shipped_attention(),
        ExpertsTime: kernels.shipped_experts(),
        Collective: kernels.shipped_collectives(),
    }
    for kind, times in shipped.items():
        assert len(times) > 50
        assert {type(time) for time in times} == {kind}
        assert all(time.us > 0 and time.gpu == "H200-SXM" for time in times)
    lines = sum(len(path.read_text().splitlines()) - 1 for path in kernels.DATA.glob("*.csv"))
    assert sum(map(len, shipped.values())) == lines
    assert {time.impl for time in shipped[Collective]} == {"nccl", "vllm-custom"}
    assert {time.graph for time in shipped[Collective] if time.op == "sendrecv"} == {"eager"}


def test_what_a_probe_wrote_is_read_by_kind_without_what_failed(tmp_path):
    common = {"gpu": "CPU", "us": 2, "spread": 0.1, "graph": "eager", "fingerprint": "{}"}
    attention = {"batch": 1, "query": 1, "context": 8, "heads": 4, "kv_heads": 2, "head_dim": 64, "dtype": "bfloat16"}
    path = written(
        tmp_path / "kernels.jsonl",
        {**GEMM, **common},
        {**common, "op": "attention", **attention, "fused": True},
        {**common, "op": "rope", **attention, "fused": False, "normed": False},
        {**common, "op": "norm", "m": 1, "n": 2, "dtype": "float16", "fused": True},
        {**common, "op": "d2h", "bytes": 7},
        {"gpu": "CPU", "op": "gemm", "m": 1, "k": 2, "n": 3, "dtype": "float32", "error": "out of memory"},
        {**common, "op": "alltoall", "group": 4, "bytes": 64, "impl": "gloo"},
    )
    path.write_text(path.read_text() + '{"gpu":"CPU","op":"ge')  # a killed writer's
    times = read_kernels(path)
    assert [type(time) for time in times] == [Kernel, AttentionTime, RopeTime, ElementTime, CopyTime, Collective]
    assert all((time.us, time.spread, time.graph) == (2.0, 0.1, "eager") for time in times)
    (product,) = of_kind(Kernel, times)
    assert (product.m, product.k, product.n) == (2, 3, 4)


def test_csv_and_json_say_the_same(tmp_path):
    table = tmp_path / "some.csv"
    table.write_text("op,gpu,group,bytes,impl,graph,us,spread\nallreduce,CPU,2,64,gloo,eager,3.5,\n")
    row = {"op": "allreduce", "gpu": "CPU", "group": 2, "bytes": 64, "impl": "gloo", "graph": "eager", "us": 3.5}
    assert read_kernels(table) == read_kernels(written(tmp_path / "some.jsonl", row))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"op": "gem"}, "line 1: op is 'gem'; it must be one of gemm, attention"),
        ({"op": ["gemm"]}, "line 1: op is ['gemm']; it must be one of"),
        ({"us": 0}, "line 1: us is 0; it must be above 0"),
        ({"us": "2"}, "line 1: us is '2'; it must be a number"),
        ({"m": 1.5}, "line 1: m is 1.5; it must be a whole number"),
        ({"width": 1}, "line 1: unknown field 'width'"),
        ({"graph": True}, "line 1: graph is True; it must be 'graph', 'eager' or 'unknown'"),
    ],
)
def test_impossible_rows_are_told_by_line(tmp_path, changes, message):
    path = written(tmp_path / "bad.jsonl", {**GEMM, **changes})
    with pytest.raises(InputError) as caught:
        read_kernels(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("op,gpu,m,k,n,dtype,us\ngemm,CPU,two,1,1,float32,1\n", "line 2: m is 'two'; it must be a whole number"),
        ("op,gpu,m,k,n,dtype,us\ngemm,CPU,1,1\n", "line 2 has not as many cells as its header"),
        ("op,gpu,m,k,n,dtype,us\ngemm,CPU,1,1,1,float32,1,1\n", "line 2 has not as many cells as its header"),
        ("op,gpu,m,k,dtype,us\ngemm,CPU,1,1,float32,1\n", "line 2: n is missing"),
        ("gpu,m\nCPU,1\n", "line 2: op is None; it must be one of"),
    ],
)
def test_impossible_tables_are_told_by_line(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_kernels(path)
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    for name in ("none.csv", "none.jsonl"):
        with pytest.raises(InputError, match=r"cannot read .*: No such file"):
            read_kernels(tmp_path / name)


def test_every_kind_of_kernel_has_a_type():
    assert set(KINDS) >= {"gemm", "experts", "attention", "norm", "swiglu", "rope", "copy", "h2d", "d2h"}
