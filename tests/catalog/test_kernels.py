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


# -- numbers that cannot be together, and tables that others publish -------------------------------------------------

ATTENTION = {"op": "attention", "batch": 1, "query": 1, "context": 8, "heads": 4, "kv_heads": 2, "dtype": "bfloat16"}
EXPERTS = {"op": "experts", "m": 4, "n": 64, "k": 128, "experts": 8, "top": 2, "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ATTENTION | {"query": 9}, "query is 9, more than context, 8"),
        (ATTENTION | {"kv_heads": 3}, "heads is 4, which is no multiple of kv_heads, 3"),
        (ATTENTION | {"window": -1}, "window is -1; it must be from 0 to"),
        (ATTENTION | {"kv_dtype": "fp7"}, "kv_dtype is 'fp7'; it must be 'float32', 'bfloat16'"),
        (ATTENTION | {"engine": "tgi"}, "engine is 'tgi'; it must be one of vllm, "),
        (EXPERTS | {"top": 9}, "top is 9, more than experts, 8"),
        (EXPERTS | {"ep": 3}, "experts is 8, which is no multiple of ep, 3"),
        (EXPERTS | {"routing": "given"}, "touched is missing, which routing 'given' asks for"),
        (EXPERTS | {"routing": "given", "touched": 8.5}, "touched is 8.5, more than experts, 8"),
        (EXPERTS | {"routing": "random"}, "routing is 'random'; it must be 'uniform', 'balanced'"),
        ({"op": "allreduce", "group": 1, "bytes": 8, "impl": "nccl"}, "group is 1; it must be at least 2 GPUs"),
        ({"op": "mla", "batch": 1, "query": 1, "context": 8, "dtype": "bfloat16"}, "heads is missing"),
    ],
)
def test_rows_that_cannot_be_are_told_by_row_and_column(tmp_path, row, message):
    path = written(tmp_path / "bad.jsonl", GEMM, {"gpu": "CPU", "us": 1.0} | row)
    with pytest.raises(InputError) as caught:
        read_kernels(path)
    assert f"line 2: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


PUBLISHED = (
    "gpu,backend,version,op,dtype,kv_dtype,kernel,graph,m,k,n,batch,query,context,heads,kv_heads,head_dim,window,experts,top,tp,ep,"
    "distribution,group,bytes,impl,model,phase,cache,time_us,source,licence"
)


def published(path, *rows):
    names = PUBLISHED.split(",")
    lines = [",".join(str(row.get(name, "")) for name in names) for row in rows]
    path.write_text("\n".join([PUBLISHED, *lines]) + "\n")
    return path


COMMON = {
    "gpu": "H100-SXM",
    "backend": "vllm",
    "version": "0.24.0",
    "time_us": 5,
    "source": "someone",
    "licence": "MIT",
}


def test_columns_that_others_publish_become_ours(tmp_path):
    path = published(
        tmp_path / "some.csv",
        COMMON | {"op": "gemm", "dtype": "fp8_block", "graph": "eager", "m": 1, "k": 2, "n": 3, "cache": "cold"},
        COMMON
        | ATTENTION
        | {"kv_dtype": "fp8", "head_dim": 64, "window": 128, "graph": "graph", "phase": "decode", "cache": "warm"},
        COMMON
        | EXPERTS
        | {"dtype": "w4a16_mxfp4", "tp": 1, "ep": 4, "distribution": "power_law_1.2", "graph": "graph"},
        COMMON | {"op": "allreduce", "dtype": "bfloat16", "group": 4, "bytes": 64, "impl": "custom", "graph": "graph"},
        COMMON
        | {"backend": "nccl", "version": "2.29.2", "op": "allgather", "dtype": "float16", "group": 4, "bytes": 64}
        | {"impl": "nccl", "graph": "eager"},
        COMMON
        | {"op": "mla_module", "model": "deepseek-ai/DeepSeek-V3", "dtype": "nvfp4", "kv_dtype": "fp8"}
        | {"batch": 1, "query": 1, "context": 9, "heads": 16, "phase": "decode"},
        COMMON | {"op": "gdn", "dtype": "bfloat16", "model": "some/model", "phase": "decode", "batch": 1, "heads": 8},
    )
    product, attention, experts, own_sum, nccl, module, part = read_kernels(path)
    assert (product.engine, product.engine_version, product.dtype) == ("vllm", "0.24.0", "fp8")
    assert product.block_scales
    assert product.converts
    assert (product.graph, product.cache, product.us) == ("eager", "cold", 5.0)
    assert (attention.kv_dtype, attention.window, attention.head_dim, attention.cache) == ("fp8", 128, 64, "warm")
    assert attention.caches
    assert (experts.dtype, experts.ep, experts.routing, experts.exponent) == ("mxfp4", 4, "power_law", 1.2)
    assert experts.sorts
    assert (own_sum.impl, own_sum.engine) == ("vllm-custom", "vllm")
    assert (nccl.impl, nccl.engine, nccl.kernel, nccl.graph) == ("nccl", "", "NCCL 2.29.2", "graph")
    assert (module.model, module.graph, module.kv_dtype) == ("deepseek-ai/DeepSeek-V3", "unknown", "fp8")
    assert (part.op, part.model, part.phase) == ("gdn", "some/model", "decode")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "fp6"}, "line 2: dtype is 'fp6'; it must be one of bfloat16, float16, fp8"),
        (
            {"distribution": "zipf"},
            "line 2: distribution is 'zipf'; it must be uniform, balanced, or power_law_ and an exponent",
        ),
        ({"m": "x"}, "line 2: m is 'x'; it must be a whole number"),
        ({"time_us": "-1"}, "line 2: time_us is '-1'; it must be a number above 0"),
        ({"backend": "tgi"}, "line 2: backend is 'tgi'; it must be one of vllm"),
        ({"op": "moe"}, "line 2: op is 'moe'; it must be one of gemm, attention"),
    ],
)
def test_published_rows_that_are_wrong_are_told_by_row_and_column(tmp_path, changes, message):
    with pytest.raises(InputError) as caught:
        read_kernels(published(tmp_path / "bad.csv", COMMON | EXPERTS | changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    for name in ("none.csv", "none.jsonl"):
        with pytest.raises(InputError, match=r"cannot read .*: No such file"):
            read_kernels(tmp_path / name)


def test_every_kind_of_kernel_has_a_type():
    assert set(KINDS) >= {"gemm", "experts", "attention", "norm", "swiglu", "rope", "copy", "h2d", "d2h"}
