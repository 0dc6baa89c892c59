"""The page Compare without a browser: its rows are those of ``advisor.compare``."""

import pytest

import advisor

QUESTION = {"models": "meta-llama/Meta-Llama-3.1-8B", "kinds": "2xH100-SXM", "formats": "the checkpoint's"}


def headline(test):
    return next(each.value for each in test.markdown if each.value.startswith("## ")).replace("\\", "")


@pytest.fixture(autouse=True)
def _patient(patient):
    """A page waits for its answer."""


def test_rows_are_those_of_advisor(page):
    test = page("comparison", **QUESTION, prices="H100-SXM=3", context="4096", kv="fp8", memory_share="80")
    expected = advisor.compare(
        [QUESTION["models"]],
        ["2xH100-SXM"],
        formats="auto",
        price={"H100-SXM": 3.0},
        max_model_len=4096,
        kv_dtype="fp8",
        gpu_memory_utilization=0.8,
    )
    assert not test.error
    assert len(test.dataframe[0].value) == len(expected.rows)
    assert expected.rows[0].estimate.deployment.kv_dtype == "fp8"
    assert str(expected.rows[0].estimate.deployment.layout) in headline(test)
    assert test.dataframe[0].value["usd_per_hour"][0] == expected.rows[0].hourly_usd


def test_nothing_within_the_budget_says_what_would_help(page):
    test = page("comparison", **QUESTION, budget="0.01")
    assert not test.exception
    assert "Nothing fits" in headline(test)
    assert "larger budget" in " ".join(each.value for each in test.markdown)


def test_what_cannot_be_is_one_line(page):
    test = page("comparison", **QUESTION | {"kinds": "9xnothing"})
    assert not test.exception
    assert len(test.error) == 1
    assert "nothing" in test.error[0].value
