"""Facts about engines, and what they make of open knobs."""

import dataclasses

import pytest

from catalog.engines import all_engines, compute_dtype, find_engine, resolve, static_fraction
from catalog.errors import InputError
from catalog.gpus import all_gpus, find_gpu, parse_cluster
from catalog.models.find import all_models, find_model
from catalog.schema import BITS, Cluster, Deployment

NAMES = ("vllm", "sglang", "tensorrt-llm", "lmdeploy", "torch", "xfastertransformer", "llama.cpp")


def model(name):
    return find_model(name).value


def cluster(text):
    return parse_cluster(text).value


def notes(found):
    return " | ".join(note.text for note in found.notes)


def test_every_engine_says_what_it_knows():
    assert {engine.name for engine in all_engines()} == set(NAMES)
    for engine in all_engines():
        assert engine.version
        assert engine.source
        assert set(engine.weights) <= set(BITS)
        assert set(engine.kv) <= set(BITS)
        assert set(engine.native) <= set(engine.weights)
        assert engine.batch[-1].min_memory_gib == 0
        assert not engine.batch[-1].named
        assert not engine.batch[-1].not_named
        for gpu in all_gpus():
            row = engine.batch_defaults(gpu)
            assert 0 < row.max_num_seqs <= row.max_num_batched_tokens


@pytest.mark.parametrize(
    ("asked", "name"),
    [("vllm", "vllm"), (" vLLM ", "vllm"), ("trtllm", "tensorrt-llm"), ("trt_llm", "tensorrt-llm"), ("torch", "torch")],
)
def test_engines_are_found_by_name_and_alias(asked, name):
    assert find_engine(asked).name == name


@pytest.mark.parametrize(("asked", "hint"), [("vlm", "vllm"), ("sglangg", "sglang"), ("tensorrt", "tensorrt-llm")])
def test_an_unknown_engine_names_the_close_ones(asked, hint):
    with pytest.raises(InputError, match=rf"did you mean .*{hint}") as caught:
        find_engine(asked)
    assert "\n" not in str(caught.value)


def test_vllm_has_no_kernels_for_volta_and_says_what_had():
    vllm = find_engine("vllm")
    for gpu in all_gpus():
        if gpu.compute_capability == "7.0":
            assert "0.19.1" in vllm.refusal(gpu)
        elif gpu.vendor == "nvidia":
            assert not vllm.refusal(gpu)


@pytest.mark.parametrize(
    ("gpu", "has", "lacks"),
    [
        ("V100-SXM2-16GB", {"float16"}, {"bfloat16", "fp8", "int4", "mxfp4"}),
        ("T4", {"float16", "fp8", "int4", "int8"}, {"bfloat16", "mxfp4"}),
        ("A100-SXM-80GB", {"bfloat16", "fp8", "int4", "mxfp4"}, set()),
        ("H100-SXM", {"bfloat16", "fp8", "int4", "mxfp4", "nvfp4"}, set()),
        ("MI210", {"bfloat16", "int4"}, {"fp8", "nvfp4"}),
        ("MI300X", {"bfloat16", "fp8"}, {"nvfp4"}),
    ],
)
def test_weight_formats_follow_the_gpu(gpu, has, lacks):
    formats = set(find_engine("vllm").weight_formats(find_gpu(gpu).value))
    assert has <= formats
    assert not lacks & formats


@pytest.mark.parametrize(("gpu", "native"), [("A100", False), ("L4", True), ("H100", True)])
def test_fp8_is_computed_in_only_where_the_gpu_has_it(gpu, native):
    assert find_engine("vllm").computes_in(find_gpu(gpu).value, "fp8") is native


@pytest.mark.parametrize(
    ("gpu", "name", "expected"),
    [
        ("T4", "meta-llama/Meta-Llama-3.1-8B", False),
        ("A100", "meta-llama/Meta-Llama-3.1-8B", True),
        ("A100", "openai/gpt-oss-20b", False),  # sinks: FlashInfer has none below Blackwell, Triton needs 8.9
        ("A100", "deepseek-ai/DeepSeek-V2-Lite", False),
        ("L4", "openai/gpt-oss-20b", True),
        ("H100", "deepseek-ai/DeepSeek-V2-Lite", True),
    ],
)
def test_fp8_cache_needs_a_kernel_for_the_model(gpu, name, expected):
    assert ("fp8" in find_engine("vllm").kv_formats(find_gpu(gpu).value, model(name))) is expected


def test_nvfp4_cache_is_for_datacenter_blackwell_alone():
    llama = model("meta-llama/Meta-Llama-3.1-8B")
    having = {g.name for g in all_gpus() if "nvfp4" in find_engine("vllm").kv_formats(g, llama)}
    assert having
    assert all(find_gpu(name).value.compute_capability.startswith("10.") for name in having)


@pytest.mark.parametrize(
    ("engine", "gpus", "seqs", "tokens"),
    [
        ("vllm", "1xA100", 256, 2048),
        ("vllm", "1xH100", 1024, 8192),
        ("vllm", "1xL4", 256, 2048),
        ("vllm", "1xMI300X", 1024, 16384),
        ("vllm", "1xGB10", 256, 2048),
        ("sglang", "1xH100", 2048, 8192),
        ("sglang", "1xL4", 2048, 4096),
        ("tensorrt-llm", "1xH100", 2048, 8192),
        ("lmdeploy", "1xA100", 384, 8192),
        ("lmdeploy", "1xL4", 128, 8192),
    ],
)
def test_open_limits_are_the_engines_own(engine, gpus, seqs, tokens):
    found = resolve(Deployment(engine=engine), model("meta-llama/Meta-Llama-3.1-8B"), cluster(gpus))
    assert (found.value.max_num_seqs, found.value.max_num_batched_tokens) == (seqs, tokens)
    assert "max_num_seqs" in notes(found)


def test_resolving_leaves_nothing_open_and_twice_changes_nothing():
    for name in (
        "meta-llama/Llama-2-13b-hf",
        "mistralai/Mixtral-8x7B-v0.1",
        "openai/gpt-oss-20b",
        "deepseek-ai/DeepSeek-V3",
    ):
        resolved = resolve(Deployment(tp=2), model(name), cluster("8xH100")).value
        opened = {f.name for f in dataclasses.fields(resolved) if getattr(resolved, f.name) is None}
        assert opened <= {"kv_offload", "drafting", "adapters"}  # there is none
        assert "auto" not in (resolved.dtype, resolved.kv_dtype)
        assert resolve(resolved, model(name), cluster("8xH100")).value == resolved


def test_short_contexts_shrink_the_token_budget_as_vllm_does():
    # engine/arg_utils.py: min(max_num_seqs x max_model_len, default)
    resolved = resolve(
        Deployment(max_num_seqs=4, max_model_len=128), model("meta-llama/Meta-Llama-3.1-8B"), cluster("1xH100")
    ).value
    assert resolved.max_num_batched_tokens == 512


def test_a_large_batch_raises_the_open_token_budget():
    resolved = resolve(Deployment(max_num_seqs=4096), model("meta-llama/Meta-Llama-3.1-8B"), cluster("1xA100")).value
    assert resolved.max_num_batched_tokens == 4096


@pytest.mark.parametrize(
    ("name", "gpus", "dtype"),
    [
        ("meta-llama/Meta-Llama-3.1-8B", "1xA100", "bfloat16"),
        ("meta-llama/Meta-Llama-3.1-8B", "1xT4", "float16"),
        ("meta-llama/Meta-Llama-3.1-8B", "1xV100", "float16"),
        ("google/gemma-2-9b", "1xT4", "float32"),  # float16 overflows there
        ("meta-llama/Llama-2-7b-hf", "1xA100", "float16"),
        ("EleutherAI/gpt-j-6b", "1xA100", "bfloat16"),  # a float32 checkpoint is narrowed
        ("deepseek-ai/DeepSeek-V3", "8xH200", "fp8"),
        ("openai/gpt-oss-20b", "1xA100", "mxfp4"),
    ],
)
def test_auto_dtype(name, gpus, dtype):
    tp = cluster(gpus).num_gpus
    assert resolve(Deployment(tp=tp), model(name), cluster(gpus)).value.dtype == dtype


def test_bfloat16_never_on_a_gpu_without_it():
    for gpu in all_gpus():
        if gpu.bf16:
            continue
        for engine in NAMES:
            for each in all_models():
                assert compute_dtype(each, gpu, engine=engine) != "bfloat16"
                assert "bfloat16" not in find_engine(engine).weight_formats(gpu)
                assert "bfloat16" not in find_engine(engine).kv_formats(gpu, each)


def test_volta_is_warned_about_but_resolved():
    found = resolve(Deployment(tp=2), model("meta-llama/Llama-2-7b-hf"), cluster("4xV100"))
    assert found.value.dtype == "float16"
    assert any(note.kind == "warning" and "V100" in note.text for note in found.notes)


@pytest.mark.parametrize(
    ("knobs", "name", "gpus", "message"),
    [
        ({"tp": 3}, "meta-llama/Llama-2-13b-hf", "4xA100", "40 attention heads; tp can be 1, 2, 4, 8"),
        ({"tp": 4}, "microsoft/phi-4", "4xA100", "10 KV heads"),
        ({"tp": 16}, "MiniMaxAI/MiniMax-M2.5", "2x8xH100", "expert width of 1536 in fp8 groups of 128"),
        ({"tp": 8}, "meta-llama/Llama-2-13b-hf", "4xA100", "takes 8 GPUs"),
        ({"tp": 8, "dp": 2}, "meta-llama/Meta-Llama-3.1-8B", "2x4xA100", "takes 16 GPUs"),
        ({"tp": 8, "pp": 1, "dp": 3}, "meta-llama/Meta-Llama-3.1-70B", "3x8xH100", ""),
        ({"pp": 64}, "meta-llama/Llama-2-13b-hf", "8x8xH100", "40 layers"),
        ({"tp": 4, "pp": 3}, "meta-llama/Llama-2-13b-hf", "2x8xH100", "does not fill nodes of 8"),
        ({"pp": 5, "dp": 3}, "meta-llama/Llama-2-13b-hf", "2x8xH100", "dp can be at most 2"),
        ({"ep": 2, "tp": 2}, "meta-llama/Llama-2-13b-hf", "4xA100", "no experts"),
        ({"ep": 3, "tp": 2}, "mistralai/Mixtral-8x7B-v0.1", "4xA100", "it can be 1 or 2"),
        ({"dtype": "bfloat16"}, "meta-llama/Meta-Llama-3.1-8B", "1xT4", "no bfloat16 weights on T4"),
        ({"dtype": "bfloat61"}, "meta-llama/Meta-Llama-3.1-8B", "1xA100", "did you mean bfloat16"),
        ({"dtype": "bfloat16"}, "deepseek-ai/DeepSeek-V3", "8xH200", "stored in fp8"),
        ({"dtype": "float16"}, "google/gemma-2-9b", "1xA100", "does not run gemma2 in float16"),
        ({"kv_dtype": "fp8"}, "meta-llama/Meta-Llama-3.1-8B", "1xT4", "no fp8 KV cache"),
        ({"kv_dtype": "float16"}, "meta-llama/Meta-Llama-3.1-8B", "1xA100", "runs in bfloat16"),
        ({"kv_dtype": "fp8", "dtype": "float16"}, "llama-2-13b", "1xH200", "use dtype=bfloat16"),
        ({"kv_dtype": "fp8", "dtype": "fp8"}, "llama-2-13b", "1xH100", "use kv_dtype=auto"),
        ({"max_model_len": 8192}, "meta-llama/Llama-2-13b-hf", "1xA100", "4096 positions"),
        ({"max_model_len": 0}, "meta-llama/Llama-2-13b-hf", "1xA100", "above 0"),
        ({"max_num_seqs": -1}, "meta-llama/Llama-2-13b-hf", "1xA100", "max_num_seqs is -1"),
        ({"max_num_seqs": 2**20}, "meta-llama/Llama-2-13b-hf", "1xA100", "at most"),
        (
            {"max_num_seqs": 512, "max_num_batched_tokens": 256},
            "meta-llama/Llama-2-13b-hf",
            "1xA100",
            "below max_num_seqs",
        ),
        ({"gpu_memory_utilization": 1.5}, "meta-llama/Llama-2-13b-hf", "1xA100", "at most 1"),
        ({"gpu_memory_utilization": float("nan")}, "meta-llama/Llama-2-13b-hf", "1xA100", "gpu_memory_utilization"),
        ({"offload": 1.0}, "meta-llama/Llama-2-13b-hf", "1xA100", "below 1"),
        ({"offload": float("nan")}, "meta-llama/Llama-2-13b-hf", "1xA100", "below 1"),
        ({"sequence_parallel": True}, "meta-llama/Llama-2-13b-hf", "1xA100", "needs tp above 1"),
        (
            {"engine": "sglang", "offload": 0.5},
            "meta-llama/Llama-2-13b-hf",
            "1xA100",
            "not known to support weights in CPU",
        ),
        ({"engine": "lmdeploy", "pp": 2}, "meta-llama/Llama-2-13b-hf", "4xA100", "pipeline parallelism"),
        ({"engine": "sglang", "max_num_batched_tokens": 1000}, "meta-llama/Llama-2-13b-hf", "1xA100", "such as 1024"),
        ({"tp": True}, "meta-llama/Llama-2-13b-hf", "1xA100", "tp is True"),
        ({"dp": 10**9}, "meta-llama/Llama-2-13b-hf", "1xA100", "dp is 1000000000"),
    ],
)
def test_what_cannot_start_is_refused_in_one_line(knobs, name, gpus, message):
    if not message:
        assert resolve(Deployment(**knobs), model(name), cluster(gpus)).value.dp == knobs["dp"]
        return
    with pytest.raises(InputError) as caught:
        resolve(Deployment(**knobs), model(name), cluster(gpus))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_invented_gpu_is_judged_by_its_numbers():
    gpu = dataclasses.replace(find_gpu("H100").value, name="X1", compute_capability="", fp8_tflops=0.0, bf16=False)
    formats = find_engine("vllm").weight_formats(gpu)
    assert "float16" in formats
    assert not {"bfloat16", "fp8", "nvfp4"} & set(formats)
    assert (
        resolve(Deployment(), model("meta-llama/Meta-Llama-3.1-8B"), Cluster(gpu=gpu, gpus_per_node=1)).value.dtype
        == "float16"
    )


@pytest.mark.parametrize(("gpus", "dtype"), [("1xH200", "bfloat16"), ("1xL40S", "float16")])
def test_an_fp8_cache_decides_the_format_where_it_is_read_into_one_alone(gpus, dtype):
    found = resolve(Deployment(kv_dtype="fp8"), find_model("llama-2-13b").value, parse_cluster(gpus).value)
    assert (found.value.dtype, found.value.kv_dtype) == (dtype, "fp8")
    assert any("fp8 KV cache" in note.text for note in found.notes) == (dtype == "bfloat16")


@pytest.mark.parametrize(
    ("word", "dtype"),
    [("awq", "int4"), ("GPTQ", "int4"), ("w4a16", "int4"), ("q4", "int4"), ("fp8-block", "fp8"), ("fp8_e4m3", "fp8"), ("w8a8", "int8"), ("half", "float16")],
)  # fmt: skip
def test_peoples_words_for_formats(word, dtype):
    found = resolve(Deployment(dtype=word), find_model("llama-3.1-8b").value, parse_cluster("1xH100").value)
    assert found.value.dtype == dtype
    assert any(f"dtype {word} read as {dtype}" in note.text for note in found.notes)


def test_vllm_has_no_int8_weights_from_blackwell_on():
    """Its documentation of INT8 W8A8: not supported on compute capability 10.0 and later."""
    vllm = find_engine("vllm")
    able = {name: "int8" in vllm.weight_formats(find_gpu(name).value) for name in ("A100", "H200", "B200", "RTX5090")}
    assert able == {"A100": True, "H200": True, "B200": False, "RTX5090": False}
    with pytest.raises(InputError, match="no int8 weights on B200"):
        resolve(Deployment(dtype="int8"), find_model("llama-3.1-8b").value, cluster("1xB200"))


@pytest.mark.parametrize(
    ("engine", "version", "share"),
    [
        ("vllm", "", 0.92), ("vllm", "0.33.0", 0.92), ("vllm", "0.24.0", 0.92), ("vllm", "0.21.0", 0.92),
        ("vllm", "0.20.2", 0.9), ("vllm", "0.6.1", 0.9), ("tensorrt-llm", "", 0.9), ("lmdeploy", "", 0.8),
        ("sglang", "", None),
    ],
)  # fmt: skip
def test_a_share_of_memory_that_nobody_states_is_the_engines_own(engine, version, share):
    llama, l40s = model("meta-llama/Meta-Llama-3.1-8B"), cluster("1xL40S")
    wanted = Deployment(engine=engine, engine_version=version)
    found = resolve(wanted, llama, l40s)
    own = found.value.gpu_memory_utilization
    # tests/catalog/engines/test_kv_cache.py has what SGLang's rule gives
    assert own == (share or static_fraction(found.value, find_engine(engine), llama, l40s.gpu))
    name = f"{engine} {version or find_engine(engine).version}"
    assert f"gpu_memory_utilization {own}: what {name} chooses on L40S" in found.notes[-1].text
    half = resolve(dataclasses.replace(wanted, gpu_memory_utilization=0.5), llama, l40s)
    assert half.value.gpu_memory_utilization == 0.5
    assert "gpu_memory_utilization" not in "".join(note.text for note in half.notes)
