"""The pages Training and Technology without a browser: they show what ``advisor`` answers."""

import pytest

import advisor
from app.technology import EXAMPLES as TECHNOLOGIES
from app.training_layouts import EXAMPLES as TRAININGS

EIGHT = {"model": "meta-llama/Meta-Llama-3-8B", "gpu": "H100-SXM", "count": "8"}


@pytest.fixture(autouse=True)
def _patient(patient):
    """A page waits for its answer."""


def said(test):
    return " ".join(each.value for each in test.markdown).replace("\\", "")


def test_layouts_are_those_of_advisor(page):
    test = page("training_layouts", **EIGHT, train_batch="64", tokens_b="2", train_tp="2")
    expected = advisor.recommend_training(EIGHT["model"], "8xH100-SXM", batch=64, tokens=2e9, tp=2)
    assert not test.error
    assert len(test.dataframe[0].value) == len(expected.candidates)
    assert list(test.dataframe[0].value["layout"]) == [each.layout.label for each in expected.candidates]
    assert "interruptions to be expected" in said(test)


def test_what_does_not_fit_says_what_would(page):
    test = page("training_layouts", **EIGHT | {"gpu": "RTX 4090", "count": "1"}, train_batch="8")
    assert not test.exception
    assert "does not fit 1xRTX 4090" in said(test)
    assert "--lora-rank" in said(test)


def test_precision_that_a_gpu_lacks_is_one_line(page):
    test = page("training_layouts", **EIGHT | {"gpu": "A100-SXM-80GB"}, precision="fp8")
    assert [each.value.replace("\\", "") for each in test.error] == ["A100-SXM-80GB has no fp8 units; train in bf16"]


def test_a_sweep_is_that_of_advisor(page):
    test = page(
        "technology", model="meta-llama/Llama-2-13b-hf", gpu="A100-SXM-80GB", count="1", sweep="generations of memory"
    )
    expected = advisor.explore("meta-llama/Llama-2-13b-hf", "1xA100-SXM-80GB", sweep="dram", batch=8, output_len=256)
    assert not test.error
    assert len(test.dataframe[0].value) == len(expected.points)
    assert len(test.get("vega_lite_chart")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "label"), [*(("training_layouts", label) for label in TRAININGS), *(("technology", label) for label in TECHNOLOGIES)]
)  # fmt: skip
def test_examples_are_questions_with_answers(page, name, label):
    test = page(name)
    next(button for button in test.button if button.label == label).click().run()
    assert not test.exception
    assert not test.error
    assert test.dataframe
