"""Classes, prompts, drafts, tiers and adapters on the pages: what a link or a table states is what ``advisor`` is asked."""

import shlex

import pytest
import yaml

import advisor
from advisor.render.menus import POLICIES
from app.classes_table import START, TABLES
from app.details import CHOSEN_DRAFTS, DRAFTS, QUEUE_NAMES, ROUTER_NAMES
from app.links import packed

PLAN = {
    "model": "meta-llama/Meta-Llama-3.1-8B",
    "kinds": "1xH200-SXM",
    "rate": "2.0",
    "input_len": "256",
    "output_len": "32",
    "ttft": "300.0",
    "tpot": "30.0",
}
MULTIMODAL = "Qwen/Qwen3-VL-2B-Instruct"
TWO = {"classes": [{"name": "now", "input_len": 300, "ttft": 500.0}, {"name": "later", "priority": 3}]}


@pytest.fixture
def asked(page, monkeypatch):
    """``asked(**parameters)``: the keywords with which the page Capacity asks for a plan, and its command's words."""
    caught = []

    def catch(*_, **keywords):
        caught.append(keywords)
        raise advisor.InputError("caught")

    monkeypatch.setattr("advisor.plan", catch)
    monkeypatch.setattr("app.jobs.POLL_S", 60)

    def opened(**parameters):
        test = page("capacity", **PLAN, **parameters)
        assert not test.exception
        test.button("plan").click().run()
        assert [error.value for error in test.error] == ["caught"]
        return caught[-1]

    return opened


def test_nothing_is_asked_of_what_is_closed(asked):
    keywords = asked()
    assert keywords["deployment"] == advisor.Deployment()
    assert keywords["classes"] is None
    assert keywords["images"] is None
    assert keywords["speculate"] is None
    assert not keywords["disaggregate"]


def test_a_link_states_details(asked):
    keywords = asked(
        drafts=DRAFTS["ngram"],
        draft_len="3",
        acceptance="70",
        tiers="cpu=200GB, disk=2TB",
        router=ROUTER_NAMES["prefix_aware"],
        shared_prefix="512",
        num_prefixes="4",
        turns="5",
        think_time="10.0",
        sequences="64",
        adapters="200",
        max_loras="8",
        budgets="true",
        pools="true",
        link="50.0",
    )
    assert (keywords["speculate"], keywords["draft_len"], keywords["acceptance"]) == ("ngram", 3, 0.7)
    assert keywords["router"] == "prefix_aware"
    assert (keywords["shared_prefix"], keywords["num_prefixes"], keywords["turns"]) == (512, 4, 5)
    assert keywords["think_time"] == 10.0
    assert keywords["search_budgets"]
    assert (keywords["disaggregate"], keywords["kv_link_gbps"]) == (True, 50.0)
    deployment = keywords["deployment"]
    assert deployment.kv_offload == "cpu=200GB, disk=2TB"
    assert deployment.max_num_seqs == 64
    assert deployment.adapters == advisor.Adapters(number=200, max_loras=8)


def test_a_link_s_classes_are_asked_by_priority(asked):
    keywords = asked(traffic="Classes", classes=packed(TWO), queue=QUEUE_NAMES[POLICIES[1]])
    assert keywords["classes"] == TWO
    assert keywords["scheduling_policy"] == "priority"


@pytest.mark.usefixtures("patient")
def test_classes_begin_with_two_and_take_a_file(page):
    test = page("capacity", **{**PLAN, "ttft": "", "tpot": ""}, traffic="Classes")
    assert not test.exception
    assert not test.button("plan").disabled  # their limits are enough
    assert "classes" not in test.query_params
    refused = test.file_uploader("classes file").upload("bad.yaml", b"classes: 3", "text/yaml").run()
    assert "bad.yaml: it must have classes, a list of tables" in refused.error[0].value.replace("\\", "")
    test.file_uploader("classes file").upload("two.yaml", yaml.safe_dump(TWO).encode(), "text/yaml").run()
    assert not test.error
    assert test.query_params["classes"] in (packed(TWO), [packed(TWO)])
    test.segmented_control("traffic").select("A rate").run()
    assert "classes" not in test.query_params
    test.segmented_control("traffic").select("Classes").run()  # and they are still there
    assert test.query_params["classes"] in (packed(TWO), [packed(TWO)])


def test_the_first_classes_are_those_of_the_guide():
    assert TABLES.read(yaml.safe_dump(dict(START)).encode(), "classes.yaml") == START


def test_images_of_a_recommendation_and_its_command(page):
    images = {"images": "2", "image_size": "512x512", "concurrency": "8"}
    test = page("recommendation", model=MULTIMODAL, gpu="H100-SXM", count="1", **images)
    assert not test.exception
    assert not test.error
    expected = advisor.recommend(MULTIMODAL, "1xH100-SXM", **images)
    assert test.code[0].value == advisor.export(expected.best, "vllm").strip()
    words = shlex.split(test.code[-1].value.replace("\\\n", " "))
    assert words[:6] == ["advisor", "recommend", "--model", MULTIMODAL, "--gpus", "1xH100-SXM"]
    assert words[6:] == ["--concurrency", "8", "--images", "2", "--image-size", "512x512"]


def test_a_recommendation_s_link_states_what_drafts(page, monkeypatch):
    caught = []

    def catch(*_, **keywords):
        caught.append(keywords)
        raise advisor.InputError("caught")

    monkeypatch.setattr("advisor.recommend", catch)
    test = page("recommendation", drafts=CHOSEN_DRAFTS["auto"], tiers="cpu=100GB", sequences="48", step_tokens="4096")
    assert [error.value for error in test.error] == ["caught"]
    stated = {"speculate": "auto", "kv_offload": "cpu=100GB", "max_batch": 48, "max_num_batched_tokens": 4096}
    assert {name: caught[-1][name] for name in stated} == stated


def test_images_of_a_model_without_an_encoder_are_refused_in_one_line(page):
    test = page("recommendation", model="meta-llama/Llama-2-13b-hf", gpu="A100-SXM-80GB", count="2", images="1")
    assert len(test.error) == 1
    assert "images" in test.error[0].value
    assert test.number_input("images").value == 1
