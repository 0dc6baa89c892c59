"""Exported text: it parses, it says what the commands say, and nothing in it is expanded."""

import dataclasses
import shlex

import pytest
import yaml

from catalog.engines import FORMATS, processes, render
from catalog.errors import InputError
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.schema import Deployment

LLAMA, MIXTRAL = "meta-llama/Llama-2-13b-hf", "mistralai/Mixtral-8x7B-v0.1"
HOSTILE = "/models/$(reboot) ${HOME} `id` \"x\" 'y' #z: {a}"


def model(known, **changes):
    return dataclasses.replace(find_model(known).value, **changes)


def cluster(text):
    return parse_cluster(text).value


def commands(text):
    """The command lines of a rendered script, without comments, variables and what runs them side by side."""
    lines = [line for line in text.splitlines() if line.startswith(("vllm", "python3", "trtllm", "CUDA_", "HIP_"))]
    words = [shlex.split(line) for line in lines]
    return [[w for w in line if w != "&" and "_VISIBLE_DEVICES=" not in w] for line in words]


@pytest.mark.parametrize("kind", ["compose", "kubernetes"])
def test_an_earlier_release_has_its_own_image_or_none(kind):
    old = Deployment(max_model_len=2048, engine_version="0.20.1")
    assert "vllm/vllm-openai:v0.20.1" in render(old, model(LLAMA), cluster("1xH100"), kind)
    with pytest.raises(InputError, match=r"no container image of vllm 0\.20\.1 is known for MI300X"):
        render(old, model(LLAMA), cluster("1xMI300X"), kind)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("gpus", ["1xA100", "4xH100", "8xB200"])
@pytest.mark.parametrize("name", [LLAMA, MIXTRAL, "Qwen/Qwen3-30B-A3B"])
def test_every_format_renders(kind, gpus, name):
    dp = cluster(gpus).num_gpus
    text = render(Deployment(dp=dp, max_model_len=2048), model(name), cluster(gpus), kind)
    assert text.endswith("\n")
    assert text.startswith(f"# {name} on ")
    if kind in ("compose", "kubernetes"):
        assert all(yaml.safe_load_all(text))


def test_a_script_says_what_the_processes_say():
    deployment, each, at = Deployment(tp=2, dp=2), model(MIXTRAL), cluster("4xH100")
    text = render(deployment, each, at, "vllm")
    assert commands(text) == [list(process.argv) for process in processes(deployment, each, at)]
    assert text.rstrip().endswith("wait")
    assert "CUDA_VISIBLE_DEVICES=2,3" in text


def test_a_script_over_nodes_says_which_is_which():
    text = render(Deployment(tp=8, pp=2, max_model_len=4096), model(MIXTRAL), cluster("2x8xH100"), "vllm")
    assert text.index("# on node 0") < text.index("--node-rank 0") < text.index("# on node 1")
    assert "wait" not in text


def test_an_options_file_stands_before_its_command():
    text = render(Deployment(tp=2), model(LLAMA), cluster("2xH100"), "trtllm")
    head, _, rest = text.partition("<<'EOF'\n")
    content, _, tail = rest.partition("EOF\n")
    assert "cat > trtllm-options.yaml" in head
    assert yaml.safe_load(content)["dtype"] == "float16"
    assert "--extra_llm_api_options trtllm-options.yaml" in tail


def test_compose_pins_every_server_to_its_gpus_behind_a_router():
    text = render(Deployment(tp=2, dp=2), model(MIXTRAL), cluster("4xH100"), "compose")
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"server0", "server1", "router"}
    pinned = [
        services[name]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for name in ("server0", "server1")
    ]
    assert pinned == [["0", "1"], ["2", "3"]]
    assert services["server0"]["ports"] != services["server1"]["ports"]
    content = yaml.safe_load(text)["configs"]["router"]["content"]
    assert "server server0:8000;" in content
    assert "server server1:8001;" in content
    assert "$" not in content


def test_compose_says_what_the_command_says():
    deployment, each, at = Deployment(dp=4), model(LLAMA), cluster("4xA100")
    service = yaml.safe_load(render(deployment, each, at, "compose"))["services"]["server"]
    assert service["entrypoint"] + service["command"] == list(processes(deployment, each, at)[0].argv)
    assert service["image"] == "vllm/vllm-openai:v0.33.0"


def test_compose_carries_the_options_file():
    parsed = yaml.safe_load(render(Deployment(engine="trtllm"), model(LLAMA), cluster("1xH100"), "compose"))
    service = parsed["services"]["server"]
    target = service["configs"][0]["target"]
    assert target in service["command"]
    content = parsed["configs"][service["configs"][0]["source"]]["content"]
    assert yaml.safe_load(content)["kv_cache_config"]["free_gpu_memory_fraction"] == 0.9


def test_containers_keep_models_in_nobodys_home():
    at = cluster("2xMI300X"), cluster("2xH100")
    for text in (render(Deployment(tp=2), model(LLAMA), each, "compose") for each in at):
        service = yaml.safe_load(text)["services"]["server"]
        (mount,) = service["volumes"]
        host, _, inside = mount.partition(":")
        assert host == "~/.cache/huggingface"
        assert inside == service["environment"]["HF_HOME"]
        assert not inside.startswith(("/root", "/home", "~"))
    deployment, _ = yaml.safe_load_all(render(Deployment(tp=2), model(LLAMA, gated=True), at[1], "kubernetes"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    paths = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"name": "HF_HOME", "value": paths["hub"]} in container["env"]
    assert [each["name"] for each in container["env"]] == ["HF_HOME", "HF_TOKEN"]
    # what is mounted from a folder is not looked for on the hub
    local = render(Deployment(), model(LLAMA, name=HOSTILE, gated=False), at[1], "compose")
    assert "environment" not in yaml.safe_load(local)["services"]["server"]


def test_compose_on_amd_passes_devices():
    service = yaml.safe_load(render(Deployment(tp=2), model(LLAMA), cluster("2xMI300X"), "compose"))["services"][
        "server"
    ]
    assert "/dev/kfd" in service["devices"]
    assert service["environment"]["HIP_VISIBLE_DEVICES"] == "0,1"
    assert "rocm" in service["image"]


def test_compose_expands_nothing_of_a_name():
    parsed = yaml.safe_load(render(Deployment(), model(LLAMA, name=HOSTILE), cluster("1xA100"), "compose"))
    words = parsed["services"]["server"]["command"]
    assert [word.replace("$$", "$") for word in words][1] == HOSTILE
    assert "$" not in "".join(words).replace("$$", "")
    assert parsed["services"]["server"]["volumes"][0]["read_only"] is True


def test_kubernetes_expands_nothing_of_a_name():
    objects = list(
        yaml.safe_load_all(render(Deployment(), model(LLAMA, name=HOSTILE), cluster("1xA100"), "kubernetes"))
    )
    container = objects[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][1] == HOSTILE.replace("$(", "$$(")


def test_a_script_quotes_a_name():
    text = render(Deployment(), model(LLAMA, name=HOSTILE), cluster("1xA100"), "vllm")
    assert commands(text)[0][2] == HOSTILE


def test_kubernetes_gives_each_replica_a_pod():
    text = render(Deployment(tp=2, dp=3), model(MIXTRAL, gated=True), cluster("8xH100"), "k8s")
    deployment, service = yaml.safe_load_all(text)
    pod = deployment["spec"]["template"]
    container = pod["spec"]["containers"][0]
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"] == service["spec"]["selector"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert "--data-parallel-size" not in container["args"]
    assert container["env"][-1]["valueFrom"]["secretKeyRef"]["name"] == "hf-token"
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= 1800
    assert pod["spec"]["enableServiceLinks"] is False
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in pod["spec"]["volumes"]
    assert service["spec"]["ports"][0]["port"] == container["ports"][0]["containerPort"]
    assert "kubectl create secret" in text


def test_kubernetes_groups_the_pods_of_a_replica_over_nodes():
    text = render(Deployment(tp=8, pp=2, max_model_len=4096), model(MIXTRAL), cluster("2x8xH100"), "kubernetes")
    group, service = yaml.safe_load_all(text)
    assert group["kind"] == "LeaderWorkerSet"
    template = group["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 2
    for role in ("leaderTemplate", "workerTemplate"):
        container = template[role]["spec"]["containers"][0]
        at = dict(zip(container["args"], container["args"][1:], strict=False))
        assert at["--master-addr"] == "$(LWS_LEADER_ADDRESS)"
        assert at["--node-rank"] == "$(LWS_WORKER_INDEX)"
        assert ("readinessProbe" in container) is (role == "leaderTemplate")
    assert service["spec"]["selector"] == template["leaderTemplate"]["metadata"]["labels"]
    assert "leader.invalid" not in text


def test_kubernetes_groups_sglang_too():
    deployment = Deployment(engine="sglang", tp=16, max_model_len=4096)
    text = render(deployment, model("meta-llama/Meta-Llama-3.1-405B"), cluster("2x8xH100"), "kubernetes")
    group = next(yaml.safe_load_all(text))
    args = group["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["containers"][0]["args"]
    assert "$(LWS_LEADER_ADDRESS):29501" in args


@pytest.mark.parametrize(
    ("knobs", "name", "gpus", "kind", "message"),
    [
        ({}, LLAMA, "1xA100", "nomad", "unknown export format"),
        ({}, LLAMA, "1xA100", "kubernets", "did you mean kubernetes"),
        ({}, LLAMA, "4xV100", "compose", "0.19.1"),
        ({"tp": 8, "pp": 2}, LLAMA, "2x8xH100", "compose", "runs on one node"),
        ({"dp": 16, "ep": 16}, "deepseek-ai/DeepSeek-V3", "2x8xH200", "kubernetes", "no one Kubernetes object"),
        ({"tp": 8, "pp": 2}, LLAMA, "2x8xH100", "tensorrt-llm", "trtllm-llmapi-launch"),
        ({"tp": 8, "pp": 2, "dp": 2}, LLAMA, "4x8xH100", "sglang", "no replicas over several nodes"),
        ({"engine": "sglang"}, LLAMA, "1xMI300X", "compose", "no container image"),
    ],
)
def test_what_a_format_cannot_say_is_refused(knobs, name, gpus, kind, message):
    with pytest.raises(InputError, match=message) as caught:
        render(Deployment(**knobs), model(name), cluster(gpus), kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["./here/model", "../up", "~/model", "/a/../b"])
def test_a_container_needs_an_absolute_path(name):
    with pytest.raises(InputError, match="absolute path"):
        render(Deployment(), model(LLAMA, name=name), cluster("1xA100"), "kubernetes")


def test_another_engine_is_said_to_be_another():
    text = render(Deployment(), model(LLAMA), cluster("1xA100"), "sglang")
    assert "the knobs were chosen for vllm" in text
    assert "the knobs" not in render(Deployment(), model(LLAMA), cluster("1xA100"), "vllm")
