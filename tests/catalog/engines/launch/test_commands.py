"""Commands against the recorded options of the engines that read them."""

import dataclasses
import itertools
import json
import shlex
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from catalog.engines import command, environment, find_engine, processes, resolve, valid_ep, valid_tp
from catalog.errors import InputError
from catalog.gpus import all_gpus, find_gpu, parse_cluster
from catalog.models.find import all_models, find_model
from catalog.schema import BITS, Cluster, Deployment

RECORDED = {
    "vllm": "vllm-0.33.0.json",
    "sglang": "sglang-0.5.23.json",
    "tensorrt-llm": "tensorrt-llm-1.2.json",
}
POSITIONAL = {"vllm": 3, "sglang": 3, "tensorrt-llm": 3}


def record(engine):
    path = Path(__file__).parents[2] / "engine_options" / RECORDED[engine]
    return json.loads(path.read_text(encoding="utf-8"))


TABLES = {engine: record(engine) for engine in RECORDED}


def options(engine, argv):
    """The command's options as a dict, checked one by one against the engine's own table."""
    table, found = TABLES[engine]["options"], {}
    words = list(argv[POSITIONAL[engine] :])
    while words:
        name = words.pop(0)
        assert name in table, f"{engine} has no option {name}"
        assert name not in found, f"{name} twice"
        found[name] = words.pop(0) if table[name]["value"] else True
        if choices := table[name].get("choices"):
            assert found[name] in choices, f"{name} {found[name]}"
    return found


def model(name):
    return find_model(name).value


def cluster(text):
    return parse_cluster(text).value


LLAMA, MIXTRAL = "meta-llama/Llama-2-13b-hf", "mistralai/Mixtral-8x7B-v0.1"
MODELS, GPUS = all_models(), all_gpus()

PLAIN_FORMATS = ("float16", "bfloat16", "float32")


@st.composite
def drawn_deployments(draw):
    """A deployment that mostly starts, with now and then a knob that may not fit the rest."""
    engine = find_engine(draw(st.sampled_from(["vllm", "vllm", "sglang", "tensorrt-llm"])))
    models = [m for m in MODELS if not engine.models or m.model_type in engine.models]
    each = draw(st.sampled_from(models) | st.sampled_from([m for m in models if m.moe_layers]))
    gpu = draw(st.sampled_from([g for g in GPUS if not engine.refusal(g)]))
    at = Cluster(gpu=gpu, gpus_per_node=draw(st.sampled_from([1, 4, 8])), nodes=draw(st.sampled_from([1, 1, 2, 4])))
    fitting = [tp for tp in valid_tp(each, most=16) if tp <= at.gpus_per_node or at.num_gpus % tp == 0]
    tp = draw(st.sampled_from(fitting))
    pp = draw(st.sampled_from([p for p in (1, 1, 2, 4) if tp * p <= at.num_gpus]))
    dp = draw(st.integers(1, max(1, at.num_gpus // (tp * pp))))
    formats = [f for f in engine.weight_formats(gpu) if f in (*PLAIN_FORMATS, *engine.online)]
    deployment = Deployment(
        engine=engine.name,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=draw(st.sampled_from(valid_ep(each, tp, dp))),
        sequence_parallel=tp > 1 and "sp" in engine.parallel and draw(st.booleans()),
        max_num_seqs=draw(st.none() | st.integers(1, 2048)),
        max_num_batched_tokens=draw(st.none() | st.integers(16, 128).map(lambda n: 128 * n)),
        max_model_len=draw(st.none() | st.integers(1, 2048)),
        gpu_memory_utilization=draw(st.sampled_from([0.9, 0.92, 2 / 3, 1.0])),
        dtype="auto" if each.quantization else draw(st.sampled_from(["auto", *formats])),
        kv_dtype=draw(st.sampled_from(["auto", "auto", *{"fp8", "nvfp4"} & set(engine.kv_formats(gpu, each))])),
        offload=draw(st.sampled_from([0.0, 0.3])) if "offload" in engine.parallel else 0.0,
        compiled=True,
    )
    odd = draw(
        st.sampled_from([{}, {}, {}])
        | st.fixed_dictionaries({"tp": st.integers(1, 9)})
        | st.fixed_dictionaries({"dtype": st.sampled_from(list(BITS)), "kv_dtype": st.sampled_from(list(BITS))})
        | st.fixed_dictionaries({"compiled": st.just(False)})
        | st.fixed_dictionaries({"max_model_len": st.integers(1, 10**7), "ep": st.integers(1, 64)})
    )
    return dataclasses.replace(deployment, **odd), each, at


@given(drawn_deployments())
@settings(max_examples=500, deadline=None, database=None)
def test_every_option_exists_and_says_what_was_resolved(drawn):
    deployment, each, cluster = drawn
    try:
        started = processes(deployment, each, cluster)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017  the others are checked below
        return
    engine = deployment.engine
    resolved = resolve(deployment, each, cluster).value
    assert not find_engine(engine).refusal(cluster.gpu)
    assert started[0].port
    held = [(process.node, gpu) for process in started for gpu in process.gpus]
    assert len(held) == len(set(held)) == deployment.num_gpus
    assert max(node for node, _ in held) < cluster.nodes
    assert max(gpu for _, gpu in held) < cluster.gpus_per_node
    taken = [(process.node, process.port) for process in started if process.port]
    assert len(taken) == len(set(taken))
    for process in started:
        assert shlex.split(shlex.join(process.argv)) == list(process.argv)
        found = options(engine, process.argv)
        dtype = found.get("--dtype") or next(iter(process.files.values()))["dtype"]
        assert dtype in ("float16", "bfloat16", "float32")
        assert cluster.gpu.bf16 or dtype != "bfloat16"
        for name in ("--max-model-len", "--context-length", "--max_seq_len"):
            assert found.get(name, str(resolved.max_model_len)) == str(resolved.max_model_len)
        if engine == "vllm":
            assert found["--max-num-seqs"] == str(resolved.max_num_seqs)
            assert found["--max-num-batched-tokens"] == str(resolved.max_num_batched_tokens)
            assert float(found["--gpu-memory-utilization"]) == pytest.approx(resolved.gpu_memory_utilization, rel=1e-3)
            assert ("--enforce-eager" in found) is not deployment.compiled
            assert ("--enable-expert-parallel" in found) is (deployment.ep > 1)
            if "--compilation-config" in found:
                assert json.loads(found["--compilation-config"])["pass_config"]["enable_sp"] is True
        for content in process.files.values():
            known = TABLES[engine]["file"]
            assert set(content) <= set(known)
            assert set(content["kv_cache_config"]) <= set(known["kv_cache_config"])


def test_a_grid_of_the_whole_catalog_renders_or_refuses():
    """Every model on every GPU: a command or one line, never anything else; most NVIDIA pairs must start."""
    started = refused = 0
    for each, gpu, tp in itertools.product(MODELS, GPUS, (1, 8)):
        try:
            argv = command(Deployment(tp=tp, max_model_len=1024), each, Cluster(gpu=gpu, gpus_per_node=8))
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017  counted
            refused += 1
            continue
        options("vllm", argv)
        started += 1
        assert gpu.compute_capability != "7.0"
    assert started > 3 * refused


def test_dense_replicas_share_a_server():
    argv = command(Deployment(tp=1, dp=4), model(LLAMA), cluster("4xA100"))
    assert argv[:3] == ["vllm", "serve", LLAMA]
    assert options("vllm", argv)["--data-parallel-size"] == "4"
    assert environment(Deployment(tp=1, dp=4), model(LLAMA), cluster("4xA100")) == {}


def test_replicas_of_experts_are_servers_apart():
    # in one vLLM server their experts would be sliced over both replicas
    started = processes(Deployment(tp=2, dp=2), model(MIXTRAL), cluster("4xH100"))
    assert [process.gpus for process in started] == [(0, 1), (2, 3)]
    assert [process.port for process in started] == [8000, 8001]
    assert [process.environment["CUDA_VISIBLE_DEVICES"] for process in started] == ["0,1", "2,3"]
    assert all("--data-parallel-size" not in process.argv for process in started)
    together = command(Deployment(tp=2, dp=2, ep=4), model(MIXTRAL), cluster("4xH100"))
    assert options("vllm", together)["--data-parallel-size"] == "2"
    assert "--enable-expert-parallel" in together


def test_amd_gpus_are_pinned_by_their_own_variable():
    started = processes(Deployment(tp=1, dp=2), model(MIXTRAL), cluster("2xMI300X"))
    assert [dict(process.environment) for process in started] == [
        {"HIP_VISIBLE_DEVICES": "0"},
        {"HIP_VISIBLE_DEVICES": "1"},
    ]


def test_replicas_over_nodes_have_a_server_each_and_headless_workers():
    started = processes(
        Deployment(tp=8, pp=2, max_model_len=4096),
        model("meta-llama/Meta-Llama-3.1-405B"),
        cluster("2x8xH100"),
        address="10.0.0.7",
    )
    head, worker = (options("vllm", process.argv) for process in started)
    assert (head["--node-rank"], worker["--node-rank"]) == ("0", "1")
    assert head["--nnodes"] == worker["--nnodes"] == "2"
    assert worker["--master-addr"] == "10.0.0.7"
    assert "--headless" in worker
    assert "--headless" not in head
    assert started[1].port is None


def test_experts_shared_over_nodes_join_the_first_nodes_server():
    started = processes(Deployment(tp=1, dp=16, ep=16), model("deepseek-ai/DeepSeek-V3"), cluster("2x8xH200"))
    head, worker = (options("vllm", process.argv) for process in started)
    assert head["--data-parallel-size"] == worker["--data-parallel-size"] == "16"
    assert head["--data-parallel-size-local"] == "8"
    assert worker["--data-parallel-start-rank"] == "8"
    assert "--headless" in worker


def test_groups_that_share_experts_are_servers_of_their_own():
    """Twelve replicas of one GPU, four at a time with experts in common: two groups on the first node, one on the second."""
    eight = find_model("mistralai/Mixtral-8x7B-v0.1").value
    started = processes(Deployment(dp=12, ep=4), eight, Cluster(gpu=find_gpu("H200").value, gpus_per_node=8, nodes=2))
    assert [(each.node, each.gpus, each.port) for each in started] == [
        (0, (0, 1, 2, 3), 8000),
        (0, (4, 5, 6, 7), 8001),
        (1, (0, 1, 2, 3), 8000),
    ]
    assert all(each.argv[each.argv.index("--data-parallel-size") + 1] == "4" for each in started)
    assert started[1].environment["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"
    spread = processes(Deployment(dp=16, ep=8), eight, Cluster(gpu=find_gpu("H200").value, gpus_per_node=4, nodes=4))
    heads = [each for each in spread if each.port is not None]
    assert [each.node for each in heads] == [0, 2]
    assert all(each.argv[each.argv.index("--data-parallel-size") + 1] == "8" for each in spread)


def test_sglang_divides_its_limits_by_attention_groups():
    deployment = Deployment(engine="sglang", tp=1, dp=8, ep=8, max_num_seqs=64, max_num_batched_tokens=4096)
    found = options("sglang", command(deployment, model(MIXTRAL), cluster("8xH100")))
    assert (found["--tp-size"], found["--attn-dp-size"], found["--ep-size"]) == ("8", "8", "8")
    assert found["--max-running-requests"] == "512"
    assert found["--chunked-prefill-size"] == str(8 * 4096)


def test_quantisation_is_asked_for_only_where_the_checkpoint_has_none():
    assert options("vllm", command(Deployment(dtype="fp8"), model(LLAMA), cluster("1xH100")))["--quantization"] == "fp8"
    assert "--quantization" not in command(Deployment(), model("openai/gpt-oss-20b"), cluster("1xH100"))
    with pytest.raises(InputError, match="cannot make int4 weights"):
        command(Deployment(dtype="int4"), model(LLAMA), cluster("1xH100"))


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
@pytest.mark.parametrize("compiled", [True, False])
def test_fusion_and_graphs_are_switched_together_or_refused(engine, compiled):
    both, one = (Deployment(engine=engine, compiled=compiled, graphs=graphs) for graphs in (compiled, not compiled))
    without = command(dataclasses.replace(both, graphs=None), model(LLAMA), cluster("1xA100"))
    assert command(both, model(LLAMA), cluster("1xA100")) == without
    with pytest.raises(InputError, match=f"graphs is {not compiled} with compiled {compiled}; .* leave graphs out"):
        command(one, model(LLAMA), cluster("1xA100"))


def test_offload_is_gib_a_gpu():
    # 40 layers of 317,209,600 parameters (4 x 5120 x 5120 + 3 x 5120 x 13824 + 2 norms), half of them, over 2 GPUs
    layers = 40 * (4 * 5120**2 + 3 * 5120 * 13824 + 2 * 5120) + 5120
    argv = command(Deployment(tp=2, offload=0.5), model(LLAMA), cluster("2xA100"))
    assert float(options("vllm", argv)["--cpu-offload-gb"]) == pytest.approx(0.5 * layers * 2 / 2 / 2**30, abs=0.01)


@pytest.mark.parametrize(
    ("name", "message"),
    [("--help", "not start with '-'"), ("", "printable"), ("a\nb", "printable"), ("a\x1b[31m", "printable")],
)
def test_a_name_that_is_no_argument_is_refused(name, message):
    with pytest.raises(InputError, match=message) as caught:
        command(Deployment(), dataclasses.replace(model(LLAMA), name=name), cluster("1xA100"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/models/my model; rm -rf $HOME", "/models/'quoted'", "/models/x/config.json"])
def test_names_stay_one_argument(name):
    argv = command(Deployment(), dataclasses.replace(model(LLAMA), name=name), cluster("1xA100"))
    assert argv[2] == name.removesuffix("/config.json")
    assert shlex.split(shlex.join(argv)) == argv


@pytest.mark.parametrize("address", ["a b", "$(id)", "-x", "", "a;b", "a" * 5 + "\n"])
def test_an_address_is_a_host(address):
    with pytest.raises(InputError, match="not a host name"):
        processes(Deployment(), model(LLAMA), cluster("1xA100"), address=address)


@pytest.mark.parametrize(
    ("engine", "gpus", "name", "message"),
    [
        ("vllm", "4xV100", LLAMA, "0.19.1"),
        ("sglang", "1xT4", LLAMA, "needs 8.0"),
        ("tensorrt-llm", "1xMI300X", LLAMA, "runs on NVIDIA GPUs"),
        ("tensorrt-llm", "1xA100", "facebook/opt-1.3b", "does not run opt models"),
        ("vllm", "1xA100", "internlm/internlm-20b", "0.23.0 was the last"),
        ("vllm", "8xA100", "zai-org/GLM-5", "compute capability 9.0"),
        ("torch", "1xA100", LLAMA, "has no server"),
        ("lmdeploy", "1xA100", LLAMA, "comparison only"),
    ],
)
def test_what_the_engine_does_not_run_has_no_command(engine, gpus, name, message):
    with pytest.raises(InputError, match=message):
        command(Deployment(engine=engine), model(name), cluster(gpus))


@given(st.sampled_from(MODELS))
@settings(max_examples=100, deadline=None, database=None)
def test_no_command_for_volta(each):
    gpu = find_gpu("V100-SXM2-32GB").value
    assume(gpu.compute_capability == "7.0")
    for engine in ("vllm", "sglang", "tensorrt-llm"):
        with pytest.raises(InputError):
            command(Deployment(engine=engine), each, Cluster(gpu=gpu, gpus_per_node=4))


def test_tensorrt_llm_captures_graphs_for_every_batch_that_runs():
    wanted = Deployment(engine="tensorrt-llm", max_num_seqs=400)
    (server,) = processes(wanted, model(LLAMA), cluster("1xH100"))
    (options_file,) = server.files.values()
    assert options_file["cuda_graph_config"] == {"max_batch_size": 400, "enable_padding": True}
    (eager,) = processes(dataclasses.replace(wanted, compiled=False), model(LLAMA), cluster("1xH100"))
    assert next(iter(eager.files.values()))["cuda_graph_config"] is None


def test_kv_blocks_below_the_gpus_are_started_as_vllm_takes_them():
    place = Cluster(gpu=find_gpu("H200").value, gpus_per_node=2)
    llama = model("llama-3.1-8b")

    def started(kv_offload):
        (process,) = processes(Deployment(dp=2, kv_offload=kv_offload), llama, place)
        return options("vllm", process.argv), process.environment

    found, _ = started("cpu=24GiB@20GB/s")
    assert (found["--kv-offloading-size"], found["--kv-offloading-backend"]) == ("24", "native")
    found, environment_of = started("cpu=100GB+disk=2TB+store=9TB")
    connector = json.loads(found["--kv-transfer-config"])
    extra = connector["kv_connector_extra_config"]
    assert connector["kv_connector"] == "OffloadingConnector"
    assert extra["cpu_bytes_to_use"] == 100 * 10**9
    assert [tier["type"] for tier in extra["secondary_tiers"]] == ["fs", "fs"]
    assert len({tier["root_dir"] for tier in extra["secondary_tiers"]}) == 2
    assert environment_of["PYTHONHASHSEED"] == "0"
    with pytest.raises(InputError, match="through CPU memory"):
        started("disk=2TB")
    assert "--kv-offloading-size" not in started(None)[0]
