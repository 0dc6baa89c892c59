"""Pools for prompts and outputs as text: every replica is started once on GPUs of its own, and the router knows them all."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from catalog.engines import FORMATS, ServingPool, render_pools
from catalog.engines.launch.pools import pool_processes
from catalog.errors import InputError
from catalog.gpus import parse_cluster
from catalog.models.find import all_models, find_model
from catalog.models.stack import stack
from catalog.schema import Deployment
from tests.catalog.engines.launch.test_commands import options
from tests.catalog.engines.launch.test_platforms import checked

LLAMA = find_model("llama-3.1-8b").value
KNOBS = Deployment(max_model_len=4096, max_num_seqs=64)
ABLE = ("kubernetes", "kserve-llm", "llm-d", "dynamo")


def pools(gpus="8xH100", prefill=(2, 2), decode=(1, 4), engine="vllm", prefill_gpus=None, **knobs):
    """Both pools, each of so many replicas with so many GPUs."""
    places = parse_cluster(prefill_gpus or gpus).value, parse_cluster(gpus).value
    deployments = (replace(KNOBS, engine=engine, dp=dp, tp=tp, **knobs) for dp, tp in (prefill, decode))
    return [
        ServingPool(role=role, deployment=deployment, cluster=cluster)
        for role, deployment, cluster in zip(("prefill", "decode"), deployments, places, strict=True)
    ]


@given(
    st.tuples(st.integers(1, 9), st.sampled_from((1, 2, 4, 8))),
    st.tuples(st.integers(1, 9), st.sampled_from((1, 2, 4, 8))),
    st.sampled_from(("vllm", "sglang")),
    st.booleans(),
)
def test_every_replica_has_gpus_and_ports_of_its_own_and_the_router_knows_all(prefill, decode, engine, two_kinds):
    needed = prefill[0] * prefill[1] + decode[0] * decode[1]
    gpus = f"{-(-needed // 8) + 1}x8xH100"
    both = pools(gpus, prefill, decode, engine, prefill_gpus=gpus.replace("H100", "H200") if two_kinds else None)
    try:
        started = pool_processes(*both, LLAMA)
    except InputError as error:
        assume("no replica lies on two in part" not in str(error))
        raise
    (router,) = (process for process in started if not process.gpus)
    servers = [process for process in started if process.gpus]
    assert len(servers) == prefill[0] + decode[0]
    taken = Counter((process.node, gpu) for process in servers for gpu in process.gpus)
    assert set(taken.values()) == {1}
    assert len(taken) == needed
    ports = Counter((process.node, process.port) for process in started)
    assert set(ports.values()) == {1}
    assert sum(word == "--prefill" for word in router.argv) == prefill[0]
    assert sum(word == "--decode" for word in router.argv) == decode[0]
    addresses = {word.partition("//")[2] for word in router.argv if "://" in word}
    several = max(process.node for process in started) > 0
    assert addresses == {f"{f'node{p.node}' if several else 'localhost'}:{p.port}" for p in servers}
    for process in servers:
        options(engine, process.argv)  # each is one of the engine's own
    if engine == "vllm":
        side = Counter((process.node, process.environment["VLLM_NIXL_SIDE_CHANNEL_PORT"]) for process in servers)
        assert set(side.values()) == {1}
        roles = Counter(json.loads(options(engine, p.argv)["--kv-transfer-config"])["kv_role"] for p in servers)
        assert roles == {"kv_producer": prefill[0], "kv_consumer": decode[0]}
    else:
        modes = Counter(options(engine, process.argv)["--disaggregation-mode"] for process in servers)
        assert modes == {"prefill": prefill[0], "decode": decode[0]}
    if two_kinds:
        kinds = [
            {p.node for p in servers if ("kv_producer" in str(p.argv) or "prefill" in p.argv) == first}
            for first in (True, False)
        ]
        assert not kinds[0] & kinds[1]


@pytest.mark.parametrize("kind", ABLE)
@pytest.mark.parametrize("prefill_gpus", [None, "4xL40S"])
def test_platforms_hold_both_pools(kind, prefill_gpus):
    objects = checked(render_pools(*pools(prefill_gpus=prefill_gpus), LLAMA, kind), kind)
    text = json.dumps(objects)
    assert text.count('\\"kv_producer\\"') == text.count('\\"kv_consumer\\"') == 1
    assert ("NVIDIA-L40S" in text) is (prefill_gpus is not None)
    assert text.count("NVIDIA-H100-80GB-HBM3") == (prefill_gpus is not None)
    counts = {
        "kubernetes": lambda: [each["spec"]["replicas"] for each in objects if each["kind"] == "Deployment"][:2],
        "kserve-llm": lambda: [objects[0]["spec"]["prefill"]["replicas"], objects[0]["spec"]["replicas"]],
        "llm-d": lambda: [objects[0][role]["replicas"] for role in ("prefill", "decode")],
        "dynamo": lambda: [each["replicas"] for each in objects[0]["spec"]["components"][1:]],
    }
    assert counts[kind]() == [2, 1]


def test_platforms_route_through_both():
    objects = checked(render_pools(*pools(), LLAMA, "kubernetes"), "kubernetes")
    services = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "Service"}
    router = objects[-2]["spec"]["template"]["spec"]["containers"][0]["args"]
    for role in ("prefill", "decode"):
        name, _, port = router[router.index(f"--{role}") + 1].partition("//")[2].partition(":")
        assert services[name]["ports"][0]["port"] == int(port)
        assert services[name]["selector"]["pool"] == role
    (values,) = checked(render_pools(*pools(), LLAMA, "llm-d"), "llm-d")
    assert values["routing"]["proxy"]["targetPort"] == values["decode"]["containers"][0]["ports"][0]["containerPort"]
    assert values["routing"]["servicePort"] == values["prefill"]["containers"][0]["ports"][0]["containerPort"]
    (graph,) = checked(render_pools(*pools(engine="sglang"), LLAMA, "dynamo"), "dynamo")
    workers = {
        each["type"]: each["podTemplate"]["spec"]["containers"][0]["args"] for each in graph["spec"]["components"][1:]
    }
    assert {role: args[args.index("--disaggregation-mode") + 1] for role, args in workers.items()} == {
        "prefill": "prefill",
        "decode": "decode",
    }


@pytest.mark.parametrize("kind", ["vllm", *ABLE])
def test_states_of_recurrent_layers_have_the_layout_that_they_are_handed_over_in(kind):
    hybrid = next(
        each for each in all_models() if any(p.state_bytes for _, each in stack(each).counts for p in each.mixers)
    )
    assert render_pools(*pools(), hybrid, kind).count("VLLM_SSM_CONV_STATE_LAYOUT") == (3 if kind == "vllm" else 2)
    assert "VLLM_SSM_CONV_STATE_LAYOUT" not in render_pools(*pools(), LLAMA, kind)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in (*ABLE, "vllm", "sglang")])
def test_other_platforms_refuse_in_a_line(kind):
    with pytest.raises(InputError, match=r"no pools for prompts and outputs|written for vllm and sglang") as caught:
        render_pools(*pools(), LLAMA, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"pp": 2, "prefill": (1, 1), "decode": (1, 1)}, "vllm", "use pp=1 in both pools"),
        ({"kv_offload": "cpu=50GB"}, "vllm", "with kv_offload"),
        ({"prefill": (3, 2)}, "vllm", "6 GPUs for prompts and 4 for outputs of .* are more than the 8"),
        ({"engine": "sglang"}, "kubernetes", "written for vllm; export for dynamo"),
        ({"engine": "sglang"}, "llm-d", "starts vllm, not sglang"),
    ],
)
def test_pools_that_cannot_start_are_refused(changes, kind, message):
    with pytest.raises(InputError, match=message):
        render_pools(*pools(**changes), LLAMA, kind)
