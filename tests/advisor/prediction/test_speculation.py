"""Speculation as a decision: laws, published speed-ups, and what cannot be asked."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.prediction.estimation import estimate
from advisor.prediction.speculation import DRAFT_LENGTHS, SpeculationQuestion, read_method
from advisor.render.answers.estimation import document
from catalog.engines.launch.vllm import speculation_words
from catalog.errors import InputError
from catalog.features import Drafting
from catalog.requests import read_requests
from catalog.schema import Deployment
from catalog.speculation import METHODS, acceptance_of, published, tokens_per_step

MEASURED = Path(__file__).parents[3] / "benchmarks" / "measured"
PLAIN_MS = 7.07
TPOT_MS = {2: 4.37, 3: 4.29, 4: 4.48, 5: 4.71, 6: 4.94, 7: 5.20}
"""Of Llama-3.1-8B alone on an H100 without and with EAGLE, by drafted tokens; vllm-project/vllm issue 20780."""
LENGTHS = {2: 2.10, 3: 2.29, 4: 2.39, 5: 2.43, 6: 2.45, 7: 2.47}
"""Tokens a step there."""


def asked(model="llama-3.1-8b", gpus="H100", **given_):
    wanted = {"batch": 8, "input_len": 512, "output_len": 128, "speculate": "eagle"}
    return estimate(model, gpus, **wanted | given_).speculation


@settings(max_examples=25, deadline=None)
@given(
    batch=st.sampled_from([1, 8, 64, 300]),
    length=st.integers(1, 8),
    method=st.sampled_from(["ngram", "eagle", "draft:llama-3.2-1b"]),
)
def test_nothing_accepted_costs_and_all_accepted_gains_by_the_length(batch, length, method):
    none, some, every = (
        asked(batch=batch, draft_len=length, speculate=method, acceptance=rate) for rate in (0.0, 0.5, 1.0)
    )
    assert none.best.speedup < 1.0
    assert not none.pays
    assert none.most_batch is None
    cost = none.best.step_ms / none.plain_ms
    assert cost > 1.0
    assert every.best.speedup == pytest.approx((length + 1) / cost)
    assert none.best.speedup < some.best.speedup < every.best.speedup
    assert every.best.tokens_per_step == length + 1


def test_a_draft_costs_more_the_more_compute_is_in_use():
    steps = [asked(batch=batch, draft_len=4) for batch in (1, 64, 300)]
    ratios = [each.best.step_ms / each.plain_ms for each in steps]
    assert ratios == sorted(ratios)
    free = [asked(batch=batch) for batch in (1, 300)]
    assert free[0].draft_len >= free[1].draft_len


@pytest.mark.parametrize("in_flight", [1, 8, 32])
def test_steps_with_drafts_take_as_long_as_measured(in_flight):
    """An EAGLE-3 head of one layer on vLLM 0.33, three tokens drafted; most gaps between a request's tokens are such a step."""
    requests = read_requests(MEASURED / "vllm_0.33_h200_layouts_requests.csv")
    gaps = [each.itl_p50_ms for each in requests if f"eagle3-c{in_flight}-" in each.run_id]
    found = asked(gpus="1xH200", batch=in_flight, output_len=256, draft_len=3)
    assert found.best.step_ms == pytest.approx(np.median(gaps), rel=0.08)


def test_published_speed_ups_come_out():
    """Given the tokens a step that were measured, the time of steps with drafts is right to 11%."""
    found = asked(batch=1, input_len=128, output_len=256)
    for point in found.lengths:
        if point.draft_len in TPOT_MS:
            speedup = LENGTHS[point.draft_len] * found.plain_ms / point.step_ms
            assert speedup == pytest.approx(PLAIN_MS / TPOT_MS[point.draft_len], rel=0.11), point.draft_len


def test_a_rate_is_what_gives_the_tokens_that_were_published():
    for each in published():
        if each.tokens_per_step is not None:
            assert tokens_per_step(each.acceptance, each.draft_len) == pytest.approx(each.tokens_per_step, abs=1e-6)
    for method in METHODS:
        belief = acceptance_of(method)
        assert 0 < belief.quantile(0.05) < belief.mean < belief.quantile(0.95) < 1
        assert belief.source


def test_the_interval_is_that_of_the_rate():
    found = asked()
    low, high = found.best.speedup_ends
    assert low < found.best.speedup < high
    few, many = found.most_batch_ends
    assert (few or 0) <= found.most_batch <= many
    known = asked(acceptance=0.6)
    assert known.best.speedup_ends[1] / known.best.speedup_ends[0] < high / low  # what is left is the step's time


def test_heads_of_the_model_itself_are_asked_for_only_where_it_has_some():
    assert asked("qwen3.5-27b", "H200", speculate="mtp").best.speedup > 1.0
    with pytest.raises(InputError, match="no heads that predict several tokens"):
        asked(speculate="mtp")


def test_the_answer_says_what_it_brings_and_up_to_where():
    answer = estimate("llama-3.1-8b", "H100", batch=8, input_len=512, output_len=128, speculate="draft:llama-3.2-1b")
    lines = str(document(answer).sections[0].lines)
    assert "gains up to a batch of" in lines
    assert answer.to_dict()["speculation"]["draft_len"] == answer.speculation.draft_len
    assert "speculation" not in estimate("llama-3.1-8b", "H100", batch=8, input_len=512, output_len=128).to_dict()


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"speculate": "eagel"}, "closest: eagle"),
        ({"speculate": "draft"}, "a draft model is named behind a colon"),
        ({"speculate": "ngram:llama-3.2-1b"}, "a draft model is named behind a colon"),
        ({"acceptance": 1.5}, "it must be from 0 to 1"),
        ({"draft_len": 0}, "draft_len is 0"),
        ({"speculate": None, "draft_len": 3}, "say which with speculate"),
        ({"engine": "torch"}, "does not speculate"),
    ],
)
def test_what_cannot_be_asked_is_refused(given_, message):
    with pytest.raises(InputError, match=message):
        asked(**given_)


def test_methods_are_read():
    assert read_method("EAGLE") == ("eagle", None)
    assert read_method("draft: llama-3.2-1b") == ("draft", "llama-3.2-1b")


def test_a_stated_rate_leaves_the_time_of_a_step_uncertain():
    best = asked(acceptance=1.0, draft_len=8).best
    low, high = best.speedup_ends
    assert low < 0.98 * best.speedup < 0.96 * high


def test_eagle_3_is_what_eagle_is_but_for_its_name():
    eagle, third = (asked(speculate=name) for name in ("eagle", "eagle3"))
    assert (third.method, third.best) == ("eagle3", eagle.best)


def test_every_command_tries_the_same_lengths():
    question, stated = (SpeculationQuestion.read("eagle", length, None) for length in (None, 4))
    assert [each and each.draft_len for each in question.draftings] == [None, *DRAFT_LENGTHS]
    assert [each.draft_len for each in asked().lengths] == [*DRAFT_LENGTHS]
    assert [each and each.draft_len for each in stated.draftings] == [None, 4]


@pytest.mark.parametrize(
    ("method", "checkpoint", "written"),
    [("eagle", "x/EAGLE-LLaMA3.1", "eagle"), ("eagle", "x/EAGLE3-LLaMA3.1", "eagle3"), ("eagle3", "x/head", "eagle3")],
)
def test_an_export_names_the_method_that_the_checkpoint_needs(method, checkpoint, written):
    drafting = Drafting(method=method, model=checkpoint, draft_len=3)
    (words,) = speculation_words(Deployment(drafting=drafting))[1:]
    assert json.loads(words)["method"] == written
