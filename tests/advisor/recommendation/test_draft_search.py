"""Drafts as a choice of the search: none competes, and what comes out is no worse than without."""

import pytest

from advisor.recommendation.launch_command import export
from advisor.recommendation.recommendation import recommend
from catalog.errors import InputError

SMALL = {"input_len": 512, "output_len": 128, "max_batch": 32, "confidence": 0.5}


def asked(**given_):
    return recommend("llama-3.1-8b", "1xH100", **SMALL | given_)


@pytest.fixture(scope="module")
def plain():
    return asked()


def test_drafts_that_gain_are_chosen_and_said(plain):
    answer = asked(speculate="eagle:some/head", acceptance=0.7)
    assert answer.best.deployment.drafting.method == "eagle"
    assert answer.best.output_tok_s > plain.best.output_tok_s
    assert answer.best.tpot_ms < plain.best.tpot_ms
    assert answer.best.speculation.draft_len == answer.best.deployment.drafting.draft_len
    assert answer.best.energy_j_per_token is None
    assert any("drafts that competed" in note.text for note in answer.assumptions)
    assert '"method": "eagle"' in export(answer, "vllm")
    low, high = answer.best.interval("output_tok_s")
    assert low < answer.best.output_tok_s < high


def test_drafts_that_are_never_accepted_are_not(plain):
    answer = asked(speculate="ngram", acceptance=0.0)
    assert answer.best.deployment.drafting is None
    assert answer.best.output_tok_s == plain.best.output_tok_s
    assert answer.best.speculation.most_batch is None
    assert plain.best.speculation is None


def test_auto_tries_what_the_model_has():
    text = next(note.text for note in asked(speculate="auto").assumptions if "competed" in note.text)
    assert "eagle" in text
    assert "ngram" in text
    assert "mtp" not in text


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"speculate": "draft:llama-3.2-1b"}, "recommend chooses among"),
        ({"speculate": "eagle", "shared_prefix": 100}, "prompts that share nothing"),
        ({"draft_len": 2}, "say which with speculate"),
        ({"speculate": "mtp"}, "no heads"),
    ],
)
def test_what_cannot_be_asked_is_refused(given_, message):
    with pytest.raises(InputError, match=message):
        asked(**given_)
