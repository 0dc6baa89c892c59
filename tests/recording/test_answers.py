"""The answers to more than 300 questions are those that were recorded before the code was rebuilt."""

import pytest

from tests.recording.answers import answer, differences, questions, recorded

PARTS = 24
"""The questions are asked in so many parts, for several workers to share."""
HELD = recorded()


def test_every_question_has_an_answer():
    assert HELD.keys() == questions().keys()
    assert len(HELD) >= 300


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_answers_are_those_recorded(part):
    wrong = {name: found for name in sorted(HELD)[part::PARTS] if (found := differences(HELD[name], answer(name)))}
    assert wrong == {}


def test_a_difference_is_seen():
    assert differences({"a": [1.0, {"b": 2}]}, {"a": [1.0 + 1e-8, {"b": 2}]})
    assert differences({"a": [1.0, {"b": 2}]}, {"a": [1.0 + 1e-12, {"b": 2}]}) == []
    assert differences({"a": True}, {"a": 1})
    assert differences({"a": "x"}, {"a": "y"})
    assert differences({"a": 1}, {"b": 1})
