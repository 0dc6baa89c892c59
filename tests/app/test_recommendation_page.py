"""The page Recommend without a browser: what it answers, what it refuses, and what its address says."""

import json

import pytest

import advisor
from tests.app.questions import CONFIG

A100 = {"model": "meta-llama/Llama-2-13b-hf", "gpu": "A100-SXM-80GB", "count": "2"}


def texts(elements):
    return [element.value for element in elements]


def headline(test):
    return next(text for text in texts(test.markdown) if text.startswith("## ")).replace("\\", "")


@pytest.fixture(scope="module")
def expected():
    return advisor.recommend(A100["model"], "2xA100-SXM-80GB")


def test_the_first_visit_has_an_answer_and_says_where_it_comes_from(page):
    test = page("recommendation")
    assert not test.exception
    assert not test.error
    assert headline(test).startswith("## Run ")
    assert any(text.startswith("Source: ") for text in texts(test.caption))


def test_the_link_asks_the_question_and_the_page_shows_what_advisor_answers(page, expected):
    test = page("recommendation", **A100)
    best = expected.best
    assert f"{best.deployment.dp} replica" in headline(test)
    assert f"batch {best.batch}" in headline(test)
    table = test.dataframe[0].value
    assert len(table) == len(expected.candidates)
    assert list(table["provenance"]) == [each.provenance for each in expected.candidates]
    assert test.code[0].value == advisor.export(best, "vllm").strip()
    assert expected.next_probe in " ".join(texts(test.markdown)).replace("\\", "")


def test_a_candidate_is_picked_by_choice_or_by_link(page, expected):
    test = page("recommendation", **A100)
    other = test.selectbox("pick").options[1]
    test.selectbox("pick").select(other).run()
    assert test.code[0].value == advisor.export(expected.candidates[1], "vllm").strip()
    again = page("recommendation", **A100, pick=other)
    assert again.selectbox("pick").value == other


def test_a_format_is_chosen_and_what_cannot_start_is_said(page, expected):
    test = page("recommendation", **A100, format="kubernetes")
    assert test.code[0].value == advisor.export(expected.best, "kubernetes").strip()
    assert test.code[0].language == "yaml"


def test_nothing_feasible_names_what_to_relax_and_the_nearest(page):
    test = page("recommendation", **A100, concurrency="1", tpot="1")
    assert headline(test).startswith("## Nothing is feasible")
    assert len(test.dataframe[0].value) == 1
    (again,) = test.code  # nothing to start, but the question
    assert again.value.startswith("advisor recommend ")
    change = next(button for button in test.button if button.label.startswith("TPOT limit of"))
    limit = float(change.label.split()[3].replace("\\", ""))
    change.click().run()  # a suggestion is a button that sets the question
    assert test.number_input("tpot").value == limit
    assert headline(test).startswith("## Run ")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"input_len": "100000"}, "above the positions"),
        ({"ttft": "100", "e2e": "50"}, "contradicts itself"),
        ({"count": "13"}, "does not divide into them"),
    ],
)
def test_what_cannot_be_is_one_line_and_no_traceback(page, parameters, message):
    test = page("recommendation", **A100 | parameters)
    assert not test.exception
    assert len(test.error) == 1
    assert message in test.error[0].value.replace("\\", "")
    assert "\n" not in test.error[0].value


def test_a_link_s_impossible_values_are_ignored_and_said(page):
    test = page("recommendation", **A100 | {"gpu": "A101", "count": "-3", "nobody": "knows"})
    assert not test.exception
    told = [text.replace("\\", "") for text in texts(test.warning)]
    assert len(told) == 2
    assert any("sets gpu to A101" in text for text in told)
    assert any("sets count to -3" in text for text in told)
    assert test.number_input("count").value == 4
    test.run()
    assert not test.warning


def test_a_link_that_names_the_default_is_not_reproached(page):
    test = page("recommendation", **A100 | {"count": "4", "input_len": "1024"})
    assert not test.warning


def test_an_example_fills_in_its_question(page):
    test = page("recommendation")
    next(button for button in test.button if button.label == "Too tight a limit").click().run()
    assert test.selectbox("model").value == "meta-llama/Llama-2-70b-hf"
    assert headline(test).startswith("## Nothing is feasible")


def test_an_uploaded_configuration_is_the_model(page):
    test = page("recommendation", **A100)
    test.file_uploader("config").upload("config.json", json.dumps(CONFIG).encode(), "application/json").run()
    assert not test.error
    assert test.selectbox("model").value == "uploaded config.json"
    assert "vllm serve /path/to/model " in test.code[0].value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "no JSON object"),
        (b'{"model_type": "nobody"}', "hidden_size"),
        (json.dumps(CONFIG | {"hidden_size": 10**12}).encode(), "hidden_size"),
        (b" " * 1_000_001, "is not JSON"),
    ],
)
def test_a_bad_upload_is_refused_in_one_line_and_the_old_answer_stays(page, content, message):
    test = page("recommendation", **A100)
    before = headline(test)
    test.file_uploader("config").upload("config.json", content, "application/json").run()
    assert message in test.error[0].value.replace("\\", "")
    assert headline(test) == before


def test_a_fault_of_ours_is_calm_and_logged(page, monkeypatch, caplog):
    def fail(*_, **__):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("app.answers.recommendation", fail)
    test = page("recommendation")
    assert not test.exception
    assert "fault in advisor itself" in test.error[0].value
    assert "secret" not in test.error[0].value
    assert "secret detail" in caplog.text


def test_formats_context_and_memory_are_those_of_advisor(page):
    here = {"model": A100["model"], "gpu": "H200-SXM", "count": "2"}
    test = page("recommendation", **here, weights="fp8", context="2048", memory_share="80")
    expected = advisor.recommend(
        A100["model"], "2xH200-SXM", dtypes="fp8", max_model_len=2048, gpu_memory_utilization=0.8
    )
    assert not test.error
    assert test.code[0].value == advisor.export(expected.best, "vllm").strip()
    assert "--max-model-len 2048" in test.code[0].value


def test_a_format_that_pays_is_a_button(page):
    test = page("recommendation", model="meta-llama/Meta-Llama-3.1-70B", gpu="H100-SXM", count="4")
    assert test.selectbox("weights").value == "auto"
    next(button for button in test.button if button.label.startswith("Fp8 weights")).click().run()
    assert test.selectbox("weights").value == "fp8"
    assert "fp8" in test.code[0].value


def test_in_detail_follows_the_question(page):
    test = page("recommendation", **A100)
    other = test.selectbox("pick").options[1]
    test.selectbox("pick").select(other).run()
    assert test.query_params["pick"] == other
    test.number_input("output_len").set_value(200).run()
    assert test.selectbox("pick").value == test.selectbox("pick").options[0]
    assert "pick" not in test.query_params


def test_a_link_holds_an_uploaded_model(page):
    test = page("recommendation", **A100)
    test.file_uploader("config").upload("config.json", json.dumps(CONFIG).encode(), "application/json").run()
    link = dict(test.query_params.items())
    assert link["own"]
    other = page("recommendation", **link)
    assert not other.error
    assert not other.warning
    assert other.selectbox("model").value == "uploaded config.json"
    assert headline(other) == headline(test)
    test.selectbox("model").select("meta-llama/Llama-2-13b-hf").run()
    assert "own" not in test.query_params


@pytest.mark.parametrize("packed", ["no model", "eJw", "A" * 20])
def test_a_link_s_broken_model_is_said(page, packed):
    test = page("recommendation", **A100, own=packed)
    assert not test.exception
    assert "cannot be read" in test.error[0].value.replace("\\", "")
