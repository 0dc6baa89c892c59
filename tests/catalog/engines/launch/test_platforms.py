"""Files for platforms: each is what the platform's own schema allows, for ten recommendations and what else is exported."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
import yaml

from catalog.engines import FORMATS, processes, render
from catalog.errors import InputError
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.schema import Deployment

jsonschema = pytest.importorskip("jsonschema")
referencing = pytest.importorskip("referencing")

FOLDER = Path(__file__).parents[2] / "platform_schemas"
KUBERNETES = "kubernetes#/$defs/io.k8s.api"
SCHEMAS = {
    "Deployment": f"{KUBERNETES}.apps.v1.Deployment",
    "Service": f"{KUBERNETES}.core.v1.Service",
    "ConfigMap": f"{KUBERNETES}.core.v1.ConfigMap",
    "InferenceService": "kserve#/$defs/V1beta1InferenceService",
    "LLMInferenceService": "noted#/$defs/LLMInferenceService",
    "LeaderWorkerSet": "noted#/$defs/LeaderWorkerSet",
    "DynamoGraphDeployment": "noted#/$defs/DynamoGraphDeployment",
}
"""Of Kubernetes objects, by their kind."""
FILES = {
    "llm-d": "noted#/$defs/ModelService",
    "production-stack": "noted#/$defs/ProductionStack",
    "ray-serve": "noted#/$defs/ServeDeploy",
    "skypilot": "skypilot#/$defs/task",
}
"""Of the other formats."""
OWN = ("vllm", "sglang", "tensorrt-llm", "compose")
PLATFORMS = tuple(name for name in FORMATS if name not in OWN)
RECOMMENDED = (
    ("meta-llama/Llama-3.1-8B-Instruct", "1xH100", {"max_num_seqs": 256}),
    ("meta-llama/Llama-3.1-8B-Instruct", "8xL4", {"tp": 2, "dp": 4}),
    ("meta-llama/Llama-2-13b-hf", "4xA100", {"tp": 2, "dp": 2, "max_num_seqs": 117}),
    ("meta-llama/Llama-3.3-70B-Instruct", "8xH100", {"tp": 8, "dtype": "fp8"}),
    ("meta-llama/Llama-3.3-70B-Instruct", "4xH200", {"tp": 2, "pp": 2, "kv_dtype": "fp8"}),
    ("Qwen/Qwen3-30B-A3B", "4xH100", {"tp": 2, "dp": 2}),
    ("Qwen/Qwen3-235B-A22B", "8xH200", {"tp": 8, "ep": 8}),
    ("mistralai/Mixtral-8x7B-v0.1", "4xMI300X", {"tp": 2, "dp": 2}),
    ("openai/gpt-oss-120b", "2xB200", {"dp": 2}),
    ("meta-llama/Meta-Llama-3.1-405B", "2x8xH200", {"tp": 8, "pp": 2, "max_model_len": 8192}),
)
"""Model, GPUs, what was chosen."""


def registry():
    resources = []
    for path in FOLDER.glob("*.json"):
        text = path.read_text(encoding="utf-8").replace('"kubernetes#', '"urn:kubernetes#')
        contents = {"$schema": "https://json-schema.org/draft/2020-12/schema", **json.loads(text)}
        resources.append((f"urn:{path.stem}", referencing.Resource.from_contents(contents)))
    return referencing.Registry().with_resources(resources)


REGISTRY = registry()


def check(body, schema):
    jsonschema.Draft202012Validator({"$ref": f"urn:{schema}"}, registry=REGISTRY).validate(body)


def checked(text, kind):
    """The objects of an exported file, each as its schema allows."""
    objects = list(yaml.safe_load_all(text))
    for body in objects:
        check(body, FILES[kind] if kind in FILES else SCHEMAS[body["kind"]])
    return objects


def exported(name, gpus, knobs, kind):
    cluster = parse_cluster(gpus).value
    return render(
        Deployment(max_model_len=4096) if not knobs else Deployment(**{"max_model_len": 4096, **knobs}),
        find_model(name).value,
        cluster,
        kind,
    )


@pytest.mark.parametrize("kind", PLATFORMS)
@pytest.mark.parametrize(("name", "gpus", "knobs"), RECOMMENDED, ids=[f"{m}-{g}" for m, g, _ in RECOMMENDED])
def test_every_platform_takes_it_or_it_is_refused_in_a_line(name, gpus, knobs, kind):
    several_nodes, amd = gpus.startswith("2x8"), "MI300X" in gpus
    cannot = {
        "kserve": several_nodes,
        "llm-d": several_nodes,
        "production-stack": several_nodes,
        "dynamo": amd,
    }
    if cannot.get(kind):
        with pytest.raises(InputError, match=r"export for .*kubernetes") as caught:
            exported(name, gpus, knobs, kind)
        assert "\n" not in str(caught.value)
        return
    assert checked(exported(name, gpus, knobs, kind), kind)


@pytest.mark.parametrize("kind", ["kubernetes", "leaderworkerset", "kserve", "dynamo", "skypilot"])
@pytest.mark.parametrize("engine", ["sglang", "tensorrt-llm"])
def test_other_engines_where_the_platform_starts_them(engine, kind):
    objects = checked(exported("meta-llama/Llama-2-13b-hf", "2xH100", {"engine": engine, "tp": 2}, kind), kind)
    if engine == "tensorrt-llm" and kind != "skypilot":
        (data,) = objects[0]["data"].values()
        assert yaml.safe_load(data)["dtype"] == "float16"
        assert ("enable_chunked_prefill" in data) is (kind == "dynamo")


@pytest.mark.parametrize(
    ("knobs", "name", "gpus", "kind", "message"),
    [
        ({"engine": "sglang"}, "llama-2-13b", "1xH100", "llm-d", "starts vllm, not sglang; use --engine vllm"),
        ({"engine": "sglang"}, "llama-2-13b", "1xH100", "ray-serve", "Ray Serve LLM starts vllm, not sglang"),
        ({"engine": "sglang"}, "llama-2-13b", "1xH100", "helm", "not sglang"),
        ({"engine": "sglang"}, "llama-2-13b", "1xH100", "kserve-llm", "not sglang"),
        ({"tp": 16}, "deepseek-v3", "2x8xH200", "kserve-llm", "a pipeline stage a node"),
        ({"dp": 16, "ep": 16}, "deepseek-v3", "2x8xH200", "dynamo", "share their experts over 2 nodes"),
        ({"dp": 16, "ep": 16}, "deepseek-v3", "2x8xH200", "skypilot", "share their experts over 2 nodes"),
        ({}, "llama-2-13b", "1xMI355X", "skypilot", "no MI355X"),
        ({}, "llama-3.1-8b", "1xXeon-8592+", "kserve-llm", "is written for GPUs"),
        ({}, "unsloth/Qwen3-30B-A3B-GGUF", "1xH100", "kserve-llm", "whole repositories, not one file"),
        ({}, "bartowski/Qwen3-8B-GGUF:Q5_K_M", "1xH100", "llm-d", "whole repositories, not one file"),
    ],
)
def test_what_a_platform_cannot_say_is_refused(knobs, name, gpus, kind, message):
    with pytest.raises(InputError, match=message) as caught:
        exported(name, gpus, knobs, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["kserve-llm", "llm-d", "skypilot", "production-stack"])
def test_a_folder_cannot_be_downloaded(kind):
    model = dataclasses.replace(find_model("llama-2-13b").value, name="/models/mine")
    with pytest.raises(InputError, match="this one is a folder; export for kubernetes"):
        render(Deployment(), model, parse_cluster("1xH100").value, kind)


def options(argv):
    """What a command says, by option."""
    words = [word for word in argv if word not in {"vllm", "serve"}]
    return {word: after for word, after in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")}


def test_platforms_say_what_the_command_says():
    name, knobs = "meta-llama/Llama-3.3-70B-Instruct", {"tp": 4, "dtype": "fp8", "kv_dtype": "fp8", "max_num_seqs": 99}
    model, cluster = find_model(name).value, parse_cluster("8xH100").value
    command = options(processes(Deployment(**knobs, max_model_len=4096), model, cluster)[0].argv)
    command.pop("--port")

    (service,) = checked(exported(name, "8xH100", knobs, "kserve-llm"), "kserve-llm")
    (variable, _) = service["spec"]["template"]["containers"][0]["env"]
    assert options(shlex.split(variable["value"])) == command

    (values,) = checked(exported(name, "8xH100", knobs, "helm"), "production-stack")
    config = values["servingEngineSpec"]["modelSpec"][0]["vllmConfig"]
    assert (config["tensorParallelSize"], config["maxNumSeqs"], config["maxModelLen"]) == (4, 99, 4096)
    said = {"--tensor-parallel-size", "--max-num-seqs", "--max-model-len", "--gpu-memory-utilization", "--dtype"}
    assert options(config["extraArgs"]) == {key: value for key, value in command.items() if key not in said}

    (ray,) = checked(exported(name, "8xH100", knobs, "ray"), "ray-serve")
    arguments = ray["applications"][0]["args"]["llm_configs"][0]["engine_kwargs"]
    assert {f"--{key.replace('_', '-')}": str(value) for key, value in arguments.items()} == command

    graph = checked(exported(name, "8xH100", knobs, "dynamo"), "dynamo")[-1]
    worker = graph["spec"]["components"][1]["podTemplate"]["spec"]["containers"][0]
    assert options(worker["args"]) == command | {"--model": name}

    (task,) = checked(exported(name, "8xH100", knobs, "sky"), "skypilot")
    assert options(shlex.split(task["run"])) == command | {"--port": "8000"}
    assert task["resources"]["accelerators"] == "H100:4"  # what one replica uses
    assert task["secrets"] == {"HF_TOKEN": None}


def test_a_replica_over_nodes_leads_and_follows():
    name, gpus, knobs = RECOMMENDED[-1]
    (service,) = checked(exported(name, gpus, knobs, "kserve-llm"), "kserve-llm")
    assert service["spec"]["parallelism"] == {"tensor": 8, "pipeline": 2}
    assert service["spec"]["worker"] == service["spec"]["template"]
    said = service["spec"]["template"]["containers"][0]["env"][0]["value"]
    assert "--nnodes" not in said
    assert "--max-model-len 8192" in said

    (graph,) = checked(exported(name, gpus, knobs, "dynamo"), "dynamo")
    worker = graph["spec"]["components"][1]
    assert worker["multinode"] == {"nodeCount": 2}
    assert not {"--node-rank", "--master-addr", "--headless"} & set(
        worker["podTemplate"]["spec"]["containers"][0]["args"]
    )

    (task,) = checked(exported(name, gpus, knobs, "skypilot"), "skypilot")
    assert task["num_nodes"] == 2
    lines = task["run"].splitlines()
    assert '--master-addr "$HEAD"' in lines[2]
    assert "--headless" in lines[4]
    assert lines[4].count('"$SKYPILOT_NODE_RANK"') == 1

    (group, _) = checked(exported(name, gpus, knobs, "lws"), "leaderworkerset")
    assert group["spec"]["leaderWorkerTemplate"]["size"] == 2


def test_sglang_over_nodes_finds_its_first_on_skypilot():
    knobs = {"engine": "sglang", "tp": 16}
    (task,) = checked(exported("meta-llama/Meta-Llama-3.1-405B", "2x8xH200", knobs, "skypilot"), "skypilot")
    assert '--dist-init-addr "$HEAD":29501' in task["run"]


@pytest.mark.parametrize("kind", ["kserve", "llm-d", "leaderworkerset", "dynamo"])
def test_nothing_of_a_name_is_expanded(kind):
    name = "me/$(reboot) `id` $HOME"
    model = dataclasses.replace(find_model("llama-2-13b").value, name=name)
    text = render(Deployment(), model, parse_cluster("1xH100").value, kind)
    words = [
        line.removeprefix("- ").strip("'") for line in map(str.strip, text.splitlines()) if line.startswith("- me/")
    ]
    assert words == [name.replace("$(", "$$(")]


def test_a_wrong_field_would_be_found():
    (service,) = yaml.safe_load_all(exported("llama-2-13b", "1xH100", {}, "kserve"))
    service["spec"]["predictor"]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError):
        check(service, SCHEMAS["InferenceService"])
    deployment, _ = yaml.safe_load_all(exported("llama-2-13b", "1xH100", {}, "kubernetes"))
    deployment["spec"]["template"]["spec"]["containers"][0]["argz"] = []
    with pytest.raises(jsonschema.ValidationError):
        check(deployment, SCHEMAS["Deployment"])
