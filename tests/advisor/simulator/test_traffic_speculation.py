"""Speculation under traffic: what it does beside the same deployment without, and what cannot be asked."""

import pytest

from advisor.render.answers.simulation import document
from advisor.simulator.simulation import simulate
from catalog.errors import InputError
from catalog.features import Drafting
from catalog.schema import Deployment


def asked(**given_):
    wanted = {"rate": 10.0, "input_len": 256, "output_len": 64, "duration_s": 20.0, "draws": 0}
    return simulate("llama-3.1-8b", "H100", **wanted | given_)


@pytest.fixture(scope="module")
def eagle():
    return asked(speculate="eagle", draft_len=3)


def test_drafts_make_a_light_load_faster_and_say_up_to_where(eagle):
    told, plain = eagle.speculation, asked()
    assert told.drafting == Drafting(method="eagle", draft_len=3) == eagle.deployment.drafting
    assert told.plain["tpot_ms"] == pytest.approx(plain.metrics["tpot_ms"]["mean"])
    assert told.speculated["tpot_ms"] == pytest.approx(eagle.metrics["tpot_ms"]["mean"])
    assert told.speculated["tpot_ms"] < told.plain["tpot_ms"]
    assert told.pays_to_s > 10.0
    assert plain.speculation is None
    assert "speculation" not in plain.to_dict()
    assert eagle.to_dict()["speculation"]["drafting"]["draft_len"] == 3
    text = str(document([eagle]))
    assert "eagle, 3 drafted a step" in text
    assert "no run with speculation was fitted" in text


def test_the_same_question_has_the_same_answer(eagle):
    assert asked(speculate="eagle", draft_len=3).to_dict() == eagle.to_dict()


def test_nothing_accepted_costs_and_everything_gains(eagle):
    none, every = (asked(speculate="eagle", draft_len=3, acceptance=rate).speculation for rate in (0.0, 1.0))
    assert none.speculated["tpot_ms"] > none.plain["tpot_ms"]
    assert none.speculated["e2e_ms"] > none.plain["e2e_ms"]
    assert none.pays_to_s == 0.0
    assert none.tokens_per_step == 1.0
    assert every.tokens_per_step == 4.0
    assert every.speculated["tpot_ms"] < eagle.speculation.speculated["tpot_ms"]


def test_the_number_of_drafted_tokens_is_chosen_for_the_load():
    few = asked(speculate="eagle", rate=2.0)
    many = asked(speculate="eagle", rate=60.0, duration_s=8.0)
    assert few.speculation.chosen
    assert few.deployment.drafting.draft_len >= many.deployment.drafting.draft_len
    assert many.speculation.pays_to_s is not None


def test_the_interval_has_that_of_the_rate_in_it():
    known, unknown = (asked(speculate="eagle", draft_len=3, draws=2, **given_) for given_ in ({"acceptance": 0.63}, {}))
    (low, high), (lower, higher) = (answer.interval("tpot_ms") for answer in (known, unknown))
    assert lower < low < high < higher


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"speculate": "eagel"}, "closest: eagle"),
        ({"speculate": "mtp"}, "no heads that predict several tokens"),
        ({"draft_len": 3}, "say which with speculate"),
        ({"speculate": "eagle", "acceptance": [0.5, 0.7]}, "never rise"),
        ({"speculate": "eagle", "draft_len": 3, "acceptance": [0.5, 0.4]}, "2 probabilities for 3 drafted tokens"),
        ({"speculate": "eagle", "acceptance": 2.0}, "it must be from 0 to 1"),
        ({"speculate": "eagle", "draft_len": 3, "deployment": Deployment(engine="torch")}, "torch"),
    ],
)
def test_what_cannot_be_asked_is_refused(given_, message):
    with pytest.raises(InputError, match=message):
        asked(**given_)
