"""The page Explore without a browser: sliders, comparison, what-if hardware, and where memory ends."""

import pytest

import advisor

H200 = {"model": "meta-llama/Llama-2-13b-hf", "gpu": "H200-SXM"}


def values(test):
    return {metric.label: metric.value for metric in test.metric}


def told(test):
    return " ".join(element.value for element in [*test.caption, *test.markdown]).replace("\\", "")


def test_the_numbers_are_those_of_advisor(page):
    test = page("exploration", **H200, tp="2", batch="48", input_len="1000")
    assert not test.exception
    assert not test.warning
    point = advisor.curve(H200["model"], "2xH200-SXM", tp=2, batches=[48], input_len=1000)
    assert values(test)["TPOT"] == f"{point.metrics['tpot_ms'][0]:.1f} ms"
    assert f"holds {point.full_batch} requests" in told(test)


def test_a_static_batch_is_what_estimate_says(page):
    test = page("exploration", **H200, regime="all at once", batch="16")
    found = advisor.estimate(H200["model"], "1xH200-SXM", batch=16, input_len=1024, output_len=256)
    assert values(test)["TTFT"] == f"{found.ttft_ms:.0f} ms"


def test_sliders_change_the_numbers(page):
    test = page("exploration", **H200)
    before = values(test)
    test.select_slider("tp").set_value(2).run()
    assert not test.exception
    assert values(test)["TPOT"] != before["TPOT"]
    test.select_slider("batch").set_value(64).run()
    assert not test.exception


def test_faster_memory_is_a_what_if_that_says_its_figure(page):
    before = values(page("exploration", **H200))
    test = page("exploration", **H200, bandwidth="200")
    assert float(values(test)["TPOT"].split()[0]) < float(before["TPOT"].split()[0])
    assert "memory_bandwidth_gbps = 9600 instead of 4800" in told(test)


def test_two_gpus_side_by_side(page):
    test = page("exploration", **H200, compare="true", gpu_b="H100-SXM")
    headings = [element.value.replace("\\", "") for element in test.markdown]
    assert "### H200-SXM: 1 x TP1 PP1" in headings
    assert "### H100-SXM: 1 x TP1 PP1" in headings
    assert len(test.metric) == 8


def test_what_does_not_fit_says_how_much_is_missing(page):
    test = page("exploration", model="meta-llama/Llama-2-70b-hf", gpu="A100-SXM-80GB")
    assert not test.exception
    assert "Out of memory" in test.error[0].value
    assert not test.metric


def test_beyond_the_cache_requests_wait(page):
    test = page("exploration", **H200, batch="2048")
    assert "run at once, the others wait" in told(test)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"input_len": "4000", "output_len": "512"}, "above the positions"),
        ({"tp": "16", "gpu": "H100-SXM"}, "tp can be 1, 2, 4, 8"),
    ],
)
def test_what_cannot_be_is_one_line(page, parameters, message):
    test = page("exploration", **H200 | parameters)
    assert not test.exception
    assert message in test.error[0].value.replace("\\", "")


def test_a_link_s_impossible_values_are_said(page):
    test = page("exploration", **H200, tp="3", bandwidth="5000")
    assert len(test.warning) == 2


def test_examples_are_questions_with_answers(page):
    for label in ("TP2 beside TP4", "H100 beside H200", "An H200 with twice the bandwidth"):
        test = page("exploration")
        next(button for button in test.button if button.label == label).click().run()
        assert not test.exception
        assert not test.error
        assert len(test.metric) == 8
